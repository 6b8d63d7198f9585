//! What on this machine could be protected, and whether it is: databases by the sockets they listen on, SQLite files on request, folders with much in them.
//!
//! It errs on one side only: what is called protected is in a source of a group by its very path or socket. Where a group has a source of the kind that may
//! or may not be this one, it is a perhaps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use storepool::filetree::lexically_clean;

use super::WorkloadError;
use super::mariadb::greeting;
use super::mariadb::programs::Flavour;
use super::sqlite::discovery::find;
use crate::config::{Config, SourceConfig};

/// Where people keep what is theirs.
const USUAL_PLACES: [&str; 8] =
    ["/etc", "/home", "/opt", "/root", "/srv", "/usr/local", "/var/lib", "/var/www"];
/// File systems that keep files.
const DISKS: [&str; 8] = ["bcachefs", "btrfs", "ext2", "ext3", "ext4", "jfs", "xfs", "zfs"];
/// Entries of a folder that are counted; then it is at least so large.
const ENTRIES_MOST: usize = 200_000;
/// The flag of a socket that accepts connections, in /proc/net/unix.
const LISTENS: u32 = 0x0001_0000;

/// Whether something is in a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// No group has it.
    Not,
    /// This group has a part of it.
    Partly(String),
    /// This group has a source of its kind; whether it is this one is not known.
    Perhaps(String),
    /// This group has it.
    By(String),
}

/// Something that could be protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Discovered {
    /// Kind of workload that fits; `mysql` for a MySQL server, which is protected by `mariadb`.
    pub(crate) kind: &'static str,
    /// Socket, file or folder.
    pub(crate) place: PathBuf,
    /// Bytes in it, as far as they were counted.
    pub(crate) bytes: Option<u64>,
    /// Whether it is.
    pub(crate) protection: Protection,
}

/// Where to look.
pub(crate) struct Search<'a> {
    /// Folders in which SQLite databases are looked for.
    pub(crate) sqlite: &'a [PathBuf],
    /// Folders that are looked at instead of the usual places.
    pub(crate) folders: &'a [PathBuf],
    /// Smaller folders are not worth a word, in bytes.
    pub(crate) least: u64,
    /// Folders of our own.
    pub(crate) never: &'a [PathBuf],
}

/// Looks around.
///
/// # Errors
/// A folder that was named cannot be read.
pub(crate) fn discover(
    config: &Config,
    search: &Search<'_>,
) -> Result<Vec<Discovered>, WorkloadError> {
    let mut found = databases(config);
    for folder in search.sqlite {
        for place in find(folder, search.never)? {
            let bytes = std::fs::metadata(&place).ok().map(|metadata| metadata.len());
            let protection = of_database(config, &place);
            found.push(Discovered { kind: "sqlite", place, bytes, protection });
        }
    }
    for place in places(search)? {
        let bytes = measure(&place, search.never);
        if bytes >= search.least {
            let protection = of_folder(config, &place);
            found.push(Discovered { kind: "files", place, bytes: Some(bytes), protection });
        }
    }
    Ok(found)
}

fn databases(config: &Config) -> Vec<Discovered> {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in sockets.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, flags, _, _, _, path] = fields.as_slice() else { continue };
        let listens = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LISTENS != 0);
        if let Some(kind) = kind_of_socket(Path::new(path)).filter(|_| listens) {
            found.insert((kind, PathBuf::from(path)));
        }
    }
    let discovered = |(kind, place): (&'static str, PathBuf)| {
        let same = |source: &SourceConfig| is_reached_by(source, &place);
        let of_kind = |source: &SourceConfig| source.workload() == kind;
        let protection = group_with(config, same)
            .map(Protection::By)
            .or_else(|| group_with(config, of_kind).map(Protection::Perhaps));
        let protection = protection.unwrap_or(Protection::Not);
        let kind = if is_mysql(kind, &place) { "mysql" } else { kind };
        Discovered { kind, place, bytes: None, protection }
    };
    found.into_iter().map(discovered).collect()
}

// Whether a source goes to its database by this very socket.
fn is_reached_by(source: &SourceConfig, socket: &Path) -> bool {
    // /var/run is /run almost everywhere.
    let same = |one: &Path, other: &Path| match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    };
    match source {
        SourceConfig::Postgres(postgres) => {
            let name = format!(".s.PGSQL.{}", postgres.port);
            postgres.host.is_none() && same(&postgres.socket.join(name), socket)
        }
        SourceConfig::Mariadb(mariadb) => same(&mariadb.socket, socket),
        _ => false,
    }
}

