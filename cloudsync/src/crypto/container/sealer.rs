//! Sealing segment by segment, in place.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;

use crate::crypto::container::key::segment_nonce;
use crate::crypto::container::size::SEGMENT_LENGTH;

const ZEROS: [u8; 4096] = [0; 4096];

/// Takes plaintext in pieces and makes the segments of one object of it.
pub(super) struct SegmentSealer {
    cipher: Aes256Gcm,
    associated: [u8; 32],
    object: Vec<u8>,
    // Where the open segment begins in the object.
    start: usize,
    index: u64,
    count: u64,
}

impl SegmentSealer {
    /// Begins after a finished header; so many segments will follow.
    pub(super) fn new(
        cipher: Aes256Gcm,
        associated: [u8; 32],
        header: Vec<u8>,
        count: u64,
    ) -> Self {
        let start = header.len();
        Self { cipher, associated, object: header, start, index: 0, count }
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let room = self.start + SEGMENT_LENGTH - self.object.len();
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.object.extend_from_slice(now);
            if now.len() == room {
                self.close_segment();
            }
            piece = later;
        }
    }

    // Sealed in place while the segment is still in the processor's cache.
    fn close_segment(&mut self) {
        let nonce = segment_nonce(self.index, self.index + 1 == self.count);
        let segment = &mut self.object[self.start..];
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, &self.associated, InOutBuf::from(segment))
            .expect("a segment is shorter than the longest message of AES-GCM");
        self.object.extend_from_slice(&tag);
        self.start = self.object.len();
        self.index += 1;
    }

    /// Returns the finished object.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.object.len() > self.start {
            self.close_segment();
        }
        assert_eq!(self.index, self.count, "the pieces fill exactly the announced segments");
        self.object
    }
}

/// Returns so many zeros, in pieces.
pub(super) fn zeros<'a>(count: usize) -> impl Iterator<Item = &'a [u8]> {
    let rest = &ZEROS[..count % ZEROS.len()];
    std::iter::repeat_n(ZEROS.as_slice(), count / ZEROS.len()).chain(std::iter::once(rest))
}
