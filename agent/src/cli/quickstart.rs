//! `keepwell quickstart`: the whole main job in one go, ending with the proof that everything can be recovered.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use cloudsync::recovery::VaultPoint;
use cloudsync::store::VaultAddress;
use cloudsync::sync::SyncReport;
use cloudsync::vault::REGISTRATION_PERIOD;
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::owner::OwnerKey;
use serde::Serialize;
use storepool::backup::{BackupOptions, BackupReport, backup};
use storepool::entry::EntryPath;
use storepool::filetree::{FileTree, FileTreeOptions};
use storepool::id::PointId;
use storepool::pool::{Pool, World};
use storepool::restore::{RestoreOptions, RestoreReport, restore};
use toml_edit::{Array, InlineTable, Value};

use super::group;
use super::recover::only_server;
use super::vault::{create_vault, enter, label_of_host};
use crate::assembly::Assembly;
use crate::comparison::{Comparison, Findings};
use crate::config::{self, Config, GroupChange, GroupConfig, SourceConfig};
use crate::console::units::{count, counted, duration, seconds, size};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::examination::before_pool;
use crate::job::Task;
use crate::journal::Reason;
use crate::process::host_name;
use crate::record::{Record, open_journal};
use crate::scratch;
use crate::vaults::{self, Engine, OwnVault, VaultFiles};

/// The name of the vault that is made.
const VAULT: &str = "main";

/// Protect folders now, completely, and prove that they can be recovered
///
/// Makes what is not there yet: a configuration, a local pool, a vault in a folder beside it, a generated passphrase in a file. Backs up PATH, copies
/// the point encrypted to the vault, then recovers it from the vault with nothing but credentials and passphrase into a scratch folder, compares every
/// byte, and removes the scratch folder. Running it again makes a new point and proves that one.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell quickstart /srv
  keepwell --home ~/trial quickstart ~/documents ~/mail")]
pub(super) struct Quickstart {
    /// What to protect
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Leave out what this pattern matches, as in .gitignore
    #[arg(long, short, value_name = "PATTERN")]
    exclude: Vec<String>,
}

/// Where things are, all beside the pool or the configuration.
struct Places {
    vault: PathBuf,
    credentials: PathBuf,
    passphrase: PathBuf,
    scratch: PathBuf,
}

impl Places {
    fn of(assembly: &Assembly) -> Result<Self, Cause> {
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|cause| Cause::Io { action: "find", path, cause })
        };
        let place = &assembly.place;
        Ok(Self {
            vault: absolute(place.pool.with_file_name("vault"))?,
            credentials: absolute(place.configuration.with_file_name(format!("{VAULT}.vault")))?,
            passphrase: absolute(place.configuration.with_file_name("passphrase"))?,
            scratch: absolute(place.pool.with_file_name("drill"))?,
        })
    }
}

struct Drilled {
    report: RestoreReport,
    findings: Findings,
    recovery: Duration,
}

#[derive(Serialize)]
struct Summary<'a> {
    point: String,
    paths: Vec<String>,
    files: u64,
    bytes: u64,
    problem_count: u64,
    pool: Vec<PathBuf>,
    pool_bytes: u64,
    vault: String,
    vault_bytes: u64,
    uploaded_bytes: u64,
    deduplication: f64,
    compression: f64,
    recovery_seconds: f64,
    recovered_files: u64,
    recovered_bytes: u64,
    compared_entries: u64,
    changed_meanwhile: u64,
    differences: &'a [String],
    difference_count: u64,
    credentials: &'a Path,
    passphrase_file: &'a Path,
    witness: String,
}

