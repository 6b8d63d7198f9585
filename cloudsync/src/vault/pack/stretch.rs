//! Frames of a pack that are fetched together and opened one by one, by whoever needs them.
//!
//! What is fetched stays sealed until then: so it is in memory once, and each frame is opened into the same small buffer, just before it is decoded.

use std::ops::Range;

use bytes::Bytes;

use crate::crypto::container::SEGMENT_LENGTH;
use crate::error::{Error, Result};
use crate::store::ObjectStore;
use crate::vault::pack::{PackReader, fetch_segments};

/// Consecutive segments of a pack as the store gave them; nothing of them is proved yet.
#[derive(Debug)]
pub struct SealedStretch {
    segments: Range<u64>,
    bytes: Bytes,
}

/// The segments that one thread opened last. A frame begins in the segment in which the one before it ends.
#[derive(Debug, Default)]
pub struct OpenedSegments {
    // Of the pack; tells packs apart.
    salt: [u8; 32],
    segments: Range<u64>,
    plaintext: Vec<u8>,
}

impl PackReader {
    /// Returns how many bytes the store is asked for when these frames are read together; 0 if they came with the table.
    ///
    /// # Panics
    /// If the pack does not have these frames.
    pub fn stretch_bytes(&self, frames: Range<u32>) -> u64 {
        let plaintext = self.plaintext_of(frames);
        if plaintext.end <= self.beginning.len() as u64 {
            return 0;
        }
        let stored = self.container.stored_range(self.container.segments_of(plaintext));
        stored.end - stored.start
    }

    /// Reads consecutive frames by one ranged read, and opens none.
    ///
    /// # Panics
    /// If the pack does not have these frames.
    pub async fn read_stretch(
        &self,
        store: &dyn ObjectStore,
        frames: Range<u32>,
    ) -> Result<SealedStretch> {
        let segments = self.container.segments_of(self.plaintext_of(frames));
        let bytes = fetch_segments(store, &self.container, &self.name, segments.clone()).await?;
        Ok(SealedStretch { segments, bytes })
    }

    /// Opens a frame of a stretch of this pack; returns its stored bytes, which the seal has proved.
    ///
    /// # Panics
    /// If the pack does not have the frame, or the stretch not all of it.
    pub fn open_frame<'o>(
        &self,
        stretch: &SealedStretch,
        frame: u32,
        opened: &'o mut OpenedSegments,
    ) -> Result<&'o [u8]> {
        let wanted = self.plaintext_of(frame..frame + 1);
        let segments = self.container.segments_of(wanted.clone());
        let inside =
            stretch.segments.start <= segments.start && segments.end <= stretch.segments.end;
        assert!(inside, "the frame is in the stretch");
        opened.begin_with(self.salt(), segments.start);
        let missing = opened.segments.end..segments.end.max(opened.segments.end);
        if !missing.is_empty() {
            let base = self.container.stored_range(stretch.segments.clone()).start;
            let stored = self.container.stored_range(missing.clone());
            let sealed =
                &stretch.bytes[(stored.start - base) as usize..(stored.end - base) as usize];
            self.container
                .open_segments(missing.start, sealed, &mut opened.plaintext)
                .map_err(|reason| Error::damaged(&self.name, reason))?;
            opened.segments.end = missing.end;
        }
        let skipped = opened.segments.start * SEGMENT_LENGTH as u64;
        Ok(&opened.plaintext[(wanted.start - skipped) as usize..(wanted.end - skipped) as usize])
    }
}

impl OpenedSegments {
    // Keeps what is open from this segment of the pack on.
    fn begin_with(&mut self, salt: [u8; 32], first: u64) {
        if self.salt == salt && self.segments.contains(&first) {
            let passed = (first - self.segments.start) as usize * SEGMENT_LENGTH;
            self.plaintext.drain(..passed);
            self.segments.start = first;
        } else {
            self.plaintext.clear();
            (self.salt, self.segments) = (salt, first..first);
        }
    }
}
