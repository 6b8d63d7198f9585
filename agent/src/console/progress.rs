//! Progress of a long operation: a line that moves on a terminal, plain lines otherwise, status messages for programs.
//!
//! Workers only add to counters; a ticker thread reads them and draws, at most ten times a second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use storepool::entry::EntryPath;
use storepool::monitor::{Cancellation, Event, Monitor};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Console;
use super::units::{clock, count, size};

/// Between two drawings on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Between two status messages for programs.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Between plain lines: soon at first, then so rarely that the log of a long run stays short.
const LINE_EVERY: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];
/// The rate shown is that of the last so many seconds.
const RATE_OVER: Duration = Duration::from_secs(8);
/// What an item costs beside its bytes, in bytes: so that a million empty files and one large one are both foreseen.
const ITEM_BYTES: f64 = 16384.0;
/// Problems printed in full; the rest is counted, and all are kept in the point.
const PROBLEMS_PRINTED: u64 = 20;
/// Width if the terminal does not tell.
const COLUMNS_DEFAULT: usize = 80;

/// Watches one operation on behalf of a person or a program.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

struct Shared {
    console: Console,
    noun: &'static str,
    messages: bool,
    cancellation: Arc<Cancellation>,
    started: Instant,
    items: AtomicU64,
    bytes: AtomicU64,
    items_expected: AtomicU64,
    bytes_expected: AtomicU64,
    stored: AtomicU64,
    problems: AtomicU64,
    words: Mutex<Words>,
    rate: Mutex<Rate>,
    ended: Mutex<bool>,
    end: Condvar,
}

#[derive(Default)]
struct Words {
    stage: &'static str,
    noun: Option<&'static str>,
    current: Option<EntryPath>,
}

/// How much was done at some moments of the last seconds, the oldest first.
struct Rate(VecDeque<(Instant, u64, u64)>);

/// The state of an operation at one moment.
#[derive(Clone, Debug, Serialize)]
struct Status {
    stage: &'static str,
    seconds_elapsed: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fraction_done: Option<f64>,
    items_done: u64,
    items_expected: u64,
    bytes_done: u64,
    bytes_expected: u64,
    bytes_stored: u64,
    bytes_per_second: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_remaining: Option<u64>,
    problem_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
}

