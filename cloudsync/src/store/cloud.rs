//! A vault in a bucket: S3, Azure Blob Storage or Google Cloud Storage, through the `object_store` crate.
//!
//! Every call is one request and is never repeated here; [`RetryStore`](crate::store::retry::RetryStore) does
//! that, and [`put_proved`](crate::store::proof::put_proved) finds out what a lost answer said.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use object_store::aws::AmazonS3;
use object_store::client::{HttpRequestBody, HttpService};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{GetOptions, GetRange, GetResult, ObjectStoreExt, PutMode, PutOptions};
use storepool::clock::{Clock, Timestamp};

use crate::error::{Error, Result, StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::access::{CA_CERTIFICATES, Settings};
use crate::store::address::{BucketAddress, Opening};
use crate::store::http::{Connector, Seen, Way, observed};
use crate::store::marks::Marks;
use crate::store::meaning::clock_words;
use crate::store::provider;
use crate::store::{LIST_LIMIT, ObjectBody, ObjectMeta, ObjectStore, PutReceipt, check_prefix};

/// Objects of a bucket below a prefix.
pub(super) struct CloudStore {
    address: String,
    prefix: Option<ObjectName>,
    inner: Arc<dyn object_store::ObjectStore>,
    s3: Option<AmazonS3>,
    connector: Connector,
    clock: Arc<dyn Clock>,
}

/// What a store says of the rules that the bucket's owner has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BucketRules {
    /// There are none.
    None,
    /// These, in the store's own XML.
    Text(String),
    /// It does not tell these keys, or nobody.
    Hidden,
}

/// More than the thousand rules that a bucket may have.
const RULES_BYTES: usize = 4 << 20;
/// How long the question for the rules may take to arrive.
const RULES_PERIOD: Duration = Duration::from_secs(300);

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
        let built = provider::build(bucket, &settings, connector.clone()).map_err(unusable)?;
        let clock = opening.clock.clone();
        let (inner, s3) = (built.store, built.s3);
        Ok(Self { address, prefix: bucket.prefix.clone(), inner, s3, connector, clock })
    }

    /// Creates an object as [`ObjectStore::put_new`] does, and returns what the store says of it.
    pub(super) async fn put_marked(
        &self,
        name: &ObjectName,
        body: Bytes,
    ) -> Result<Marks, StoreError> {
        Ok(self.create(name, body).await?.marks)
    }

    /// Returns what the store says of an object.
    pub(super) async fn marks(&self, name: &ObjectName) -> Result<Marks, StoreError> {
        let call = async { self.inner.head(&self.path(name.as_str())?).await };
        let (_, seen) = self.ask("look at", name.as_str(), call).await?;
        Ok(seen.marks)
    }

    /// Returns the lifecycle rules of the bucket, if it is S3 and these keys may read them.
    pub(super) async fn rules(&self) -> Result<BucketRules, StoreError> {
        let Some(s3) = &self.s3 else { return Ok(BucketRules::Hidden) };
        // The crate does not ask for it, but signs the question.
        let call = async {
            let query = SignedUrlOptions::new().with_query([("lifecycle", "")]);
            let (method, root) = (http::Method::GET, Path::default());
            let url = s3.signed_url_opts(method, &root, RULES_PERIOD, &query).await?;
            let request = http::Request::get(url.as_str()).body(HttpRequestBody::empty());
            let response = self.connector.call(request.map_err(generic)?).await.map_err(generic)?;
            let body = http_body_util::Limited::new(response.into_body(), RULES_BYTES);
            let bytes = body.collect().await.map_err(boxed)?.to_bytes();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (answer, seen) = observed(call).await;
        let text = match (answer, &seen.answer) {
            (Err(error), _) => {
                return Err(self.told("ask for", "the bucket's rules", &error, &seen));
            }
            (Ok(_), Some(refused)) if !(200..300).contains(&refused.status) => {
                return match (refused.status, refused.code.as_deref()) {
                    (_, Some("NoSuchLifecycleConfiguration")) => Ok(BucketRules::None),
                    // Not allowed, not known to this server, or anything else: the question was an extra one.
                    _ => Ok(BucketRules::Hidden),
                };
            }
            (Ok(text), _) => text,
        };
        // A server that does not know the question may answer another one, such as a list.
        match text.contains("<LifecycleConfiguration") {
            true => Ok(BucketRules::Text(text)),
            false => Ok(BucketRules::Hidden),
        }
    }

    async fn create(&self, name: &ObjectName, body: Bytes) -> Result<Seen, StoreError> {
        let call = async {
            let options = PutOptions { mode: PutMode::Create, ..Default::default() };
            self.inner.put_opts(&self.path(name.as_str())?, body.into(), options).await
        };
        let (_, seen) = self.ask("create", name.as_str(), call).await?;
        Ok(seen)
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
        let seen = self.create(name, body).await?;
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

fn generic(cause: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    boxed(Box::new(cause))
}

fn boxed(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source }
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
