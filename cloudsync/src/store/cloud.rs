//! A vault in a bucket: S3, Azure Blob Storage or Google Cloud Storage, through the `object_store` crate.
//!
//! Every call is one request and is never repeated here; [`RetryStore`](crate::store::retry::RetryStore) does
//! that, and [`put_proved`](crate::store::proof::put_proved) finds out what a lost answer said.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStoreExt, PutMode, PutOptions};
use storepool::clock::{Clock, Timestamp};

use crate::error::{Error, Result, StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::access::{CA_CERTIFICATES, Settings};
use crate::store::address::{BucketAddress, Opening};
use crate::store::http::{Connector, Seen, Way, observed};
use crate::store::meaning::clock_words;
use crate::store::provider;
use crate::store::{LIST_LIMIT, ObjectBody, ObjectMeta, ObjectStore, PutReceipt, check_prefix};

/// Objects of a bucket below a prefix.
pub(super) struct CloudStore {
    address: String,
    prefix: Option<ObjectName>,
    inner: Arc<dyn object_store::ObjectStore>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for CloudStore {
    // The crate's own words may hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudStore").field("address", &self.address).finish_non_exhaustive()
    }
}

impl CloudStore {
    /// Sets the store up; nobody is asked yet.
    pub(super) fn open(bucket: &BucketAddress, opening: &Opening) -> Result<Self> {
        let address = bucket.to_string();
        let unusable = |reason| Error::Access { address: address.clone(), reason };
        let settings = Settings::new(bucket.provider, &opening.access, &opening.variables)
            .map_err(unusable)?;
        let server = provider::server(bucket, &settings).map_err(unusable)?;
        let plain = server.scheme() == "http";
        let way = Way {
            certificates: settings.get(CA_CERTIFICATES).map(str::to_owned),
            proxy: settings
                .proxy(!plain)
                .map(|(proxy, except)| (proxy.to_owned(), except.map(str::to_owned))),
            plain,
            limiter: opening.limiter.clone(),
            connect_limit: opening.connect_limit,
            stall_limit: opening.stall_limit,
        };
        let connector = Connector::new(&way).map_err(unusable)?;
        let inner = provider::build(bucket, &settings, connector).map_err(unusable)?;
        let clock = opening.clock.clone();
        Ok(Self { address, prefix: bucket.prefix.clone(), inner, clock })
    }

    fn path(&self, name: &str) -> Result<Path, object_store::path::Error> {
        match &self.prefix {
            Some(prefix) => Path::parse(format!("{prefix}/{name}")),
            None => Path::parse(name),
        }
    }

    // Runs a call and says what its failure means.
    async fn ask<T>(
        &self,
        action: &'static str,
        object: &str,
        call: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<(T, Seen), StoreError> {
        match observed(call).await {
            (Ok(value), seen) => Ok((value, seen)),
            (Err(error), seen) => Err(self.told(action, object, &error, &seen)),
        }
    }

    fn told(
        &self,
        action: &'static str,
        object: &str,
        error: &object_store::Error,
        seen: &Seen,
    ) -> StoreError {
        let now = self.clock.now();
        if let Some(broken) = &seen.broken {
            return StoreError::new(action, object, broken.fault).because(broken.words.clone());
        }
        let refused = seen.answer.as_ref().filter(|answer| !(200..300).contains(&answer.status));
        let Some(answer) = refused else {
            // A good answer that the crate could not make sense of, or a refusal inside of one.
            let fault = fault_of(error);
            let failed = StoreError::new(action, object, fault);
            return match fault {
                StoreFault::Corrupt | StoreFault::Other => failed.because(words_of(error)),
                _ => failed,
            };
        };
        let fault = answer.fault(now);
        let failed = StoreError::new(action, object, fault);
        match fault {
            StoreFault::NotFound | StoreFault::AlreadyExists => failed,
            StoreFault::WrongClock => match answer.clock_ahead_seconds(now) {
                Some(ahead) => failed.because(clock_words(ahead)),
                None => failed,
            },
            _ => failed.because(answer_words(answer.status, answer.code.as_deref(), seen)),
        }
    }

    fn meta(&self, name: ObjectName, meta: &object_store::ObjectMeta) -> ObjectMeta {
        ObjectMeta { name, size: meta.size, modified: timestamp(meta) }
    }

    async fn read(
        &self,
        name: &ObjectName,
        range: Option<Range<u64>>,
        limit_bytes: u64,
    ) -> Result<ObjectBody, StoreError> {
        let wanted = range.clone();
        let call = async {
            let options = GetOptions { range: range.map(GetRange::Bounded), ..Default::default() };
            let result = self.inner.get_opts(&self.path(name.as_str())?, options).await?;
            let (meta, range) = (result.meta.clone(), result.range.clone());
            // Before anything is read: a hostile store must not fill the memory.
            match range.end - range.start > limit_bytes {
                true => Ok((meta, None)),
                false => Ok((meta, collect(result, limit_bytes).await?)),
            }
        };
        let ((meta, bytes), _) = self.ask("read", name.as_str(), call).await?;
        let corrupt =
            |words| StoreError::new("read", name.as_str(), StoreFault::Corrupt).because(words);
        let bytes = bytes.ok_or_else(|| corrupt("longer than such an object can be"))?;
        let expected = match &wanted {
            None => meta.size,
            Some(range) => range.end.min(meta.size).saturating_sub(range.start),
        };
        if wanted.is_some() && expected == 0 {
            return Err(corrupt("shorter than the range asked for"));
        }
        if bytes.len() as u64 != expected {
            return Err(corrupt("shorter than the store said"));
        }
        Ok(ObjectBody { bytes, object_size: meta.size, modified: timestamp(&meta) })
    }
}

// `None` if there is more than was announced and allowed.
async fn collect(result: GetResult, limit_bytes: u64) -> object_store::Result<Option<Bytes>> {
    let announced = (result.range.end - result.range.start).min(limit_bytes) as usize;
    let mut stream = result.into_stream();
    let mut bytes = BytesMut::with_capacity(announced);
    while let Some(piece) = stream.try_next().await? {
        if bytes.len() + piece.len() > announced {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes.freeze()))
}

#[async_trait]
impl ObjectStore for CloudStore {
    fn address(&self) -> &str {
        &self.address
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        let call = async {
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            self.inner.put_opts(&self.path(name.as_str())?, body.into(), options).await
        };
        let (_, seen) = self.ask("create", name.as_str(), call).await?;
        Ok(PutReceipt { server_time: seen.answer.and_then(|answer| answer.date) })
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        self.read(name, None, limit_bytes).await
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        let length = range.end.saturating_sub(range.start);
        self.read(name, Some(range), length).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let call = async { self.inner.head(&self.path(name.as_str())?).await };
        let (meta, _) = self.ask("look at", name.as_str(), call).await?;
        Ok(self.meta(name.clone(), &meta))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        check_prefix(prefix)?;
        let call = async {
            let folder = match prefix.trim_end_matches('/') {
                "" => {
                    self.prefix.as_ref().map(|prefix| Path::parse(prefix.as_str())).transpose()?
                }
                folder => Some(self.path(folder)?),
            };
            let mut found = Vec::new();
            let mut listing = self.inner.list(folder.as_ref());
            while let Some(meta) = listing.try_next().await? {
                if found.len() == LIST_LIMIT {
                    return Ok(None);
                }
                found.push(meta);
            }
            Ok(Some(found))
        };
        let (found, _) = self.ask("list", prefix, call).await?;
        let found = found.ok_or_else(|| {
            StoreError::new("list", prefix, StoreFault::Corrupt)
                .because("more objects than a list may have")
        })?;
        let below = self.prefix.as_ref().map_or(String::new(), |prefix| format!("{prefix}/"));
        let named = found.iter().filter_map(|meta| {
            // Whatever could not be an object was not put by us.
            let name = meta.location.as_ref().strip_prefix(&below)?.parse().ok()?;
            Some(self.meta(name, meta))
        });
        Ok(named.collect())
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let call = async { self.inner.delete(&self.path(name.as_str())?).await };
        match self.ask("delete", name.as_str(), call).await {
            Ok(_) => Ok(()),
            Err(error) if error.fault == StoreFault::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn timestamp(meta: &object_store::ObjectMeta) -> Option<Timestamp> {
    meta.last_modified.timestamp_nanos_opt().map(Timestamp)
}

fn fault_of(error: &object_store::Error) -> StoreFault {
    match error {
        object_store::Error::NotFound { .. } => StoreFault::NotFound,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            StoreFault::AlreadyExists
        }
        object_store::Error::PermissionDenied { .. } => StoreFault::PermissionDenied,
        object_store::Error::Unauthenticated { .. } => StoreFault::Unauthenticated,
        object_store::Error::Generic { .. } => StoreFault::Corrupt,
        _ => StoreFault::Other,
    }
}

// The innermost cause: the words around it repeat the address, and with it perhaps a signature.
fn words_of(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let words = cause.to_string();
    let line = words.lines().next().unwrap_or_default();
    match line.contains("://") || line.contains("sig=") {
        true => "the answer cannot be understood".to_owned(),
        false => line.chars().take(200).collect(),
    }
}

fn answer_words(status: u16, code: Option<&str>, seen: &Seen) -> String {
    let mut words = format!("status {status}");
    if let Some(code) = code {
        words.push_str(&format!(", {code}"));
    }
    if let Some(message) = &seen.message {
        words.push_str(&format!(": {message}"));
    }
    words
}
