//! The end of what a program says: if it fails, the reason stands there.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What it said last may still be on its way when it has ended; longer than this nobody waits, since a child that lives on may hold the pipe open for ever.
const PATIENCE: Duration = Duration::from_millis(400);
/// How soon the end of the pipe is seen.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A listener to a program's output, in a thread of its own.
pub(crate) struct LastWords {
    tail: Arc<Mutex<VecDeque<u8>>>,
    listener: Option<JoinHandle<()>>,
}

impl LastWords {
    /// Begins to listen to `stream`, of which the last `kept` bytes are kept.
    pub(crate) fn of(stream: Option<impl Read + Send + 'static>, kept: usize) -> Self {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let listener = stream.map(|mut stream| {
            let tail = tail.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                    tail.extend(&buffer[..length]);
                    let excess = tail.len().saturating_sub(kept);
                    tail.drain(..excess);
                }
            })
        });
        Self { tail, listener }
    }

    /// Returns what was said, for people; waits a moment for what is still on its way.
    pub(crate) fn text(&self) -> String {
        let mut left = PATIENCE;
        while !left.is_zero() && !self.listener.as_ref().is_none_or(JoinHandle::is_finished) {
            std::thread::sleep(LOOK_EVERY);
            left = left.saturating_sub(LOOK_EVERY);
        }
        let bytes: Vec<u8> =
            self.tail.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        text.chars().filter(|letter| !letter.is_control() || *letter == '\n').collect()
    }
}
