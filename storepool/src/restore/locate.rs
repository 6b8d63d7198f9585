//! Finding where a batch's chunks lie, and the order in which they are read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::chunks::{ChunkReader, Placement};
use crate::error::Result;
use crate::id::ChunkId;
use crate::restore::batch::{Batch, PlacedPiece};
use crate::tree::ChunkRef;

const NONE: u32 = u32::MAX;

/// Fills in where the chunks of the batch lie and the order of its pieces.
pub(super) fn locate(batch: &mut Batch, reader: &mut dyn ChunkReader) -> Result<()> {
    batch.placements = placements(&batch.chunks, reader)?;
    batch.order.reserve_exact(batch.pieces.len());
    for (number, piece) in (0u32..).zip(&batch.pieces) {
        match &batch.placements[piece.chunk as usize] {
            Some(place) => batch.order.push(PlacedPiece {
                pack: place.pack,
                frame: place.frame,
                piece: number,
            }),
            None => batch.unplaced.push(number),
        }
    }
    // Pieces of a file were planned together and in order, so they come together and in order out of a frame.
    batch.order.sort_unstable();
    Ok(())
}

/// Finds one chunk, then everything else that is wanted in its pack, and so on: the index is asked about once a pack.
fn placements(chunks: &[ChunkRef], reader: &mut dyn ChunkReader) -> Result<Vec<Option<Placement>>> {
    let mut found: Vec<Option<Placement>> = vec![None; chunks.len()];
    // Chunks of one id form a chain from the first.
    let mut first: HashMap<ChunkId, u32> = HashMap::with_capacity(chunks.len());
    let mut next = vec![NONE; chunks.len()];
    for (number, chunk) in (0u32..).zip(chunks) {
        match first.entry(chunk.id) {
            Entry::Vacant(entry) => {
                entry.insert(number);
            }
            Entry::Occupied(mut entry) => next[number as usize] = entry.insert(number),
        }
    }
    let mut enter = |first: u32, place: Placement| {
        let mut number = first;
        while number != NONE {
            let fits = chunks[number as usize].length == place.length;
            found[number as usize] = Some(place).filter(|_| fits);
            number = next[number as usize];
        }
    };
    for chunk in chunks {
        let Some(number) = first.remove(&chunk.id) else { continue };
        let place = match reader.locate(chunk.id) {
            Ok(place) => place,
            // Asked for by name later: the answer then says what is wrong.
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        enter(number, place);
        reader.visit_pack(place.pack, &mut |id, place| {
            if let Some(number) = first.remove(id) {
                enter(number, place);
            }
        })?;
    }
    Ok(found)
}
