//! What can be protected, and how: a workload makes its source consistent, hands it over to be read, and lets it go again; and gives a point back to
//! what it is of.
//!
//! A kind has a room of its own. It needs: its configuration (`config/source.rs`), a [`Workload`] for backups ([`of`]) and, if its points can go back to a
//! service and not only into a folder, a [`Restorer`] ([`restorer`]). What it has to remember in a point beside the tree is JSON that
//! [`DataSource::finish`] returns, described in `docs/format.md`.

pub(crate) mod azure_table;
mod command;
mod contents;
pub(crate) mod discovery;
mod dumps;
mod files;
pub(crate) mod mariadb;
pub(crate) mod postgres;
pub(crate) mod program;
mod running;
pub(crate) mod sqlite;
pub(crate) mod streams;
pub(crate) mod suspended;
pub(crate) mod trial;

use std::collections::BTreeMap;
use std::path::PathBuf;

use storepool::id::PointId;
use storepool::monitor::Monitor;
use storepool::source::DataSource;

pub(crate) use contents::PointContents;

use crate::config::SourceConfig;
use crate::error::Cause;
pub(crate) use crate::hooks::Debt;

/// A kind of data source.
pub(crate) trait Workload: Send + Sync {
    /// Returns the name of the data source, by which its points are a series.
    fn name(&self) -> String;

    /// Looks whether the source is there and can be read, without changing anything. One finding or more.
    fn check(&self) -> Vec<Finding>;

    /// Returns the commands that end what [`Workload::prepare`] begins. They are entered in the journal before it is called, and run by the job if it
    /// fails and by the next run if [`Prepared::release`] never came: they may find nothing to do.
    fn owed(&self) -> Vec<Debt> {
        Vec::new()
    }

    /// Returns what belongs to the source and is not in its points; told at every run.
    fn not_contained(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes the source ready to be read: consistent, and as of one moment where the kind allows it. In a group whose sources are held still together
    /// all are prepared before the first is read.
    ///
    /// # Errors
    /// The source is missing or cannot be made consistent: then there is no point, and the caller has what is owed run.
    fn prepare<'a>(
        &'a self,
        surroundings: &'a Surroundings<'a>,
    ) -> Result<Box<dyn Prepared + 'a>, Cause>;
}

/// A source that is ready to be read. Dropped without [`Prepared::release`], it must leave nothing behind that harms.
pub(crate) trait Prepared: Send {
    /// Returns what is read. Whether that was sound is judged by its `finish`, before there is a point.
    fn source(&self) -> &dyn DataSource;

    /// Lets the source go, after it was read or given up.
    ///
    /// # Errors
    /// The source could not be let go: a problem of the run; a point that was made is sound all the same.
    fn release(self: Box<Self>) -> Result<(), Cause>;
}

/// What a workload needs to know of this installation and this run.
pub(crate) struct Surroundings<'a> {
    /// Folders of our own that are never backed up: a pool inside itself would grow with each run.
    pub(crate) never: Vec<PathBuf>,
    /// The folder of the state, for files of the moment.
    pub(crate) state: PathBuf,
    /// Nothing is to be changed, not even for a moment: look, but stop no service.
    pub(crate) dry_run: bool,
    /// So many things that wait, and that the point will not contain, were accepted for this run; `None`: as configured.
    pub(crate) accept_pending: Option<u64>,
    /// Watches the run and may ask it to stop.
    pub(crate) monitor: &'a dyn Monitor,
}

/// What a look at a source found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was looked at, such as `source /srv`.
    pub(crate) what: String,
    /// What is well about it, or what is wrong and what helps.
    pub(crate) state: Result<String, (String, String)>,
}

impl Finding {
    /// Returns the finding that something is well.
    pub(crate) fn good(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { what: what.into(), state: Ok(reason.into()) }
    }

    /// Returns the finding that something is wrong.
    pub(crate) fn bad(
        what: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), state: Err((reason.into(), fix.into())) }
    }
}

/// Gives points of a kind back to the service they are of.
pub(crate) trait Restorer {
    /// Restores `point` as `order` says. Everything that can be known to be wrong is found before anything is changed, and told together.
    ///
    /// # Errors
    /// Whatever keeps the service from having the whole point; the message says what is there now.
    fn restore(
        &self,
        point: &PointContents<'_>,
        order: &RestoreOrder<'_>,
    ) -> Result<RestoredService, Cause>;
}

