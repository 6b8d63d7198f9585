//! `keepwell recover`: everything back, on a machine that has nothing but the credentials file and the passphrase.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use cloudsync::layout::Label;
use cloudsync::vault::Vault;
use cloudsync::vault::credentials::Credentials;
use serde::Serialize;
use storepool::catalog::Point;
use storepool::restore::{Conflict, RestoreOptions, RestoreReport, restore};

use crate::adoption::{Adopted, Adoption};
use crate::assembly::Assembly;
use crate::console::units::{count, counted, duration, local, rfc3339, seconds, size};
use crate::contents::locate;
use crate::error::{Attempt, Error, Outcome};
use crate::origin::{Origin, refuse_given_up};
use crate::passphrases::KnownPassphrase;
use crate::vaults::{self, Engine};

/// Get points back from a vault, on a machine that has nothing else
///
/// Needs the credentials file and the passphrase, which is asked for unless it is named, no configuration and no pool, and changes nothing on this machine but DIR. Only what is asked for
/// is fetched; every byte is verified. Run again with --resume after an interruption, it fetches what is not there yet. With --adopt this machine becomes
/// that server: it gets its configuration, an empty pool and its place in the vault; the old machine can no longer write there.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("what").args(["servers", "list", "point", "adopt"]).required(true),
    after_help = "\
Examples:
  keepwell recover --credentials main.vault --servers
  keepwell recover --credentials main.vault --passphrase-file p --server web1 --list
  keepwell recover --credentials main.vault --passphrase-file p --server web1 latest --to /mnt/new
  keepwell recover --credentials main.vault --passphrase-file p latest:etc/hosts --to /tmp
  keepwell recover --credentials main.vault --passphrase-file p --server web1 --adopt"
)]
pub(super) struct Recover {
    /// Which point, and which part of it
    #[arg(value_name = "POINT[:PATH]", requires = "to")]
    point: Option<String>,
    /// The credentials file of the vault
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    #[command(flatten)]
    passphrase: KnownPassphrase,
    /// Which server's points (not needed if the vault has only one)
    #[arg(long, value_name = "LABEL")]
    server: Option<Label>,
    /// List the servers of the vault
    #[arg(long)]
    servers: bool,
    /// List the server's points
    #[arg(long)]
    list: bool,
    /// Become this server again and go on protecting it
    #[arg(long)]
    adopt: bool,
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

#[derive(Serialize)]
struct AdoptedServer {
    label: String,
    vault: String,
    configuration: PathBuf,
    configuration_known: bool,
    pool: Vec<PathBuf>,
    pool_created: bool,
    points: u64,
    newest: Option<String>,
    other_vaults: Vec<String>,
    generation: u64,
    witness: String,
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
        let passphrase = self.passphrase.read(&assembly.console).attempt(attempt)?;
        let unlocked = vaults::unlock(&engine, &vault, &label, &passphrase).attempt(attempt)?;
        let loaded = engine.run(unlocked.realm.load_readable()).attempt(attempt)?;
        let (snapshot, is_whole) = match loaded {
            (snapshot, None) => (snapshot, true),
            // Somebody who is to write must know everything.
            (_, Some(damage)) if self.adopt => return Err(damage).attempt(attempt),
            (snapshot, Some(damage)) => {
                assembly
                    .console
                    .warn(format!("{damage}; what was committed there and later cannot be seen"));
                (snapshot, false)
            }
        };
        if unlocked.is_retired(&snapshot) {
            assembly
                .console
                .warn("this passphrase was replaced or removed; it opened an old copy of its slot");
        }
        let realm = unlocked.realm;
        if !self.list {
            let state = engine.run(vault.subscription()).attempt(attempt)?;
            refuse_given_up(state).attempt(String::new)?;
        }
        if self.adopt {
            let attempt = || format!("become \"{label}\" again");
            let adoption = Adoption {
                assembly,
                engine: &engine,
                credentials: &credentials,
                credentials_file: &self.credentials,
                realm: &realm,
            };
            let adopted = adoption.run(snapshot).attempt(attempt)?;
            let witness = adopted.snapshot.witness(realm.keys()).to_string();
            tell_adopted(assembly, &label, &adopted, witness);
            return Ok(Outcome::Done);
        }
        let witness = snapshot.witness(realm.keys()).to_string();
        let origin = Origin::of_vault(engine, realm, snapshot);
        if self.list {
            list_points(assembly, origin.points(), &witness);
            return Ok(if is_whole { Outcome::Done } else { Outcome::Damage });
        }
        let restored = self.restore(assembly, &origin)?;
        // The latest point that can be seen may not be the latest one.
        Ok(if is_whole || restored != Outcome::Done { restored } else { Outcome::Incomplete })
    }

