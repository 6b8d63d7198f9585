//! Where a vault is: an address whose scheme says which kind of store, and how it is opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use storepool::clock::Clock;

use crate::error::{Error, Result};
use crate::layout::ObjectName;
use crate::store::ObjectStore;
use crate::store::access::{Access, Variables};
use crate::store::bandwidth::UploadLimiter;
use crate::store::cloud::CloudStore;
use crate::store::directory::DirectoryStore;
use crate::store::limited::LimitedStore;

// The rules of S3, the widest of the three that a name can be used with everywhere.
const BUCKET_NAME_BYTES: std::ops::RangeInclusive<usize> = 3..=63;

/// Who offers the store behind a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Amazon S3 and everything that speaks its language.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Google,
}

impl Provider {
    /// Returns the scheme of its addresses.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Google => "gs",
        }
    }

    fn of(scheme: &str) -> Option<Self> {
        [Self::S3, Self::Azure, Self::Google].into_iter().find(|own| own.scheme() == scheme)
    }
}

/// A bucket or container of an object store, and where in it. Which server is asked, and with which keys, is
/// in the access options, so that an address can be shown to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketAddress {
    /// Whose.
    pub provider: Provider,
    /// Its name.
    pub bucket: String,
    /// What all names of the vault's objects begin with there, without the slash after it.
    pub prefix: Option<ObjectName>,
}

/// Where a vault is: a URL whose scheme says which kind of store. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAddress {
    /// `file:///dir`: a directory of this machine.
    Directory(PathBuf),
    /// `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`.
    Bucket(BucketAddress),
}

/// What it takes to open a store, besides its address.
#[derive(Clone)]
pub struct Opening {
    /// Options of the store, as the credentials file has them.
    pub access: Access,
    /// Variables of the surroundings, asked where the options are silent.
    pub variables: Variables,
    /// How fast to upload; `None` for as fast as it goes.
    pub limiter: Option<Arc<UploadLimiter>>,
    /// Tells a wrong clock from wrong keys.
    pub clock: Arc<dyn Clock>,
    /// How long a connection may take to come about.
    pub connect_limit: Duration,
    /// How long nothing may move in either direction before a request is given up.
    pub stall_limit: Duration,
}

impl Opening {
    /// How long a connection may take, unless somebody has a reason to say otherwise.
    pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);
    /// How long nothing may move: longer than a store takes to store what it was sent, and than the system takes on a slow line to send
    /// what it has buffered, which cannot be seen from here.
    pub const STALL_LIMIT: Duration = Duration::from_secs(60);

    /// Returns what is needed to open a store with these options and nothing else.
    pub fn new(access: Access, clock: Arc<dyn Clock>) -> Self {
        Self {
            access,
            variables: Variables::default(),
            limiter: None,
            clock,
            connect_limit: Self::CONNECT_LIMIT,
            stall_limit: Self::STALL_LIMIT,
        }
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("access", &self.access).finish_non_exhaustive()
    }
}

impl VaultAddress {
    /// Opens the store at this address. A directory must exist; a bucket is not asked yet.
    ///
    /// # Errors
    /// [`Error::Access`] for options that the kind of store does not know or that contradict each other.
    pub fn open(&self, opening: &Opening) -> Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Directory(path) => Ok(limited(DirectoryStore::open(path)?, opening)),
            Self::Bucket(bucket) => Ok(Arc::new(CloudStore::open(bucket, opening)?)),
        }
    }

    /// Opens the store at this address, making it first where that is possible: a directory is created, and
    /// must be empty if it exists. Buckets are made by their owner.
    pub fn create(&self, opening: &Opening) -> Result<Arc<dyn ObjectStore>> {
        match self {
            Self::Directory(path) => Ok(limited(DirectoryStore::create(path)?, opening)),
            Self::Bucket(_) => self.open(opening),
        }
    }
}

fn limited(store: DirectoryStore, opening: &Opening) -> Arc<dyn ObjectStore> {
    match &opening.limiter {
        Some(limiter) => Arc::new(LimitedStore::new(Arc::new(store), limiter.clone())),
        None => Arc::new(store),
    }
}

impl FromStr for VaultAddress {
    type Err = Error;

    /// Accepts the URL of a bucket, `file:///dir` (with `%20` and the like) and, for convenience, an absolute path.
    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with('/') {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::Address {
                address: text.to_owned(),
                reason: "expected an absolute path or a URL such as file:///dir or s3://bucket/prefix",
            });
        };
        // Whatever follows may hold a password, so it is not repeated before it is known to be harmless.
        let hidden = |reason| Error::Address { address: format!("{scheme}://…"), reason };
        if let Some(provider) = Provider::of(scheme) {
            return bucket(provider, rest).map(Self::Bucket).map_err(hidden);
        }
        match scheme {
            "file" => {
                let unusable = |reason| Error::Address { address: text.to_owned(), reason };
                let path = percent_decoded(rest)
                    .map(PathBuf::from)
                    .ok_or_else(|| unusable("a percent sign is not followed by two digits"))?;
                match path.is_absolute() {
                    true => Ok(Self::Directory(path)),
                    false => Err(unusable("a file URL begins with three slashes")),
                }
            }
            _ => Err(hidden("this kind of store is not known; there are file, s3, az and gs")),
        }
    }
}

fn bucket(provider: Provider, rest: &str) -> Result<BucketAddress, &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        return Err("keys do not belong into an address: give them as options");
    }
    let sound = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
    };
    if !BUCKET_NAME_BYTES.contains(&bucket.len()) || !bucket.bytes().all(sound) {
        return Err("a bucket has a name of 3 to 63 of a-z, 0-9, -, _ and .");
    }
    let prefix = match prefix.trim_end_matches('/') {
        "" => None,
        prefix => Some(
            prefix
                .parse()
                .map_err(|_| "a prefix is made of a-z, A-Z, 0-9, ., _, - and single slashes")?,
        ),
    };
    Ok(BucketAddress { provider, bucket: bucket.to_owned(), prefix })
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.provider.scheme(), self.bucket)?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for VaultAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket(bucket) => bucket.fmt(f),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_directories_come_back_as_they_were_written() {
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
    fn addresses_of_buckets_come_back_as_they_were_written() {
        for (text, provider, bucket, prefix, shown) in [
            ("s3://backups", Provider::S3, "backups", None, "s3://backups"),
            ("s3://backups/", Provider::S3, "backups", None, "s3://backups"),
            ("az://vault-1/a", Provider::Azure, "vault-1", Some("a"), "az://vault-1/a"),
            (
                "gs://b.example/a/B_2/",
                Provider::Google,
                "b.example",
                Some("a/B_2"),
                "gs://b.example/a/B_2",
            ),
        ] {
            let address: VaultAddress = text.parse().expect("an address");
            let prefix = prefix.map(|prefix| prefix.parse().expect("a prefix"));
            let expected = BucketAddress { provider, bucket: bucket.to_owned(), prefix };
            assert_eq!(address, VaultAddress::Bucket(expected));
            assert_eq!(address.to_string(), shown);
        }
    }

    #[test]
    fn an_unusable_address_is_refused_without_repeating_secrets() {
        for text in [
            "",
            "vault",
            "file://host/dir",
            "file:///%zz",
            "ftp://user:secret@host/",
            "s3://key:secret@bucket/prefix",
            "s3://",
            "s3://ab",
            "s3://Bucket",
            "s3://bucket//a",
            "az://container/../secret",
            "gs://bucket/secret?x=1",
        ] {
            let error = text.parse::<VaultAddress>().expect_err(text);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
