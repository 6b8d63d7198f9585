//! MariaDB: a physical copy of the whole server by `mariadb-backup`, its binary logs, and dumps of databases. MySQL: the same without the copy, which
//! that program cannot make.
//!
//! The copy is stored as the stream that the program makes, without a copy on disk in between; it counts only if the program ended with 0 *and* said that it
//! completed. It becomes a data directory when it is restored ([`recovery`]).

mod dumps;
pub(crate) mod greeting;
pub(crate) mod programs;
pub(crate) mod recovery;
mod replay;
pub(crate) mod trial;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use storepool::clock::{Clock, SystemClock};
use storepool::monitor::{Monitor, SilentMonitor};
use storepool::source::DataSource;

use dumps::{Dumps, TOGETHER};
use programs::Flavour;

use super::dumps::DumpDetail;
use super::program::Program;
use super::streams::{LastStream, OpenStream, StreamTree};
use super::{Finding, Prepared, Surroundings, Workload, WorkloadError};
use crate::config::{DatabasesConfig, MariadbConfig};
use crate::error::Cause;

/// The kind of these points.
pub(crate) const WORKLOAD: &str = "mariadb";
/// The physical copy.
pub(super) const COPY: &str = "backup.xbstream";
/// Folder of the binary logs in a point.
pub(super) const LOGS: &str = "binlogs";
/// What `mariadb-backup` says last when all is well.
pub(super) const COMPLETED: &str = "completed OK!";
/// How the folder is called in which the program leaves what it found out, before process and number.
const SCRATCH: &str = "mariadb-";
/// More runs of one process than there are at a time.
const SCRATCH_MOST: u32 = 1000;
/// Version of [`MariadbDetail`] that is written.
const DETAIL_FORMAT: u32 = 1;

/// What a point says of itself, in the manifest's detail.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct MariadbDetail {
    /// Version of this description.
    pub(crate) format: u32,
    /// Version of the server.
    pub(crate) version: String,
    /// Whether there is a physical copy.
    pub(crate) physical: bool,
    /// Where in the binary log the physical copy, or the dump of all databases together, stands; `None` if there is no log.
    pub(crate) position: Option<LogPosition>,
    /// Whether there is a dump of all databases together, as of one moment. Older points have none.
    #[serde(default)]
    pub(crate) together: bool,
    /// Binary logs in the point, oldest first; none of them is written to any more.
    pub(crate) logs: Vec<String>,
    /// What was committed until then is in them; nanoseconds since 1970.
    pub(crate) logs_until: Option<i64>,
    /// Dumps of single databases.
    pub(crate) dumps: Vec<DumpDetail>,
}

impl MariadbDetail {
    /// Returns whether the whole server can be brought back from this point, and binary logs be replayed onto that.
    pub(crate) fn is_base(&self) -> bool {
        self.physical || self.together
    }
}

/// A place in the binary log.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct LogPosition {
    /// File.
    pub(crate) file: String,
    /// Bytes from its beginning.
    pub(crate) offset: u64,
}

/// A server.
pub(super) struct Mariadb {
    config: MariadbConfig,
}

impl Mariadb {
    pub(super) fn new(config: MariadbConfig) -> Self {
        Self { config }
    }

