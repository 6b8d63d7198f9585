//! A base and its WAL made into a data directory that starts.
//!
//! The WAL is put beside the base (`keepwell_wal`) before the cluster is started: from then on neither pool nor vault is needed, and a server that is
//! stopped in the middle of its recovery goes on with it. The control file gets its name last, so that half a cluster never starts.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use storepool::chunks::ChunkSource;
use storepool::entry::EntryPath;

use super::base::{ArchiveDetail, BaseDetail, DETAIL_FORMAT, Tablespace};
use super::error::PostgresError;
use super::lsn::{Lsn, WalFile};
use super::route::{LogEnd, Route, Shelf, Target};
use super::unpack::{CONTROL, CONTROL_UNTIL_DONE, Owner, Unpacker, give};
use super::wal_tree::WalTree;
use crate::accounts;
use crate::console::units::to_jiff;
use crate::error::Cause;
use crate::workload::PointContents;

/// Folder of the WAL that recovery reads, in the data directory.
const WAL_FOLDER: &str = "keepwell_wal";
/// Longest history of a timeline.
const HISTORY_LIMIT: u64 = 1 << 20;

/// A point with WAL of the cluster.
pub(crate) struct WalPoint<'a> {
    /// What is in it.
    pub(crate) contents: PointContents<'a>,
    /// Its files.
    pub(crate) tree: WalTree,
}

impl<'a> WalPoint<'a> {
    /// Reads which files a point holds.
    pub(crate) fn open(contents: PointContents<'a>) -> Result<Self, Cause> {
        let chunks: &dyn ChunkSource = contents.chunks;
        let reader = chunks.reader()?;
        let tree = WalTree::read(&*reader, contents.manifest.root)?;
        Ok(Self { contents, tree })
    }
}

/// What is wanted.
pub(crate) struct ClusterOrder<'a> {
    /// The new data directory: empty, or not there.
    pub(crate) directory: &'a Path,
    /// Places for tablespaces, by where they were.
    pub(crate) tablespaces: &'a BTreeMap<PathBuf, PathBuf>,
    /// How far the cluster is brought.
    pub(crate) target: Target,
    /// On which timeline; `None`: the newest.
    pub(crate) timeline: Option<u32>,
    /// Check and plan, but write nothing.
    pub(crate) dry_run: bool,
}

/// What was made.
#[derive(Debug)]
pub(crate) struct RestoredCluster {
    /// Files of the base.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Files of WAL beside it.
    pub(crate) wal_files: u64,
    /// The timeline that recovery follows.
    pub(crate) timeline: u32,
    /// From where on it is consistent.
    pub(crate) base_end: Lsn,
    /// Tablespaces and their places.
    pub(crate) tablespaces: Vec<PathBuf>,
}

/// Makes a data directory. On return it is durable and starts.
///
/// # Errors
/// The target cannot be reached, a folder is not empty: then nothing was written. Failures in the middle leave a folder that does not start.
pub(crate) fn restore(
    point: &PointContents<'_>,
    wal: &[WalPoint<'_>],
    base: &BaseDetail,
    order: &ClusterOrder<'_>,
) -> Result<RestoredCluster, Cause> {
    if base.format != DETAIL_FORMAT {
        return Err(unusable("the description", "a newer version of Keepwell wrote it").into());
    }
    let library = Library::of(wal)?;
    let route = library.shelf.route(base, order.target, order.timeline)?;
    let places = places(base, order)?;
    let mut restored = RestoredCluster {
        files: 0,
        bytes: 0,
        wal_files: route.files.len() as u64,
        timeline: route.timeline,
        base_end: base.end,
        tablespaces: places[..places.len().saturating_sub(1)].to_vec(),
    };
    if order.dry_run {
        return Ok(restored);
    }
    let owner = owner(order.directory);
    for place in &places {
        make_folder(place, owner)?;
    }
    for (archive, place) in base.archives.iter().zip(&places) {
        let path = entry(&archive.file)?;
        let mut unpacker = Unpacker::new(place, owner);
        point.copy(&path, &mut unpacker)?;
        let (files, bytes) =
            unpacker.finish().map_err(|error| unusable(&archive.file, &error.to_string()))?;
        restored.files += files;
        restored.bytes += bytes;
    }
    let data = order.directory;
    let control = fs::metadata(data.join(CONTROL_UNTIL_DONE))
        .map_err(|_| unusable("the base", "it has no control file"))?;
    let finish = Finish { data, owner, recorded: (control.uid(), control.gid()) };
    finish.tablespace_map(base, &places)?;
    if order.target != Target::Base {
        finish.wal(&library, &route)?;
        finish.file("recovery.signal", b"")?;
    }
    finish.settings(order.target, &route)?;
    for place in &places {
        settle(place)?;
    }
    let (from, to) = (data.join(CONTROL_UNTIL_DONE), data.join(CONTROL));
    fs::rename(&from, &to).map_err(PostgresError::file("rename", &from))?;
    settle(data)?;
    Ok(restored)
}

/// Returns how far the WAL leads on from a base.
///
/// # Errors
/// The pool cannot be read, or a history of a timeline is none.
pub(crate) fn log_end(wal: &[WalPoint<'_>], base: &BaseDetail) -> Result<LogEnd, Cause> {
    Ok(Library::of(wal)?.shelf.end(base)?)
}

// Where each file of WAL is.
struct Library<'a> {
    wal: &'a [WalPoint<'a>],
    shelf: Shelf,
    place: BTreeMap<String, usize>,
}

