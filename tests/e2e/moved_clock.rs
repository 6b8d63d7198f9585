//! A clock that a story moves, for the program as it is shipped: libfaketime answers every question for the time from a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use jiff::Timestamp;

/// The clock of the processes that were given it. The monotonic clock stays the machine's: time-outs and rates go by it.
pub(crate) struct MovedClock {
    library: PathBuf,
    file: PathBuf,
}

impl MovedClock {
    /// Makes a clock that shows `begin` and goes on from there; it is kept in `folder`.
    pub(crate) fn new(folder: &Path, begin: Timestamp) -> Self {
        let folders = fs::read_dir("/usr/lib").expect("libraries").flatten();
        let mut libraries = folders.map(|it| it.path().join("faketime/libfaketimeMT.so.1"));
        let library =
            libraries.find(|path| path.exists()).expect("the package faketime is installed");
        let clock = Self { library, file: folder.join("clock") };
        clock.set(begin);
        clock
    }

    /// Moves it. Every process sees that when it asks for the time again.
    pub(crate) fn set(&self, to: Timestamp) {
        let real = Timestamp::try_from(SystemTime::now()).expect("a moment");
        let seconds = to.duration_since(real).as_secs();
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}s\n")).expect("written");
        fs::rename(&new, &self.file).expect("in place at once");
    }

    /// Gives the clock to a process and all that it starts.
    pub(crate) fn give(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}