impl Quickstart {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let places = Places::of(assembly).attempt(|| "choose places".to_string())?;
        let engine = Engine::start()?;
        let (mut config, pool) = prepare_pool(assembly)?;
        if !config.vaults.contains_key(VAULT) {
            prepare_vault(assembly, &engine, &config, &places)?;
            config = assembly.config()?;
        }
        let left_out = left_out(assembly, &pool, &places);
        let (group, config) = self.prepare_group(assembly, config)?;
        let attempt = || "enter the run in the journal".to_string();
        let journal = open_journal(assembly).attempt(attempt)?;
        let task = Task::Backup(group.clone()).to_string();
        let record = Record::begin(assembly, &journal, task, Reason::Hand).attempt(attempt)?;
        let saved = self.back_up(assembly, &pool, &group, &left_out);
        match &saved {
            Ok(_) => record.end(Ok(Outcome::Done), None),
            Err(error) => record.end(Err(error), None),
        }
        .attempt(attempt)?;
        let saved = saved?;
        let (Some(point), tree_paths) = (saved.report.point, saved.paths) else {
            return Err(Error::usage("the backup made no point"));
        };
        let task = Task::Sync(group).to_string();
        let record = Record::begin(assembly, &journal, task, Reason::Follows).attempt(attempt)?;
        let copied = copy(assembly, &engine, &config, &pool);
        match &copied {
            Ok(_) => record.end(Ok(Outcome::Done), None),
            Err(error) => record.end(Err(error), None),
        }
        .attempt(attempt)?;
        let copied = copied?;
        if let Some(skipped) = copied.skipped.iter().find(|skipped| skipped.point == point) {
            let reason = skipped.reason.clone();
            let cause = Cause::Usage(reason);
            return Err(Error {
                attempt: format!("copy point {} to the vault", point.short()),
                cause,
            });
        }
        let drilled = drill(assembly, &engine, &places, point, &tree_paths, &left_out)?;
        tell(assembly, &config, &places, &pool, &saved.report, &tree_paths, &copied, &drilled)
            .attempt(|| "report".to_string())?;
        if drilled.findings.difference_count > 0 || drilled.report.problem_count > 0 {
            return Ok(Outcome::Damage);
        }
        Ok(match saved.report.problem_count {
            0 => Outcome::Done,
            _ => Outcome::Incomplete,
        })
    }

    // The group of exactly these paths: the one that is there, or a new one. Run again, nothing is added.
    fn prepare_group(
        &self,
        assembly: &Assembly,
        config: Config,
    ) -> Result<(String, Config), Error> {
        let attempt = || "make a group".to_string();
        let tree = FileTree::open(&self.paths, FileTreeOptions::default());
        let paths = tree.attempt(attempt)?.source_paths().to_vec();
        let same = |group: &&GroupConfig| matches!(group.sources.as_slice(), [SourceConfig::Files(files)] if files.paths == paths);
        if let Some(group) = config.groups.values().find(same) {
            return Ok((group.name.clone(), config));
        }
        let name = free_name(&config, &paths);
        let texts: Option<Vec<&str>> = paths.iter().map(|path| path.to_str()).collect();
        let Some(texts) = texts else {
            let cause = Cause::Unwritable { path: paths[0].clone() };
            return Err(Error { attempt: attempt(), cause });
        };
        let mut source = InlineTable::new();
        source.insert("files", texts.into_iter().collect());
        if !self.exclude.is_empty() {
            source.insert("exclude", self.exclude.iter().collect());
        }
        let changes: Vec<GroupChange> = vec![
            ("sources", Some(Value::Array(Array::from_iter([Value::InlineTable(source)])))),
            ("schedule", Some("daily 02:00".into())),
            ("retention.last", Some(10.into())),
            ("retention.daily", Some(14.into())),
            ("retention.weekly", Some(8.into())),
            ("retention.monthly", Some(12.into())),
            ("vault", Some(VAULT.into())),
        ];
        let config =
            group::change(assembly, |_, text| Ok(config::with_group(text, &name, &changes)))?;
        Ok((name, config))
    }

    fn back_up(
        &self,
        assembly: &Assembly,
        pool: &Arc<Pool>,
        group: &str,
        left_out: &[PathBuf],
    ) -> Result<Saved, Error> {
        let named = self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let attempt = || format!("back up {}", named.join(", "));
        let options = FileTreeOptions {
            exclude: self.exclude.clone(),
            never: left_out.to_vec(),
            ..FileTreeOptions::default()
        };
        let tree = FileTree::open(&self.paths, options).attempt(attempt)?;
        let paths = tree.source_paths().to_vec();
        let source: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        let options = BackupOptions {
            host: host_name(),
            group: group.to_string(),
            source: source.join(", "),
            tags: Vec::new(),
            set: None,
            program: env!("CARGO_PKG_VERSION").to_string(),
            dry_run: false,
            threads: 0,
            force: false,
        };
        let progress = assembly.console.progress("files");
        let made = backup(pool, &tree, &options, &progress);
        progress.finish();
        Ok(Saved { report: made.attempt(attempt)?, paths })
    }
}

