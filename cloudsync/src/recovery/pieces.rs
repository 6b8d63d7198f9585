//! Cutting the frames that a restore expects into pieces, each of them one request.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use storepool::pack::Toc;

use crate::vault::pack::PackReader;

/// Stored bytes that nobody asked for and that are fetched all the same, between two frames that were: they cost less than a request.
const GAP_BYTES: u64 = 1 << 20;
/// Small pieces are read by one thread until they come to so many bytes.
const STRETCH_BYTES: u64 = 8 << 20;

/// Consecutive frames of a pack that are fetched with one request.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) pack: u64,
    pub(super) reader: Arc<PackReader>,
    pub(super) frames: Range<u32>,
    /// How many of the frames are expected.
    pub(super) expected: u32,
    /// What the store is asked for.
    pub(super) bytes: u64,
}

/// What is made of expected frames.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// Sorted by pack and frame.
    pub(super) pieces: Vec<Piece>,
    /// How many of the frames, in their order, one thread had best read.
    pub(super) stretches: Vec<usize>,
}

/// Cuts sorted frames into pieces of not much more than so many bytes. Frames that are there already are in no piece.
pub(super) fn cut(
    packs: &BTreeMap<u64, Arc<PackReader>>,
    frames: &[(u64, u32)],
    piece_length: u64,
) -> Cut {
    let mut cut = Cut::default();
    let (mut stretch, mut stretch_bytes) = (0, 0);
    for group in frames.chunk_by(|one, other| one.0 == other.0) {
        let Some(reader) = packs.get(&group[0].0) else {
            stretch += group.len();
            continue;
        };
        let toc = reader.toc();
        let near = |one: &(u64, u32), other: &(u64, u32)| {
            offset(toc, other.1) <= offset(toc, one.1 + 1) + GAP_BYTES
        };
        for run in group.chunk_by(near) {
            for part in parts(toc, run, piece_length) {
                let frames = part[0].1..part[part.len() - 1].1 + 1;
                let bytes = reader.stretch_bytes(frames.clone());
                if bytes > 0 {
                    let (pack, reader) = (group[0].0, reader.clone());
                    let expected = part.len() as u32;
                    cut.pieces.push(Piece { pack, reader, frames, expected, bytes });
                }
                stretch += part.len();
                stretch_bytes += bytes;
                if stretch_bytes >= STRETCH_BYTES {
                    cut.stretches.push(stretch);
                    (stretch, stretch_bytes) = (0, 0);
                }
            }
        }
    }
    if stretch > 0 {
        cut.stretches.push(stretch);
    }
    cut
}

// Divides a run of frames into parts of about equal length.
fn parts<'f>(
    toc: &Toc,
    run: &'f [(u64, u32)],
    length: u64,
) -> impl Iterator<Item = &'f [(u64, u32)]> {
    let start = offset(toc, run[0].1);
    let total = offset(toc, run[run.len() - 1].1 + 1) - start;
    let each = total.div_ceil(total.div_ceil(length).max(1)).max(1);
    let part = move |frame: &(u64, u32)| (offset(toc, frame.1) - start) / each;
    run.chunk_by(move |one, other| part(one) == part(other))
}

fn offset(toc: &Toc, frame: u32) -> u64 {
    toc.frame_offset(frame).unwrap_or(toc.stored_length())
}