impl<'a> Library<'a> {
    fn of(wal: &'a [WalPoint<'a>]) -> Result<Self, Cause> {
        let mut library = Self { wal, shelf: Shelf::default(), place: BTreeMap::new() };
        for (number, point) in wal.iter().enumerate() {
            for (name, file) in point.tree.files() {
                if library.place.contains_key(name) {
                    continue;
                }
                library.place.insert(name.to_string(), number);
                library.shelf.files.insert(name.to_string(), file.modified);
                if let Some(WalFile::History(timeline)) = WalFile::parse(name) {
                    let text = library.history(name, file.size)?;
                    library.shelf.histories.insert(timeline, text);
                }
            }
        }
        Ok(library)
    }

    fn history(&self, name: &str, size: u64) -> Result<String, Cause> {
        if size > HISTORY_LIMIT {
            return Err(unusable(name, "it is too long").into());
        }
        let mut bytes = Vec::new();
        self.copy(name, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| unusable(name, "it is no text").into())
    }

    fn copy(&self, name: &str, out: &mut dyn Write) -> Result<(), Cause> {
        let missing = || unusable(name, "it is not there");
        let file = WalFile::parse(name).ok_or_else(missing)?;
        let number = self.place.get(name).ok_or_else(missing)?;
        let path = entry(&format!("{}/{name}", file.folder()))?;
        self.wal[*number].contents.copy(&path, out)?;
        Ok(())
    }
}

fn unusable(object: &str, why: &str) -> PostgresError {
    PostgresError::Unusable { object: object.to_string(), why: why.to_string() }
}

fn entry(path: &str) -> Result<EntryPath, PostgresError> {
    EntryPath::parse(path.as_bytes()).ok_or_else(|| unusable(path, "it is no path"))
}

// The folder of each archive, in their order; all are free. A point never chooses a place by itself: whoever restores names one for each tablespace.
fn places(base: &BaseDetail, order: &ClusterOrder<'_>) -> Result<Vec<PathBuf>, PostgresError> {
    let spaces: Vec<&Tablespace> =
        base.archives.iter().filter_map(|archive| archive.tablespace.as_ref()).collect();
    if let Some(space) = spaces.iter().find(|space| !is_number(&space.oid)) {
        return Err(unusable(&format!("tablespace {}", space.oid), "it has no number"));
    }
    let known = |old: &Path| spaces.iter().any(|space| space.location == old);
    if let Some(stranger) = order.tablespaces.keys().find(|old| !known(old)) {
        return Err(unusable(&stranger.display().to_string(), "no tablespace was there"));
    }
    let unplaced = spaces.iter().filter(|space| !order.tablespaces.contains_key(&space.location));
    let unplaced: Vec<PathBuf> = unplaced.map(|space| space.location.clone()).collect();
    if !unplaced.is_empty() {
        return Err(PostgresError::TablespacesUnplaced { locations: unplaced });
    }
    let mut places: Vec<PathBuf> = Vec::new();
    for ArchiveDetail { tablespace, .. } in &base.archives {
        let named = tablespace.as_ref().and_then(|space| order.tablespaces.get(&space.location));
        let place = named.map_or(order.directory, PathBuf::as_path);
        if places.iter().any(|other| other.starts_with(place) || place.starts_with(other)) {
            return Err(PostgresError::TargetNotEmpty { path: place.to_path_buf() });
        }
        must_be_free(place)?;
        places.push(place.to_path_buf());
    }
    Ok(places)
}

// Names a link in the data directory: nothing else may be in it.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn must_be_free(path: &Path) -> Result<(), PostgresError> {
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(PostgresError::TargetNotEmpty { path: path.to_path_buf() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(PostgresError::file("list", path)(cause)),
    }
}

