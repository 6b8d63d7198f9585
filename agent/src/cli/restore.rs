//! `keepwell restore`: a point, or a part of it, back into a folder.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use serde::Serialize;
use storepool::entry::EntryPath;
use storepool::manifest::Manifest;
use storepool::restore::{Conflict, RestoreOptions, RestoreReport, find_path, restore};
use storepool::tree::{ChunkFetch, Entry, Node, TreeCursor};

use super::arguments;
use super::remote;
use super::restore_database::{self, DatabaseOrder};
use super::restore_service::{self, RestoredPoint, ServiceOrder};
use crate::assembly::Assembly;
use crate::console::units::{count, counted, duration, seconds, size};
use crate::contents::locate;
use crate::control::client::Client;
use crate::error::{Attempt, Error, Outcome};
use crate::origin::{Origin, OriginArgs};
use crate::workload::{ServiceConflict, WorkloadError};

/// Get files back, or give a service its data back
///
/// The content of the point, or of the folder named after it, goes directly below DIR; a single file becomes DIR/NAME. Every byte is verified. What is
/// in DIR already is never touched unless --conflict or --in-place says so. With --service a point of a database or another service goes back to it;
/// whatever would keep it from doing so is found and told before anything changes. See docs/workloads.md for what each kind can do.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("place").args(["to", "in_place", "service"]).multiple(true).required(true),
    after_help = "\
Examples:
  keepwell restore latest --to /tmp/back
  keepwell restore latest:etc/nginx --to /etc/nginx --conflict overwrite
  keepwell restore latest --to /tmp/back --from vault      the second copy
  keepwell restore 7f3a9c12 --in-place -n             what would change at the original place
  keepwell restore latest --in-place --delete         exactly as it was
  keepwell restore latest:shop --service -n           could the shop have this point?
  keepwell restore latest:shop --service -p target=shop2
  keepwell restore latest:shop --set --to /tmp/back   all that was held still with it
  keepwell restore latest:db --to /srv/pg --at 2030-12-31T18:00   a database as it was then"
)]
pub(super) struct Restore {
    /// Which point, and which part of it
    #[arg(value_name = "POINT[:PATH]")]
    point: String,
    /// The folder to restore into; made if it is not there
    #[arg(long, short, visible_alias = "target", value_name = "DIR")]
    to: Option<PathBuf>,
    /// Restore to the original place (or bring DIR up to date), writing only what differs
    #[arg(long)]
    in_place: bool,
    /// Give the point back to the service it is of: database, tables, programs
    #[arg(long, conflicts_with_all = ["to", "in_place", "include", "exclude", "delete", "verify"])]
    service: bool,
    /// With --service: a parameter; what is not typed is inherited from the point
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = arguments::parameter)]
    parameter: Vec<(String, String)>,
    /// With --service, or --set --in-place: what is there under the target's name may go; a point of it is made first
    #[arg(long)]
    replace: bool,
    /// With --service: accept that so many things that wait in the target are lost
    #[arg(long, value_name = "NUMBER", requires = "service")]
    accept_pending: Option<u64>,
    /// All points that were made of one moment with this one: with --to each in a folder of its own, else each to its place, files or service
    #[arg(long)]
    set: bool,
    /// What happens where something is already
    #[arg(long, value_enum, value_name = "WHAT", default_value = "fail")]
    conflict: ConflictWord,
    /// Only what this pattern matches, as in .gitignore
    #[arg(long, short, value_name = "PATTERN")]
    include: Vec<String>,
    /// Not what this pattern matches
    #[arg(long, short, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// With --in-place: remove what the point does not have
    #[arg(long, requires = "in_place")]
    delete: bool,
    /// With --in-place: compare content too, not only size and time
    #[arg(long, requires = "in_place")]
    verify: bool,
    /// Give owners the numbers they had, even if their names have other numbers here
    #[arg(long)]
    numeric_owner: bool,
    /// Show what would be done, but change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Make a data directory that starts, of a database as it was: base, latest, a time, or an LSN
    #[arg(long, value_name = "WHEN", requires = "to", conflicts_with_all = ["in_place", "include", "exclude", "conflict", "set", "detach"])]
    at: Option<String>,
    /// With --at: the tablespace that was at OLD goes to NEW
    #[arg(long, value_name = "OLD=NEW", requires = "at")]
    tablespace: Vec<String>,
    /// With --at: follow this timeline, not the newest
    #[arg(long, value_name = "NUMBER", requires = "at")]
    timeline: Option<u32>,
    #[command(flatten)]
    origin: OriginArgs,
    /// Leave the work to the daemon and do not wait for its end
    #[arg(long, conflicts_with_all = ["dry_run", "in_place", "service", "set"])]
    detach: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ConflictWord {
    /// Nothing is restored at all
    Fail,
    /// What is there stays
    Skip,
    /// What is there is replaced
    Overwrite,
    /// What is there is replaced if the point has a newer one
    Newer,
    /// With --service: what the point has is written, what else is there stays
    Merge,
    /// With --service: afterwards there is what the point has, and nothing else
    Replace,
}

