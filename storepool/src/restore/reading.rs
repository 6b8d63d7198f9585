//! Which frames a batch reads, and which worker reads which.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::chunks::ChunkSource;
use crate::restore::batch::Batch;

/// The frames of a batch, in the order of the packs.
#[derive(Debug)]
pub(super) struct Reading {
    // Of the batch's `order`, those that share a frame.
    frames: Vec<Range<usize>>,
    // How many frames belong together, if the source says so.
    stretches: Option<Vec<usize>>,
    // Keeps what the source holds for them.
    hold: Mutex<Option<Box<dyn Any + Send + Sync>>>,
}

impl Reading {
    /// Plans the reading of all that is not in the target already, by so many workers, and tells the source.
    pub(super) fn plan(source: &dyn ChunkSource, batch: &Batch, workers: usize) -> Self {
        let frames = frames_of(batch);
        let place = |range: &Range<usize>| {
            let first = &batch.order[range.start];
            (first.pack, first.frame)
        };
        let places: Vec<_> = frames.iter().map(place).collect();
        let (stretches, hold) = match source.expect(&places, workers) {
            Some(expected) => (Some(expected.stretches), Some(expected.hold)),
            None => (None, None),
        };
        Self { frames, stretches, hold: Mutex::new(hold) }
    }
}

// The ranges of `order` that share a frame of which something is missing.
fn frames_of(batch: &Batch) -> Vec<Range<usize>> {
    let mut start = 0;
    batch
        .order
        .chunk_by(|one, other| (one.pack, one.frame) == (other.pack, other.frame))
        .filter_map(|group| {
            let range = start..start + group.len();
            start = range.end;
            group.iter().any(|placed| !batch.is_present(placed.piece)).then_some(range)
        })
        .collect()
}

/// Frames shared out to workers: each begins in another part of the copy, and so in other directories of the target, where it does not wait
/// for the others. Who is done takes the next part, or half of what the busiest has left.
pub(super) struct FrameQueue {
    reading: Reading,
    shares: Mutex<Shares>,
}

struct Shares {
    // Nobody has begun them.
    fresh: VecDeque<Range<usize>>,
    // By worker: what is left of its own.
    own: Vec<Range<usize>>,
}

impl FrameQueue {
    pub(super) fn new(reading: Reading, workers: usize) -> Self {
        let count = reading.frames.len();
        let fresh = match &reading.stretches {
            Some(stretches) => {
                let mut start = 0;
                let share = |length: &usize| {
                    let range = start..count.min(start + length);
                    start = range.end;
                    range
                };
                let mut fresh: VecDeque<_> = stretches.iter().map(share).collect();
                // Whatever a source says, every frame is read.
                fresh.push_back(start..count);
                fresh
            }
            None => {
                let cut = |number: usize| count * number / workers;
                (0..workers).map(|number| cut(number)..cut(number + 1)).collect()
            }
        };
        Self { reading, shares: Mutex::new(Shares { fresh, own: vec![0..0; workers] }) }
    }

    /// Lets go of what the source holds, and of whoever waits for it.
    pub(super) fn give_up(&self) {
        drop(self.reading.hold.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Returns the pieces in `order` of the frame that this worker reads next.
    pub(super) fn next(&self, worker: usize) -> Option<Range<usize>> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let Shares { fresh, own } = &mut *shares;
        while own[worker].is_empty() {
            let Some(share) = fresh.pop_front() else { break };
            own[worker] = share;
        }
        if own[worker].is_empty() {
            let busiest = (0..own.len()).max_by_key(|number| own[*number].len())?;
            let share = own[busiest].clone();
            let middle = share.start + share.len() / 2;
            own[busiest] = share.start..middle;
            own[worker] = middle..share.end;
        }
        let frame = own[worker].next()?;
        Some(self.reading.frames[frame].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(frames: usize, stretches: Option<Vec<usize>>) -> Reading {
        let frames = (0..frames).map(|number| number..number + 1).collect();
        Reading { frames, stretches, hold: Mutex::default() }
    }

    fn starts(queue: &FrameQueue, worker: usize, most: usize) -> Vec<usize> {
        (0..most).map_while(|_| queue.next(worker)).map(|range| range.start).collect()
    }

    #[test]
    fn every_frame_is_given_out_once_however_uneven_the_workers_are() {
        let queue = FrameQueue::new(reading(100, None), 3);

        let mut taken = starts(&queue, 2, 40);
        taken.extend(starts(&queue, 0, 100));

        taken.sort_unstable();
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        assert_eq!(queue.next(1), None);
    }

    #[test]
    fn what_comes_together_is_read_by_one_worker_until_nothing_else_is_left() {
        let queue = FrameQueue::new(reading(10, Some(vec![4, 2, 4])), 2);

        assert_eq!(starts(&queue, 0, 2), [0, 1]);
        assert_eq!(starts(&queue, 1, 3), [4, 5, 6]);
        assert_eq!(starts(&queue, 0, 2), [2, 3]);
        // Half of the rest of the other one's.
        assert_eq!(starts(&queue, 0, 1), [8]);
        assert_eq!(starts(&queue, 1, 3), [7, 9]);
        assert_eq!(queue.next(0), None);
    }

    #[test]
    fn stretches_that_do_not_fit_the_frames_lose_none() {
        for stretches in [vec![], vec![2], vec![3, 0, 9], vec![20]] {
            let queue = FrameQueue::new(reading(7, Some(stretches.clone())), 2);

            let mut taken = starts(&queue, 1, 1);
            taken.extend(starts(&queue, 0, 20));

            taken.sort_unstable();
            assert_eq!(taken, (0..7).collect::<Vec<_>>(), "{stretches:?}");
        }
    }
}
