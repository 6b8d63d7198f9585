//! `keepwell backup`: recovery points now.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use storepool::backup::{BackupOptions, BackupReport, backup};
use storepool::clock::{Clock, SystemClock};
use storepool::filetree::{FileTree, FileTreeOptions};
use storepool::pool::Pool;

use super::{arguments, group_backup, remote};
use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::{between, counted, duration, rfc3339, size};
use crate::control::client::Client;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::job::backup::{BackupChoices, keep};
use crate::process::host_name;
use crate::subscription::{Work, allow_local};

/// Make recovery points of groups, or of files and folders
///
/// Without a name, all groups of the configuration that are not paused make points of all their sources; then the points are copied to the vault, if
/// that is how the group is configured (exit code 4 if only this fails). With --files, one point of these paths is made. The first run reads
/// everything; later ones compare with the last point of the same source and read only what changed. A file that cannot be read, or changes each time
/// it is read, is a recorded problem of the point (exit code 3); a source that is not there makes no point.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell backup
  keepwell backup web db
  keepwell backup --files /srv
  keepwell backup --files /home /etc -e '*.tmp' -e '/var/cache/' --exclude-caches
  keepwell backup --files / -x --tag weekly")]
pub(super) struct Backup {
    /// Groups of the configuration; all if none is named
    #[arg(value_name = "GROUP", conflicts_with_all = [
        "files", "exclude", "iexclude", "exclude_file", "exclude_caches", "exclude_if_present",
        "exclude_larger_than", "one_file_system", "host",
    ])]
    groups: Vec<String>,
    /// What to back up: one folder becomes the root of the point, several keep their absolute paths
    #[arg(long, value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Look and compare, but store nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Leave out what this pattern matches, as in .gitignore
    #[arg(requires = "files", long, short, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The same, without regard to upper and lower case
    #[arg(requires = "files", long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Read patterns from FILE, one a line
    #[arg(requires = "files", long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out the content of folders marked as caches (CACHEDIR.TAG)
    #[arg(requires = "files", long)]
    exclude_caches: bool,
    /// Leave out the content of folders that hold such a file (beginning with HEADER)
    #[arg(requires = "files", long, value_name = "NAME[:HEADER]")]
    exclude_if_present: Vec<String>,
    /// Leave out files larger than SIZE
    #[arg(requires = "files", long, value_name = "SIZE", value_parser = arguments::size)]
    exclude_larger_than: Option<u64>,
    /// Stay on the file system of each path
    #[arg(requires = "files", long, short = 'x')]
    one_file_system: bool,
    /// Attach a tag to the point
    #[arg(long, value_name = "TAG", value_parser = arguments::tag, value_delimiter = ',')]
    tag: Vec<String>,
    /// Record this name of the host instead of its own
    #[arg(requires = "files", long, short = 'H', value_name = "NAME")]
    host: Option<String>,
    /// Keep the points at least until the end of this day, or for this long, whatever the retention says
    #[arg(long, value_name = "DATE|DURATION", value_parser = arguments::until)]
    keep_until: Option<arguments::Until>,
    /// Accept that so many things that wait in a service are not in its point
    #[arg(long, value_name = "NUMBER", conflicts_with = "files")]
    accept_pending: Option<u64>,
    /// Read every file, even if it looks unchanged
    #[arg(long, short)]
    force: bool,
    /// Leave the work to the running daemon and do not wait
    #[arg(long, conflicts_with_all = ["files", "dry_run"])]
    detach: bool,
}

/// One new point, for programs.
#[derive(Serialize)]
pub(super) struct Summary {
    point: Option<String>,
    base: Option<String>,
    dry_run: bool,
    host: String,
    source: String,
    started: String,
    finished: String,
    duration_seconds: f64,
    entries_new: u64,
    entries_changed: u64,
    entries_unchanged: u64,
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    bytes_read: u64,
    bytes_new: u64,
    bytes_stored: u64,
    chunks_new: u64,
    problem_count: u64,
}

