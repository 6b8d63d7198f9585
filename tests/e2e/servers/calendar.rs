//! Time that passes when a story says so, for a server and for the program: both are started with libfaketime.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// The wall clocks of a server and of programs, which begin at the real time.
pub(crate) struct Calendar {
    folder: TempDir,
    library: String,
    hours: Cell<u64>,
}

impl Calendar {
    /// Begins at the real time.
    pub(crate) fn new() -> Self {
        // The wrapper knows where its library is.
        let output = Command::new("faketime").args(["-f", "+0", "env"]).output();
        let text = String::from_utf8(output.expect("faketime is installed").stdout);
        let text = text.expect("variables are text");
        let library = text.lines().find_map(|line| line.strip_prefix("LD_PRELOAD="));
        let library = library.expect("faketime loads its library").to_string();
        let folder = tempfile::tempdir().expect("a folder");
        let calendar = Self { folder, library, hours: Cell::new(0) };
        calendar.pass(0);
        calendar
    }

    /// Lets so many hours pass at once, also for a server that runs.
    pub(crate) fn pass(&self, hours: u64) {
        self.hours.set(self.hours.get() + hours);
        // Replaced, so that nobody ever reads half of it.
        let fresh = self.folder.path().join("fresh");
        fs::write(&fresh, format!("{}\n", shift(self.hours.get()))).expect("written");
        fs::rename(fresh, self.file()).expect("replaced");
    }

    /// Returns the variables of a program that ends before the next [`Calendar::pass`], and whose own clock is `ahead` hours too fast.
    pub(crate) fn of_program(&self, ahead: u64) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME", shift(self.hours.get() + ahead)),
            // Only the clock on the wall is moved: its threads wait for each other without asking the library.
            ("DONT_FAKE_MONOTONIC", "1".to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_string()),
        ]
    }

    /// Returns the variables of a server in Python.
    pub(super) fn of_server(&self) -> Vec<(&'static str, String)> {
        let file = self.file().display().to_string();
        vec![
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            // Looked at anew each time it is asked for the time.
            ("FAKETIME_NO_CACHE", "1".to_string()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("now")
    }
}

fn shift(hours: u64) -> String {
    format!("+{}s", hours * 3600)
}
