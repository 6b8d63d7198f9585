//! PostgreSQL: a physical base of the whole cluster, the WAL from it on, and dumps of single databases.
//!
//! A base is stored as it comes, one archive per tablespace, without a copy on disk in between ([`base`]): through the replication protocol, or from the
//! files of a server on this machine. WAL comes by `keepwell wal-push` ([`wal_tree`]); [`recovery`] makes a data directory that starts out of both.

mod archive;
pub(crate) mod base;
pub(crate) mod connection;
pub(crate) mod error;
mod incoming;
mod inventory;
mod local;
pub(crate) mod lsn;
mod pages;
mod peer;
pub(crate) mod recovery;
pub(crate) mod route;
mod served;
mod settings;
mod stream;
pub(crate) mod trial;
mod unpack;
pub(crate) mod wal_tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use storepool::clock::{Clock, SystemClock};
use storepool::entry::EntryPath;
use storepool::manifest::{Owners, ProblemKind};
use storepool::source::{DataSource, SourceDirectory, SourceError, SourceStat};
use zeroize::Zeroizing;

use self::base::{BaseBackup, BaseDetail, Ended};
use self::connection::{Address, Connection, Purpose, Way};
use self::error::PostgresError;
use super::dumps::DumpDetail;
use super::program::Program;
use super::streams::{LastStream, OpenStream, StreamTree};
use super::{Finding, Prepared, Surroundings, Workload, WorkloadError};
use crate::config::{DatabasesConfig, PostgresConfig, ReadFrom, SslMode};
use crate::error::Cause;

/// The kind of these points.
pub(crate) const WORKLOAD: &str = "postgres";
/// Roles and tablespaces, which belong to no database.
const GLOBALS: &str = "globals.sql";
const READ_BY_SERVER: &str = "leave read_from = \"files\" away, and the server sends them itself";
/// Where Debian and others keep the authorities that the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Longest password file.
const PASSWORD_LIMIT: u64 = 4096;

/// A cluster.
pub(super) struct Postgres {
    config: PostgresConfig,
}

/// What a point says of itself, in the manifest's detail.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct PostgresDetail {
    /// Its base, if it has one.
    pub(crate) base: Option<BaseDetail>,
    /// Its dumps.
    pub(crate) dumps: Vec<DumpDetail>,
}

impl Postgres {
    pub(super) fn new(config: PostgresConfig) -> Self {
        Self { config }
    }

    // For people; an error only where nobody but us is to read.
    fn who_reads(&self) -> Result<String, PostgresError> {
        if !self.config.physical {
            return Ok(String::new());
        }
        let address = address(&self.config)?;
        if self.config.read_from == ReadFrom::Server || matches!(address.way, Way::Host(_)) {
            return Ok("; it sends its files itself".to_string());
        }
        match (self.config.read_from, local::examine(&address)) {
            (_, Ok(())) => Ok("; its files are read here".to_string()),
            (ReadFrom::Files, Err(error)) => Err(error),
            (_, Err(error)) => {
                let why = match error {
                    PostgresError::NotReadHere { why, .. } => why,
                    other => other.chain(),
                };
                Ok(format!("; it sends its files itself, since they are not read here: {why}"))
            }
        }
    }

    // The databases to be dumped, and how the roles are.
    fn dumps(&self, address: &Address) -> Result<(Vec<DumpDetail>, Globals), PostgresError> {
        if self.config.dump == DatabasesConfig::None {
            return Ok((Vec::new(), Globals::WithoutPasswords));
        }
        let mut connection = Connection::open(address, Purpose::Database("postgres"))?;
        // Nobody else may read the hashes of passwords.
        let globals = match connection.parameter("is_superuser") {
            Some("on") => Globals::Whole,
            _ => Globals::WithoutPasswords,
        };
        let names = match &self.config.dump {
            DatabasesConfig::Named(names) => names.clone(),
            _ => {
                let rows = connection.ask(
                    "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1",
                )?;
                rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
            }
        };
        let dump = |database| DumpDetail::of(database, ".dump");
        Ok((names.into_iter().map(dump).collect(), globals))
    }
}

impl Workload for Postgres {
    fn name(&self) -> String {
        self.config.name()
    }

