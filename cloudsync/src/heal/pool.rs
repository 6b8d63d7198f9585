//! The vault as the place from which a repair of the pool gets back what is lost.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use storepool::chunks::ChunkSource;
use storepool::id::{ChunkId, ChunkKind};
use storepool::repair::ChunkHealer;
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::recovery::VaultChunks;
use crate::vault::Ordinals;
use crate::vault::chain::Realm;
use crate::vault::snapshot::Snapshot;

/// Gives a repair of the pool chunks from a vault. Asks for nothing before the first chunk is wanted.
///
/// A vault that fails gives nothing more: the repair goes on without it, and [`VaultHealer::trouble`] tells why.
#[derive(Debug)]
pub struct VaultHealer {
    realm: Realm,
    snapshot: Snapshot,
    runtime: Handle,
    chunks: OnceLock<Arc<VaultChunks>>,
    trouble: Mutex<Option<String>>,
}

impl VaultHealer {
    /// Creates a healer from what this state names. `runtime` drives the store.
    pub fn new(realm: Realm, snapshot: Snapshot, runtime: Handle) -> Self {
        let (chunks, trouble) = (OnceLock::new(), Mutex::default());
        Self { realm, snapshot, runtime, chunks, trouble }
    }

    /// Returns why the vault could not help, if it could not.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn chunks(&self) -> Result<Arc<VaultChunks>> {
        if let Some(chunks) = self.chunks.get() {
            return Ok(chunks.clone());
        }
        let all: Ordinals = self.snapshot.live_objects().map(|(ordinal, _)| ordinal).collect();
        let open = VaultChunks::open(&self.realm, &self.snapshot, &all, self.runtime.clone());
        let opened = Arc::new(self.runtime.block_on(open)?);
        Ok(self.chunks.get_or_init(|| opened).clone())
    }

    fn give(
        &self,
        wanted: &[(ChunkId, ChunkKind)],
        take: &mut dyn FnMut(ChunkId, Vec<u8>) -> storepool::Result<()>,
    ) -> Result<std::result::Result<(), storepool::Error>> {
        let chunks = self.chunks()?;
        let mut reader = chunks.reader()?;
        // In the order of packs, so that neighbours are fetched together.
        let mut placed = Vec::with_capacity(wanted.len());
        for (id, kind) in wanted {
            if let Ok(place) = reader.locate(*id) {
                placed.push((place, *id, *kind));
            }
        }
        placed.sort_unstable_by_key(|(place, ..)| *place);
        for (_, id, kind) in placed {
            match reader.fetch(id, kind) {
                Ok(bytes) => {
                    if let Err(error) = take(id, bytes) {
                        return Ok(Err(error));
                    }
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(Error::Pool(error)),
            }
        }
        Ok(Ok(()))
    }
}

impl ChunkHealer for VaultHealer {
    fn fetch(
        &self,
        chunks: &[(ChunkId, ChunkKind)],
        take: &mut dyn FnMut(ChunkId, Vec<u8>) -> storepool::Result<()>,
    ) -> storepool::Result<()> {
        if self.trouble().is_some() {
            return Ok(());
        }
        match self.give(chunks, take) {
            Ok(taken) => taken,
            Err(error) => {
                let mut text = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    text.push_str(&format!(": {cause}"));
                    source = cause.source();
                }
                *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                Ok(())
            }
        }
    }
}