    fn ask(
        &self,
        question: &str,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Vec<String>>, WorkloadError> {
        let mut command = programs::client(&self.config);
        command.extend(["-NBe", question].map(String::from));
        let program = Program { command, user: None, variables: Vec::new() };
        let hint = "does the server run, and may the user of defaults_file do so? See docs/workloads/mariadb.md";
        let answer = program.answer(monitor).map_err(|error| error.hint(hint))?;
        let row = |line: &str| line.split('\t').map(str::to_string).collect();
        Ok(answer.lines().map(row).collect())
    }

    fn one(&self, question: &str, monitor: &dyn Monitor) -> Result<String, WorkloadError> {
        let rows = self.ask(question, monitor)?;
        let first = rows.into_iter().next().and_then(|row| row.into_iter().next());
        first.ok_or_else(|| {
            WorkloadError::failed(format!("{} gave no answer to {question}", self.config.name()))
        })
    }

    // Databases that are dumped one by one.
    fn databases(&self, monitor: &dyn Monitor) -> Result<Vec<String>, WorkloadError> {
        match &self.config.dump {
            _ if self.config.dumps_together() => Ok(Vec::new()),
            DatabasesConfig::None => Ok(Vec::new()),
            DatabasesConfig::Named(names) => Ok(names.clone()),
            DatabasesConfig::All => {
                let all = "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN \
                     ('information_schema', 'performance_schema', 'sys') ORDER BY 1";
                Ok(self.ask(all, monitor)?.into_iter().flatten().collect())
            }
        }
    }

    // Said before anything begins, instead of by a program in the middle.
    fn must_be_possible(&self, version: &str) -> Result<(), WorkloadError> {
        if !self.config.physical || Flavour::of(version) == Flavour::Mariadb {
            return Ok(());
        }
        let name = self.config.name();
        let message = format!("{name} is MySQL {version}, and mariadb-backup copies MariaDB only");
        let hint = "set physical = false and dump = true: its databases are dumped then, with binlog = true all together and with the binary logs";
        Err(WorkloadError::failed(message).hint(hint))
    }

    // The program that dumps, if there is anything to dump.
    fn dumper(&self, version: &str, has_log: bool) -> Result<Vec<String>, WorkloadError> {
        match self.config.dump {
            DatabasesConfig::None => Ok(Vec::new()),
            _ => programs::dumper(&self.config, version, has_log),
        }
    }

    fn look(&self) -> Result<String, WorkloadError> {
        let version = self.one("SELECT @@version", &SilentMonitor)?;
        self.must_be_possible(&version)?;
        self.dumper(&version, false)?;
        Ok(version)
    }

    // Ends the log that is written to, and returns the folder of the logs and those that are complete.
    fn complete_logs(
        &self,
        monitor: &dyn Monitor,
    ) -> Result<(PathBuf, Vec<String>), WorkloadError> {
        if !self.config.binlog {
            return Ok((PathBuf::new(), Vec::new()));
        }
        if self.one("SELECT @@log_bin", monitor)? != "1" {
            let message = format!("{} writes no binary log", self.config.name());
            let hint = "set log_bin in the server, or leave binlog = true away";
            return Err(WorkloadError::failed(message).hint(hint));
        }
        let place = PathBuf::from(self.one("SELECT @@log_bin_basename", monitor)?);
        self.ask("FLUSH BINARY LOGS", monitor)?;
        let mut logs: Vec<String> = self
            .ask("SHOW BINARY LOGS", monitor)?
            .into_iter()
            .filter_map(|row| row.into_iter().next())
            .collect();
        logs.pop();
        Ok((place.parent().map(Path::to_path_buf).unwrap_or_default(), logs))
    }
}

impl Workload for Mariadb {
    fn name(&self) -> String {
        self.config.name()
    }

    fn check(&self) -> Vec<Finding> {
        let what = format!("source {}", self.config.name());
        match self.look() {
            Ok(version) => {
                let name = Flavour::of(&version).name();
                vec![Finding::good(what, format!("{name} {version} answers"))]
            }
            Err(error) => {
                let reason = match &error.cause {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                };
                vec![Finding::bad(what, reason, error.hint.unwrap_or_default())]
            }
        }
    }

