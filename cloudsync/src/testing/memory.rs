//! A store in memory, with a clock that only moves when told to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use storepool::clock::Timestamp;

use crate::error::{StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::{ObjectBody, ObjectMeta, ObjectStore, PutReceipt, check_prefix};

/// How many requests of each kind a store has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Puts, successful or not.
    pub put: u64,
    /// Reads of whole objects or parts.
    pub get: u64,
    /// Looks at an object.
    pub head: u64,
    /// Lists.
    pub list: u64,
    /// Deletes.
    pub delete: u64,
    /// Bytes read.
    pub bytes_read: u64,
}

impl Requests {
    /// Returns the number of all requests.
    pub fn total(&self) -> u64 {
        self.put + self.get + self.head + self.list + self.delete
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Sound,
    Overwriting,
    WithoutDelete,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<String, (Bytes, Timestamp)>,
    now: Timestamp,
    requests: Requests,
}

/// Objects in memory.
#[derive(Debug)]
pub struct MemoryStore {
    manner: Manner,
    state: Mutex<State>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// Creates an empty, sound store whose clock stands at the first of January 2026.
    pub fn new() -> Self {
        Self::with_manner(Manner::Sound)
    }

    /// Creates a store that silently replaces an existing object, as some servers do.
    pub fn overwriting() -> Self {
        Self::with_manner(Manner::Overwriting)
    }

    /// Creates a store whose credentials cannot delete.
    pub fn without_delete() -> Self {
        Self::with_manner(Manner::WithoutDelete)
    }

    fn with_manner(manner: Manner) -> Self {
        let now = Timestamp(1_767_225_600_000_000_000);
        let state = State { objects: BTreeMap::new(), now, requests: Requests::default() };
        Self { manner, state: Mutex::new(state) }
    }

    /// Returns the names of all objects, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Returns an object's bytes, not counted as a request.
    pub fn peek(&self, name: &str) -> Option<Bytes> {
        self.state().objects.get(name).map(|(bytes, _)| bytes.clone())
    }

    /// Replaces an object behind everybody's back, as a malicious or rotting store would.
    pub fn tamper(&self, name: &str, bytes: impl Into<Bytes>) {
        let mut state = self.state();
        let now = state.now;
        state.objects.insert(name.to_owned(), (bytes.into(), now));
    }

    /// Removes an object behind everybody's back.
    pub fn lose(&self, name: &str) -> bool {
        self.state().objects.remove(name).is_some()
    }

    /// Returns a store with the same objects, as a rewound or copied vault would be.
    pub fn copy(&self) -> Self {
        let state = self.state();
        let objects = state.objects.clone();
        Self {
            manner: self.manner,
            state: Mutex::new(State { objects, now: state.now, requests: Requests::default() }),
        }
    }

    /// Takes over the objects of another store; the clock goes on.
    pub fn become_like(&self, other: &Self) {
        let objects = other.state().objects.clone();
        self.state().objects = objects;
    }

    /// Returns the store's time.
    pub fn now(&self) -> Timestamp {
        self.state().now
    }

    /// Moves the store's clock on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now = Timestamp(state.now.0 + by.as_nanos() as i64);
    }

    /// Returns how many requests were made since the last call, and begins to count anew.
    pub fn take_requests(&self) -> Requests {
        std::mem::take(&mut self.state().requests)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the store")
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn address(&self) -> &str {
        "memory:"
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        let mut state = self.state();
        state.requests.put += 1;
        let now = state.now;
        if self.manner != Manner::Overwriting && state.objects.contains_key(name.as_str()) {
            return Err(StoreError::new("create", name.as_str(), StoreFault::AlreadyExists));
        }
        state.objects.insert(name.as_str().to_owned(), (body, now));
        Ok(PutReceipt { server_time: Some(now) })
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        let mut state = self.state();
        state.requests.get += 1;
        let Some((bytes, modified)) = state.objects.get(name.as_str()).cloned() else {
            return Err(StoreError::new("read", name.as_str(), StoreFault::NotFound));
        };
        if bytes.len() as u64 > limit_bytes {
            return Err(StoreError::new("read", name.as_str(), StoreFault::Corrupt));
        }
        state.requests.bytes_read += bytes.len() as u64;
        Ok(ObjectBody { object_size: bytes.len() as u64, bytes, modified: Some(modified) })
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        let mut state = self.state();
        state.requests.get += 1;
        let Some((bytes, modified)) = state.objects.get(name.as_str()).cloned() else {
            return Err(StoreError::new("read", name.as_str(), StoreFault::NotFound));
        };
        let object_size = bytes.len() as u64;
        let end = range.end.min(object_size);
        if range.start >= end {
            return Err(StoreError::new("read", name.as_str(), StoreFault::Corrupt));
        }
        state.requests.bytes_read += end - range.start;
        let bytes = bytes.slice(range.start as usize..end as usize);
        Ok(ObjectBody { bytes, object_size, modified: Some(modified) })
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let mut state = self.state();
        state.requests.head += 1;
        match state.objects.get(name.as_str()) {
            Some((bytes, modified)) => Ok(ObjectMeta {
                name: name.clone(),
                size: bytes.len() as u64,
                modified: Some(*modified),
            }),
            None => Err(StoreError::new("look at", name.as_str(), StoreFault::NotFound)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        check_prefix(prefix)?;
        let mut state = self.state();
        state.requests.list += 1;
        let found = state
            .objects
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix));
        let mut metas: Vec<_> = found
            .map(|(name, (bytes, modified))| ObjectMeta {
                name: name.parse().expect("only names were put"),
                size: bytes.len() as u64,
                modified: Some(*modified),
            })
            .collect();
        // Not in order: nobody may rely on it.
        metas.reverse();
        Ok(metas)
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let mut state = self.state();
        state.requests.delete += 1;
        if self.manner == Manner::WithoutDelete {
            return Err(StoreError::new("delete", name.as_str(), StoreFault::PermissionDenied));
        }
        state.objects.remove(name.as_str());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::conformance::check_object_store;
    use std::sync::Arc;

    #[tokio::test]
    async fn memory_is_an_object_store() {
        check_object_store(Arc::new(MemoryStore::new())).await;
    }

    #[tokio::test]
    #[should_panic(expected = "exactly one creator succeeds")]
    async fn the_suite_finds_a_store_that_overwrites() {
        check_object_store(Arc::new(MemoryStore::overwriting())).await;
    }
}