    fn check(&self) -> Vec<Finding> {
        let what = format!("source {}", self.config.name());
        let fix =
            "see docs/workloads/postgres.md for the role and the line of pg_hba.conf it needs";
        let asked = address(&self.config).and_then(|address| {
            let mut connection = Connection::open(&address, Purpose::Replication)?;
            Ok((
                connection.ask_one("SHOW server_version")?,
                connection.ask_one("SHOW archive_mode")?,
            ))
        });
        match asked {
            Ok((_, archives)) if self.config.wal && archives == "off" => vec![Finding::bad(
                what,
                "its WAL is to be kept, but archive_mode is off",
                "set archive_mode = on and archive_command = 'keepwell wal-push %p', and restart it",
            )],
            Ok((version, _)) => vec![match self.who_reads() {
                Ok(reads) => Finding::good(what, format!("PostgreSQL {version} answers{reads}")),
                Err(error) => Finding::bad(what, error.chain(), READ_BY_SERVER),
            }],
            Err(error) => vec![Finding::bad(what, error.chain(), fix)],
        }
    }

    fn prepare<'a>(
        &'a self,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Box<dyn Prepared + 'a>, Cause> {
        let address = address(&self.config)?;
        let mut doubts = Vec::new();
        if self.config.wal {
            let mut connection = Connection::open(&address, Purpose::Replication)?;
            if connection.ask_one("SHOW archive_mode")? == "off" {
                doubts.push(archiving_is_off());
            }
        }
        let (dumps, globals) = self.dumps(&address)?;
        let base = match self.config.physical && !surroundings.dry_run {
            true => {
                let begun = base::begin(&address, self.config.read_from, surroundings.monitor);
                if surroundings.monitor.cancelled() {
                    return Err(storepool::Error::Interrupted.into());
                }
                Some(begun?)
            }
            false => None,
        };
        Ok(Box::new(Opened(Cluster::new(self.name(), address, base, (dumps, globals), doubts))))
    }
}

fn archiving_is_off() -> (EntryPath, SourceError) {
    let message = "is configured, but archive_mode is off in the cluster: nothing after the end of this base can be restored";
    let error = SourceError { kind: ProblemKind::Unsupported, message: message.to_string() };
    (EntryPath::parse(b"wal").unwrap_or_default(), error)
}

/// Returns where a configured cluster is, with the password if there is one.
///
/// # Errors
/// The password file cannot be read.
pub(crate) fn address(config: &PostgresConfig) -> Result<Address, PostgresError> {
    let password = config.password_file.as_deref().map(read_password).transpose()?;
    let way = match &config.host {
        Some(host) => Way::Host(host.clone()),
        None => Way::Socket(config.socket.clone()),
    };
    Ok(Address {
        way,
        port: config.port,
        user: config.user.clone(),
        password,
        sslmode: config.sslmode,
        sslrootcert: config.sslrootcert.clone(),
    })
}

fn read_password(path: &Path) -> Result<Zeroizing<String>, PostgresError> {
    let file = std::fs::File::open(path).map_err(PostgresError::file("open", path))?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(PASSWORD_LIMIT).read_to_string(&mut text);
    read.map_err(PostgresError::file("read", path))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_string()))
}

struct Opened(Cluster);

impl Prepared for Opened {
    fn source(&self) -> &dyn DataSource {
        &self.0
    }

    fn release(self: Box<Self>) -> Result<(), Cause> {
        // Dropping the connection ends what the server still does for it.
        Ok(())
    }
}

/// How much of the roles a dump has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Globals {
    Whole,
    WithoutPasswords,
}

struct Cluster {
    tree: StreamTree,
    doubts: Arc<Mutex<Vec<(EntryPath, SourceError)>>>,
}

impl Cluster {
    fn new(
        name: String,
        address: Address,
        base: Option<Arc<dyn BaseBackup>>,
        (dumps, globals): (Vec<DumpDetail>, Globals),
        doubts: Vec<(EntryPath, SourceError)>,
    ) -> Self {
        let mut names = base.as_ref().map(|base| base.files()).unwrap_or_default();
        names.extend(dumps.iter().map(|dump| dump.file.clone()));
        if !dumps.is_empty() {
            names.push(GLOBALS.to_string());
        }
        let doubts = Arc::new(Mutex::new(doubts));
        let (own_base, own_dumps) = (base.clone(), dumps.clone());
        let opener =
            move |name: &str| open(&address, own_base.as_ref(), (&own_dumps, globals), name);
        let found = doubts.clone();
        let finisher = move || finish(base.as_deref(), &dumps, &found);
        let tree = StreamTree {
            workload: WORKLOAD,
            label: name,
            names,
            looks: BTreeMap::new(),
            time: SystemClock::new().now(),
            opener: Arc::new(opener),
            finisher: Box::new(finisher),
            last: LastStream::default(),
        };
        Self { tree, doubts }
    }
}

