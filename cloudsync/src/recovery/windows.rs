//! Frames that are read together, because whoever reads one is likely to want its neighbours, and did not say so.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use storepool::pack::Toc;

/// Stored bytes that are read together by somebody who wants much.
const WINDOW_LENGTH: u64 = 2 << 20;
/// The same for somebody who wants nearly everything: each request costs the store more than the bytes that were not wanted.
const WIDE_WINDOW_LENGTH: u64 = 8 << 20;
/// Stored bytes of windows that are kept.
const BYTES_KEPT: u64 = 24 << 20;
/// Frames in windows after which it is judged whether nearly everything is wanted, ...
const FRAMES_JUDGED: u64 = 32;
/// ... and the shares of them that were, in percent: from the one on wide windows are read, below the other no longer.
const WIDE_FROM: u64 = 75;
const WIDE_WHILE: u64 = 40;

// How much of what was read together was wanted.
#[derive(Default)]
struct Yield {
    fetched: u64,
    wanted: u64,
    wide: bool,
}

impl Yield {
    fn window_length(&mut self) -> u64 {
        let least = if self.wide { WIDE_WHILE } else { WIDE_FROM };
        self.wide = self.fetched >= FRAMES_JUDGED && self.wanted * 100 >= self.fetched * least;
        if self.wide { WIDE_WINDOW_LENGTH } else { WINDOW_LENGTH }
    }
}

/// The bytes of a window, once they are there.
pub(super) type Window = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

/// The windows that are kept.
#[derive(Default)]
pub(super) struct Windows {
    // By pack and frames.
    kept: HashMap<(u64, u32, u32), KeptWindow>,
    tick: u64,
    gain: Yield,
}

struct KeptWindow {
    window: Window,
    bytes: u64,
    used: u64,
}

impl Windows {
    /// Returns the frames that are read together with this one, and where their bytes are or will be; `None` if the pack does not have it.
    pub(super) fn find(
        &mut self,
        pack: u64,
        toc: &Toc,
        frame: u32,
    ) -> Option<(Range<u32>, Window)> {
        self.tick += 1;
        let has = |key: &(u64, u32, u32)| key.0 == pack && (key.1..key.2).contains(&frame);
        let known = self.kept.keys().copied().find(has);
        let range = match known {
            Some((_, start, end)) => start..end,
            None => window_of(toc, frame, self.gain.window_length())?,
        };
        self.gain.wanted += 1;
        if known.is_none() {
            self.gain.fetched += u64::from(range.end - range.start);
            self.make_room(toc, &range);
        }
        let stored = stored_bytes(toc, &range);
        let kept = self.kept.entry((pack, range.start, range.end)).or_insert_with(|| KeptWindow {
            window: Window::default(),
            bytes: stored,
            used: 0,
        });
        kept.used = self.tick;
        Some((range, kept.window.clone()))
    }

    fn make_room(&mut self, toc: &Toc, range: &Range<u32>) {
        let new = stored_bytes(toc, range);
        while self.kept.values().map(|kept| kept.bytes).sum::<u64>() + new > BYTES_KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.kept.remove(&oldest);
        }
    }
}

fn stored_bytes(toc: &Toc, frames: &Range<u32>) -> u64 {
    let frames = &toc.frames()[frames.start as usize..frames.end as usize];
    frames.iter().map(|frame| u64::from(frame.stored_length)).sum()
}

fn window_of(toc: &Toc, frame: u32, length: u64) -> Option<Range<u32>> {
    let number = toc.frame_offset(frame)? / length;
    let within =
        |frame: &u32| toc.frame_offset(*frame).is_some_and(|offset| offset / length == number);
    let start = (0..frame).rev().take_while(within).last().unwrap_or(frame);
    let end = (frame..toc.frames().len() as u32).take_while(within).last()? + 1;
    Some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_wide_only_for_who_wants_nearly_everything() {
        let mut gain = Yield::default();
        assert_eq!(gain.window_length(), WINDOW_LENGTH);
        (gain.fetched, gain.wanted) = (40, 32);
        assert_eq!(gain.window_length(), WIDE_WINDOW_LENGTH);
        // A wide window was fetched, and its frames come one by one.
        gain.fetched += 30;
        assert_eq!(gain.window_length(), WIDE_WINDOW_LENGTH);
        (gain.fetched, gain.wanted) = (400, 120);
        assert_eq!(gain.window_length(), WINDOW_LENGTH);
        gain.wanted = 200;
        assert_eq!(gain.window_length(), WINDOW_LENGTH);
    }
}
