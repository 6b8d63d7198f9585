//! The test of a store before it is trusted with anything: does it create exclusively, give back what was
//! put, list it, and let go of it?

use bytes::Bytes;
use storepool::clock::Timestamp;
use storepool::entropy::{Entropy, random_bytes};

use crate::error::{Error, Result, StoreError, StoreFault};
use crate::layout::{ObjectName, PROBES};
use crate::store::ObjectStore;

/// What the test found out about a store that passed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The store's time.
    pub server_time: Option<Timestamp>,
    /// Whether these credentials can delete. An agent that cannot is safer; pruning is then the owner's.
    pub can_delete: bool,
}

/// Writes, doubles, reads, lists and deletes one small object.
///
/// # Errors
/// [`Error::CreateNotExclusive`] when a second create replaces the first, [`Error::StoreUnsound`] when the
/// store breaks another promise, and whatever the store itself reports.
pub async fn probe(store: &dyn ObjectStore, entropy: &dyn Entropy) -> Result<ProbeReport> {
    let name = ObjectName::probe(random_bytes(entropy));
    let first = Bytes::copy_from_slice(&random_bytes::<64>(entropy));
    let receipt = store.put_new(&name, first.clone()).await?;
    let verdict = examine(store, &name, &first).await;
    // Also after a failed test; the answer matters only when the test was passed.
    let deleted = store.delete(&name).await;
    verdict?;
    let can_delete = match deleted {
        Ok(()) => true,
        Err(StoreError { fault: StoreFault::PermissionDenied, .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if can_delete {
        let unsound = |reason| Error::StoreUnsound { address: store.address().to_owned(), reason };
        match store.head(&name).await {
            Err(error) if error.fault == StoreFault::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(unsound("a deleted object is still there")),
        }
    }
    Ok(ProbeReport { server_time: receipt.server_time, can_delete })
}

async fn examine(store: &dyn ObjectStore, name: &ObjectName, first: &Bytes) -> Result<()> {
    let unsound = |reason| Err(Error::StoreUnsound { address: store.address().to_owned(), reason });
    let second = Bytes::from(first.iter().map(|byte| !byte).collect::<Vec<_>>());
    match store.put_new(name, second).await {
        Err(error) if error.fault == StoreFault::AlreadyExists => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(Error::CreateNotExclusive { address: store.address().to_owned() }),
    }
    // Some stores answer "exists" and write nevertheless.
    if store.get(name, 1 << 10).await?.bytes != *first {
        return unsound("an object does not read back as it was written");
    }
    if store.get_range(name, 10..20).await?.bytes != first[10..20] {
        return unsound("a part of an object does not read back as it was written");
    }
    if store.head(name).await?.size != first.len() as u64 {
        return unsound("an object has another size than was written");
    }
    if !store.list(PROBES).await?.iter().any(|found| found.name == *name) {
        return unsound("an object that was just written is not listed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MemoryStore, SeededEntropy};

    #[tokio::test]
    async fn a_sound_store_passes_and_nothing_is_left() {
        let store = MemoryStore::new();

        let report = probe(&store, &SeededEntropy::new(1)).await.expect("passed");

        assert!(report.can_delete);
        assert!(report.server_time.is_some());
        assert_eq!(store.names(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_found_out() {
        let store = MemoryStore::overwriting();

        let error = probe(&store, &SeededEntropy::new(1)).await.expect_err("failed");

        assert!(matches!(error, Error::CreateNotExclusive { .. }));
        assert_eq!(store.names(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn credentials_that_cannot_delete_are_fine() {
        let store = MemoryStore::without_delete();

        let report = probe(&store, &SeededEntropy::new(1)).await.expect("passed");

        assert!(!report.can_delete);
    }
}
