//! A physical copy made into a data directory that starts, or a dump of all databases, and the binary logs after it made ready to be replayed.
//!
//! The copy is unpacked by `mbstream` and prepared by `mariadb-backup`. Binary logs are put beside the directory, with a script that replays them into
//! the restored server; a dump and the logs after it are put into one folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use storepool::clock::Timestamp;
use storepool::entry::EntryPath;
use storepool::monitor::Monitor;

use super::dumps::TOGETHER;
use super::replay::Replay;
use super::{COMPLETED, COPY, LOGS, MariadbDetail};
use crate::accounts;
use crate::console::units::to_jiff;
use crate::error::Cause;
use crate::workload::program::Program;
use crate::workload::{PointContents, WorkloadError};

/// How far a server is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the end of the physical copy, or of the dump of all databases.
    Base,
    /// To the end of the binary logs.
    Latest,
    /// To what was committed before this second.
    Time(Timestamp),
}

/// What was made.
#[derive(Debug)]
pub(crate) struct RestoredServer {
    /// Bytes of the copy or the dump.
    pub(crate) bytes: u64,
    /// The script that loads the dump and replays the binary logs, if there is anything of the kind.
    pub(crate) script: Option<PathBuf>,
    /// Binary logs beside the directory, or with the dump.
    pub(crate) logs: u64,
}

/// A point of the same server with binary logs.
pub(crate) struct LogPoint<'a> {
    /// What is in it.
    pub(crate) contents: PointContents<'a>,
    /// What it says of itself.
    pub(crate) detail: MariadbDetail,
}

/// Makes a data directory out of the copy in `point`, or a folder with the dump that is in it instead. `logs` are all points of the series.
///
/// # Errors
/// The target cannot be reached, or the folder is not empty: then nothing was written.
pub(crate) fn restore(
    point: &PointContents<'_>,
    detail: &MariadbDetail,
    logs: &[LogPoint<'_>],
    directory: &Path,
    target: Target,
    dry_run: bool,
) -> Result<RestoredServer, Cause> {
    if !detail.is_base() {
        return Err(WorkloadError::failed(
            "the point has neither a copy of the server nor a dump of all its databases together",
        )
        .hint("its dumps are files: \"keepwell dump\" writes one to stdout")
        .into());
    }
    let chosen = choose(detail, logs, target)?;
    let folder = match detail.physical {
        true => beside(directory),
        false => directory.to_path_buf(),
    };
    must_be_free(directory)?;
    if !chosen.is_empty() {
        must_be_free(&folder)?;
    }
    let mut restored = RestoredServer { bytes: 0, script: None, logs: chosen.len() as u64 };
    if dry_run {
        return Ok(restored);
    }
    restored.bytes = match detail.physical {
        true => copy(point, directory)?,
        false => dump(point, directory)?,
    };
    if !(chosen.is_empty() && detail.physical) {
        make_folder(&folder)?;
        restored.script = Some(lay_out(&chosen, detail, &folder, target)?);
        settle(&folder)?;
    }
    settle(directory)?;
    Ok(restored)
}

// Returns the bytes of the copy that is a data directory now.
fn copy(point: &PointContents<'_>, directory: &Path) -> Result<u64, Cause> {
    let owner = owner(directory);
    make_folder(directory)?;
    let path = entry(COPY)?;
    let unpack = program(&["mbstream", "-x", "-C"], directory);
    let mut bytes = 0;
    unpack.feed(point.monitor, |input| {
        bytes = point.copy(&path, input)?;
        Ok(())
    })?;
    prepare(directory, point.monitor)?;
    if let Some((user, group)) = owner {
        give_all(directory, user, group)?;
    }
    Ok(bytes)
}

// Returns the bytes of the dump.
fn dump(point: &PointContents<'_>, directory: &Path) -> Result<u64, Cause> {
    make_folder(directory)?;
    let mut file = create(&directory.join(TOGETHER), 0o600)?;
    point.copy(&entry(TOGETHER)?, &mut file)
}

// The logs, and the script that has them replayed; returns its path.
fn lay_out(
    chosen: &BTreeMap<String, &LogPoint<'_>>,
    detail: &MariadbDetail,
    folder: &Path,
    target: Target,
) -> Result<PathBuf, Cause> {
    for (log, source) in chosen {
        let path = entry(&format!("{LOGS}/{log}"))?;
        let mut file = create(&folder.join(log), 0o600)?;
        source.contents.copy(&path, &mut file)?;
    }
    let logs: Vec<&str> = chosen.keys().map(String::as_str).collect();
    let script = folder.join("replay");
    let mut file = create(&script, 0o700)?;
    let text = Replay { detail, logs: &logs, target }.script();
    file.write_all(text.as_bytes()).map_err(failed("write", &script))?;
    Ok(script)
}

// The logs from the position on, each with a point that has it.
fn choose<'l, 'a>(
    detail: &MariadbDetail,
    logs: &'l [LogPoint<'a>],
    target: Target,
) -> Result<BTreeMap<String, &'l LogPoint<'a>>, WorkloadError> {
    if target == Target::Base {
        return Ok(BTreeMap::new());
    }
    let unreachable = |what: String| {
        WorkloadError::failed(what)
            .hint("binlog = true in the configuration keeps binary logs with each point; --at base needs none")
    };
    let Some(position) = &detail.position else {
        return Err(unreachable(
            "the server wrote no binary log when the point was made".to_string(),
        ));
    };
    let names = logs.iter().flat_map(|point| &point.detail.logs);
    if let Some(name) = names.chain([&position.file]).find(|name| !is_plain(name)) {
        return Err(WorkloadError::failed(format!("\"{name}\" is no name of a binary log")));
    }
    let mut found: BTreeMap<String, &LogPoint<'_>> = BTreeMap::new();
    for point in logs {
        for log in point.detail.logs.iter().filter(|log| **log >= position.file) {
            found.entry(log.clone()).or_insert(point);
        }
    }
    let mut expected = Some(position.file.clone());
    for log in found.keys() {
        if expected.as_ref() != Some(log) {
            let missing = expected.unwrap_or_default();
            return Err(unreachable(format!("binary log {missing} is missing, {log} is there")));
        }
        expected = following(log);
    }
    if let Target::Time(time) = target {
        let until = logs.iter().filter_map(|point| point.detail.logs_until).max().map(Timestamp);
        if until.is_none_or(|until| until < time) {
            let until = until.map_or("none".to_string(), |until| to_jiff(until).to_string());
            return Err(unreachable(format!(
                "the binary logs in the pool end at {until}; {} was asked for",
                to_jiff(time)
            )));
        }
    }
    if found.is_empty() && matches!(target, Target::Time(_)) {
        return Err(unreachable(format!("binary log {} is missing", position.file)));
    }
    Ok(found)
}