impl Progress {
    /// With `messages` programs are told in JSON lines what people see.
    pub(super) fn begin(console: &Console, noun: &'static str, messages: bool) -> Self {
        let started = Instant::now();
        let shared = Arc::new(Shared {
            console: console.clone(),
            noun,
            messages,
            cancellation: console.attention.cancellation(),
            started,
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            items_expected: AtomicU64::new(0),
            bytes_expected: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            problems: AtomicU64::new(0),
            words: Mutex::default(),
            rate: Mutex::new(Rate::from(started)),
            ended: Mutex::new(false),
            end: Condvar::new(),
        });
        let told = shared.clone();
        console.attention.begin_operation(Arc::new(move || told.tell_once()));
        let silent = if console.is_json() { !messages } else { console.is_quiet() };
        let ticker = (!silent).then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.tick())
        });
        Self { shared, ticker }
    }

    /// Ends the display and returns how long the operation took.
    pub(crate) fn finish(mut self) -> Duration {
        self.stop();
        let problems = self.shared.problems.load(Ordering::Relaxed);
        if !self.shared.messages
            && self.shared.console.verbosity() == 0
            && problems > PROBLEMS_PRINTED
        {
            let more = count(problems - PROBLEMS_PRINTED);
            self.shared.console.warn(format!("and {more} more problems"));
        }
        self.shared.started.elapsed()
    }

    fn stop(&mut self) {
        self.shared.console.attention.end_operation();
        *lock(&self.shared.ended) = true;
        self.shared.end.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // A ticker that panicked has nothing left to show.
            let _ = ticker.join();
        }
        self.shared.console.screen.live("");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event) {
        let shared = &*self.shared;
        match event {
            Event::Stage(stage) => shared.begin_stage(stage),
            Event::Counting(noun) => lock(&shared.words).noun = Some(noun),
            Event::Expected { items, bytes } => {
                shared.items_expected.store(items, Ordering::Relaxed);
                shared.bytes_expected.store(bytes, Ordering::Relaxed);
            }
            Event::Done { items, bytes } => {
                shared.items.fetch_add(items, Ordering::Relaxed);
                shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Stored { bytes } => {
                shared.stored.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Current(path) => lock(&shared.words).current = Some(path),
            Event::Problem { path, message } => shared.problem(&path, &message),
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.shared.cancellation.is_cancelled()
    }
}

impl Shared {
    fn begin_stage(&self, stage: &'static str) {
        let mut words = lock(&self.words);
        words.stage = stage;
        words.noun = None;
        words.current = None;
        for counter in [&self.items, &self.bytes, &self.items_expected, &self.bytes_expected] {
            counter.store(0, Ordering::Relaxed);
        }
        *lock(&self.rate) = Rate::from(Instant::now());
    }

    fn problem(&self, path: &EntryPath, message: &str) {
        #[derive(Serialize)]
        struct Problem<'a> {
            path: String,
            message: &'a str,
        }
        let number = self.problems.fetch_add(1, Ordering::Relaxed);
        if self.messages {
            self.console.message("error", &Problem { path: path.to_string(), message });
        } else if number < PROBLEMS_PRINTED || self.console.verbosity() > 0 {
            self.console.warn(format!("{path}: {message}"));
        }
    }

    fn tick(&self) {
        let live = self.console.screen.has_live_line();
        let mut last = self.started;
        let mut lines = 0;
        loop {
            let ended = lock(&self.ended);
            let (ended, _) = self
                .end
                .wait_timeout_while(ended, DRAW_EVERY, |ended| !*ended)
                .unwrap_or_else(PoisonError::into_inner);
            if *ended {
                return;
            }
            drop(ended);
            self.measure_rate();
            let since = last.elapsed();
            if self.messages {
                if since >= STATUS_EVERY {
                    last = Instant::now();
                    self.console.message("status", &self.status());
                }
            } else if live {
                self.console.screen.live(&self.status().line(self.noun(), Some(columns())));
            } else if since >= LINE_EVERY[lines.min(LINE_EVERY.len() - 1)] {
                last = Instant::now();
                lines += 1;
                self.console.screen.err_line(&self.status().line(self.noun(), None));
            }
        }
    }

    fn tell_once(&self) {
        if self.messages {
            self.console.message("status", &self.status());
        } else {
            self.console.screen.err_line(&self.status().line(self.noun(), None));
        }
    }

    fn noun(&self) -> &'static str {
        lock(&self.words).noun.unwrap_or(self.noun)
    }

    fn measure_rate(&self) {
        let (items, bytes) = self.done();
        lock(&self.rate).add(Instant::now(), bytes, items);
    }

    fn done(&self) -> (u64, u64) {
        (self.items.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn status(&self) -> Status {
        let (items, bytes) = self.done();
        let items_expected = self.items_expected.load(Ordering::Relaxed);
        let bytes_expected = self.bytes_expected.load(Ordering::Relaxed);
        let (bytes_per_second, items_per_second) = lock(&self.rate).per_second();
        // Where only items are expected, bytes say nothing about what is left.
        let weight = if bytes_expected > 0 { 1.0 } else { 0.0 };
        let work = |items: f64, bytes: f64| items * ITEM_BYTES + bytes * weight;
        let done = work(items as f64, bytes as f64);
        let expected = work(items_expected as f64, bytes_expected as f64);
        let per_second = work(items_per_second, bytes_per_second);
        let seconds_remaining = (expected > done && per_second > 0.0)
            .then(|| ((expected - done) / per_second).ceil() as u64);
        let words = lock(&self.words);
        Status {
            stage: words.stage,
            seconds_elapsed: (self.started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            fraction_done: (expected > 0.0)
                .then(|| ((done / expected).min(1.0) * 1e4).round() / 1e4),
            items_done: items,
            items_expected,
            bytes_done: bytes,
            bytes_expected,
            bytes_stored: self.stored.load(Ordering::Relaxed),
            bytes_per_second: bytes_per_second as u64,
            seconds_remaining,
            problem_count: self.problems.load(Ordering::Relaxed),
            current: words.current.as_ref().map(EntryPath::to_string),
        }
    }
}

impl Rate {
    fn from(moment: Instant) -> Self {
        Self(VecDeque::from([(moment, 0, 0)]))
    }

    fn add(&mut self, moment: Instant, bytes: u64, items: u64) {
        self.0.push_back((moment, bytes, items));
        while self.0.len() > 2 && moment - self.0[1].0 >= RATE_OVER {
            self.0.pop_front();
        }
    }

    /// Returns bytes and items per second.
    fn per_second(&self) -> (f64, f64) {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else { return (0.0, 0.0) };
        let seconds = (last.0 - first.0).as_secs_f64();
        if seconds < 0.01 {
            return (0.0, 0.0);
        }
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        (rate(first.1, last.1), rate(first.2, last.2))
    }
}

impl Status {
    /// Returns the status as one line, at most `columns` wide; the current path takes what is left.
    fn line(&self, noun: &str, columns: Option<usize>) -> String {
        let mut parts = vec![format!("[{}]", clock(Duration::from_secs_f64(self.seconds_elapsed)))];
        if let Some(fraction) = self.fraction_done {
            parts.push(format!("{:5.1}%", fraction * 100.0));
        }
        if !self.stage.is_empty() {
            parts.push(self.stage.to_string());
        }
        parts.push(format!("{} {noun}", count(self.items_done)));
        let bytes = size(self.bytes_done);
        match self.bytes_expected {
            0 if self.bytes_done == 0 => {}
            0 => parts.push(bytes),
            expected => parts.push(format!("{bytes} of {}", size(expected))),
        }
        if self.bytes_per_second > 0 {
            parts.push(format!("{}/s", size(self.bytes_per_second)));
        }
        if self.bytes_stored > 0 {
            parts.push(format!("{} added", size(self.bytes_stored)));
        }
        if let Some(seconds) = self.seconds_remaining {
            parts.push(format!("{} left", clock(Duration::from_secs(seconds))));
        }
        if self.problem_count > 0 {
            parts.push(format!("{} problems", count(self.problem_count)));
        }
        let line = parts.join("  ");
        let Some(columns) = columns else { return line };
        // The last column stays free: some terminals wrap when it is filled.
        let room = columns.saturating_sub(1);
        let line = shorten_end(&line, room);
        match &self.current {
            Some(current) if line.width() + 12 <= room => {
                format!("{line}  {}", shorten_begin(current, room - line.width() - 2))
            }
            _ => line,
        }
    }
}

/// Cuts the end of a text that is too wide.
fn shorten_end(text: &str, columns: usize) -> String {
    let mut width = 0;
    text.chars()
        .take_while(|character| {
            width += character.width().unwrap_or(0);
            width <= columns
        })
        .collect()
}

/// Cuts the beginning of a path that is too wide: its end says more.
fn shorten_begin(path: &str, columns: usize) -> String {
    if path.width() <= columns {
        return path.to_string();
    }
    let mut width = 1;
    let kept = path.chars().rev().take_while(|character| {
        width += character.width().unwrap_or(0);
        width <= columns
    });
    let start = path.len() - kept.map(char::len_utf8).sum::<usize>();
    format!("…{}", &path[start..])
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(COLUMNS_DEFAULT)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            stage: "reading files",
            seconds_elapsed: 72.0,
            fraction_done: Some(0.342),
            items_done: 12_345,
            items_expected: 0,
            bytes_done: 1 << 30,
            bytes_expected: 3 << 30,
            bytes_stored: 5 << 20,
            bytes_per_second: 120 << 20,
            seconds_remaining: Some(20),
            problem_count: 0,
            current: Some("usr/share/doc/a-package-with-a-long-name/README".to_string()),
        }
    }

    #[test]
    fn the_line_says_everything_and_never_wraps() {
        let plain = status().line("files", None);

        assert_eq!(
            plain,
            "[1:12]   34.2%  reading files  12,345 files  1.00 GiB of 3.00 GiB  120 MiB/s  5.00 MiB added  0:20 left"
        );
        for columns in 1..200 {
            let line = status().line("files", Some(columns));
            assert!(line.width() < columns, "{columns}: {line}");
        }
        let line = status().line("files", Some(130));
        assert_eq!(line.width(), 129);
        assert!(line.contains("left  …") && line.ends_with("long-name/README"), "{line}");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rate = Rate::from(start);
        assert_eq!(rate.per_second(), (0.0, 0.0));

        for second in 1..=20 {
            // Ten seconds fast, ten seconds slow.
            let bytes = if second <= 10 { second * 1000 } else { 10_000 + (second - 10) * 10 };
            rate.add(at(second), bytes, 2 * bytes);
        }

        assert_eq!(rate.per_second(), (10.0, 20.0));
        assert!(rate.0.len() <= 10);
    }

    #[test]
    fn wide_characters_are_counted_as_they_are_shown() {
        assert_eq!(shorten_end("世界", 3), "世");
        assert_eq!(shorten_begin("a/世界", 4), "…界");
        assert_eq!(shorten_begin("short", 10), "short");
    }
}
