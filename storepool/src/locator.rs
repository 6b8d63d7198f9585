//! Finding many chunks at once: the index is read in its own order, tables of contents in theirs.
//!
//! One chunk at a time ([`Pool::find`]) costs a search of the index and a jump to another table for each; a walk over whole points asks for
//! hundreds of thousands. Here a batch is sorted the way the index is, answered by searches or by one pass over the table, whichever reads less,
//! and then confirmed pack by pack.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::index::{IndexLookup, PackNo, Place};
use crate::pack::frame::FrameCodec;
use crate::pool::Pool;
use crate::tree::ChunkRef;

/// Finds the places of chunks in a pool; belongs to one thread.
#[derive(Debug)]
pub(crate) struct Locator<'a> {
    pool: &'a Pool,
    lookup: IndexLookup,
    leaving: HashSet<PackNo>,
    unreadable: HashSet<PackNo>,
    // Places of chunks found elsewhere too: the chosen place, the other. `None` if nobody wants to know.
    others: Option<Vec<(Place, Place)>>,
}

// How good a place is; the least is chosen, then the lowest place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Sealed,
    Leaving,
    Condemned,
}

impl<'a> Locator<'a> {
    /// Creates a locator over the packs whose directories are there.
    pub(crate) fn new(pool: &'a Pool) -> Result<Self> {
        Ok(Self {
            pool,
            lookup: pool.index().lookup()?,
            leaving: HashSet::new(),
            unreadable: HashSet::new(),
            others: None,
        })
    }

    /// Remembers from now on where else the chunks it finds are.
    pub(crate) fn watch_others(&mut self) {
        self.others = Some(Vec::new());
    }

    /// Returns the chosen and another place of each chunk that was found more than once since the last call.
    pub(crate) fn take_others(&mut self) -> Vec<(Place, Place)> {
        self.others.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Prefers any other sealed pack to `packs` from now on: their chunks have been copied.
    pub(crate) fn leave(&mut self, packs: impl IntoIterator<Item = PackNo>) {
        self.leaving.extend(packs);
    }

    /// Takes `packs` for as good as others again.
    pub(crate) fn stay(&mut self, packs: &[PackNo]) {
        for no in packs {
            self.leaving.remove(no);
        }
    }

    /// Returns the packs met whose table of contents could not be used.
    pub(crate) fn unreadable(&self) -> &HashSet<PackNo> {
        &self.unreadable
    }

    /// Sorts `wanted`, drops what is twice in it, and returns for each chunk that is left the place that a table of contents confirms. Of several places the
    /// best is taken: sealed before condemned, then the lowest. A chunk of another length is not found; length 0 fits any.
    pub(crate) fn locate(&mut self, wanted: &mut Vec<ChunkRef>) -> Result<Vec<Option<Place>>> {
        wanted.sort_unstable_by_key(|chunk| (chunk.id.prefix(), chunk.id, chunk.length));
        wanted.dedup();
        let prefixes: Vec<_> = wanted.iter().map(|chunk| chunk.id.prefix()).collect();
        let mut candidates = Vec::with_capacity(wanted.len());
        let rows = self.pool.known_chunks();
        match self.lookup.candidates_of_all(&prefixes, rows, &mut candidates) {
            // The packs themselves are asked below.
            Err(Error::Index { corrupt: true, .. }) => candidates.clear(),
            asked => asked?,
        }
        drop(prefixes);
        candidates.sort_unstable();
        let mut best: Vec<Option<(Standing, Place)>> = vec![None; wanted.len()];
        let mut others = Vec::new();
        for group in candidates.chunk_by(|one, other| one.0.pack == other.0.pack) {
            self.confirm(wanted, group, &mut best, &mut others)?;
        }
        if best.iter().any(Option::is_none) {
            self.look_into_packs(wanted, &mut best, &mut others)?;
        }
        if let Some(known) = &mut self.others {
            let chosen = |index: u32| best[index as usize].expect("it has several places").1;
            known.extend(others.into_iter().map(|(index, other)| (chosen(index), other)));
        }
        Ok(best.into_iter().map(|best| best.map(|(_, place)| place)).collect())
    }

    /// Reads one chunk from any copy of it.
    pub(crate) fn read(&self, id: ChunkId, kind: ChunkKind) -> Result<Vec<u8>> {
        let mut codec = FrameCodec::new(self.pool.options().compression_level)?;
        let mut stored = Vec::new();
        let mut tried = Vec::new();
        while let Some(found) =
            self.pool.find_needed(&self.lookup, &id, |row| !tried.contains(&row.no))?
        {
            tried.push(found.place.pack);
            let start = found.slot.offset as usize;
            if let Ok(frame) = found.pack.read_frame(found.slot.frame, &mut stored, &mut codec) {
                let chunk = &frame[start..start + found.slot.length as usize];
                if ChunkId::of(kind, chunk) == id {
                    return Ok(chunk.to_vec());
                }
            }
        }
        Err(Error::ChunkMissing { chunk: id })
    }

    // What the index does not know, or says wrongly.
    fn look_into_packs(
        &mut self,
        wanted: &[ChunkRef],
        best: &mut [Option<(Standing, Place)>],
        others: &mut Vec<(u32, Place)>,
    ) -> Result<()> {
        let tables = self.pool.tables()?;
        let mut candidates: Vec<_> = (0u32..)
            .zip(wanted)
            .filter(|(index, _)| best[*index as usize].is_none())
            .flat_map(|(index, chunk)| {
                tables.candidates(&chunk.id).map(move |place| (place, index))
            })
            .collect();
        candidates.sort_unstable();
        for group in candidates.chunk_by(|one, other| one.0.pack == other.0.pack) {
            self.confirm(wanted, group, best, others)?;
        }
        if candidates.iter().any(|(_, index)| best[*index as usize].is_some()) {
            self.pool.distrust_index();
        }
        Ok(())
    }

    fn confirm(
        &mut self,
        wanted: &[ChunkRef],
        candidates: &[(Place, u32)],
        best: &mut [Option<(Standing, Place)>],
        others: &mut Vec<(u32, Place)>,
    ) -> Result<()> {
        let no = candidates[0].0.pack;
        let Some(row) = self.pool.pack_row(no)? else { return Ok(()) };
        if self.pool.directory_path(row.directory).is_none() || self.unreadable.contains(&no) {
            return Ok(());
        }
        let pack = match self.pool.open_pack(&row) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => {
                tracing::warn!(pack = %row.id, %error, "passed over a pack");
                self.unreadable.insert(no);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let standing = match row.condemned_after {
            Some(_) => Standing::Condemned,
            None if self.leaving.contains(&no) => Standing::Leaving,
            None => Standing::Sealed,
        };
        let chunks = pack.toc().chunks();
        for (place, index) in candidates {
            let chunk = &wanted[*index as usize];
            let confirmed = chunks.get(place.ordinal as usize).is_some_and(|entry| {
                entry.id == chunk.id && (chunk.length == 0 || entry.length == chunk.length)
            });
            if !confirmed {
                continue;
            }
            let best = &mut best[*index as usize];
            let found = (standing, *place);
            if let Some(before) = best.replace(best.map_or(found, |before| before.min(found))) {
                others.push((*index, before.max(found).1));
            }
        }
        Ok(())
    }
}
