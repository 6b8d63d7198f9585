//! Sound stores pass, and stores that break a promise only for many at once are found out.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use storepool::clock::SystemClock;
use storepool::selftest::Grade;

use super::*;
use crate::error::StoreError;
use crate::layout::ObjectName;
use crate::store::{ObjectBody, PutReceipt};
use crate::testing::{Fault, FaultyStore, MemoryStore, SeededEntropy};

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It looks whether there is an object, and creates it some time after.
    LooksThenPuts,
    /// It is too busy for everybody who creates one object together with others.
    Overcrowded,
    /// It lists no more than this.
    ListsAtMost(usize),
    /// It goes on listing what was deleted.
    ListsDeleted,
    /// Of parts of large objects it gives others.
    OtherParts,
}

#[derive(Debug)]
struct LyingStore {
    inner: MemoryStore,
    lie: Lie,
    inside: std::sync::atomic::AtomicUsize,
    listed: std::sync::Mutex<Vec<ObjectMeta>>,
}

impl LyingStore {
    fn new(lie: Lie) -> Self {
        let (inside, listed) = (Default::default(), Default::default());
        Self { inner: MemoryStore::new(), lie, inside, listed }
    }
}

#[async_trait]
impl ObjectStore for LyingStore {
    fn address(&self) -> &str {
        "lying:"
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        use std::sync::atomic::Ordering::SeqCst;
        let others = self.inside.fetch_add(1, SeqCst);
        let free = self.inner.head(name).await.is_err();
        tokio::task::yield_now().await;
        self.inside.fetch_sub(1, SeqCst);
        let is_race = body.len() as u64 == SMALL_BYTES;
        let is_crowd = is_race && (others > 0 || self.inside.load(SeqCst) > 0);
        if self.lie == Lie::Overcrowded && is_crowd {
            let fault = StoreFault::Busy { retry_after: None };
            return Err(StoreError::new("create", name.as_str(), fault));
        }
        if self.lie == Lie::LooksThenPuts && free {
            self.inner.tamper(name.as_str(), body);
            return Ok(PutReceipt { server_time: Some(self.inner.now()) });
        }
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
        let shift = u64::from(self.lie == Lie::OtherParts && range.end - range.start > 1000);
        self.inner.get_range(name, range.start + shift..range.end + shift).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.inner.head(name).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut listed = self.inner.list(prefix).await?;
        if let Lie::ListsAtMost(most) = self.lie {
            listed.truncate(most);
        }
        if self.lie == Lie::ListsDeleted {
            let mut before = self.listed.lock().expect("unpoisoned");
            before.retain(|old| listed.iter().all(|meta| meta.name != old.name));
            before.extend(listed);
            return Ok(before.clone());
        }
        Ok(listed)
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.inner.delete(name).await
    }
}

async fn examine_memory(store: &dyn ObjectStore, depth: Depth) -> Examination {
    let clock = SystemClock::new();
    examine_store(store, &clock, &SeededEntropy::new(7), depth).await.expect("examined")
}

#[tokio::test]
async fn a_sound_store_keeps_every_promise_and_nothing_is_left() {
    let store = MemoryStore::new();

    for depth in [Depth::Quick, Depth::Full] {
        let found = examine_memory(&store, depth).await;

        for check in ["read-back", "create-only", "list"] {
            assert_eq!(found.of(check).expect("tried").grade, Grade::Good, "{found:?}");
        }
        for check in ["latency", "ranges", "speed"] {
            assert_eq!(found.of(check).is_some(), depth == Depth::Full, "{check}: {found:?}");
        }
        // Its clock stands at the beginning of a year that is over.
        assert_eq!(found.of("clock").expect("compared").grade, Grade::Weak);
        assert_eq!(store.names(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn each_lie_of_a_store_is_found_by_its_check() {
    for (lie, check, grade, word) in [
        (Lie::LooksThenPuts, "create-only", Grade::Unfit, "8 succeeded"),
        (Lie::Overcrowded, "create-only", Grade::Weak, "none succeeded"),
        (Lie::ListsAtMost(5), "list", Grade::Unfit, "5 are listed"),
        (Lie::ListsDeleted, "list", Grade::Note, "listed for a while"),
        (Lie::OtherParts, "ranges", Grade::Unfit, "not read as it was put"),
    ] {
        let store = LyingStore::new(lie);

        let found = examine_memory(&store, Depth::Full).await;

        let finding = found.of(check).expect("tried");
        assert_eq!(finding.grade, grade, "{lie:?}: {found:?}");
        assert!(finding.seen.contains(word), "{lie:?}: {finding:?}");
        assert_eq!(store.inner.names(), Vec::<String>::new(), "{lie:?}");
    }
}

#[tokio::test]
async fn a_store_that_overwrites_is_unfit_and_nothing_more_is_tried() {
    let found = examine_memory(&MemoryStore::overwriting(), Depth::Full).await;

    assert_eq!((found.grade(), found.findings.len()), (Grade::Unfit, 1));
    assert_eq!(found.findings[0].check, "create-only");
}

#[tokio::test]
async fn keys_that_cannot_delete_are_asked_for_little_and_it_is_said() {
    let store = MemoryStore::without_delete();

    let found = examine_memory(&store, Depth::Full).await;

    assert_eq!(found.of("delete").map(|finding| finding.grade), Some(Grade::Note));
    assert!(found.unseen.iter().any(|what| what.contains("cannot delete")), "{found:?}");
    assert_eq!(store.names().len(), 1, "the one small object of the probe");
}

#[tokio::test]
async fn what_killed_examinations_left_goes_after_a_day_by_the_stores_clock() {
    let store = MemoryStore::new();
    let old = ObjectName::probe([1; 16]);
    store.put_new(&old, Bytes::from_static(b"old")).await.expect("put");
    store.advance(LEFTOVER_AGE + Duration::from_secs(60));
    let recent = ObjectName::probe([2; 16]);
    store.put_new(&recent, Bytes::from_static(b"recent")).await.expect("put");
    store.put_new(&ObjectName::descriptor(), Bytes::from_static(b"{}")).await.expect("put");

    examine_memory(&store, Depth::Quick).await;

    let mut left = vec![recent.to_string(), ObjectName::descriptor().to_string()];
    left.sort();
    assert_eq!(store.names(), left);
}

#[tokio::test]
async fn a_failure_at_any_call_is_told_and_leaves_nothing() {
    let sound = FaultyStore::new(Arc::new(MemoryStore::new()), []);
    examine_memory(&sound, Depth::Quick).await;

    for call in 0..sound.calls() {
        let memory = Arc::new(MemoryStore::new());
        let fault = Fault::Refuse(StoreFault::Unreachable);
        let store = FaultyStore::new(memory.clone(), [(call, fault)]);

        let clock = SystemClock::new();
        let told = examine_store(&store, &clock, &SeededEntropy::new(7), Depth::Quick).await;

        let error = told.expect_err("a store that is not reached is not examined");
        assert_eq!(error.store_fault(), Some(StoreFault::Unreachable), "call {call}");
        // A delete that was refused is one object; it goes with an examination a day later.
        assert!(memory.names().len() <= 1, "call {call}: {:?}", memory.names());
    }
}