impl From<ConflictWord> for Conflict {
    fn from(word: ConflictWord) -> Self {
        match word {
            ConflictWord::Fail => Self::Fail,
            ConflictWord::Skip => Self::Skip,
            ConflictWord::Overwrite => Self::Overwrite,
            ConflictWord::Newer => Self::Newer,
            // Refused before, but for services, which have their own.
            ConflictWord::Merge | ConflictWord::Replace => Self::Overwrite,
        }
    }
}

impl From<ConflictWord> for ServiceConflict {
    fn from(word: ConflictWord) -> Self {
        match word {
            ConflictWord::Fail | ConflictWord::Skip | ConflictWord::Newer => Self::Fail,
            ConflictWord::Overwrite | ConflictWord::Merge => Self::Merge,
            ConflictWord::Replace => Self::Replace,
        }
    }
}

#[derive(Serialize)]
struct Summary {
    point: String,
    path: String,
    targets: Vec<String>,
    dry_run: bool,
    duration_seconds: f64,
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    unchanged: u64,
    skipped: u64,
    deleted: u64,
    problem_count: u64,
    /// Of a set: what went to services, beside the files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    points: Vec<RestoredPoint>,
}

impl Summary {
    fn outcome(&self) -> Outcome {
        if self.problem_count > 0 { Outcome::Incomplete } else { Outcome::Done }
    }
}

