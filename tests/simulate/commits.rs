//! Commits that a vault lost, or that rotted there. The model remembers what they were: whatever becomes of the objects, it was committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cloudsync::testing::MemoryStore;

/// Commit objects as they were before they were harmed, as long as nothing made them needless.
#[derive(Default)]
pub(crate) struct LostCommits {
    known: BTreeMap<String, Bytes>,
}

impl LostCommits {
    /// Returns whether every commit is as it was, or not needed any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Removes a commit.
    pub(crate) fn lose(&mut self, store: &MemoryStore, name: &str) {
        let bytes = store.peek(name).expect("it is there");
        self.known.insert(name.to_owned(), bytes);
        store.lose(name);
    }

    /// Flips a bit of a commit.
    pub(crate) fn rot(&mut self, store: &MemoryStore, name: &str, place: u64) {
        let bytes = store.peek(name).expect("it is there");
        let mut rotten = bytes.to_vec();
        let at = place as usize % rotten.len();
        rotten[at] ^= 1 << (place >> 61);
        self.known.insert(name.to_owned(), bytes);
        store.tamper(name, rotten);
    }

    /// Returns a store as it would be had nothing been harmed.
    pub(crate) fn undone(&self, store: &MemoryStore) -> Arc<MemoryStore> {
        let whole = store.copy();
        self.known.iter().for_each(|(name, bytes)| whole.tamper(name, bytes.clone()));
        Arc::new(whole)
    }

    /// Brings everything back, as the operator of the store may.
    pub(crate) fn put_back(&mut self, store: &MemoryStore) {
        for (name, bytes) in std::mem::take(&mut self.known) {
            store.tamper(&name, bytes);
        }
    }

    /// Forgets those that came back by themselves: a request that was carried out twice.
    pub(crate) fn settle(&mut self, store: &MemoryStore) {
        self.known.retain(|name, bytes| store.peek(name).as_ref() != Some(bytes));
    }

    /// Forgets all: a checkpoint made them needless.
    pub(crate) fn let_go(&mut self) {
        self.known.clear();
    }

    /// Returns the name of the last one.
    pub(crate) fn last(&self) -> Option<&str> {
        self.known.keys().next_back().map(String::as_str)
    }
}
