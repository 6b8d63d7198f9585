//! Chunks with several copies: before all but one are given up, that one is read.

use crate::error::Result;
use crate::id::ChunkId;
use crate::index::Place;
use crate::pack::frame::FrameCodec;
use crate::reach::{Reach, open_pack};

impl Reach<'_> {
    /// Reads the marked copy of each chunk that has others. Where it cannot be read, the others are marked as well, so that none of them is
    /// given up for a copy that only its table of contents speaks for.
    pub(crate) fn settle_doubles(&mut self) -> Result<()> {
        let mut doubles = std::mem::take(&mut self.doubles);
        doubles.sort_unstable();
        let mut codec = FrameCodec::new(self.pool.options().compression_level)?;
        let mut stored = Vec::new();
        let mut rest = doubles.as_slice();
        while let Some((first, _)) = rest.first() {
            let end = self.end_of_frame(*first);
            let (frame, after) = rest.split_at(rest.partition_point(|(place, _)| *place < end));
            rest = after;
            let sound = self.sound_places(frame, &mut stored, &mut codec)?;
            for (chosen, other) in frame {
                if !sound.contains(chosen) {
                    tracing::warn!(?chosen, "a copy of a chunk cannot be read, another is kept");
                    self.marks.set(*other);
                }
            }
        }
        Ok(())
    }

    // The first place behind the frame that holds `place`.
    fn end_of_frame(&self, place: Place) -> Place {
        let end = open_pack(self.pool, place.pack).ok().and_then(|pack| {
            let frame = pack.toc().slot(place.ordinal)?.frame;
            let (first, chunks) = pack.toc().chunks_of(frame)?;
            Some(first + chunks.len() as u32)
        });
        Place { pack: place.pack, ordinal: end.unwrap_or(place.ordinal + 1) }
    }

    // Of the chosen places, all in one frame, those whose bytes match their names.
    fn sound_places(
        &self,
        doubles: &[(Place, Place)],
        stored: &mut Vec<u8>,
        codec: &mut FrameCodec,
    ) -> Result<Vec<Place>> {
        let first = doubles[0].0;
        let pack = match open_pack(self.pool, first.pack) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let toc = pack.toc().clone();
        let frame = toc.slot(first.ordinal).expect("the place was confirmed").frame;
        let Ok(decoded) = pack.read_frame(frame, stored, codec) else { return Ok(Vec::new()) };
        let is_sound = |place: &Place| {
            let entry = toc.chunks()[place.ordinal as usize];
            let slot = toc.slot(place.ordinal).expect("the place was confirmed");
            let bytes = &decoded[slot.offset as usize..][..slot.length as usize];
            ChunkId::of(entry.kind, bytes) == entry.id
        };
        let mut places: Vec<_> = doubles.iter().map(|(chosen, _)| *chosen).collect();
        places.dedup();
        Ok(places.into_iter().filter(is_sound).collect())
    }
}
