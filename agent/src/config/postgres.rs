//! `{ postgres = { ... } }`: a PostgreSQL cluster as a data source.

use std::path::PathBuf;

use toml_edit::{InlineTable, Value};

use super::ConfigError;
use super::databases::{DatabasesConfig, shown_source};
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
    /// How a TCP connection is protected.
    pub(crate) sslmode: SslMode,
    /// A file with the certificates of the authorities that are trusted; `None`: those of the system.
    pub(crate) sslrootcert: Option<PathBuf>,
    /// A physical base of the whole cluster is part of each point.
    pub(crate) physical: bool,
    /// Who reads the files of a base.
    pub(crate) read_from: ReadFrom,
    /// Its WAL comes by `wal-push`.
    pub(crate) wal: bool,
    /// Databases that are dumped too.
    pub(crate) dump: DatabasesConfig,
}

/// Who reads the files of a base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReadFrom {
    /// We where we can, else the server.
    #[default]
    Auto,
    /// We.
    Files,
    /// The server, which sends them.
    Server,
}

impl ReadFrom {
    const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("files", Self::Files), ("server", Self::Server)];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("auto", |(word, _)| word)
    }

    fn read(section: &Section<'_>, host: Option<&str>) -> Result<Self, ConfigError> {
        let expected = "auto, files or server";
        let Some(word) = section.text("read_from", expected)? else {
            return Ok(Self::default());
        };
        let known = Self::ALL.into_iter().find(|(name, _)| *name == word);
        let (_, read_from) =
            known.ok_or_else(|| section.wrong("read_from", format!("expected {expected}")))?;
        match (read_from, host) {
            (Self::Files, Some(_)) => Err(section.wrong(
                "read_from",
                "files are read only where the server is reached by its Unix socket: leave host away",
            )),
            _ => Ok(read_from),
        }
    }
}

/// How a TCP connection is protected; the words are those of PostgreSQL's own clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    /// Not at all.
    Disable,
    /// Encrypted, whoever answers.
    Require,
    /// Encrypted, and the server shows a certificate of a trusted authority for its name.
    VerifyFull,
}

impl SslMode {
    /// Returns the mode as it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Require => "require",
            Self::VerifyFull => "verify-full",
        }
    }

    fn read(section: &Section<'_>, host: Option<&str>) -> Result<Self, ConfigError> {
        let expected = "disable, require or verify-full";
        let Some(word) = section.text("sslmode", expected)? else {
            // Nobody else reads what does not leave the machine.
            return Ok(match host {
                Some(host) if !is_own(host) => Self::VerifyFull,
                _ => Self::Disable,
            });
        };
        let modes = [Self::Disable, Self::Require, Self::VerifyFull];
        let mode = modes.into_iter().find(|mode| mode.word() == word);
        let mode = mode.ok_or_else(|| section.wrong("sslmode", format!("expected {expected}")))?;
        match (mode, host) {
            (Self::Require | Self::VerifyFull, None) => {
                Err(section.wrong("sslmode", "a Unix socket has no TLS: name a host"))
            }
            _ => Ok(mode),
        }
    }
}

/// Returns whether a host is this machine.
pub(crate) fn is_own(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1")
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
            "sslmode",
            "sslrootcert",
            "physical",
            "read_from",
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
        let wal = section.flag("wal")?;
        let is_physical = section.get("physical").is_none() || section.flag("physical")?;
        if wal && !is_physical {
            return Err(
                section.wrong("wal", "WAL needs a physical base: leave physical = false away")
            );
        }
        let (physical, dump) = DatabasesConfig::read(&section)?;
        let sslmode = SslMode::read(&section, host.as_deref())?;
        let read_from = ReadFrom::read(&section, host.as_deref())?;
        Ok(Self {
            name: section.text("name", "a name for the cluster")?.map(str::to_string),
            socket: socket.unwrap_or_else(|| USUAL_SOCKET.into()),
            host,
            port: port.unwrap_or(USUAL_PORT),
            user: user.to_string(),
            password_file: section.path("password_file", "a file with the password")?,
            sslmode,
            sslrootcert: section.path("sslrootcert", "a file with certificates")?,
            physical,
            read_from,
            wal,
            dump,
        })
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
        if self.host.is_some() {
            table.insert("sslmode", self.sslmode.word().into());
        }
        if let Some(file) = &self.sslrootcert {
            table.insert("sslrootcert", file.display().to_string().into());
        }
        table.insert("physical", self.physical.into());
        table.insert("read_from", self.read_from.word().into());
        table.insert("wal", self.wal.into());
        table.insert("dump", self.dump.shown());
        shown_source("postgres", table)
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
