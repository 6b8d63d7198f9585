//! Files of which some are databases in use: those are copied as databases are, and the files that SQLite keeps beside them are left out, since the
//! copy has what stands in them.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storepool::filetree::FileTree;
use storepool::manifest::Owners;
use storepool::source::{
    DataSource, Listing, PlainStream, SourceDetail, SourceDirectory, SourceEntry, SourceError,
    SourceFile, SourceKind, SourceStat, SourceStream,
};

use super::{copy, discovery};
use crate::workload::streams::source_error;

/// What SQLite keeps beside a database.
const COMPANIONS: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];

/// A file tree that knows databases.
pub(in crate::workload) struct AwareTree {
    tree: FileTree,
    state: PathBuf,
}

impl AwareTree {
    /// Wraps a tree; copies are made below `state`.
    pub(in crate::workload) fn new(tree: FileTree, state: PathBuf) -> Self {
        Self { tree, state }
    }
}

impl DataSource for AwareTree {
    fn workload(&self) -> &str {
        self.tree.workload()
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.tree.paths()
    }

    fn root(&self) -> Result<(SourceStat, Arc<dyn SourceDirectory>), SourceError> {
        let (stat, real) = self.tree.root()?;
        // The root stands for the only path if that is a folder, for its parent if it is a file, else for the root of the machine.
        let path = match self.tree.source_paths() {
            [only] if only.is_dir() => only.clone(),
            [only] => only.parent().unwrap_or(Path::new("/")).to_path_buf(),
            _ => PathBuf::from("/"),
        };
        Ok((stat, Arc::new(AwareDirectory { real, path, state: self.state.clone() })))
    }

    fn owners(&self, users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Owners {
        self.tree.owners(users, groups)
    }
}

struct AwareDirectory {
    real: Arc<dyn SourceDirectory>,
    path: PathBuf,
    state: PathBuf,
}

impl AwareDirectory {
    fn path_of(&self, entry: &SourceEntry) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(&entry.name))
    }
}

impl SourceDirectory for AwareDirectory {
    fn list(&self) -> Result<Listing, SourceError> {
        let mut listing = self.real.list()?;
        let mut databases = BTreeSet::new();
        for entry in &mut listing.entries {
            let stat = &mut entry.stat;
            let possible = stat.kind == SourceKind::File && discovery::may_be(stat.size);
            let path = self.path.join(std::ffi::OsStr::from_bytes(&entry.name));
            if possible && discovery::is_database(&path) {
                stat.kind = SourceKind::Stream;
                databases.insert(entry.name.to_vec());
            }
        }
        let belongs = |name: &[u8]| {
            COMPANIONS.iter().any(|suffix| {
                name.strip_suffix(*suffix).is_some_and(|database| databases.contains(database))
            })
        };
        listing.entries.retain(|entry| !belongs(&entry.name));
        Ok(listing)
    }

    fn directory(&self, entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        let real = self.real.directory(entry)?;
        Ok(Arc::new(Self { real, path: self.path_of(entry), state: self.state.clone() }))
    }

    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        self.real.file(entry)
    }

    fn stream(&self, entry: &SourceEntry) -> Result<Box<dyn SourceStream>, SourceError> {
        let copy = copy::copy_stream(&self.path_of(entry), &self.state);
        Ok(Box::new(PlainStream(copy.map_err(|error| source_error(&error))?)))
    }

    fn detail(&self, entry: &SourceEntry) -> Result<SourceDetail, SourceError> {
        self.real.detail(entry)
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        self.real.own_detail()
    }
}