impl Restore {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let to_services = self.service || self.set && self.in_place;
        if !to_services && (!self.parameter.is_empty() || self.replace) {
            return Err(Error::usage("--parameter and --replace are for --service"));
        }
        if let (Some(at), Some(directory)) = (&self.at, &self.to) {
            let order = DatabaseOrder {
                point: &self.point,
                directory,
                at,
                tablespaces: &self.tablespace,
                timeline: self.timeline,
                dry_run: self.dry_run,
            };
            return restore_database::run(assembly, &|| self.origin.open(assembly), &order);
        }
        if !self.service && matches!(self.conflict, ConflictWord::Merge | ConflictWord::Replace) {
            return Err(Error::usage("--conflict merge and replace are for --service"));
        }
        if let Some(outcome) = self.by_daemon(assembly)? {
            return Ok(outcome);
        }
        let origin = self.origin.open(assembly)?;
        origin.allow_restore(assembly)?;
        let (selection, manifest) = origin.select(&self.point).attempt(|| "restore".to_string())?;
        let points = match self.set {
            false => vec![self.point.clone()],
            true => {
                let attempt = || format!("restore the set of {}", selection.name());
                let set = origin.set_of(&selection.point, &manifest).attempt(attempt)?;
                set.iter().map(ToString::to_string).collect()
            }
        };
        if self.set && self.to.is_none() {
            return self.to_places(assembly, &origin, &points);
        }
        if self.service {
            return restore_service::run(assembly, &origin, &points, &self.service_order());
        }
        let is_database = restore_database::KINDS.contains(&selection.point.workload.as_str());
        let outcome = self.to_folders(assembly, &origin, &points)?;
        if is_database {
            assembly.console.hint(
                "these are the files as they are stored; --at latest makes a data directory that starts",
            );
        }
        Ok(outcome)
    }

    // Each point of a set to its place: files where they were, everything else to its service, whichever of the two was typed. What would keep a service
    // from having its point is told before a file is touched.
    fn to_places(
        &self,
        assembly: &Assembly,
        origin: &Origin,
        points: &[String],
    ) -> Result<Outcome, Error> {
        let (mut files, mut services) = (Vec::new(), Vec::new());
        for point in points {
            let (selection, _) = origin.select(point).attempt(|| "restore".to_string())?;
            let kind = if selection.point.workload == "files" { &mut files } else { &mut services };
            kind.push(point.clone());
        }
        let order = self.service_order();
        let progress = assembly.console.progress("bytes");
        restore_service::check(assembly, origin, &services, &order, &progress)?;
        progress.finish();
        if services.is_empty() {
            return self.to_folders(assembly, origin, &files);
        }
        if files.is_empty() {
            return restore_service::run(assembly, origin, &services, &order);
        }
        let (mut summary, elapsed) = self.folders(assembly, origin, &files)?;
        let services = restore_service::restored(assembly, origin, &services, &order)?;
        // It is one run: a program that waits for its summary gets one, when all of it is done.
        summary.duration_seconds = seconds(elapsed + services.elapsed);
        summary.points = services.points;
        assembly.console.message("summary", &summary);
        Ok(summary.outcome())
    }

    fn service_order(&self) -> ServiceOrder<'_> {
        ServiceOrder {
            parameters: &self.parameter,
            replace: self.replace,
            conflict: self.conflict.into(),
            dry_run: self.dry_run,
            accept_pending: self.accept_pending,
        }
    }

    fn to_folders(
        &self,
        assembly: &Assembly,
        origin: &Origin,
        points: &[String],
    ) -> Result<Outcome, Error> {
        let (summary, _) = self.folders(assembly, origin, points)?;
        assembly.console.message("summary", &summary);
        Ok(summary.outcome())
    }

    // Restores and tells people about it; programs are told by the caller, once.
    fn folders(
        &self,
        assembly: &Assembly,
        origin: &Origin,
        points: &[String],
    ) -> Result<(Summary, Duration), Error> {
        let progress = assembly.console.progress("files");
        let mut sum = RestoreReport::default();
        let mut targets = Vec::new();
        let mut first = None;
        for point in points {
            let (selection, manifest) = origin.select(point).attempt(|| "restore".to_string())?;
            let attempt = || format!("restore {}", selection.name());
            let chunks = origin.chunks([selection.point.id]).attempt(attempt)?;
            let reader = chunks.reader().attempt(attempt)?;
            let (path, entry) = locate(&*reader, &manifest, &selection).attempt(attempt)?;
            let parts = match &self.to {
                Some(folder) if self.set => {
                    vec![(path.clone(), folder.join(folder_of(&manifest.source)))]
                }
                Some(folder) => vec![(path.clone(), folder.clone())],
                None if manifest.workload != "files" => {
                    let kind = &manifest.workload;
                    let message = format!("points of {kind} have no place among the files");
                    let hint = "--service gives it back to its service, --to DIR gets it as files";
                    return Err(WorkloadError::failed(message).hint(hint)).attempt(attempt);
                }
                None => original_places(&*reader, &manifest, &path, &entry).attempt(attempt)?,
            };
            drop(reader);
            for (path, target) in &parts {
                let options = self.options();
                let report = restore(&*chunks, &manifest, path, target, &options, &progress)
                    .attempt(|| {
                        format!("restore {} into {}", selection.name(), target.display())
                    })?;
                add(&mut sum, report);
            }
            targets.extend(parts.iter().map(|(_, target)| target.display().to_string()));
            first.get_or_insert((selection.point.id.to_string(), path.to_string()));
        }
        let elapsed = progress.finish();
        let (point, path) = first.unwrap_or_default();
        let summary = Summary {
            point,
            path,
            targets,
            dry_run: self.dry_run,
            duration_seconds: seconds(elapsed),
            files: sum.files,
            directories: sum.directories,
            others: sum.others,
            bytes: sum.bytes,
            unchanged: sum.unchanged,
            skipped: sum.skipped,
            deleted: sum.deleted,
            problem_count: sum.problem_count,
            points: Vec::new(),
        };
        tell(assembly, &summary, elapsed);
        if sum.problem_count > 0 && !origin.is_vault() {
            assembly.console.hint(
                "\"keepwell repair\" heals the pool, from the vault if there is one; --from vault reads the second copy now",
            );
        }
        Ok((summary, elapsed))
    }

    // The daemon restores into a folder of its own, so that the work can be left and found again. What goes to the original place is done here: a
    // hardened service may not write to the folders of the system. A plan is asked for by somebody who waits for it.
    fn by_daemon(&self, assembly: &Assembly) -> Result<Option<Outcome>, Error> {
        let target = match &self.to {
            Some(to) if assembly.job.is_none() && !self.in_place && !self.dry_run && !self.set => {
                to
            }
            _ => return Ok(None),
        };
        let Some(client) = Client::connect(&assembly.place) else {
            return match self.detach {
                true => {
                    Err(Error::usage("--detach leaves the work to the daemon, and none runs here"))
                }
                false => Ok(None),
            };
        };
        // The daemon has a folder of its own. A name that is not text cannot be told to it.
        let target = std::path::absolute(target).unwrap_or_else(|_| target.clone());
        let Some(target) = target.to_str() else { return Ok(None) };
        let conflict = self.conflict.to_possible_value();
        let wanted = serde_json::json!({
            "point": self.point,
            "to": target,
            "conflict": conflict.map(|word| word.get_name().to_string()),
            "from": self.origin.word(),
            "vault": self.origin.vault(),
            "include": self.include,
            "exclude": self.exclude,
            "numeric_owner": self.numeric_owner,
        });
        remote::restore(assembly, &client, &wanted, self.detach)
    }

    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            conflict: self.conflict.into(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            only: None,
            in_place: self.in_place || self.service,
            verify: self.verify,
            delete: self.delete,
            dry_run: self.dry_run,
            threads: 0,
            numeric_owner: self.numeric_owner,
        }
    }
}

