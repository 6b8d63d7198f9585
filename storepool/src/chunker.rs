//! Where content is cut: FastCDC, its parameters part of the pool's format (`docs/format.md`, section 5).

use fastcdc::v2020::{Normalization, cut, select_masks};

/// Smallest chunk, but for the last of a window.
pub const CHUNK_LEAST: usize = 8 << 10;
/// What the cutting rule aims at; real averages come out a quarter larger.
pub const CHUNK_AVERAGE: usize = 32 << 10;
/// Largest chunk.
pub const CHUNK_MOST: usize = 256 << 10;
/// Chunk of a run of a database's pages: a few pages, since a page that changed takes its neighbours with it into the pool (docs/decisions/0048).
pub const PAGES_LENGTH: usize = 32 << 10;

/// Cuts content into chunks whose ends depend on the content around them alone.
#[derive(Clone, Copy, Debug)]
pub struct Chunker {
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// Creates the chunker of pool format 1.
    pub fn new() -> Self {
        let (mask_small, mask_large) = select_masks(CHUNK_AVERAGE, Normalization::Level2);
        Self { mask_small, mask_large }
    }

    /// Returns the length of the first chunk of `data`. The answer is final if `data` holds at least [`CHUNK_MOST`] bytes or ends
    /// where the window ends.
    pub fn first(&self, data: &[u8]) -> usize {
        if data.len() <= CHUNK_LEAST {
            return data.len();
        }
        let (_, length) = cut(
            data,
            CHUNK_LEAST,
            CHUNK_AVERAGE,
            CHUNK_MOST,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
        );
        length
    }
}

impl Default for Chunker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(data: &[u8]) -> Vec<usize> {
        let chunker = Chunker::new();
        let mut lengths = Vec::new();
        let mut rest = data;
        while !rest.is_empty() {
            let length = chunker.first(rest);
            lengths.push(length);
            rest = &rest[length..];
        }
        lengths
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_derive_key("test noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn the_cuts_of_format_1_never_change() {
        // The same lengths for ever: other cuts would end deduplication with everything stored before.
        assert_eq!(cuts(&noise(1 << 20))[..6], FORMAT_1_CUTS);
    }

    const FORMAT_1_CUTS: [usize; 6] = [37_407, 9_363, 48_099, 16_681, 64_992, 38_682];

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let data = noise(8 << 20);
        let mut changed = data.clone();
        changed.insert(3 << 20, 7);
        let before: std::collections::HashSet<_> = pieces(&data).into_iter().collect();

        let new = pieces(&changed).iter().filter(|piece| !before.contains(*piece)).count();

        assert!(new <= 3, "{new} chunks changed");
    }

    fn pieces(data: &[u8]) -> Vec<&[u8]> {
        let mut rest = data;
        cuts(data)
            .into_iter()
            .map(|length| {
                let (piece, after) = rest.split_at(length);
                rest = after;
                piece
            })
            .collect()
    }
}