impl Backup {
    pub(super) fn run(mut self, assembly: &Assembly) -> Result<Outcome, Error> {
        allow_local(assembly, &assembly.config()?, Work::DiskBackup)?;
        let now = SystemClock::new().now();
        let keep_until = self.keep_until.take().map(|until| until.after(now));
        let keep_until = keep_until.transpose().map_err(Error::usage)?;
        if self.files.is_empty() {
            let choices = BackupChoices {
                dry_run: self.dry_run,
                force: self.force,
                tags: self.tags(),
                keep_until,
                accept_pending: self.accept_pending,
            };
            // The daemon knows what else runs; a trial run needs nobody's leave, and points with terms of their own are made here.
            let of_their_own = keep_until.is_some() || self.accept_pending.is_some();
            let by_daemon = assembly.job.is_none() && !self.dry_run && !of_their_own;
            let client = match by_daemon {
                true => Client::connect(&assembly.place),
                false => None,
            };
            return match client {
                Some(client) => {
                    remote::backup(assembly, &client, &self.groups, &choices, self.detach)
                }
                None if self.detach => Err(Error::usage("no daemon runs that could do it")),
                None => group_backup::run(assembly, &self.groups, &choices),
            };
        }
        let pool = assembly.open_pool()?;
        let files = std::mem::take(&mut self.files);
        let named = files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let attempt = || format!("back up {}", named.join(", "));
        let tree = FileTree::open(&files, self.tree_options(&pool)?).attempt(attempt)?;
        let paths = tree.source_paths().iter().map(|path| path.display().to_string());
        let options = BackupOptions {
            host: self.host.clone().unwrap_or_else(host_name),
            group: String::new(),
            source: paths.collect::<Vec<_>>().join(", "),
            tags: self.tags(),
            set: None,
            program: env!("CARGO_PKG_VERSION").to_string(),
            dry_run: self.dry_run,
            threads: 0,
            force: self.force,
        };
        let progress = assembly.console.progress("files");
        let result = backup(&pool, &tree, &options, &progress);
        let elapsed = progress.finish();
        let report = result.attempt(attempt)?;
        if let (Some(point), Some(until)) = (report.point, keep_until) {
            keep(&pool, point, until).attempt(|| format!("pin point {}", point.short()))?;
        }
        tell(assembly, &options, &report, elapsed);
        Ok(if report.problem_count > 0 { Outcome::Incomplete } else { Outcome::Done })
    }

    fn tags(&self) -> Vec<String> {
        let mut tags = self.tag.clone();
        tags.sort();
        tags.dedup();
        tags
    }

    fn tree_options(&mut self, pool: &Pool) -> Result<FileTreeOptions, Error> {
        let mut exclude = std::mem::take(&mut self.exclude);
        for file in &self.exclude_file {
            exclude.extend(read_patterns(file)?);
        }
        Ok(FileTreeOptions {
            exclude,
            exclude_case_insensitive: std::mem::take(&mut self.iexclude),
            exclude_caches: self.exclude_caches,
            exclude_if_present: std::mem::take(&mut self.exclude_if_present),
            exclude_larger_than: self.exclude_larger_than,
            one_file_system: self.one_file_system,
            // A pool inside itself would grow with each run.
            never: pool.present_paths().map(Path::to_path_buf).collect(),
        })
    }
}

/// Reads patterns from a file in the manner of `.gitignore`: comments and empty lines are left out.
fn read_patterns(file: &Path) -> Result<Vec<String>, Error> {
    let text = fs::read_to_string(file)
        .map_err(|cause| Cause::Io { action: "read", path: file.to_path_buf(), cause })
        .attempt(|| "use the patterns of --exclude-file".to_string())?;
    let lines = text.lines().map(str::trim_end);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_string)
        .collect())
}

impl Summary {
    pub(super) fn of(report: &BackupReport, host: &str, source: &str, dry_run: bool) -> Self {
        let totals = &report.totals;
        let seconds = between(report.started, report.finished).as_secs_f64();
        Self {
            point: report.point.map(|point| point.to_string()),
            base: report.base.map(|base| base.to_string()),
            dry_run,
            host: host.to_string(),
            source: source.to_string(),
            started: rfc3339(report.started),
            finished: rfc3339(report.finished),
            duration_seconds: (seconds * 1000.0).round() / 1000.0,
            entries_new: report.entries_new,
            entries_changed: report.entries_changed,
            entries_unchanged: report.entries_unchanged,
            files: totals.files,
            directories: totals.directories,
            others: totals.others,
            bytes: totals.bytes,
            bytes_read: totals.bytes_read,
            bytes_new: totals.bytes_new,
            bytes_stored: totals.bytes_stored,
            chunks_new: totals.chunks_new,
            problem_count: report.problem_count,
        }
    }
}

fn tell(
    assembly: &Assembly,
    options: &BackupOptions,
    report: &BackupReport,
    elapsed: std::time::Duration,
) {
    let summary = Summary::of(report, &options.host, &options.source, options.dry_run);
    assembly.console.message("summary", &summary);
    tell_point(&assembly.console, &options.source, report, elapsed);
}

/// Tells people what became of one source.
pub(super) fn tell_point(
    console: &Console,
    source: &str,
    report: &BackupReport,
    elapsed: std::time::Duration,
) {
    let totals = &report.totals;
    console.note(format!(
        "{}: {} new, {} changed, {} unchanged",
        counted(totals.files + totals.others, "file"),
        report.entries_new,
        report.entries_changed,
        report.entries_unchanged
    ));
    let took = duration(elapsed);
    console.note(format!(
        "{} looked at, {} read, {} added to the pool ({} before compression) in {took}",
        size(totals.bytes),
        size(totals.bytes_read),
        size(totals.bytes_stored),
        size(totals.bytes_new),
    ));
    match report.point {
        Some(point) => console.note(format!("point {} of {}", point.short(), source)),
        None => console.note("dry run: nothing was stored"),
    }
    if report.problem_count > 0 {
        let problems = counted(report.problem_count, "problem");
        console.warn(match report.point {
            Some(point) => format!(
                "{problems}; run \"keepwell points --problems {}\" to list them",
                point.short()
            ),
            None => problems,
        });
    }
}