// After the first path, as it may be said: `srv`, else `main`; with a number if that is taken.
fn free_name(config: &Config, paths: &[PathBuf]) -> String {
    let last = paths.first().and_then(|path| path.file_name()).unwrap_or_default();
    let name: String = last
        .to_string_lossy()
        .to_lowercase()
        .chars()
        .filter(|letter| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(*letter)
        })
        .take(40)
        .collect();
    let name = if name.is_empty() { "main".to_string() } else { name };
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !config.groups.contains_key(name)).unwrap_or(name)
}

struct Saved {
    report: BackupReport,
    paths: Vec<PathBuf>,
}

// Nothing of our own is backed up: a pool in itself would grow with each run, and the passphrase does not belong into the vault.
fn left_out(assembly: &Assembly, pool: &Pool, places: &Places) -> Vec<PathBuf> {
    let mut folders: Vec<_> = pool.present_paths().map(Path::to_path_buf).collect();
    folders.extend(assembly.place.home.clone());
    folders.push(assembly.place.state());
    folders.extend([places.vault.clone(), places.scratch.clone()]);
    folders
}

// The configuration and the pool, made if they are not there.
fn prepare_pool(assembly: &Assembly) -> Result<(Config, Arc<Pool>), Error> {
    let attempt = || "make a pool".to_string();
    let file = &assembly.place.configuration;
    if file.exists() {
        let config = assembly.config()?;
        match assembly.open_configured(&config) {
            Err(Error { cause: Cause::Pool(storepool::Error::NoPool { path }), attempt })
                if path.exists() =>
            {
                return Err(Error { attempt, cause: storepool::Error::NoPool { path }.into() });
            }
            Err(Error { cause: Cause::Pool(storepool::Error::NoPool { .. }), .. }) => {}
            opened => return Ok((config, opened?)),
        }
    }
    let text = match file.exists() {
        true => None,
        false => {
            let place = &assembly.place;
            let inside = place.home.as_deref().and_then(|home| place.pool.strip_prefix(home).ok());
            Some(config::new_file(&[inside.unwrap_or(&place.pool).to_path_buf()]))
        }
    };
    let config = match &text {
        Some(text) => Config::parse(file, text).attempt(attempt)?,
        None => assembly.config()?,
    };
    before_pool(&assembly.console, &config.pool.paths).attempt(attempt)?;
    let options = config.pool.options(assembly.holder());
    match Pool::create(&config.pool.paths, options, World::system()) {
        Ok(_) | Err(storepool::Error::PoolExists { .. }) => {}
        Err(error) => return Err(error).attempt(attempt),
    }
    // Last: a file that names a pool which is not there would only lead astray.
    if let Some(text) = &text {
        config::write(file, text).attempt(|| "write the configuration".to_string())?;
        assembly.console.note(format!("wrote {}", file.display()));
    }
    let pool = assembly.open_configured(&config)?;
    Ok((config, pool))
}

// The vault, its credentials, the passphrase, the registration: each made if it is not there, so a break anywhere is mended by the next run.
fn prepare_vault(
    assembly: &Assembly,
    engine: &Engine,
    config: &Config,
    places: &Places,
) -> Result<(), Error> {
    let attempt = || "make a vault".to_string();
    let credentials = match places.credentials.exists() {
        true => Credentials::load(&places.credentials).attempt(attempt)?,
        false => {
            let address = VaultAddress::Directory(places.vault.clone());
            let owner = OwnerKey::generate(engine.around().entropy);
            let period = REGISTRATION_PERIOD;
            let made = create_vault(engine, VAULT, address, period, Default::default(), &owner);
            let credentials = made.attempt(attempt)?;
            owner.save(&places.credentials.with_extension("owner")).attempt(attempt)?;
            credentials.save(&places.credentials).attempt(attempt)?;
            credentials
        }
    };
    let attempt = || "register with the vault".to_string();
    let passphrase = match places.passphrase.exists() {
        true => vaults::read_passphrase(&places.passphrase).attempt(attempt)?,
        false => vaults::generate_passphrase(engine, &places.passphrase).attempt(attempt)?,
    };
    let files = VaultFiles::of(&assembly.place, VAULT);
    if !files.is_registered() {
        let label = label_of_host()?;
        vaults::register(engine, &files, &credentials, &label, &passphrase).attempt(attempt)?;
    }
    enter(assembly, config, VAULT, &places.credentials).attempt(attempt)
}

