//! The packs of an open pool: which there are, which are open, and which of them has a chunk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::Pool;
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::index::{IndexLookup, PackNo, PackRow, Place};
use crate::pack::Slot;
use crate::pack::reader::PackReader;
use crate::pack::writer::pack_path;

/// Tables of contents kept in memory, in bytes; a session reads each of them about once.
const TOC_CACHE_BYTES: usize = 24 << 20;
/// Pack files kept open.
const OPEN_PACKS_MOST: usize = 128;

/// A chunk found in a pack whose table of contents confirms it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where the index had it.
    pub place: Place,
    /// The pack, open.
    pub pack: Arc<PackReader>,
    /// Where in the pack it lies.
    pub slot: Slot,
}

impl Pool {
    /// Reads the list of packs again.
    pub fn refresh_packs(&self) -> Result<()> {
        let rows = self.index.packs()?;
        let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        *packs = rows.into_iter().map(|row| (row.no, row)).collect();
        Ok(())
    }

    /// Returns what is known of a pack, looking into the index if it is new.
    pub fn pack_row(&self, no: PackNo) -> Result<Option<PackRow>> {
        let known = self.packs.read().unwrap_or_else(PoisonError::into_inner).get(&no).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let row = self.index.pack(no)?;
        if let Some(row) = &row {
            let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
            packs.insert(no, row.clone());
        }
        Ok(row)
    }

    /// Returns the known packs in order of their numbers.
    pub fn pack_rows(&self) -> Vec<PackRow> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<_> = packs.values().cloned().collect();
        rows.sort_unstable_by_key(|row| row.no);
        rows
    }

    /// Returns about how many chunks the known packs hold.
    pub fn known_chunks(&self) -> u64 {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        packs.values().map(|row| row.chunks).sum()
    }

    /// Returns where the file of a pack is, if its directory is there.
    pub fn pack_file(&self, row: &PackRow) -> Option<PathBuf> {
        Some(pack_path(&self.directory_path(row.directory)?.join("packs"), row.id))
    }

    /// Opens a pack, or returns it from the cache.
    ///
    /// # Errors
    /// [`Error::PackMissing`], [`Error::PackDamaged`].
    pub fn open_pack(&self, row: &PackRow) -> Result<Arc<PackReader>> {
        if let Some(pack) = self.cache().get(row.no) {
            return Ok(pack);
        }
        let path = self.pack_file(row).ok_or(Error::PackMissing { pack: row.id })?;
        let pack = Arc::new(PackReader::open(&*self.world.disk, &path, row.id, self.id)?);
        self.cache().insert(row.no, pack.clone());
        Ok(pack)
    }

    /// Forgets that a pack is open: its file is about to go.
    pub fn close_pack(&self, no: PackNo) {
        self.cache().remove(no);
        self.packs.write().unwrap_or_else(PoisonError::into_inner).remove(&no);
    }

    /// Opens the pack with this name directly, without the index.
    pub fn open_pack_file(&self, directory: &Path, id: PackId) -> Result<PackReader> {
        let path = pack_path(&directory.join("packs"), id);
        PackReader::open(&*self.world.disk, &path, id, self.id)
    }

    fn cache(&self) -> MutexGuard<'_, PackCache> {
        self.open_packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a chunk: follows the index's hints until a table of contents confirms one. Packs for which `usable` is false are passed over,
    /// as are missing and damaged ones; sealed packs are preferred to condemned ones.
    pub fn find(
        &self,
        lookup: &IndexLookup,
        id: &ChunkId,
        usable: impl Fn(&PackRow) -> bool,
    ) -> Result<Option<Found>> {
        let mut places = Vec::new();
        lookup.candidates(id, &mut places)?;
        self.confirm(places, id, usable)
    }

    // The first of these places that a table of contents confirms.
    pub(super) fn confirm(
        &self,
        places: Vec<Place>,
        id: &ChunkId,
        usable: impl Fn(&PackRow) -> bool,
    ) -> Result<Option<Found>> {
        let mut condemned = None;
        for place in places {
            let Some(row) = self.pack_row(place.pack)? else { continue };
            if !usable(&row) || self.directory_path(row.directory).is_none() {
                continue;
            }
            let pack = match self.open_pack(&row) {
                Ok(pack) => pack,
                Err(error) if error.is_damage() => {
                    tracing::warn!(pack = %row.id, %error, "passed over a pack");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let confirmed = pack
                .toc()
                .chunks()
                .get(place.ordinal as usize)
                .is_some_and(|chunk| chunk.id == *id);
            let Some(slot) = pack.toc().slot(place.ordinal).filter(|_| confirmed) else { continue };
            let found = Found { place, pack, slot };
            if row.condemned_after.is_none() {
                return Ok(Some(found));
            }
            condemned.get_or_insert(found);
        }
        Ok(condemned)
    }
}

#[derive(Default)]
pub(super) struct PackCache {
    packs: HashMap<PackNo, (Arc<PackReader>, u64)>,
    bytes: usize,
    tick: u64,
}

impl PackCache {
    fn get(&mut self, no: PackNo) -> Option<Arc<PackReader>> {
        self.tick += 1;
        let (pack, used) = self.packs.get_mut(&no)?;
        *used = self.tick;
        Some(pack.clone())
    }

    fn insert(&mut self, no: PackNo, pack: Arc<PackReader>) {
        self.tick += 1;
        self.bytes += toc_bytes(&pack);
        if let Some((old, _)) = self.packs.insert(no, (pack, self.tick)) {
            self.bytes -= toc_bytes(&old);
        }
        while self.packs.len() > 1
            && (self.bytes > TOC_CACHE_BYTES || self.packs.len() > OPEN_PACKS_MOST)
        {
            let oldest = self.packs.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = *oldest.expect("the cache is not empty").0;
            self.remove(oldest);
        }
    }

    fn remove(&mut self, no: PackNo) {
        if let Some((pack, _)) = self.packs.remove(&no) {
            self.bytes -= toc_bytes(&pack);
        }
    }
}

fn toc_bytes(pack: &PackReader) -> usize {
    pack.toc().chunks().len() * 40 + pack.toc().frames().len() * 32 + 1024
}
