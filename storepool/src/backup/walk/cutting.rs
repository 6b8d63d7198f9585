//! Where the blocks of a stream are cut: windows of the file, runs of pages, and between them where the content says.

use crate::backup::walk::blocks::Block;
use crate::chunker::{CHUNK_MOST, Chunker, PAGES_LENGTH};
use crate::source::Texture;
use crate::tree::{WINDOW_LENGTH, WINDOWS_LIMIT};

/// Windows of the usual length come first; as many longer ones follow, so that a stream of any length keeps within the number of windows.
const USUAL_WINDOWS: u64 = WINDOWS_LIMIT / 2;
/// The length of the longer windows: the list of such a one fits a chunk however small its chunks are.
const LONG_WINDOW: u64 = 1 << 30;

/// The cutting of one stream, block by block.
#[derive(Debug, Default)]
pub(super) struct Cutting {
    chunker: Chunker,
    // Windows cut, and bytes cut of the one after them.
    windows: u64,
    in_window: u64,
    // The texture of what was cut last, and how many of its bytes came after a cut that a run of pages makes by itself.
    texture: Texture,
    in_pages: usize,
}

/// What was cut off a block: neighbouring chunks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where in the block's room they begin.
    pub(super) start: usize,
    /// How long each is, in bytes.
    pub(super) lengths: Vec<u32>,
    /// After how many of them a window of the file ends.
    pub(super) window_ends: Vec<usize>,
}

impl Cutting {
    /// Cuts off `block` what no later byte can change: at the end of the stream all of it. `None` if the stream is longer than any file.
    pub(super) fn cut(&mut self, block: &mut Block, at_end: bool) -> Option<Cut> {
        let mut cut = Cut { start: block.start(), lengths: Vec::new(), window_ends: Vec::new() };
        while let Some((run, is_followed)) = block.first_run() {
            let window = window_length(self.windows)?;
            let left = window - self.in_window;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(run.length);
            let ends_by_itself =
                at_end || is_followed || length < run.length || length as u64 == left;
            let rest = &block.bytes()[..length];
            let Some(length) = self.first(run.texture, rest, ends_by_itself) else { break };
            block.take(length);
            cut.lengths.push(length as u32);
            self.in_window += length as u64;
            if self.in_window == window {
                self.windows += 1;
                self.in_window = 0;
                cut.window_ends.push(cut.lengths.len());
            }
        }
        Some(cut)
    }

    // Returns the length of the first chunk of `rest`, if it is known.
    fn first(&mut self, texture: Texture, rest: &[u8], ends_by_itself: bool) -> Option<usize> {
        if texture != self.texture {
            self.texture = texture;
            self.in_pages = 0;
        }
        match texture {
            Texture::Plain if ends_by_itself || rest.len() >= CHUNK_MOST => {
                Some(self.chunker.first(rest))
            }
            Texture::Plain => None,
            Texture::Pages => {
                let wanted = PAGES_LENGTH - self.in_pages;
                if rest.len() < wanted && !ends_by_itself {
                    return None;
                }
                let length = rest.len().min(wanted);
                self.in_pages = (self.in_pages + length) % PAGES_LENGTH;
                Some(length)
            }
        }
    }
}