// Becomes the name of a file beside the data directory and a word of a script: nothing in a point may lead elsewhere.
fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.starts_with(['.', '-']) && !name.is_empty() && name.bytes().all(allowed)
}

// `bin.000009` is followed by `bin.000010`.
fn following(log: &str) -> Option<String> {
    let (stem, number) = log.rsplit_once('.')?;
    let next = number.parse::<u64>().ok()? + 1;
    Some(format!("{stem}.{next:0width$}", width = number.len()))
}

/// Returns the folder beside a data directory: a folder in it would be taken for a database.
fn beside(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_os_string();
    name.push(".binlogs");
    PathBuf::from(name)
}

fn program(words: &[&str], directory: &Path) -> Program {
    let mut command: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    command.push(directory.display().to_string());
    Program { command, user: None, variables: Vec::new() }
}

fn prepare(directory: &Path, monitor: &dyn Monitor) -> Result<(), Cause> {
    let target = format!("--target-dir={}", directory.display());
    let command = ["mariadb-backup", "--no-defaults", "--prepare", &target].map(String::from);
    let program = Program { command: command.to_vec(), user: None, variables: Vec::new() };
    program.stream()?.saying(COMPLETED).exhaust(monitor).map_err(|cause| {
        if monitor.cancelled() {
            return storepool::Error::Interrupted.into();
        }
        WorkloadError::failed(format!("the copy in {} cannot be prepared", directory.display()))
            .because(cause)
            .into()
    })
}

fn entry(path: &str) -> Result<EntryPath, WorkloadError> {
    EntryPath::parse(path.as_bytes())
        .ok_or_else(|| WorkloadError::failed(format!("\"{path}\" is no path in a point")))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> WorkloadError {
    let path = path.to_path_buf();
    move |cause| WorkloadError::failed(format!("cannot {action} {}", path.display())).because(cause)
}

fn must_be_free(path: &Path) -> Result<(), WorkloadError> {
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(WorkloadError::failed(format!("{} is not empty", path.display()))
                .hint("name an empty folder, or one that is not there")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(failed("list", path)(cause)),
    }
}

// Whose the folder is already, or the user that Debian and others run the server as.
fn owner(directory: &Path) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    match fs::metadata(directory) {
        Ok(folder) if folder.uid() != 0 => Some((folder.uid(), folder.gid())),
        _ => accounts::user("mysql").map(|user| (user.uid, user.gid)),
    }
}

fn make_folder(path: &Path) -> Result<(), WorkloadError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("create", path))
}

fn create(path: &Path, mode: u32) -> Result<File, WorkloadError> {
    let file = File::options().write(true).create_new(true).mode(mode).open(path);
    file.map_err(failed("create", path))
}

fn give_all(directory: &Path, user: u32, group: u32) -> Result<(), WorkloadError> {
    let mut folders = vec![directory.to_path_buf()];
    while let Some(folder) = folders.pop() {
        lchown(&folder, Some(user), Some(group)).map_err(failed("give away", &folder))?;
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?;
            let kind = entry.file_type().map_err(failed("examine", &entry.path()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path();
                lchown(&path, Some(user), Some(group)).map_err(failed("give away", &path))?;
            }
        }
    }
    Ok(())
}

fn settle(path: &Path) -> Result<(), WorkloadError> {
    let folder = File::open(path).map_err(failed("open", path))?;
    rustix::fs::syncfs(&folder).map_err(|cause| failed("make durable", path)(cause.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_counted_on_and_lead_nowhere_else() {
        assert_eq!(following("bin.000009"), Some("bin.000010".to_string()));
        assert_eq!(following("a.b.999999"), Some("a.b.1000000".to_string()));
        assert_eq!(following("bin"), None);
        assert!(is_plain("db1-bin.000002"));
        for wrong in ["", "../x", "/x", "-x", "a b", "x;rm", ".x"] {
            assert!(!is_plain(wrong), "{wrong}");
        }
    }
}