fn copy(
    assembly: &Assembly,
    engine: &Engine,
    config: &Config,
    pool: &Arc<Pool>,
) -> Result<SyncReport, Error> {
    let attempt = || "copy to the vault".to_string();
    let (name, vault) = vaults::choose(config, Some(VAULT))?;
    let mut own = OwnVault::open(assembly, engine, name, vault).attempt(attempt)?;
    let progress = Arc::new(assembly.console.progress("chunks"));
    let copied = own.sync(engine, pool, progress.clone());
    vaults::finish(progress);
    copied.attempt(attempt)
}

// As a stranger with credentials and passphrase would: nothing of this machine's state is used.
fn drill(
    assembly: &Assembly,
    engine: &Engine,
    places: &Places,
    point: PointId,
    paths: &[PathBuf],
    left_out: &[PathBuf],
) -> Result<Drilled, Error> {
    let attempt = || "recover from the vault".to_string();
    remove_scratch(&places.scratch).attempt(attempt)?;
    let progress = assembly.console.progress("files");
    let recovered = (|| {
        let credentials = Credentials::load(&places.credentials)?;
        let passphrase = vaults::read_passphrase(&places.passphrase)?;
        let vault = engine.open(&credentials)?;
        let label = only_server(engine, &vault).map_err(|error| error.cause)?;
        let unlocked = vaults::unlock(engine, &vault, &label, &passphrase)?;
        let snapshot = engine.run(unlocked.realm.load(None))?;
        let handle = engine.handle().clone();
        let point = engine.run(VaultPoint::open(&unlocked.realm, &snapshot, point, handle))?;
        let report = restore(
            &point.chunks,
            &point.manifest,
            &EntryPath::root(),
            &places.scratch,
            &RestoreOptions { numeric_owner: true, ..RestoreOptions::default() },
            &progress,
        )?;
        Ok::<_, Cause>((point.manifest, report))
    })();
    let recovery = progress.finish();
    let compared = recovered.and_then(|(manifest, report)| {
        let several = manifest.paths.len() > 1;
        let problems: BTreeSet<PathBuf> = manifest
            .problems
            .iter()
            .map(|problem| {
                let path = Path::new(OsStr::from_bytes(problem.path.as_bytes()));
                match several {
                    true => Path::new("/").join(path),
                    false => paths.first().map_or_else(PathBuf::new, |only| only.join(path)),
                }
            })
            .collect();
        let progress = assembly.console.progress("files");
        let comparison = Comparison {
            started: manifest.started,
            left_out,
            problems: &problems,
            monitor: &progress,
        };
        let mut findings = Findings::default();
        let mut result = Ok(());
        for path in paths {
            let inside = path.strip_prefix("/").unwrap_or(path);
            let restored = match (several, path.is_dir() && !path.is_symlink()) {
                (true, _) => places.scratch.join(inside),
                (false, true) => places.scratch.clone(),
                (false, false) => places.scratch.join(path.file_name().unwrap_or_default()),
            };
            result = comparison.run(path, &restored, &mut findings);
            if result.is_err() {
                break;
            }
        }
        progress.finish();
        result?;
        Ok(Drilled { report, findings, recovery })
    });
    let removed = remove_scratch(&places.scratch);
    let drilled = compared.attempt(attempt)?;
    removed.attempt(attempt)?;
    Ok(drilled)
}

fn remove_scratch(scratch: &Path) -> Result<(), Cause> {
    scratch::remove(scratch).map_err(|cause| Cause::Io {
        action: "remove",
        path: scratch.to_path_buf(),
        cause,
    })
}