fn open(
    address: &Address,
    base: Option<&Arc<dyn BaseBackup>>,
    (dumps, globals): (&[DumpDetail], Globals),
    name: &str,
) -> Result<OpenStream, WorkloadError> {
    if let Some(stream) = base.and_then(|base| base.clone().stream(name)) {
        return Ok(stream);
    }
    let missing = || WorkloadError::failed(format!("\"{name}\" is no part of the cluster"));
    let program = dump_program(address, dumps, globals, name).ok_or_else(missing)?;
    Ok(program.stream()?.into())
}

fn finish(
    base: Option<&dyn BaseBackup>,
    dumps: &[DumpDetail],
    doubts: &Mutex<Vec<(EntryPath, SourceError)>>,
) -> Result<String, WorkloadError> {
    let mut detail = PostgresDetail::default();
    if let Some(base) = base {
        let Ended { detail: base, bad_pages: pages, bad_page_count: count } = base.finish()?;
        detail.base = Some(base);
        let mut doubts = doubts.lock().unwrap_or_else(PoisonError::into_inner);
        for page in &pages {
            let path = page.file.to_string_lossy();
            let message = format!(
                "block {} has a wrong checksum in the cluster itself; the point has it as it is",
                page.block
            );
            doubts.push(damaged(&path, message));
        }
        if count > pages.len() as u64 {
            let more = count - pages.len() as u64;
            let message = format!("the server found {more} more pages with a wrong checksum");
            doubts.push(damaged("base", message));
        }
    }
    detail.dumps = dumps.to_vec();
    serde_json::to_string(&detail)
        .map_err(|error| WorkloadError::failed("cannot describe the point").because(error))
}

impl DataSource for Cluster {
    fn workload(&self) -> &str {
        self.tree.workload()
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.tree.paths()
    }

    fn root(&self) -> Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        self.tree.root()
    }

    fn owners(&self, users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Owners {
        self.tree.owners(users, groups)
    }

    fn finish(&self) -> Result<String, SourceError> {
        self.tree.finish()
    }

    fn doubts(&self) -> Vec<(EntryPath, SourceError)> {
        std::mem::take(&mut self.doubts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn damaged(path: &str, message: String) -> (EntryPath, SourceError) {
    let path = EntryPath::parse(path.as_bytes()).unwrap_or_default();
    (path, SourceError { kind: ProblemKind::Damaged, message })
}

fn dump_program(
    address: &Address,
    dumps: &[DumpDetail],
    globals: Globals,
    file: &str,
) -> Option<Program> {
    let mut command = Vec::new();
    if file == GLOBALS {
        command.extend(["pg_dumpall", "--globals-only"].map(String::from));
        if globals == Globals::WithoutPasswords {
            command.push("--no-role-passwords".to_string());
        }
    } else {
        let dump = dumps.iter().find(|dump| dump.file == file)?;
        // Not compressed: the pool compresses better, and finds again what did not change.
        command.extend(["pg_dump", "-Fc", "-Z0"].map(String::from));
        command.push(format!("--dbname=dbname='{}'", quoted(&dump.database)));
    }
    command.extend(["-h".into(), address.host_argument(), "-p".into(), address.port.to_string()]);
    command.extend(["-U".into(), address.user.clone(), "--no-password".into()]);
    let password = address.password.as_ref();
    let mut variables = Vec::new();
    variables.extend(password.map(|text| ("PGPASSWORD".to_string(), text.to_string())));
    if matches!(address.way, Way::Host(_)) {
        variables.push(("PGSSLMODE".to_string(), address.sslmode.word().to_string()));
        // They know no authorities of the system unless they are told.
        let system = Path::new(SYSTEM_ROOTS);
        let roots = address.sslrootcert.as_deref().or(system.exists().then_some(system));
        let roots = roots.filter(|_| address.sslmode == SslMode::VerifyFull);
        variables
            .extend(roots.map(|file| ("PGSSLROOTCERT".to_string(), file.display().to_string())));
    }
    Some(Program { command, user: None, variables })
}

// For a connection string, so that no name is taken for one itself.
fn quoted(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_connection_string_is_never_one_itself() {
        assert_eq!(quoted(r"it's a \"), r"it\'s a \\");
    }
}
