//! `{ postgres = { ... } }`: a PostgreSQL cluster as a data source.

use std::path::PathBuf;

use toml_edit::{InlineTable, Value};

use super::ConfigError;
use super::reader::Section;

/// Where Debian and most others put the socket.
const USUAL_SOCKET: &str = "/run/postgresql";
const USUAL_PORT: u16 = 5432;
const USUAL_USER: &str = "postgres";

/// `{ postgres = { ... } }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PostgresConfig {
    /// What its points are called by; without one it is its place.
    pub(crate) name: Option<String>,
    /// The folder of its Unix socket, unless there is a host.
    pub(crate) socket: PathBuf,
    /// Host name or address.
    pub(crate) host: Option<String>,
    /// Port.
    pub(crate) port: u16,
    /// The role that backs up.
    pub(crate) user: String,
    /// A file with its password.
    pub(crate) password_file: Option<PathBuf>,
    /// A physical base of the whole cluster is part of each point.
    pub(crate) physical: bool,
    /// Its WAL comes by `wal-push`.
    pub(crate) wal: bool,
    /// Databases that are dumped too.
    pub(crate) dump: DatabasesConfig,
}

/// Which databases are dumped one by one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DatabasesConfig {
    /// None.
    None,
    /// All that there are at the time of the backup.
    All,
    /// These.
    Named(Vec<String>),
}

impl DatabasesConfig {
    /// Reads `dump = true` or a list of names.
    pub(super) fn read(section: &Section<'_>, key: &str) -> Result<Self, ConfigError> {
        let Some(item) = section.get(key) else { return Ok(Self::None) };
        if item.is_bool() {
            return Ok(if section.flag(key)? { Self::All } else { Self::None });
        }
        let names = section.texts(key, "true, or a list of databases")?.unwrap_or_default();
        Ok(Self::Named(names))
    }

    /// Returns it as it is in force.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::None => false.into(),
            Self::All => true.into(),
            Self::Named(names) => Value::Array(names.iter().collect()),
        }
    }
}

impl PostgresConfig {
    /// Reads `postgres` of an entry of `sources`.
    pub(super) fn read(source: &Section<'_>) -> Result<Self, ConfigError> {
        source.only_known(&["postgres"])?;
        let example = "postgres = { socket = \"/run/postgresql\", wal = true }";
        let section = source
            .section("postgres", example)?
            .ok_or_else(|| source.wrong("postgres", format!("expected {example}")))?;
        section.only_known(&[
            "name",
            "socket",
            "host",
            "port",
            "user",
            "password_file",
            "physical",
            "wal",
            "dump",
        ])?;
        let host = section.text("host", "a host name or an address")?.map(str::to_string);
        let socket = section.path("socket", "the folder of the server's socket")?;
        if host.is_some() && socket.is_some() {
            return Err(section.wrong("host", "either a socket or a host, not both"));
        }
        let port = section.number("port", 1..=65_535)?.and_then(|port| u16::try_from(port).ok());
        let user = section.text("user", "the name of a role")?.unwrap_or(USUAL_USER);
        let physical = match section.get("physical") {
            None => true,
            Some(_) => section.flag("physical")?,
        };
        let config = Self {
            name: section.text("name", "a name for the cluster")?.map(str::to_string),
            socket: socket.unwrap_or_else(|| USUAL_SOCKET.into()),
            host,
            port: port.unwrap_or(USUAL_PORT),
            user: user.to_string(),
            password_file: section.path("password_file", "a file with the password")?,
            physical,
            wal: section.flag("wal")?,
            dump: DatabasesConfig::read(&section, "dump")?,
        };
        if !physical && config.wal {
            return Err(
                section.wrong("wal", "WAL needs a physical base: leave physical = false away")
            );
        }
        if !physical && config.dump == DatabasesConfig::None {
            return Err(section.wrong("physical", "nothing is left to back up: add dump = true"));
        }
        Ok(config)
    }

    /// Returns the source as it is in force.
    pub(super) fn shown(&self) -> Value {
        let mut table = InlineTable::new();
        if let Some(name) = &self.name {
            table.insert("name", name.as_str().into());
        }
        match &self.host {
            Some(host) => table.insert("host", host.as_str().into()),
            None => table.insert("socket", self.socket.display().to_string().into()),
        };
        table.insert("port", i64::from(self.port).into());
        table.insert("user", self.user.as_str().into());
        if let Some(file) = &self.password_file {
            table.insert("password_file", file.display().to_string().into());
        }
        table.insert("physical", self.physical.into());
        table.insert("wal", self.wal.into());
        table.insert("dump", self.dump.shown());
        let mut source = InlineTable::new();
        source.insert("postgres", table.into());
        Value::InlineTable(source)
    }

    /// Returns the name of the data source.
    pub(crate) fn name(&self) -> String {
        let what = if self.physical { "postgres" } else { "postgres dumps of" };
        match (&self.name, &self.host) {
            (Some(name), _) => format!("{what} {name}"),
            (None, Some(host)) => format!("{what} {host}:{}", self.port),
            (None, None) => format!("{what} {}:{}", self.socket.display(), self.port),
        }
    }

    /// Returns the name of the series that its WAL is.
    pub(crate) fn wal_name(&self) -> String {
        format!("{} WAL", self.name())
    }
}
