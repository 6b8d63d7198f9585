//! The line of a process to its vault: answers are lost, requests land late or twice, lists are old, and the process may die in the middle.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cloudsync::error::{StoreError, StoreFault};
use cloudsync::layout::ObjectName;
use cloudsync::store::{ObjectBody, ObjectMeta, ObjectStore, PutReceipt};
use cloudsync::testing::MemoryStore;
use tokio::sync::{Notify, Semaphore};

use crate::chance::Chance;
use crate::machine::{Process, Scope};

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is not carried out, and nobody knows.
    Lost,
    /// It is refused.
    Refused,
    /// It is carried out, and the answer is lost.
    LostReply,
    /// It seems lost, and is carried out at some later time.
    Late,
    /// It is carried out now and once more later.
    Twice,
    /// A read ends too early; of others the reply is lost.
    CutRead,
    /// A list does not show the newest objects.
    StaleList,
    /// The process dies before it.
    Dies(Scope),
    /// The process dies after it, before the answer.
    DiesAfter(Scope),
}

/// How much of what is under way arrives with each request.
const ARRIVING_PERCENT: u64 = 15;

enum Late {
    Put(ObjectName, Bytes),
    Delete(ObjectName),
}

/// The way between machine and vault: what is still under way on it.
pub(crate) struct Network {
    late: Mutex<(Vec<Late>, Chance)>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { late: Mutex::new((Vec::new(), Chance::new(seed))) })
    }

    /// Returns whether anything is under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.late.lock().unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }

    /// Lets everything arrive that is under way.
    pub(crate) async fn deliver_all(&self, store: &MemoryStore) {
        self.deliver(store, 100).await;
    }

    // Lets some of what is under way arrive.
    async fn deliver(&self, store: &MemoryStore, percent: u64) {
        let arrived: Vec<_> = {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            let (waiting, chance) = &mut *late;
            let (arrived, rest) =
                std::mem::take(waiting).into_iter().partition(|_| chance.percent(percent));
            *waiting = rest;
            arrived
        };
        for request in arrived {
            // Nobody waits for the answer any more.
            match request {
                Late::Put(name, body) => drop(store.put_new(&name, body).await),
                Late::Delete(name) => drop(store.delete(&name).await),
            }
        }
    }

    fn delay(&self, request: Late) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).0.push(request);
    }
}

/// A process's connection.
pub(crate) struct Line {
    store: Arc<MemoryStore>,
    network: Arc<Network>,
    process: Process,
    troubles: Vec<(u64, Trouble)>,
    state: Mutex<State>,
    silence: Notify,
    // Closed once nobody waits for the dead any more.
    grave: Semaphore,
}

#[derive(Default)]
struct State {
    calls: u64,
    recent: Vec<ObjectName>,
}

fn failed<T>(action: &'static str, object: &str, fault: StoreFault) -> Result<T, StoreError> {
    Err(StoreError::new(action, object, fault).because("simulated"))
}

impl Line {
    pub(crate) fn new(
        store: Arc<MemoryStore>,
        network: Arc<Network>,
        process: Process,
        troubles: Vec<(u64, Trouble)>,
    ) -> Arc<Self> {
        let (state, silence, grave) = (Mutex::default(), Notify::new(), Semaphore::new(0));
        Arc::new(Self { store, network, process, troubles, state, silence, grave })
    }

