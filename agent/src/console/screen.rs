//! The two streams and the one progress line that moves below what is printed.

use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Large enough that a listing of a million entries is not a million system calls.
const BUFFER_BYTES: usize = 64 << 10;

/// The streams of this process; lines of several threads never mix.
pub(super) struct Screen {
    streams: Mutex<Streams>,
    gone: AtomicBool,
    out_is_terminal: bool,
    err_is_terminal: bool,
}

struct Streams {
    out: BufWriter<Stdout>,
    // The progress line that stands on the terminal now.
    live: String,
    failure: Option<io::Error>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            streams: Mutex::new(Streams {
                out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()),
                live: String::new(),
                failure: None,
            }),
            gone: AtomicBool::new(false),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
        }
    }

    pub(super) fn has_live_line(&self) -> bool {
        self.err_is_terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    pub(super) fn shows_colours(&self) -> bool {
        self.out_is_terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn out_line(&self, line: &str) {
        let mut streams = self.streams();
        streams.clear_live();
        let written =
            streams.out.write_all(line.as_bytes()).and_then(|()| streams.out.write_all(b"\n"));
        let flushed = if self.out_is_terminal { streams.out.flush() } else { Ok(()) };
        self.note_failure(&mut streams, written.and(flushed));
    }

    pub(super) fn out(&self, bytes: &[u8]) {
        let mut streams = self.streams();
        streams.clear_live();
        let written = streams.out.write_all(bytes);
        self.note_failure(&mut streams, written);
    }

    pub(super) fn flush(&self) {
        let mut streams = self.streams();
        let flushed = streams.out.flush();
        self.note_failure(&mut streams, flushed);
    }

    pub(super) fn err_line(&self, line: &str) {
        let mut streams = self.streams();
        streams.clear_live();
        // What was printed before must also appear before.
        let flushed = streams.out.flush();
        self.note_failure(&mut streams, flushed);
        // Without stderr there is nobody left to tell.
        let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
    }

    /// Shows `line` in place of the progress line; an empty one removes it.
    pub(super) fn live(&self, line: &str) {
        let mut streams = self.streams();
        if streams.live != line {
            let text =
                if line.is_empty() { "\r\x1b[K".to_string() } else { format!("\r{line}\x1b[K") };
            let _ = io::stderr().lock().write_all(text.as_bytes());
            streams.live = line.to_string();
        }
    }

    /// Ends all output and returns why not everything could be written.
    pub(super) fn finish(&self) -> Option<io::Error> {
        let mut streams = self.streams();
        streams.clear_live();
        let flushed = streams.out.flush();
        self.note_failure(&mut streams, flushed);
        streams.failure.take()
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_failure(&self, streams: &mut Streams, result: io::Result<()>) {
        let Err(error) = result else { return };
        // Whatever waits in the buffer would fail again at each write, and once more when it is dropped.
        let fresh = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
        let _ = std::mem::replace(&mut streams.out, fresh).into_parts();
        // `keepwell ls | head` has seen enough: no failure.
        if error.kind() != ErrorKind::BrokenPipe && !self.is_gone() {
            streams.failure = Some(error);
        }
        self.gone.store(true, Ordering::Relaxed);
    }
}

impl Streams {
    fn clear_live(&mut self) {
        if !self.live.is_empty() {
            let _ = io::stderr().lock().write_all(b"\r\x1b[K");
            self.live.clear();
        }
    }
}

/// Collects what is written and prints it as whole lines on stderr.
pub(super) struct ErrorLines {
    screen: Arc<Screen>,
    text: Vec<u8>,
}

impl ErrorLines {
    pub(super) fn new(screen: Arc<Screen>) -> Self {
        Self { screen, text: Vec::new() }
    }
}

impl Write for ErrorLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ErrorLines {
    fn drop(&mut self) {
        for line in String::from_utf8_lossy(&self.text).lines() {
            self.screen.err_line(&format!("keepwell: {}", line.trim()));
        }
    }
}
