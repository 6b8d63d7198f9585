//! The store seam: five things that every storage can do, and nothing that only some can.
//!
//! An object is created once and never replaced, so there is no way to overwrite one by mistake. Errors are
//! told apart by meaning ([`StoreFault`]); after an ambiguous one [`proof::put_proved`] goes and looks
//! instead of assuming.

pub mod directory;
pub mod probe;
pub mod proof;
pub mod retry;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use storepool::clock::Timestamp;

use crate::error::{Error, Result, StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::directory::DirectoryStore;

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

/// Where a vault is: a URL whose scheme says which kind of store. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAddress {
    /// `file:///dir`: a directory of this machine.
    Directory(PathBuf),
}

impl VaultAddress {
    /// Opens the store at this address. A directory must exist.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Directory(path) => Ok(Arc::new(DirectoryStore::open(path)?)),
        }
    }

    /// Opens the store at this address, making it first where that is possible: a directory is created, and
    /// must be empty if it exists.
    pub fn create(&self) -> Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Directory(path) => Ok(Arc::new(DirectoryStore::create(path)?)),
        }
    }
}

impl FromStr for VaultAddress {
    type Err = Error;

    /// Accepts `file:///dir` (with `%20` and the like) and, for convenience, an absolute path.
    fn from_str(text: &str) -> Result<Self> {
        let unusable = |reason| Error::Address { address: text.to_owned(), reason };
        if text.starts_with('/') {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::Address {
                address: text.to_owned(),
                reason: "expected an absolute path or a URL such as file:///dir",
            });
        };
        match scheme {
            "file" => {
                let path = percent_decoded(rest)
                    .map(PathBuf::from)
                    .ok_or_else(|| unusable("a percent sign is not followed by two digits"))?;
                match path.is_absolute() {
                    true => Ok(Self::Directory(path)),
                    false => Err(unusable("a file URL begins with three slashes")),
                }
            }
            // Whatever follows may hold a password, so it is not repeated.
            other => Err(Error::Address {
                address: format!("{other}://…"),
                reason: "this kind of store is not known",
            }),
        }
    }
}

impl fmt::Display for VaultAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => {
                f.write_str("file://")?;
                for byte in path.as_os_str().as_encoded_bytes() {
                    match byte {
                        b'/' | b'.' | b'_' | b'-' | b'~' => write!(f, "{}", char::from(*byte))?,
                        byte if byte.is_ascii_alphanumeric() => write!(f, "{}", char::from(*byte))?,
                        byte => write!(f, "%{byte:02X}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

fn percent_decoded(text: &str) -> Option<std::ffi::OsString> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    Some(std::ffi::OsString::from_vec(bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_written() {
        for (text, path, shown) in [
            ("file:///srv/vault", "/srv/vault", "file:///srv/vault"),
            ("/srv/my vault", "/srv/my vault", "file:///srv/my%20vault"),
            ("file:///srv/my%20vault", "/srv/my vault", "file:///srv/my%20vault"),
        ] {
            let address: VaultAddress = text.parse().expect("an address");
            assert_eq!(address, VaultAddress::Directory(PathBuf::from(path)));
            assert_eq!(address.to_string(), shown);
        }
    }

    #[test]
    fn an_unusable_address_is_refused_without_repeating_secrets() {
        for text in ["", "vault", "file://host/dir", "file:///%zz", "ftp://user:secret@host/"] {
            let error = text.parse::<VaultAddress>().expect_err("refused");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