// Both listen under the same names. What does not answer may be either.
fn is_mysql(kind: &str, socket: &Path) -> bool {
    let is_it = |version: String| Flavour::of(&version) == Flavour::Mysql;
    kind == "mariadb" && greeting::version(socket).is_some_and(is_it)
}

fn kind_of_socket(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match name {
        "mysqld.sock" | "mysql.sock" | "mariadb.sock" => Some("mariadb"),
        name if name.strip_prefix(".s.PGSQL.").is_some_and(is_port) => Some("postgres"),
        _ => None,
    }
}

fn group_with(config: &Config, is_it: impl Fn(&SourceConfig) -> bool) -> Option<String> {
    let mut groups = config.groups.values().filter(|group| !group.paused);
    groups.find(|group| group.sources.iter().any(&is_it)).map(|group| group.name.clone())
}

fn of_database(config: &Config, place: &Path) -> Protection {
    let is_copied = |source: &SourceConfig| match source {
        SourceConfig::Sqlite(sqlite) => {
            sqlite.files.iter().any(|file| file == place)
                || sqlite.discover.iter().any(|folder| place.starts_with(folder))
        }
        SourceConfig::Files(files) if files.sqlite_aware => {
            files.paths.iter().any(|path| place.starts_with(lexically_clean(path)))
        }
        _ => false,
    };
    // Read as a file it may be torn: that is no protection of a database in use.
    let is_read = |source: &SourceConfig| match source {
        SourceConfig::Files(files) => {
            files.paths.iter().any(|path| place.starts_with(lexically_clean(path)))
        }
        _ => false,
    };
    group_with(config, is_copied)
        .map(Protection::By)
        .or_else(|| group_with(config, is_read).map(Protection::Perhaps))
        .unwrap_or(Protection::Not)
}

fn of_folder(config: &Config, place: &Path) -> Protection {
    let covers = |source: &SourceConfig| match source {
        // What is excluded, or lies on another disk, is known at the backup only.
        SourceConfig::Files(files) => {
            files.paths.iter().any(|path| place.starts_with(lexically_clean(path)))
        }
        _ => false,
    };
    let touches = |source: &SourceConfig| match source {
        SourceConfig::Files(files) => {
            files.paths.iter().any(|path| lexically_clean(path).starts_with(place))
        }
        _ => false,
    };
    group_with(config, covers)
        .map(Protection::By)
        .or_else(|| group_with(config, touches).map(Protection::Partly))
        .unwrap_or(Protection::Not)
}

fn places(search: &Search<'_>) -> Result<Vec<PathBuf>, WorkloadError> {
    if search.folders.is_empty() {
        let usual = USUAL_PLACES.iter().map(PathBuf::from).chain(mounts());
        let places: BTreeSet<PathBuf> = usual.filter(|path| path.is_dir()).collect();
        return Ok(places.into_iter().collect());
    }
    let mut places = Vec::new();
    for folder in search.folders {
        let failed = |cause| {
            WorkloadError::failed(format!("cannot look into {}", folder.display())).because(cause)
        };
        let entries = std::fs::read_dir(folder).map_err(failed)?;
        let folders = entries.flatten().filter(|entry| entry.path().is_dir());
        places.extend(folders.map(|entry| entry.path()));
    }
    places.sort();
    Ok(places)
}

// Disks beside that of the system.
fn mounts() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let disk = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        let path = PathBuf::from(place.replace("\\040", " "));
        let is_data = DISKS.contains(&kind) && place != "/" && !path.starts_with("/boot");
        (is_data && path.is_dir()).then_some(path)
    };
    text.lines().filter_map(disk).collect()
}

fn measure(folder: &Path, never: &[PathBuf]) -> u64 {
    let mut bytes = 0;
    let mut entries = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES_MOST {
                return bytes;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() && !never.contains(&entry.path()) => {
                    folders.push(entry.path());
                }
                Ok(metadata) if metadata.is_file() => bytes += metadata.len(),
                _ => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_known_by_their_sockets() {
        let kind = |path: &str| kind_of_socket(Path::new(path));

        assert_eq!(kind("/run/postgresql/.s.PGSQL.5432"), Some("postgres"));
        assert_eq!(kind("/run/postgresql/.s.PGSQL.5432.lock"), None);
        assert_eq!(kind("/run/mysqld/mysqld.sock"), Some("mariadb"));
        assert_eq!(kind("/run/systemd/notify"), None);
    }
}