    fn restore(&self, assembly: &Assembly, origin: &Origin) -> Result<Outcome, Error> {
        let name = self.point.as_deref().unwrap_or("latest");
        let target = self.to.as_deref().ok_or_else(|| Error::usage("name a folder with --to"))?;
        let (selection, manifest) =
            origin.select(name).attempt(|| format!("recover into {}", target.display()))?;
        let attempt = || format!("recover {} into {}", selection.name(), target.display());
        let chunks = origin.chunks([selection.point.id]).attempt(attempt)?;
        let reader = chunks.reader().attempt(attempt)?;
        let (path, _) = locate(&*reader, &manifest, &selection).attempt(attempt)?;
        drop(reader);
        let options = RestoreOptions {
            conflict: Conflict::Fail,
            in_place: self.resume,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            ..RestoreOptions::default()
        };
        let progress = assembly.console.progress("files");
        let restored = restore(&*chunks, &manifest, &path, target, &options, &progress);
        let elapsed = progress.finish();
        let report = restored.attempt(attempt)?;
        let path = path.to_string();
        tell_restored(assembly, &selection.point, &path, target, &report, elapsed);
        Ok(if report.problem_count > 0 { Outcome::Incomplete } else { Outcome::Done })
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

fn tell_restored(
    assembly: &Assembly,
    point: &Point,
    path: &str,
    target: &Path,
    report: &RestoreReport,
    elapsed: Duration,
) {
    let console = &assembly.console;
    console.message(
        "summary",
        &Summary {
            point: point.id.to_string(),
            path: path.to_string(),
            target: target.display().to_string(),
            duration_seconds: seconds(elapsed),
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
    if report.unchanged > 0 {
        console.note(format!("{} were there already", count(report.unchanged)));
    }
    console.note(format!("as of {}", local(point.started)));
    if report.problem_count > 0 {
        console.warn(format!(
            "{} could not be recovered as they were",
            counted(report.problem_count, "entry")
        ));
    }
}

fn tell_adopted(assembly: &Assembly, label: &Label, adopted: &Adopted, witness: String) {
    let console = &assembly.console;
    let points = adopted.snapshot.points();
    let newest = points.values().map(|point| point.started).max();
    let document = AdoptedServer {
        label: label.to_string(),
        vault: adopted.vault_name.clone(),
        configuration: assembly.place.configuration.clone(),
        configuration_known: adopted.configuration_known,
        pool: adopted.pool.clone(),
        pool_created: adopted.pool_created,
        points: points.len() as u64,
        newest: newest.map(rfc3339),
        other_vaults: adopted.other_vaults.clone(),
        generation: adopted.snapshot.generation().0,
        witness,
    };
    console.document(&document);
    console.note(format!("this machine is \"{label}\" now; the old one can no longer write there"));
    let known = if adopted.configuration_known { "as it was" } else { "new, without groups" };
    console.note(format!("configuration  {} ({known})", document.configuration.display()));
    let paths: Vec<_> = adopted.pool.iter().map(|path| path.display().to_string()).collect();
    let made = if adopted.pool_created { "made anew" } else { "was there" };
    console.note(format!("pool           {} ({made})", paths.join(", ")));
    console.note(format!(
        "vault          \"{}\" with {}; witness {}",
        adopted.vault_name,
        counted(document.points, "point"),
        document.witness
    ));
    if let Some(newest) = newest {
        console.note(format!("newest point   {}", local(newest)));
    }
    for name in &adopted.other_vaults {
        console.warn(format!(
            "the vault \"{name}\" of the configuration knows nothing of this machine"
        ));
        console.hint(&format!(
            "run \"keepwell recover --adopt\" with its credentials in another place, or register anew with --name {name}"
        ));
    }
    console.note("next: keepwell restore latest --from vault --in-place, then keepwell backup and keepwell sync");
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
