//! Dumps of databases, one by one or all together, and the place in the binary log that the latter names at its beginning.
//!
//! One by one each database is as of a moment of its own. Only the dump of all together has one place in the log from which everything can go on.

use std::sync::{Arc, Mutex, PoisonError};

use super::LogPosition;
use crate::workload::WorkloadError;
use crate::workload::dumps::DumpDetail;
use crate::workload::program::Program;
use crate::workload::streams::OpenStream;

/// The dump of all databases together.
pub(super) const TOGETHER: &str = "databases.sql";
/// Bytes of its beginning that are kept: the place stands before any data, behind a few hundred bytes.
const BEGINNING_KEPT: usize = 16 << 10;

/// The dumps of a run.
pub(super) struct Dumps {
    command: Vec<String>,
    single: Vec<DumpDetail>,
    beginning: Arc<Mutex<Vec<u8>>>,
}

impl Dumps {
    /// Returns dumps that this command makes: of all databases together, and of these one by one.
    pub(super) fn new(command: Vec<String>, single: Vec<DumpDetail>) -> Self {
        Self { command, single, beginning: Arc::default() }
    }

    /// Starts the dump with the name of this file; `None` if there is no such dump.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn open(&self, file: &str) -> Option<Result<OpenStream, WorkloadError>> {
        if file == TOGETHER {
            let stream = self.start(&["--all-databases"]);
            let beginning = self.beginning.clone();
            return Some(stream.map(|stream| stream.beginning_in(beginning, BEGINNING_KEPT)));
        }
        let dump = self.single.iter().find(|dump| dump.file == file)?;
        // After this a name is never taken for an option.
        Some(self.start(&["--", &dump.database]))
    }

    /// Returns the place in the binary log at which the dump of all databases stands, after it was read.
    pub(super) fn position(&self) -> Option<LogPosition> {
        let beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        position_in(&String::from_utf8_lossy(&beginning))
    }

    fn start(&self, what: &[&str]) -> Result<OpenStream, WorkloadError> {
        let what = what.iter().map(|word| word.to_string());
        let command = self.command.iter().cloned().chain(what).collect();
        let program = Program { command, user: None, variables: Vec::new() };
        Ok(program.stream()?.into())
    }
}

// `-- CHANGE MASTER TO MASTER_LOG_FILE='bin.000002', MASTER_LOG_POS=342;`, by newer programs with `SOURCE` for `MASTER`.
fn position_in(beginning: &str) -> Option<LogPosition> {
    let is_it = |line: &&str| line.starts_with("-- CHANGE ") && line.contains("_LOG_FILE='");
    let line = beginning.lines().find(is_it)?;
    let (file, rest) = line.split_once("_LOG_FILE='")?.1.split_once('\'')?;
    let (_, number) = rest.split_once("_LOG_POS=")?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    Some(LogPosition { file: file.to_string(), offset: digits.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_read_from_the_beginning_of_a_dump() {
        let dump = "-- Preferably use GTID to start replication from GTID position:\n\
                    -- CHANGE MASTER TO MASTER_USE_GTID=slave_pos;\n\
                    -- CHANGE MASTER TO MASTER_LOG_FILE='bin.000002', MASTER_LOG_POS=342;\n";
        let expected = LogPosition { file: "bin.000002".to_string(), offset: 342 };

        assert_eq!(position_in(dump), Some(expected.clone()));
        let newer =
            "-- CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='bin.000002', SOURCE_LOG_POS=342;\n";
        assert_eq!(position_in(newer), Some(expected));
        assert_eq!(position_in("INSERT INTO t VALUES ('_LOG_FILE=');\n"), None);
    }
}
