//! The objects that an examination puts, so that none is left.

use storepool::entropy::{Entropy, random_bytes};

use crate::error::{Result, StoreError};
use crate::layout::ObjectName;
use crate::store::ObjectStore;

/// A store, and the names of what was put there for the examination.
pub(super) struct Trace<'a> {
    store: &'a dyn ObjectStore,
    names: Vec<ObjectName>,
}

impl<'a> Trace<'a> {
    /// Begins without a name.
    pub(super) fn new(store: &'a dyn ObjectStore) -> Self {
        Self { store, names: Vec::new() }
    }

    /// Returns the store.
    pub(super) fn store(&self) -> &'a dyn ObjectStore {
        self.store
    }

    /// Returns a new name for a test object; it is deleted in the end, whether it was put or not.
    pub(super) fn name(&mut self, entropy: &dyn Entropy) -> ObjectName {
        let name = ObjectName::probe(random_bytes(entropy));
        self.names.push(name.clone());
        name
    }

    /// Deletes everything; the first failure is told after all were tried.
    pub(super) async fn delete_all(self) -> Result<()> {
        let mut failure: Option<StoreError> = None;
        for name in &self.names {
            if let Err(error) = self.store.delete(name).await {
                failure.get_or_insert(error);
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}
