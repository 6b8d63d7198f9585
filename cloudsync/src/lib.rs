//! The second copy: an encrypted vault on storage that is not trusted.
//!
//! A vault is a set of objects that are created once and never changed. Each server of a vault owns a
//! **realm** in it: its keys, its chain of commits, its packs. The bytes are described in
//! `docs/format-vault.md`, who is kept from what in `docs/threat-model.md`.
//!
//! Invariant: **data before reference, reference before name; deletion in the reverse order.** Packs are put
//! before the commit that names them; a commit is one conditional create of the next generation, decided on
//! exactly the one before; what is condemned in one commit is deleted only a grace later.
//!
//! What the storage sees: labels of servers, number, padded sizes and times of objects. Not: names, contents,
//! sizes of files, hashes of plaintext.

pub mod check;
pub mod contact;
pub mod crypto;
pub mod error;
pub mod forget;
pub mod heal;
pub mod keys;
pub mod layout;
pub mod ledger;
mod marks;
pub mod notes;
pub mod prune;
pub mod recovery;
pub mod retention;
pub mod standing;
pub mod store;
pub mod sync;
pub mod testing;
pub mod vault;
pub mod writing;

pub use error::{Error, Result};
