//! The store seam: five things that every storage can do, and nothing that only some can.
//!
//! An object is created once and never replaced, so there is no way to overwrite one by mistake. Errors are
//! told apart by meaning ([`StoreFault`]); after an ambiguous one [`proof::put_proved`] goes and looks
//! instead of assuming.

pub mod access;
mod address;
pub mod bandwidth;
mod cloud;
pub mod directory;
mod http;
mod limited;
mod marks;
mod meaning;
pub mod ping;
pub mod probe;
pub mod proof;
mod provider;
pub mod retry;
pub mod selftest;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use storepool::clock::Timestamp;

use crate::error::{StoreError, StoreFault};
use crate::layout::ObjectName;

pub use crate::store::address::{BucketAddress, Opening, Provider, VaultAddress};

/// Most objects that one list may return.
pub const LIST_LIMIT: usize = 4_000_000;

/// What a store knows about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub size: u64,
    /// When it was created, by the store's clock.
    pub modified: Option<Timestamp>,
}

/// The answer to a successful put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutReceipt {
    /// The store's time, where it is known.
    pub server_time: Option<Timestamp>,
}

/// An object's bytes, or some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectBody {
    /// The bytes that were asked for.
    pub bytes: Bytes,
    /// The length of the whole object.
    pub object_size: u64,
    /// When the object was created, by the store's clock.
    pub modified: Option<Timestamp>,
}

/// A place that keeps objects by name.
///
/// Every method may fail with any [`StoreFault`]; those with a special meaning are named. An implementation
/// must be durable: what `put_new` has acknowledged is there after a power failure.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Returns the address for messages, without secrets.
    fn address(&self) -> &str;

    /// Creates an object. [`StoreFault::AlreadyExists`] if there is one of this name, which is then
    /// unchanged: of several creators exactly one succeeds.
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError>;

    /// Reads a whole object. [`StoreFault::NotFound`]; [`StoreFault::Corrupt`] if it is longer than `limit_bytes`.
    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError>;

    /// Reads a part of an object, cut at the object's end. [`StoreFault::NotFound`]; [`StoreFault::Corrupt`]
    /// if nothing of the range exists.
    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError>;

    /// Looks at an object. [`StoreFault::NotFound`].
    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError>;

    /// Lists all objects whose name begins with `prefix`, which is empty or ends with `/`; in no order. The
    /// answer may be old: a hint, never a proof.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Deletes an object; fine if there is none.
    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError>;
}

/// Refuses a prefix that could mean different things to different stores.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    let fine = match prefix.strip_suffix('/') {
        Some(folder) => folder.parse::<ObjectName>().is_ok(),
        None => prefix.is_empty(),
    };
    match fine {
        true => Ok(()),
        false => Err(StoreError::new("list", prefix, StoreFault::Other)
            .because("a prefix ends with a slash")),
    }
}