fn add(sum: &mut RestoreReport, report: RestoreReport) {
    sum.files += report.files;
    sum.directories += report.directories;
    sum.others += report.others;
    sum.bytes += report.bytes;
    sum.unchanged += report.unchanged;
    sum.skipped += report.skipped;
    sum.deleted += report.deleted;
    sum.problem_count += report.problem_count;
}

fn tell(assembly: &Assembly, summary: &Summary, elapsed: Duration) {
    let console = &assembly.console;
    let verb = if summary.dry_run { "would restore" } else { "restored" };
    console.note(format!(
        "{verb} {}, {}, {} in {}",
        counted(summary.files + summary.others, "file"),
        counted(summary.directories, "folder"),
        size(summary.bytes),
        duration(elapsed)
    ));
    let others = [
        (summary.unchanged, "as they should be already"),
        (summary.skipped, "left as they were"),
        (summary.deleted, "removed"),
    ];
    for (number, what) in others {
        if number > 0 {
            console.note(format!("{} {what}", count(number)));
        }
    }
    console.note(format!("into {}", summary.targets.join(", ")));
    if summary.problem_count > 0 {
        console.warn(format!(
            "{} could not be restored as they were",
            counted(summary.problem_count, "entry")
        ));
    }
}

// A source's name as that of a folder.
fn folder_of(source: &str) -> String {
    let plain =
        |letter: char| if letter.is_alphanumeric() || "._".contains(letter) { letter } else { '-' };
    let name: String = source.chars().map(plain).collect();
    match name.trim_matches('-') {
        "" | "." | ".." => "root".to_string(),
        name => name.to_string(),
    }
}

/// Returns which parts of the point have to go where, so that everything at `path` comes to its original place.
///
/// A point of several paths is restored path by path: the folders above them were never backed up as such, and what else they hold must not be touched.
fn original_places(
    fetch: &dyn ChunkFetch,
    manifest: &Manifest,
    path: &EntryPath,
    entry: &Entry,
) -> storepool::Result<Vec<(EntryPath, PathBuf)>> {
    let sources: Vec<PathBuf> =
        manifest.paths.iter().map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
    if let [only] = sources.as_slice() {
        let base = if is_single_file(fetch, manifest, only)? {
            only.parent().unwrap_or(Path::new("/"))
        } else {
            only.as_path()
        };
        return Ok(vec![(path.clone(), place_of(&base.join(relative(path)), path, entry))]);
    }
    let absolute = Path::new("/").join(relative(path));
    if sources.iter().any(|source| absolute.starts_with(source)) {
        return Ok(vec![(path.clone(), place_of(&absolute, path, entry))]);
    }
    let mut parts = Vec::new();
    for source in sources.iter().filter(|source| source.starts_with(&absolute)) {
        let inside = EntryPath::parse(source.as_os_str().as_bytes()).unwrap_or_default();
        match find_path(fetch, manifest, &inside) {
            Ok(entry) => parts.push((inside.clone(), place_of(source, &inside, &entry))),
            // It could not be read when the point was made: a recorded problem.
            Err(storepool::Error::PathNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(parts)
}

// A folder is restored into itself, anything else into the folder that holds it.
fn place_of(original: &Path, path: &EntryPath, entry: &Entry) -> PathBuf {
    if path.is_root() || matches!(entry.node, Node::Directory { .. }) {
        return original.to_path_buf();
    }
    original.parent().unwrap_or(Path::new("/")).to_path_buf()
}

fn relative(path: &EntryPath) -> &Path {
    Path::new(OsStr::from_bytes(path.as_bytes()))
}

// A point of one file has a root with that one entry.
fn is_single_file(
    fetch: &dyn ChunkFetch,
    manifest: &Manifest,
    source: &Path,
) -> storepool::Result<bool> {
    let mut entries = TreeCursor::new(fetch, manifest.root);
    let Some(first) = entries.next().transpose()? else { return Ok(false) };
    Ok(entries.next().is_none()
        && !matches!(first.node, Node::Directory { .. })
        && source.file_name().is_some_and(|name| name.as_bytes() == first.name)
        && !source.is_dir())
}