    /// Waits until the process that holds this line is dead.
    pub(crate) async fn silence(&self) {
        self.silence.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets threads of a dead process end.
    pub(crate) fn release(&self) {
        self.grave.close();
    }

    async fn die(&self, scope: Scope) -> StoreFault {
        self.process.machine().die(self.process.pid(), scope);
        self.fall_silent().await
    }

    // Whoever is dead hears nothing any more.
    async fn fall_silent(&self) -> StoreFault {
        self.silence.notify_one();
        let _ = self.grave.acquire().await;
        StoreFault::Timeout
    }

    async fn begin(&self) -> Result<Option<Trouble>, StoreFault> {
        if self.process.machine().look(self.process.pid()).is_err() {
            return Err(self.fall_silent().await);
        }
        self.network.deliver(&self.store, ARRIVING_PERCENT).await;
        let call = {
            let mut state = self.state();
            state.calls += 1;
            state.calls - 1
        };
        let trouble = self.troubles.iter().find(|(at, _)| *at == call).map(|(_, trouble)| *trouble);
        match trouble {
            Some(Trouble::Dies(scope)) => Err(self.die(scope).await),
            _ => Ok(trouble),
        }
    }

    async fn end(&self, trouble: Option<Trouble>) -> Result<(), StoreFault> {
        match trouble {
            Some(Trouble::DiesAfter(scope)) => Err(self.die(scope).await),
            _ => Ok(()),
        }
    }

    // What a read does under a trouble.
    async fn answer<T>(
        &self,
        trouble: Option<Trouble>,
        action: &'static str,
        object: &str,
        answer: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(fault) = self.end(trouble).await {
            return failed(action, object, fault);
        }
        match trouble {
            Some(Trouble::Lost | Trouble::LostReply | Trouble::Late) => {
                failed(action, object, StoreFault::Timeout)
            }
            Some(Trouble::Refused) => {
                failed(action, object, StoreFault::Busy { retry_after: None })
            }
            _ => answer,
        }
    }
}

fn cut(trouble: Option<Trouble>, mut body: ObjectBody) -> ObjectBody {
    if trouble == Some(Trouble::CutRead) {
        let half = body.bytes.len() / 2;
        body.bytes.truncate(half);
    }
    body
}

#[async_trait]
impl ObjectStore for Line {
    fn address(&self) -> &str {
        "simulated:"
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        let trouble = match self.begin().await {
            Ok(trouble) => trouble,
            Err(fault) => return failed("create", name.as_str(), fault),
        };
        match trouble {
            Some(Trouble::Lost) => return failed("create", name.as_str(), StoreFault::Timeout),
            Some(Trouble::Refused) => {
                return failed("create", name.as_str(), StoreFault::Busy { retry_after: None });
            }
            Some(Trouble::Late) => {
                self.network.delay(Late::Put(name.clone(), body));
                return failed("create", name.as_str(), StoreFault::Timeout);
            }
            Some(Trouble::Twice) => self.network.delay(Late::Put(name.clone(), body.clone())),
            _ => {}
        }
        let done = self.store.put_new(name, body).await;
        self.state().recent.push(name.clone());
        if let Err(fault) = self.end(trouble).await {
            return failed("create", name.as_str(), fault);
        }
        match trouble {
            Some(Trouble::LostReply | Trouble::CutRead) => {
                failed("create", name.as_str(), StoreFault::Timeout)
            }
            _ => done,
        }
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        let trouble = match self.begin().await {
            Ok(trouble) => trouble,
            Err(fault) => return failed("read", name.as_str(), fault),
        };
        let answer = self.store.get(name, limit_bytes).await.map(|body| cut(trouble, body));
        self.answer(trouble, "read", name.as_str(), answer).await
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        let trouble = match self.begin().await {
            Ok(trouble) => trouble,
            Err(fault) => return failed("read", name.as_str(), fault),
        };
        let answer = self.store.get_range(name, range).await.map(|body| cut(trouble, body));
        self.answer(trouble, "read", name.as_str(), answer).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let trouble = match self.begin().await {
            Ok(trouble) => trouble,
            Err(fault) => return failed("look at", name.as_str(), fault),
        };
        let answer = self.store.head(name).await;
        self.answer(trouble, "look at", name.as_str(), answer).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let trouble = match self.begin().await {
            Ok(trouble) => trouble,
            Err(fault) => return failed("list", prefix, fault),
        };
        let mut answer = self.store.list(prefix).await;
        if trouble == Some(Trouble::StaleList)
            && let Ok(found) = &mut answer
        {
            let recent = self.state().recent.clone();
            found.retain(|meta| !recent.iter().rev().take(2).any(|name| *name == meta.name));
        }
        self.answer(trouble, "list", prefix, answer).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let trouble = match self.begin().await {
            Ok(trouble) => trouble,
            Err(fault) => return failed("delete", name.as_str(), fault),
        };
        match trouble {
            Some(Trouble::Lost) => return failed("delete", name.as_str(), StoreFault::Timeout),
            Some(Trouble::Refused) => {
                return failed("delete", name.as_str(), StoreFault::Busy { retry_after: None });
            }
            Some(Trouble::Late) => {
                self.network.delay(Late::Delete(name.clone()));
                return failed("delete", name.as_str(), StoreFault::Timeout);
            }
            Some(Trouble::Twice) => self.network.delay(Late::Delete(name.clone())),
            _ => {}
        }
        let done = self.store.delete(name).await;
        if let Err(fault) = self.end(trouble).await {
            return failed("delete", name.as_str(), fault);
        }
        match trouble {
            Some(Trouble::LostReply | Trouble::CutRead) => {
                failed("delete", name.as_str(), StoreFault::Timeout)
            }
            _ => done,
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}