// Returns the length of a window of a stream, of which there is no total to reckon it from.
fn window_length(ordinal: u64) -> Option<u64> {
    match ordinal {
        0..USUAL_WINDOWS => Some(WINDOW_LENGTH),
        USUAL_WINDOWS..WINDOWS_LIMIT => Some(LONG_WINDOW),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixture::noise;

    // The lengths of all chunks of a stream that comes in these blocks, and after how many a window ends.
    fn cut_all(mut blocks: Vec<Block>) -> (Vec<u32>, Vec<usize>) {
        let mut cutting = Cutting::default();
        let (mut lengths, mut window_ends) = (Vec::new(), Vec::new());
        for ordinal in 0..blocks.len() {
            let (before, after) = blocks.split_at_mut(ordinal + 1);
            let block = &mut before[ordinal];
            let cut = cutting.cut(block, after.is_empty()).unwrap();
            if let Some(next) = after.first_mut() {
                next.begin_with(block);
            }
            window_ends.extend(cut.window_ends.iter().map(|end| end + lengths.len()));
            lengths.extend(cut.lengths);
        }
        (lengths, window_ends)
    }

    // The same stream in blocks of this length.
    fn in_blocks(parts: &[(&[u8], Texture)], length: usize) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Vec<(&[u8], Texture)> = Vec::new();
        let mut room = length;
        for (mut bytes, texture) in parts.iter().copied() {
            while !bytes.is_empty() {
                let (taken, rest) = bytes.split_at(bytes.len().min(room));
                open.push((taken, texture));
                bytes = rest;
                room -= taken.len();
                if room == 0 {
                    blocks.push(Block::of(&open));
                    open.clear();
                    room = length;
                }
            }
        }
        if !open.is_empty() {
            blocks.push(Block::of(&open));
        }
        blocks
    }

    #[test]
    fn the_blocks_in_which_a_stream_comes_do_not_move_its_cuts() {
        let content = noise("cuts", 3 << 20);
        let (head, rest) = content.split_at(700_000);
        let (pages, tail) = rest.split_at(40 * 8192);
        let parts = [(head, Texture::Plain), (pages, Texture::Pages), (tail, Texture::Plain)];

        let whole = cut_all(vec![Block::of(&parts)]);

        assert_eq!(whole.0.iter().map(|length| *length as usize).sum::<usize>(), content.len());
        for length in [10_000, 65_536, 300_000, 1 << 20] {
            assert_eq!(cut_all(in_blocks(&parts, length)), whole, "in blocks of {length}");
        }
    }

    #[test]
    fn pages_are_cut_at_fixed_distances_from_where_they_begin() {
        let content = noise("pages", 512 + 100_000 + 512 + 40_000);
        let (first, rest) = content.split_at(512);
        let (pages, rest) = rest.split_at(100_000);
        let (second, others) = rest.split_at(512);
        let parts = [
            (first, Texture::Plain),
            (pages, Texture::Pages),
            (second, Texture::Plain),
            (others, Texture::Pages),
        ];

        let (lengths, _) = cut_all(in_blocks(&parts, 30_000));

        assert_eq!(lengths, [512, 32_768, 32_768, 32_768, 1696, 512, 32_768, 7232]);
    }

    #[test]
    fn a_window_ends_a_chunk_and_the_pages_go_on_where_they_were() {
        let content = vec![7; WINDOW_LENGTH as usize + 100_000];
        let (head, pages) = content.split_at(1000);
        let parts = [(head, Texture::Plain), (pages, Texture::Pages)];

        let (lengths, window_ends) = cut_all(in_blocks(&parts, 1 << 20));

        let in_window: usize =
            lengths[..window_ends[0]].iter().map(|length| *length as usize).sum();
        assert_eq!(window_ends.len(), 1);
        assert_eq!(in_window as u64, WINDOW_LENGTH);
        let around = [lengths[window_ends[0] - 1], lengths[window_ends[0]]];
        assert_eq!(around.iter().sum::<u32>() as usize, PAGES_LENGTH);
        assert_eq!(lengths[window_ends[0] + 1] as usize, PAGES_LENGTH);
    }

    #[test]
    fn the_windows_of_a_stream_are_as_many_as_a_file_may_have() {
        let last = (0..WINDOWS_LIMIT).map(|ordinal| window_length(ordinal).unwrap()).max();

        assert_eq!(last, Some(LONG_WINDOW));
        assert_eq!(window_length(USUAL_WINDOWS - 1), Some(WINDOW_LENGTH));
        assert_eq!(window_length(WINDOWS_LIMIT), None);
    }
}
