//! An entry of `sources`: which kind of workload, and its own keys.

use std::path::PathBuf;

use toml_edit::{InlineTable, Value};

use super::ConfigError;
use super::azure_table::AzureTableConfig;
use super::command::CommandConfig;
use super::group::size;
use super::mariadb::MariadbConfig;
use super::postgres::PostgresConfig;
use super::reader::Section;
use super::sqlite::SqliteConfig;

/// Kinds of data sources.
const WORKLOADS: [&str; 6] = ["files", "command", "postgres", "mariadb", "sqlite", "azure-table"];

/// One entry of `sources`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SourceConfig {
    /// Files and folders.
    Files(FilesConfig),
    /// What programs say.
    Command(Box<CommandConfig>),
    /// SQLite databases.
    Sqlite(SqliteConfig),
    /// Tables of an Azure Storage account.
    AzureTable(AzureTableConfig),
    /// A PostgreSQL cluster.
    Postgres(PostgresConfig),
    /// A MariaDB or MySQL server.
    Mariadb(MariadbConfig),
}

/// `{ files = [...] }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FilesConfig {
    /// Files and folders, absolute.
    pub(crate) paths: Vec<PathBuf>,
    /// Patterns of what is left out.
    pub(crate) exclude: Vec<String>,
    /// The same, without regard to upper and lower case.
    pub(crate) iexclude: Vec<String>,
    /// Leave out marked caches.
    pub(crate) exclude_caches: bool,
    /// Leave out folders that hold such a file.
    pub(crate) exclude_if_present: Vec<String>,
    /// Leave out larger files, in bytes.
    pub(crate) exclude_larger_than: Option<u64>,
    /// Stay on the file system of each path.
    pub(crate) one_file_system: bool,
    /// Files that are SQLite databases are copied as databases.
    pub(crate) sqlite_aware: bool,
}

impl SourceConfig {
    pub(super) fn read(section: &Section<'_>) -> Result<Self, ConfigError> {
        let kinds: Vec<&str> =
            WORKLOADS.into_iter().filter(|kind| section.get(kind).is_some()).collect();
        if let [first, second, ..] = kinds.as_slice() {
            let message = format!("one source is one thing: {first} and {second} are two");
            return Err(section.wrong(second, message));
        }
        match kinds.first() {
            Some(&"files") => FilesConfig::read(section).map(Self::Files),
            Some(&"command") => CommandConfig::read(section).map(Box::new).map(Self::Command),
            Some(&"sqlite") => SqliteConfig::read(section).map(Self::Sqlite),
            Some(&"azure-table") => AzureTableConfig::read(section).map(Self::AzureTable),
            Some(&"postgres") => PostgresConfig::read(section).map(Self::Postgres),
            Some(&"mariadb") => MariadbConfig::read(section).map(Self::Mariadb),
            _ => {
                section.only_known(&[&WORKLOADS[..], &FilesConfig::KEYS[1..]].concat())?;
                let kinds = WORKLOADS.join(", ");
                let message = format!("{}: expected one of {kinds}", section.name());
                Err(section.complaint(message))
            }
        }
    }

    /// Returns the source as it is in force.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::Files(files) => files.shown(),
            Self::Command(command) => command.shown(),
            Self::Sqlite(sqlite) => sqlite.shown(),
            Self::AzureTable(tables) => tables.shown(),
            Self::Postgres(postgres) => postgres.shown(),
            Self::Mariadb(mariadb) => mariadb.shown(),
        }
    }

    /// Returns the kind of workload.
    pub(crate) fn workload(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Command(_) => "command",
            Self::Sqlite(_) => "sqlite",
            Self::AzureTable(_) => "azure-table",
            Self::Postgres(_) => "postgres",
            Self::Mariadb(_) => "mariadb",
        }
    }

    /// Returns the name of the data source, by which its points are a series.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Files(files) => {
                let paths = files.paths.iter().map(|path| path.display().to_string());
                paths.collect::<Vec<_>>().join(", ")
            }
            Self::Command(command) => command.name.clone(),
            Self::Sqlite(sqlite) => sqlite.name(),
            Self::AzureTable(tables) => tables.name(),
            Self::Postgres(postgres) => postgres.name(),
            Self::Mariadb(mariadb) => mariadb.name(),
        }
    }
}

impl FilesConfig {
    const KEYS: [&str; 8] = [
        "files",
        "exclude",
        "iexclude",
        "exclude_caches",
        "exclude_if_present",
        "exclude_larger_than",
        "one_file_system",
        "sqlite_aware",
    ];

    fn read(section: &Section<'_>) -> Result<Self, ConfigError> {
        section.only_known(&Self::KEYS)?;
        let expected = "a list of paths such as [\"/srv\", \"/etc\"]";
        let texts = section.texts("files", expected)?.unwrap_or_default();
        if texts.is_empty() {
            return Err(section.wrong("files", format!("expected {expected}")));
        }
        let mut paths: Vec<PathBuf> = texts.iter().map(|text| section.resolve(text)).collect();
        // As the source names itself, so that its points are found again whatever the order here.
        paths.sort();
        paths.dedup();
        let patterns =
            |key| section.texts(key, "a list of patterns").map(Option::unwrap_or_default);
        Ok(Self {
            paths,
            exclude: patterns("exclude")?,
            iexclude: patterns("iexclude")?,
            exclude_caches: section.flag("exclude_caches")?,
            exclude_if_present: patterns("exclude_if_present")?,
            exclude_larger_than: section.value("exclude_larger_than", size)?,
            one_file_system: section.flag("one_file_system")?,
            sqlite_aware: section.flag("sqlite_aware")?,
        })
    }

    fn shown(&self) -> Value {
        let mut table = InlineTable::new();
        let list = |texts: &[String]| Value::Array(texts.iter().collect());
        table.insert("files", self.paths.iter().map(|path| path.display().to_string()).collect());
        table.insert("exclude", list(&self.exclude));
        table.insert("iexclude", list(&self.iexclude));
        table.insert("exclude_caches", self.exclude_caches.into());
        table.insert("exclude_if_present", list(&self.exclude_if_present));
        if let Some(bytes) = self.exclude_larger_than {
            table.insert("exclude_larger_than", (bytes as i64).into());
        }
        table.insert("one_file_system", self.one_file_system.into());
        table.insert("sqlite_aware", self.sqlite_aware.into());
        Value::InlineTable(table)
    }
}
