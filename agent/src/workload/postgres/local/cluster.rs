//! Where the files of a cluster lie, seen from here; and that they are those of the server that was asked, not of another at the same path.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::super::base::{OLDEST_VERSION, Tablespace};
use super::super::connection::Connection;
use super::super::error::PostgresError;
use super::super::settings::Settings;
use super::control::{CONTROL, Control};
use super::folder::{Folder, Found};

type Result<T> = std::result::Result<T, PostgresError>;

/// Where the server writes its number.
const PID_FILE: &str = "postmaster.pid";
/// Longest first line of it.
const PID_LIMIT: u64 = 32;
/// Folder of WAL in the data directory.
pub(super) const WAL: &str = "pg_wal";
/// Folder of the links to tablespaces.
const SPACES: &str = "pg_tblspc";

/// The folders of a cluster, open.
pub(super) struct Cluster {
    /// The data directory.
    pub(super) data: Folder,
    /// The WAL, which may lie elsewhere.
    pub(super) wal: Folder,
    /// What it is known by.
    pub(super) system_identifier: u64,
    /// The folder in a tablespace that is this version's.
    space_folder: String,
}

/// A tablespace, open.
pub(super) struct Space {
    /// Which, and where its files lie for the server.
    pub(super) tablespace: Tablespace,
    /// The folder that all versions share.
    pub(super) folder: Folder,
}

impl Cluster {
    /// Finds the files of the server at the other end of `connection`, which is to a database of it.
    ///
    /// # Errors
    /// They cannot be read from here, or they may be another server's, or it is a standby: the server has to send them.
    pub(super) fn find(connection: &mut Connection) -> Result<Self> {
        let cannot = |server: &str, why: String| PostgresError::NotReadHere {
            server: server.to_string(),
            why,
        };
        let server = connection.server().to_string();
        let Some(process) = connection.peer() else {
            return Err(cannot(
                &server,
                "it is not reached by a Unix socket of this machine".to_string(),
            ));
        };
        let version = Settings::ask(connection)?.version;
        if version < OLDEST_VERSION {
            return Err(cannot(&server, format!("version {version} is too old")));
        }
        if connection.ask_one("SELECT pg_catalog.pg_is_in_recovery()")? != "f" {
            return Err(cannot(&server, "it is a standby".to_string()));
        }
        let path = PathBuf::from(connection.ask_one("SHOW data_directory")?);
        let unreadable =
            |path: &Path, error: io::Error| cannot(&server, format!("{}: {error}", path.display()));
        let data = Folder::open(&path).map_err(|error| unreadable(&path, error))?;
        let own = written_number(&data).map_err(|error| unreadable(&path.join(PID_FILE), error))?;
        // A server in a container, or the one that ran here before, may have the same path and the same system identifier.
        if own != Some(process) {
            let why = format!("{} is not the data directory of process {process}", path.display());
            return Err(cannot(&server, why));
        }
        let control = Control::read(&data);
        let control = control.map_err(|error| unreadable(&path.join(CONTROL), error))?;
        let wal = wal_folder(&data).map_err(|error| unreadable(&path.join(WAL), error))?;
        let space_folder = format!("PG_{}_{}", version / 10_000, control.catalog_version());
        Ok(Self { data, wal, system_identifier: control.system_identifier(), space_folder })
    }

    /// Opens its tablespaces, by their numbers.
    ///
    /// # Errors
    /// One of them cannot be reached from here.
    pub(super) fn spaces(&self) -> io::Result<Vec<Space>> {
        let mut spaces = BTreeMap::new();
        for found in self.data.list(Path::new(SPACES))? {
            let path = Path::new(SPACES).join(&found.name);
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            let oid = found.name.to_str().and_then(|name| name.parse::<u32>().ok());
            let (Some(oid), FileType::Symlink) = (oid, found.kind) else {
                return Err(named(io::Error::other("it is no link to a tablespace")));
            };
            let location = self.data.link(&path).map_err(named)?;
            let folder = Folder::open(&location).map_err(named)?;
            folder.look(self.space_folder()).map_err(named)?;
            spaces.insert(
                oid,
                Space { tablespace: Tablespace { oid: oid.to_string(), location }, folder },
            );
        }
        Ok(spaces.into_values().collect())
    }

    /// Returns the name of the folder in a tablespace that is this cluster's.
    pub(super) fn space_folder(&self) -> &Path {
        Path::new(&self.space_folder)
    }
}

fn written_number(data: &Folder) -> io::Result<Option<i32>> {
    let mut text = String::new();
    data.file(Path::new(PID_FILE))?.take(PID_LIMIT).read_to_string(&mut text)?;
    Ok(text.lines().next().and_then(|line| line.trim().parse().ok()))
}

fn wal_folder(data: &Folder) -> io::Result<Folder> {
    let found = data.list(Path::new(""))?;
    let is_link = |one: &Found| one.name == WAL && one.kind == FileType::Symlink;
    let path = match found.iter().any(is_link) {
        true => data.link(Path::new(WAL))?,
        false => data.path().join(WAL),
    };
    Folder::open(&path)
}