#[expect(clippy::too_many_arguments, reason = "the report is about all of them")]
fn tell(
    assembly: &Assembly,
    config: &Config,
    places: &Places,
    pool: &Pool,
    saved: &BackupReport,
    paths: &[PathBuf],
    copied: &SyncReport,
    drilled: &Drilled,
) -> Result<(), Cause> {
    let console = &assembly.console;
    pool.refresh_packs()?;
    let rows = pool.pack_rows();
    let pool_bytes: u64 = rows.iter().map(|row| row.length).sum();
    let pool_raw: u64 = rows.iter().map(|row| row.raw_length).sum();
    let points = pool.points()?;
    let logical: u64 = points.iter().map(|point| point.bytes).sum();
    let deduplication = ratio(logical, pool_raw);
    let compression = ratio(pool_raw, pool_bytes);
    let Drilled { report, findings, recovery } = drilled;
    let point = saved.point.map(|point| point.to_string()).unwrap_or_default();
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let address = VaultAddress::Directory(places.vault.clone()).to_string();
    console.message(
        "summary",
        &Summary {
            point: point.clone(),
            paths: shown.clone(),
            files: saved.totals.files,
            bytes: saved.totals.bytes,
            problem_count: saved.problem_count,
            pool: config.pool.paths.clone(),
            pool_bytes,
            vault: address.clone(),
            vault_bytes: copied.bytes_stored,
            uploaded_bytes: copied.bytes,
            deduplication,
            compression,
            recovery_seconds: seconds(*recovery),
            recovered_files: report.files,
            recovered_bytes: report.bytes,
            compared_entries: findings.entries,
            changed_meanwhile: findings.changed,
            differences: &findings.differences,
            difference_count: findings.difference_count,
            credentials: &places.credentials,
            passphrase_file: &places.passphrase,
            witness: copied.witness.to_string(),
        },
    );
    let command = match &assembly.place.home {
        Some(home) => format!("keepwell --home {}", home.display()),
        None => "keepwell".to_string(),
    };
    let pools: Vec<_> = config.pool.paths.iter().map(|path| path.display().to_string()).collect();
    let points = points.len() as u64;
    let short = &point[..point.len().min(8)];
    let sound = findings.difference_count == 0 && report.problem_count == 0;
    console.note("");
    console.note(format!(
        "Protected: {} ({}, {}) as point {short}",
        shown.join(", "),
        counted(saved.totals.files, "file"),
        size(saved.totals.bytes),
    ));
    console.note("");
    console.note(format!("  first copy    {}", pools.join(", ")));
    console.note(format!(
        "                {} for {}: deduplicated {deduplication:.1} : 1, compressed {compression:.1} : 1",
        size(pool_bytes),
        counted(points, "point"),
    ));
    console.note(format!("  second copy   {address}"));
    console.note(format!(
        "                {}, encrypted before it leaves; {} uploaded now",
        size(copied.bytes_stored),
        size(copied.bytes),
    ));
    let verdict = if sound { "every byte the same" } else { "NOT the same" };
    console.note(format!(
        "  drill         recovered from the second copy alone in {}: {}, {}",
        duration(*recovery),
        counted(report.files, "file"),
        size(report.bytes),
    ));
    console.note(format!(
        "                compared with the original: {}, {verdict}",
        counted(findings.entries, "entry"),
    ));
    if findings.changed > 0 {
        console.note(format!(
            "                {} changed meanwhile and will be in the next point",
            counted(findings.changed, "entry")
        ));
    }
    console.note("");
    console.note("Keep these two safe, away from this machine and apart from each other:");
    console.note(format!("  credentials   {}", places.credentials.display()));
    console.note(format!("  passphrase    {}", places.passphrase.display()));
    console.note("  With both, everything comes back on any machine. Without the passphrase nobody can read the vault.");
    console.note("");
    console.note("Next:");
    console.note(format!("  {command} status"));
    console.note(format!("  {command} restore latest --to FOLDER"));
    console.note(format!(
        "  keepwell recover --credentials {} --passphrase-file {} latest --to FOLDER",
        places.credentials.display(),
        places.passphrase.display()
    ));
    for difference in &findings.differences {
        console.warn(format!("the recovered copy differs: {difference}"));
    }
    for problem in &report.problems {
        console.warn(format!("could not be recovered: {}: {}", problem.path, problem.message));
    }
    if saved.problem_count > 0 {
        console.warn(format!(
            "{} could not be backed up; run \"{command} points --problems {short}\" to list them",
            count(saved.problem_count)
        ));
    }
    Ok(())
}

fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 1.0 } else { (of as f64 / to as f64 * 100.0).round() / 100.0 }
}