// PostgreSQL does not run as root: what root restores goes to whoever owns the folder already, or to the user that Debian and others run it as.
fn owner(directory: &Path) -> Owner {
    if !rustix::process::geteuid().is_root() {
        return Owner::Oneself;
    }
    match fs::metadata(directory) {
        Ok(folder) if folder.uid() != 0 => Owner::Numbers(folder.uid(), folder.gid()),
        _ => match accounts::user("postgres") {
            Some(user) => Owner::Numbers(user.uid, user.gid),
            None => Owner::Recorded,
        },
    }
}

fn make_folder(path: &Path, owner: Owner) -> Result<(), PostgresError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(PostgresError::file("create", path))?;
    // The owner that an archive records is only known once it was read; until then the folder is ours.
    if owner != Owner::Recorded {
        give(path, owner, (0, 0))?;
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(path, mode).map_err(PostgresError::file("set the mode of", path))
}

fn settle(path: &Path) -> Result<(), PostgresError> {
    let folder = File::open(path).map_err(PostgresError::file("open", path))?;
    rustix::fs::syncfs(&folder)
        .map_err(|cause| PostgresError::file("make durable", path)(cause.into()))
}

struct Finish<'a> {
    data: &'a Path,
    owner: Owner,
    recorded: (u32, u32),
}

impl Finish<'_> {
    fn file(&self, name: &str, content: &[u8]) -> Result<(), PostgresError> {
        let path = self.data.join(name);
        let mut file = self.create(&path)?;
        file.write_all(content).map_err(PostgresError::file("write", &path))
    }

    fn create(&self, path: &Path) -> Result<File, PostgresError> {
        let options =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = options.map_err(PostgresError::file("create", path))?;
        give(path, self.owner, self.recorded)?;
        Ok(file)
    }

    fn wal(&self, library: &Library<'_>, route: &Route) -> Result<(), Cause> {
        let folder = self.data.join(WAL_FOLDER);
        make_folder(&folder, self.owner)?;
        give(&folder, self.owner, self.recorded)?;
        for name in &route.files {
            let path = folder.join(name);
            let mut file = self.create(&path)?;
            library.copy(name, &mut file)?;
        }
        Ok(())
    }

    // The server makes the links of tablespaces by this map when it starts.
    fn tablespace_map(&self, base: &BaseDetail, places: &[PathBuf]) -> Result<(), PostgresError> {
        let mut map = Vec::new();
        for (archive, place) in base.archives.iter().zip(places) {
            if let Some(space) = &archive.tablespace {
                map.extend_from_slice(format!("{} ", space.oid).as_bytes());
                for byte in place.as_os_str().as_bytes() {
                    if matches!(byte, b'\n' | b'\r' | b'\\') {
                        map.push(b'\\');
                    }
                    map.push(*byte);
                }
                map.push(b'\n');
                if self.owner == Owner::Recorded {
                    give(place, self.owner, self.recorded)?;
                }
            }
        }
        if self.owner == Owner::Recorded {
            give(self.data, self.owner, self.recorded)?;
        }
        if map.is_empty() { Ok(()) } else { self.file("tablespace_map", &map) }
    }

    // The last setting of a name counts, so these stand at the end.
    fn settings(&self, target: Target, route: &Route) -> Result<(), PostgresError> {
        let path = self.data.join("postgresql.auto.conf");
        let mut text = format!("\n# Added by \"keepwell restore\": recovery to {target}.\n");
        text.push_str(
            "# A cluster that was restored must not archive where the one it is of still may: switch it on again when it takes over.\n\
             archive_mode = 'off'\n",
        );
        if target != Target::Base {
            text.push_str(&format!(
                "restore_command = 'cp \"{WAL_FOLDER}/%f\" \"%p\"'\n\
                 recovery_target_timeline = '{}'\n\
                 recovery_target_action = 'promote'\n",
                route.timeline
            ));
        }
        match target {
            Target::Base | Target::Latest => {}
            Target::Time(time) => {
                // The server takes no letter for the zone here.
                let moment = to_jiff(time).strftime("%Y-%m-%d %H:%M:%S%.6f+00");
                text.push_str(&format!("recovery_target_time = '{moment}'\n"));
            }
            // What the server shows as its place is where the next record will begin: that one, perhaps a commit, had not happened.
            Target::Lsn(lsn) => text.push_str(&format!(
                "recovery_target_lsn = '{lsn}'\nrecovery_target_inclusive = 'off'\n"
            )),
        }
        let file = File::options().append(true).create(true).mode(0o600).open(&path);
        let mut file = file.map_err(PostgresError::file("open", &path))?;
        file.write_all(text.as_bytes()).map_err(PostgresError::file("write", &path))?;
        give(&path, self.owner, self.recorded)
    }
}
