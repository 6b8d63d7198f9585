//! `keepwell recover`: everything back, on a machine that has nothing but the credentials file and the passphrase.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use cloudsync::layout::Label;
use cloudsync::recovery::VaultPoint;
use cloudsync::vault::Vault;
use cloudsync::vault::commit::PointRecord;
use cloudsync::vault::credentials::Credentials;
use serde::Serialize;
use storepool::catalog::{Notes, Point};
use storepool::chunks::ChunkSource;
use storepool::id::ChunkId;
use storepool::restore::{Conflict, RestoreOptions, restore};

use crate::assembly::Assembly;
use crate::console::units::{count, counted, duration, local, rfc3339, size};
use crate::contents::locate;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::selection::select;
use crate::vaults::{self, Engine};

/// Get points back from a vault, on a machine that has nothing else
///
/// Needs the credentials file and the passphrase, no configuration and no pool, and changes nothing on this machine but DIR. Only what is asked for
/// is fetched; every byte is verified. Run again with --resume after an interruption, it fetches what is not there yet.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("what").args(["servers", "list", "point"]).required(true),
    after_help = "\
Examples:
  keepwell recover --credentials main.vault --servers
  keepwell recover --credentials main.vault --passphrase-file p --server web1 --list
  keepwell recover --credentials main.vault --passphrase-file p --server web1 latest --to /mnt/new
  keepwell recover --credentials main.vault --passphrase-file p latest:etc/hosts --to /tmp"
)]
pub(super) struct Recover {
    /// Which point, and which part of it
    #[arg(value_name = "POINT[:PATH]", requires = "to")]
    point: Option<String>,
    /// The credentials file of the vault
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    /// Read the passphrase from FILE
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Which server's points (not needed if the vault has only one)
    #[arg(long, value_name = "LABEL")]
    server: Option<Label>,
    /// List the servers of the vault
    #[arg(long)]
    servers: bool,
    /// List the server's points
    #[arg(long)]
    list: bool,
    /// The folder to restore into; made if it is not there
    #[arg(long, short, visible_alias = "target", value_name = "DIR")]
    to: Option<PathBuf>,
    /// Go on after an interruption: what is in DIR already is kept if it is right, else replaced
    #[arg(long)]
    resume: bool,
    /// Only what this pattern matches, as in .gitignore
    #[arg(long, short, value_name = "PATTERN")]
    include: Vec<String>,
    /// Not what this pattern matches
    #[arg(long, short, value_name = "PATTERN")]
    exclude: Vec<String>,
}

#[derive(Serialize)]
struct ListedServer {
    label: String,
    realm: String,
    registered: String,
}

#[derive(Serialize)]
struct ListedPoint {
    id: String,
    started: String,
    finished: String,
    host: String,
    group: String,
    source: String,
    workload: String,
    files: u64,
    bytes: u64,
    problem_count: u64,
}

#[derive(Serialize)]
struct Summary {
    point: String,
    path: String,
    target: String,
    duration_seconds: f64,
    files: u64,
    directories: u64,
    others: u64,
    bytes: u64,
    unchanged: u64,
    problem_count: u64,
}

impl Recover {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let attempt = || "recover".to_string();
        let engine = Engine::start()?;
        let credentials = Credentials::load(&self.credentials).attempt(attempt)?;
        let vault = engine.open(&credentials).attempt(attempt)?;
        if self.servers {
            return list_servers(assembly, &engine, &vault).attempt(attempt);
        }
        let label = match &self.server {
            Some(label) => label.clone(),
            None => only_server(&engine, &vault)?,
        };
        let file = self.passphrase_file.as_deref().ok_or_else(|| {
            Error::usage("the passphrase is needed: name its file with --passphrase-file")
        })?;
        let passphrase = vaults::read_passphrase(file).attempt(attempt)?;
        let unlocked = vaults::unlock(&engine, &vault, &label, &passphrase).attempt(attempt)?;
        let snapshot = engine.run(unlocked.realm.load(None)).attempt(attempt)?;
        if unlocked.is_retired(&snapshot) {
            assembly
                .console
                .warn("this passphrase was replaced or removed; it opened an old copy of its slot");
        }
        let mut points: Vec<Point> = snapshot.points().values().map(as_point).collect();
        points.sort_by_key(|point| (point.started, point.id));
        if self.list {
            list_points(assembly, &points, &snapshot.witness(unlocked.realm.keys()).to_string());
            return Ok(Outcome::Done);
        }

