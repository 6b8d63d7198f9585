//! A store that fails at a chosen call, in every way that a network and a careless store can.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::{StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::{ObjectBody, ObjectMeta, ObjectStore, PutReceipt};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not carried out and fails like this.
    Refuse(StoreFault),
    /// It is carried out, but the answer is a timeout.
    LoseReply,
    /// A put is carried out, and whoever asked never hears of it: [`FaultyStore::silence`] ends, so that a test can kill the caller. Other calls
    /// time out.
    Silence,
    /// A put or delete answers with a timeout and is carried out just before the next call. Other calls time out.
    LandLate,
    /// A read returns so many bytes too few, or a put keeps so many too few, without saying so.
    CutBody(usize),
    /// A read returns so many bytes too few, without saying so. Other calls pass.
    CutRead(usize),
    /// A put or delete answers that it was done, and was not. Other calls pass.
    Pretend,
    /// A list does not show the last so many objects that were put through this store.
    StaleList(usize),
}

#[derive(Debug)]
enum Late {
    Put(ObjectName, Bytes),
    Delete(ObjectName),
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    faults: HashMap<u64, Fault>,
    late: Vec<Late>,
    recent: Vec<ObjectName>,
}

/// Wraps a store and disturbs the calls that it was told to; all others pass.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
    silent: Notify,
}

impl FaultyStore {
    /// Creates a store that disturbs the calls with these numbers, counted from 0 over all methods.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        faults: impl IntoIterator<Item = (u64, Fault)>,
    ) -> Self {
        let state = State { faults: faults.into_iter().collect(), ..State::default() };
        Self { inner, state: Mutex::new(state), silent: Notify::new() }
    }

    /// Waits for the put that [`Fault::Silence`] leaves without an answer.
    pub async fn silence(&self) {
        self.silent.notified().await;
    }

    /// Returns how many calls were made, so that a loop knows when it has disturbed each of them.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the store")
    }

    // Counts the call, lets late requests land, and returns what is to happen to this one.
    async fn begin(&self) -> Option<Fault> {
        let (fault, late) = {
            let mut state = self.state();
            let call = state.calls;
            state.calls += 1;
            (state.faults.remove(&call), std::mem::take(&mut state.late))
        };
        for request in late {
            // Nobody waits for the answer any more.
            match request {
                Late::Put(name, body) => drop(self.inner.put_new(&name, body).await),
                Late::Delete(name) => drop(self.inner.delete(&name).await),
            }
        }
        fault
    }
}

fn refused<T>(action: &'static str, object: &str, fault: StoreFault) -> Result<T, StoreError> {
    Err(StoreError::new(action, object, fault).because("disturbed by the test"))
}

// What a read does under a fault.
fn disturb<T>(
    fault: Option<Fault>,
    action: &'static str,
    object: &str,
    answer: Result<T, StoreError>,
    cut: impl FnOnce(T, usize) -> T,
) -> Result<T, StoreError> {
    match fault {
        None | Some(Fault::StaleList(_) | Fault::Pretend) => answer,
        Some(Fault::CutBody(missing) | Fault::CutRead(missing)) => {
            answer.map(|body| cut(body, missing))
        }
        Some(Fault::Refuse(fault)) => refused(action, object, fault),
        Some(Fault::LoseReply | Fault::LandLate | Fault::Silence) => {
            refused(action, object, StoreFault::Timeout)
        }
    }
}

fn cut(mut body: ObjectBody, missing: usize) -> ObjectBody {
    let left = body.bytes.len().saturating_sub(missing);
    body.bytes.truncate(left);
    body
}

#[async_trait]
impl ObjectStore for FaultyStore {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        match self.begin().await {
            Some(Fault::Refuse(fault)) => refused("create", name.as_str(), fault),
            Some(Fault::LandLate) => {
                self.state().late.push(Late::Put(name.clone(), body));
                refused("create", name.as_str(), StoreFault::Timeout)
            }
            Some(Fault::LoseReply) => {
                drop(self.inner.put_new(name, body).await);
                refused("create", name.as_str(), StoreFault::Timeout)
            }
            Some(Fault::Silence) => {
                drop(self.inner.put_new(name, body).await);
                self.silent.notify_one();
                std::future::pending().await
            }
            Some(Fault::Pretend) => Ok(PutReceipt { server_time: None }),
            Some(Fault::CutBody(missing)) => {
                self.inner.put_new(name, body.slice(..body.len().saturating_sub(missing))).await
            }
            None | Some(Fault::StaleList(_) | Fault::CutRead(_)) => {
                let receipt = self.inner.put_new(name, body).await?;
                self.state().recent.push(name.clone());
                Ok(receipt)
            }
        }
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        let fault = self.begin().await;
        disturb(fault, "read", name.as_str(), self.inner.get(name, limit_bytes).await, cut)
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        let fault = self.begin().await;
        disturb(fault, "read", name.as_str(), self.inner.get_range(name, range).await, cut)
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let fault = self.begin().await;
        disturb(fault, "look at", name.as_str(), self.inner.head(name).await, |meta, _| meta)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let fault = self.begin().await;
        let mut found =
            disturb(fault, "list", prefix, self.inner.list(prefix).await, |found, _| found)?;
        if let Some(Fault::StaleList(missing)) = fault {
            let hidden: Vec<_> = self.state().recent.iter().rev().take(missing).cloned().collect();
            found.retain(|meta| !hidden.contains(&meta.name));
        }
        Ok(found)
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        match self.begin().await {
            Some(Fault::Refuse(fault)) => refused("delete", name.as_str(), fault),
            Some(Fault::LandLate) => {
                self.state().late.push(Late::Delete(name.clone()));
                refused("delete", name.as_str(), StoreFault::Timeout)
            }
            Some(Fault::LoseReply | Fault::Silence) => {
                drop(self.inner.delete(name).await);
                refused("delete", name.as_str(), StoreFault::Timeout)
            }
            Some(Fault::Pretend) => Ok(()),
            None | Some(Fault::CutBody(_) | Fault::CutRead(_) | Fault::StaleList(_)) => {
                self.inner.delete(name).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStore;
    use crate::testing::conformance::check_object_store;

    fn name(text: &str) -> ObjectName {
        text.parse().expect("a name")
    }

    #[tokio::test]
    async fn without_faults_it_is_an_object_store() {
        check_object_store(Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), []))).await;
    }

    #[tokio::test]
    async fn each_fault_does_what_it_says() {
        let memory = Arc::new(MemoryStore::new());
        let faults = [
            (0, Fault::LandLate),
            (2, Fault::CutBody(2)),
            (4, Fault::StaleList(1)),
            (5, Fault::LandLate),
        ];
        let store = FaultyStore::new(memory.clone(), faults);

        assert!(store.put_new(&name("a"), Bytes::from_static(b"late")).await.is_err());
        assert_eq!(memory.names(), Vec::<String>::new());
        assert_eq!(store.head(&name("a")).await.expect("landed").size, 4);
        assert_eq!(store.get(&name("a"), 10).await.expect("cut").bytes, b"la".as_slice());
        store.put_new(&name("b"), Bytes::new()).await.expect("put");
        assert_eq!(store.list("").await.expect("stale").len(), 1);
        assert!(store.delete(&name("a")).await.is_err());
        assert_eq!(memory.names().len(), 2);
        assert_eq!(store.list("").await.expect("listed").len(), 1);
        assert_eq!(store.calls(), 7);
    }
}