    fn prepare<'a>(
        &'a self,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Box<dyn Prepared + 'a>, Cause> {
        let monitor = surroundings.monitor;
        let version = self.one("SELECT @@version", monitor)?;
        self.must_be_possible(&version)?;
        let has_log = self.one("SELECT @@log_bin", monitor)? == "1";
        let dumper = self.dumper(&version, has_log)?;
        let dumps: Vec<DumpDetail> = self
            .databases(monitor)?
            .into_iter()
            .map(|database| DumpDetail::of(database, ".sql"))
            .collect();
        let until = SystemClock::new().now();
        let (folder, logs) = match surroundings.dry_run {
            true => Default::default(),
            false => self.complete_logs(monitor)?,
        };
        let scratch = Scratch::create(&surroundings.state)?;
        let mut names: Vec<String> = dumps.iter().map(|dump| dump.file.clone()).collect();
        names.extend(logs.iter().map(|log| format!("{LOGS}/{log}")));
        if self.config.physical {
            names.push(COPY.to_string());
        }
        if self.config.dumps_together() {
            names.push(TOGETHER.to_string());
        }
        let detail = MariadbDetail {
            format: DETAIL_FORMAT,
            version,
            physical: self.config.physical,
            position: None,
            together: self.config.dumps_together(),
            logs_until: (!logs.is_empty()).then_some(until.0),
            logs,
            dumps,
        };
        let copy = match self.config.physical {
            true => Some(self.copy(&scratch.0, &self.one("SELECT @@datadir", monitor)?)),
            false => None,
        };
        let dumps = Dumps::new(dumper, detail.dumps.clone());
        let streams = Arc::new(Streams { copy, folder, dumps });
        let opened = streams.clone();
        let opener = move |name: &str| opened.open(name);
        let place = scratch.0.clone();
        let finisher = move || finish(detail.clone(), has_log, &streams.dumps, &place);
        let tree = StreamTree {
            workload: WORKLOAD,
            label: self.name(),
            names,
            looks: BTreeMap::new(),
            time: SystemClock::new().now(),
            opener: Arc::new(opener),
            finisher: Box::new(finisher),
            last: LastStream::default(),
        };
        Ok(Box::new(Opened { tree, _scratch: scratch }))
    }
}

impl Mariadb {
    fn copy(&self, scratch: &Path, data: &str) -> Program {
        let mut command = programs::copier(&self.config);
        command.extend(["--backup", "--stream=xbstream"].map(String::from));
        command.push(format!("--datadir={data}"));
        command.push(format!("--target-dir={}", scratch.join("target").display()));
        // What it finds out about the copy is written here too; the log position is read from it.
        command.push(format!("--extra-lsndir={}", scratch.display()));
        Program { command, user: None, variables: Vec::new() }
    }
}

// What a point is made of.
struct Streams {
    copy: Option<Program>,
    // Of the binary logs.
    folder: PathBuf,
    dumps: Dumps,
}

impl Streams {
    fn open(&self, name: &str) -> Result<OpenStream, WorkloadError> {
        if name == COPY
            && let Some(copy) = &self.copy
        {
            return Ok(copy.stream()?.saying(COMPLETED).into());
        }
        if let Some(log) = name.strip_prefix(LOGS).and_then(|rest| rest.strip_prefix('/')) {
            let path = self.folder.join(log);
            let file = File::open(&path).map_err(|cause| {
                WorkloadError::failed(format!("cannot open the binary log {}", path.display()))
                    .because(cause)
            })?;
            return Ok(OpenStream::of(file));
        }
        let missing = || WorkloadError::failed(format!("\"{name}\" is no part of the server"));
        self.dumps.open(name).unwrap_or_else(|| Err(missing()))
    }
}

fn finish(
    mut detail: MariadbDetail,
    has_log: bool,
    dumps: &Dumps,
    scratch: &Path,
) -> Result<String, WorkloadError> {
    if detail.together {
        let unknown = "the dump does not say where in the binary log it stands";
        let position = dumps.position().ok_or_else(|| WorkloadError::failed(unknown))?;
        detail.position = Some(position);
    }
    if detail.physical && has_log {
        let path = scratch.join("xtrabackup_info");
        let failed = |why: &str| {
            WorkloadError::failed(
                "mariadb-backup did not say where in the binary log its copy stands",
            )
            .because(format!("{}: {why}", path.display()))
        };
        let text = fs::read_to_string(&path).map_err(|cause| failed(&cause.to_string()))?;
        let position = position_in(&text).ok_or_else(|| failed("there is no position in it"))?;
        detail.position = Some(position);
    }
    serde_json::to_string(&detail)
        .map_err(|error| WorkloadError::failed("cannot describe the point").because(error))
}

// `binlog_pos = filename 'bin.000002', position '342', GTID of the last change '0-1-7'`
fn position_in(text: &str) -> Option<LogPosition> {
    let line = text.lines().find(|line| line.starts_with("binlog_pos"))?;
    let quoted =
        |word: &str| line.split_once(word)?.1.trim_start().strip_prefix('\'')?.split_once('\'');
    let (file, _) = quoted("filename")?;
    let (offset, _) = quoted("position")?;
    Some(LogPosition { file: file.to_string(), offset: offset.parse().ok()? })
}

// A folder of the moment, with the number of the process in its name; gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(state: &Path) -> Result<Self, WorkloadError> {
        let failed = |action, path: &Path, cause: io::Error| {
            WorkloadError::failed(format!("cannot {action} {}", path.display())).because(cause)
        };
        for left in Self::left_behind(state) {
            fs::remove_dir_all(&left).map_err(|cause| failed("remove", &left, cause))?;
        }
        fs::create_dir_all(state).map_err(|cause| failed("create", state, cause))?;
        // Never one that is there already: the position in it would be another run's.
        for number in 0..SCRATCH_MOST {
            let path = state.join(format!("{SCRATCH}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(cause) => return Err(failed("create", &path, cause)),
            }
        }
        Err(failed("create a folder in", state, io::ErrorKind::AlreadyExists.into()))
    }

    // What runs that were killed could not remove.
    fn left_behind(state: &Path) -> Vec<PathBuf> {
        let is_left = |name: &str| {
            let (process, _) = name.strip_prefix(SCRATCH)?.split_once('-')?;
            let process = Pid::from_raw(process.parse().ok()?)?;
            Some(matches!(test_kill_process(process), Err(rustix::io::Errno::SRCH)))
        };
        let entries = fs::read_dir(state).into_iter().flatten().flatten();
        let left =
            entries.filter(|entry| entry.file_name().to_str().and_then(is_left) == Some(true));
        left.map(|entry| entry.path()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It holds a few small files that the point has too.
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Opened {
    tree: StreamTree,
    _scratch: Scratch,
}

impl Prepared for Opened {
    fn source(&self) -> &dyn DataSource {
        &self.tree
    }

    fn release(self: Box<Self>) -> Result<(), Cause> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_is_read_from_what_the_program_tells() {
        let text = "uuid = x\nbinlog_pos = filename 'bin.000002', position '342', GTID of the last change '0-1-7'\n";

        let position = position_in(text).unwrap();

        assert_eq!(position, LogPosition { file: "bin.000002".to_string(), offset: 342 });
        assert_eq!(position_in("binlog_pos = \n"), None);
    }
}