        let name = self.point.as_deref().unwrap_or("latest");
        let selection = select(&points, name)
            .map_err(|error| match error {
                storepool::Error::PointNotFound { name } => {
                    Cause::Vault(cloudsync::Error::NoSuchPoint { name })
                }
                error => Cause::Pool(error),
            })
            .attempt(attempt)?;
        let target = self.to.clone().ok_or_else(|| Error::usage("name a folder with --to"))?;
        let attempt = || format!("recover {} into {}", selection.name(), target.display());
        let opened = engine.run(VaultPoint::open(
            &unlocked.realm,
            &snapshot,
            selection.point.id,
            engine.handle().clone(),
        ));
        let point = opened.attempt(attempt)?;
        // Now that the manifest is here, paths of the source are understood as well.
        let selection = select(&[whole_point(&point)], name).unwrap_or(selection.clone());
        let reader = point.chunks.reader().attempt(attempt)?;
        let (path, _) = locate(&*reader, &point.manifest, &selection).attempt(attempt)?;
        drop(reader);
        let options = RestoreOptions {
            conflict: Conflict::Fail,
            in_place: self.resume,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            ..RestoreOptions::default()
        };
        let progress = assembly.console.progress("files");
        let restored = restore(&point.chunks, &point.manifest, &path, &target, &options, &progress);
        let elapsed = progress.finish();
        let report = restored.attempt(attempt)?;
        let console = &assembly.console;
        console.message(
            "summary",
            &Summary {
                point: point.record.id.to_string(),
                path: path.to_string(),
                target: target.display().to_string(),
                duration_seconds: (elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
                files: report.files,
                directories: report.directories,
                others: report.others,
                bytes: report.bytes,
                unchanged: report.unchanged,
                problem_count: report.problem_count,
            },
        );
        console.note(format!(
            "recovered {}, {}, {} in {} into {}",
            counted(report.files + report.others, "file"),
            counted(report.directories, "folder"),
            size(report.bytes),
            duration(elapsed),
            target.display()
        ));
        console.note(format!("as of {}", local(point.record.started)));
        if report.problem_count > 0 {
            console.warn(format!(
                "{} could not be recovered as they were",
                counted(report.problem_count, "entry")
            ));
            return Ok(Outcome::Incomplete);
        }
        Ok(Outcome::Done)
    }
}

/// Returns the label of the vault's only server.
pub(super) fn only_server(engine: &Engine, vault: &Vault) -> Result<Label, Error> {
    let servers = engine.run(vault.servers()).attempt(|| "list the servers".to_string())?;
    match servers.found.as_slice() {
        [server] => Ok(server.label.clone()),
        [] => Err(Error::usage("no server is registered with this vault")),
        several => {
            let labels: Vec<_> = several.iter().map(|server| server.label.to_string()).collect();
            Err(Error::usage(format!(
                "the vault has several servers: name one of {} with --server",
                labels.join(", ")
            )))
        }
    }
}

fn list_servers(
    assembly: &Assembly,
    engine: &Engine,
    vault: &Vault,
) -> Result<Outcome, cloudsync::Error> {
    let servers = engine.run(vault.servers())?;
    let console = &assembly.console;
    let mut listing = console.listing("servers", &serde_json::json!({}));
    for server in &servers.found {
        listing.item(&ListedServer {
            label: server.label.to_string(),
            realm: server.realm.to_string(),
            registered: rfc3339(server.registered),
        });
        console.say(format!("{}  registered {}", server.label, local(server.registered)));
    }
    listing.finish(&serde_json::json!({}));
    for error in &servers.damaged {
        console.warn(error.to_string());
    }
    Ok(if servers.damaged.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

fn list_points(assembly: &Assembly, points: &[Point], witness: &str) {
    let console = &assembly.console;
    let mut listing = console.listing("points", &serde_json::json!({ "witness": witness }));
    for point in points {
        listing.item(&ListedPoint {
            id: point.id.to_string(),
            started: rfc3339(point.started),
            finished: rfc3339(point.finished),
            host: point.host.clone(),
            group: point.group.clone(),
            source: point.source.clone(),
            workload: point.workload.clone(),
            files: point.files,
            bytes: point.bytes,
            problem_count: point.problem_count,
        });
        console.say(format!(
            "{}  {}  {:>9}  {:>10}  {}  {}",
            point.id.short(),
            local(point.started),
            count(point.files),
            size(point.bytes),
            point.host,
            point.source
        ));
    }
    listing.finish(&serde_json::json!({}));
    console.note(format!("{}; witness {witness}", counted(points.len() as u64, "point")));
}

fn as_point(record: &PointRecord) -> Point {
    Point {
        id: record.id,
        started: record.started,
        finished: record.finished,
        host: record.host.clone(),
        group: record.group.clone(),
        source: record.source.clone(),
        workload: record.workload.clone(),
        // Only the manifest knows these two.
        paths: Vec::new(),
        root: ChunkId([0; 32]),
        files: record.files,
        bytes: record.bytes,
        bytes_stored: record.bytes_stored,
        problem_count: record.problems,
        notes: Notes::default(),
    }
}

fn whole_point(point: &VaultPoint) -> Point {
    Point::of(point.record.id, &point.manifest, Notes::default())
}
