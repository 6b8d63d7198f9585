//! A limit on uploads for stores that know none of their own.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;
use crate::layout::ObjectName;
use crate::store::bandwidth::UploadLimiter;
use crate::store::{ObjectBody, ObjectMeta, ObjectStore, PutReceipt};

/// A store whose puts wait until the limit has room for them. What is read is not limited: whoever restores is in a hurry.
#[derive(Debug)]
pub(super) struct LimitedStore {
    inner: Arc<dyn ObjectStore>,
    limiter: Arc<UploadLimiter>,
}

impl LimitedStore {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, limiter: Arc<UploadLimiter>) -> Self {
        Self { inner, limiter }
    }
}

#[async_trait]
impl ObjectStore for LimitedStore {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        self.limiter.wait_for(body.len()).await;
        self.inner.put_new(name, body).await
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        self.inner.get(name, limit_bytes).await
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        self.inner.get_range(name, range).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.inner.head(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }
}