/// How a point is to go back to its service.
pub(crate) struct RestoreOrder<'a> {
    /// What was typed, `NAME=VALUE`; what was not is inherited from the point or the configuration.
    pub(crate) parameters: BTreeMap<String, String>,
    /// What is there under the target's name may go; a point of it is made first where the kind can do so.
    pub(crate) replace: bool,
    /// What happens to single things that are there already, where the kind can merge: `fail`, `merge` or `replace`.
    pub(crate) conflict: ServiceConflict,
    /// Check everything, change nothing.
    pub(crate) dry_run: bool,
    /// So many things that wait in the target, and would be lost, were accepted; `None`: as configured.
    pub(crate) accept_pending: Option<u64>,
    /// The folder of the state.
    pub(crate) state: PathBuf,
    /// Makes a point of this source now, before it is replaced.
    pub(crate) safety_point: &'a dyn Fn(&dyn Workload) -> Result<PointId, Cause>,
}

/// What happens to things that a service has already under the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServiceConflict {
    /// Nothing is restored.
    #[default]
    Fail,
    /// What the point has is written, what else is there stays.
    Merge,
    /// Afterwards there is what the point has, and nothing else.
    Replace,
}

/// What a service was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RestoredService {
    /// The service, table or file that has the point's content now.
    pub(crate) target: String,
    /// Things given: rows, files, streams.
    pub(crate) items: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// A point of what was there before.
    pub(crate) safety_point: Option<PointId>,
    /// What remains to be known or done.
    pub(crate) notes: Vec<String>,
}

/// Something a workload found wrong.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct WorkloadError {
    /// What happened, to which object.
    pub(crate) message: String,
    /// What helps.
    pub(crate) hint: Option<String>,
    /// Whether a rule forbids it, rather than that it failed.
    pub(crate) refused: bool,
    /// Why.
    #[source]
    pub(crate) cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl WorkloadError {
    /// Returns the error that something failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, refused: false, cause: None }
    }

    /// Returns the error that a rule forbids something.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { refused: true, ..Self::failed(message) }
    }

    /// Adds what helps.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Adds why.
    pub(crate) fn because(
        self,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }
}

impl From<WorkloadError> for Cause {
    fn from(error: WorkloadError) -> Self {
        Self::Workload(Box::new(error))
    }
}

/// Returns the workload of a source.
pub(crate) fn of(source: &SourceConfig) -> Box<dyn Workload> {
    match source {
        SourceConfig::Files(config) => Box::new(files::Files::new(config.clone())),
        SourceConfig::Sqlite(config) => Box::new(sqlite::Sqlite::new(config.clone())),
        SourceConfig::AzureTable(config) => Box::new(azure_table::AzureTable::new(config.clone())),
        SourceConfig::Command(config) => Box::new(command::CommandExport::new((**config).clone())),
        SourceConfig::Mariadb(config) => Box::new(mariadb::Mariadb::new(config.clone())),
        SourceConfig::Postgres(config) => Box::new(postgres::Postgres::new(config.clone())),
    }
}

/// Returns what gives points of this kind back to their service; `configured` is the source of the configuration that the point is of, if it is still
/// there. `None`: points of this kind go into folders only.
///
/// # Errors
/// The kind needs the source to be configured, and it is not.
pub(crate) fn restorer(
    kind: &str,
    configured: Option<&SourceConfig>,
) -> Result<Option<Box<dyn Restorer>>, WorkloadError> {
    match (kind, configured) {
        ("command", Some(SourceConfig::Command(config))) => {
            Ok(Some(Box::new(command::CommandRestore::new((**config).clone()))))
        }
        ("command", _) => Err(WorkloadError::failed(
            "the configuration has no such command source, and a point never brings commands with it",
        )
        .hint("add the source to the group again, with its restore commands; or use --to DIR to get the exports as files")),
        ("azure-table", configured) => {
            let configured = match configured {
                Some(SourceConfig::AzureTable(config)) => Some(config.clone()),
                _ => None,
            };
            Ok(Some(Box::new(azure_table::AzureTableRestore::new(configured))))
        }
        ("sqlite", _) => Ok(Some(Box::new(sqlite::SqliteRestore))),
        _ => Ok(None),
    }
}
