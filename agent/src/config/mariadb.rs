//! `{ mariadb = { ... } }`: a MariaDB or MySQL server as a data source.

use std::path::PathBuf;

use toml_edit::{InlineTable, Value};

use super::ConfigError;
use super::databases::{DatabasesConfig, shown_source};
use super::reader::Section;

/// Where Debian and most others put the socket.
const USUAL_SOCKET: &str = "/run/mysqld/mysqld.sock";

/// `{ mariadb = { ... } }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MariadbConfig {
    /// What its points are called by; without one it is its place.
    pub(crate) name: Option<String>,
    /// Its Unix socket.
    pub(crate) socket: PathBuf,
    /// Who backs up; `None`: as the option file says.
    pub(crate) user: Option<String>,
    /// An option file of the server's own programs, for user and password.
    pub(crate) defaults_file: Option<PathBuf>,
    /// Where the server's own programs are looked for before the usual places.
    pub(crate) programs: Option<PathBuf>,
    /// A physical copy of the whole server is part of each point.
    pub(crate) physical: bool,
    /// Its binary logs are part of each point.
    pub(crate) binlog: bool,
    /// Databases that are dumped too.
    pub(crate) dump: DatabasesConfig,
}

impl MariadbConfig {
    /// Reads `mariadb` of an entry of `sources`.
    pub(super) fn read(source: &Section<'_>) -> Result<Self, ConfigError> {
        source.only_known(&["mariadb"])?;
        let example = "mariadb = { socket = \"/run/mysqld/mysqld.sock\", binlog = true }";
        let section = source
            .section("mariadb", example)?
            .ok_or_else(|| source.wrong("mariadb", format!("expected {example}")))?;
        let keys =
            ["name", "socket", "user", "defaults_file", "programs", "physical", "binlog", "dump"];
        section.only_known(&keys)?;
        let (physical, dump) = DatabasesConfig::read(&section)?;
        let binlog = section.flag("binlog")?;
        if binlog && !physical && dump != DatabasesConfig::All {
            // They are of the whole server: there must be something that they can be replayed onto.
            return Err(section.wrong("binlog", "needs physical = true or dump = true"));
        }
        Ok(Self {
            name: section.text("name", "a name for the server")?.map(str::to_string),
            socket: section
                .path("socket", "the server's socket")?
                .unwrap_or_else(|| USUAL_SOCKET.into()),
            user: section.text("user", "the name of a user")?.map(str::to_string),
            defaults_file: section.path("defaults_file", "an option file")?,
            programs: section.path("programs", "the folder of the server's own programs")?,
            physical,
            binlog,
            dump,
        })
    }

    /// Returns the source as it is in force.
    pub(super) fn shown(&self) -> Value {
        let mut table = InlineTable::new();
        if let Some(name) = &self.name {
            table.insert("name", name.as_str().into());
        }
        table.insert("socket", self.socket.display().to_string().into());
        if let Some(user) = &self.user {
            table.insert("user", user.as_str().into());
        }
        if let Some(file) = &self.defaults_file {
            table.insert("defaults_file", file.display().to_string().into());
        }
        if let Some(folder) = &self.programs {
            table.insert("programs", folder.display().to_string().into());
        }
        table.insert("physical", self.physical.into());
        table.insert("binlog", self.binlog.into());
        table.insert("dump", self.dump.shown());
        shown_source("mariadb", table)
    }

    /// Returns whether its databases are dumped together, as of one moment: binary logs can be replayed onto nothing less.
    pub(crate) fn dumps_together(&self) -> bool {
        self.binlog && !self.physical
    }

    /// Returns the name of the data source.
    pub(crate) fn name(&self) -> String {
        let what = if self.physical { "mariadb" } else { "mariadb dumps of" };
        match &self.name {
            Some(name) => format!("{what} {name}"),
            None => format!("{what} {}", self.socket.display()),
        }
    }
}
