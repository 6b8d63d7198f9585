//! The simulated file system: what is written, what is synced, and what a power cut leaves of the difference.
//!
//! Contents and names are durable apart, as POSIX has it: a file's bytes by its own sync, its name by that of its directory. Every change of a name is
//! remembered until then, with what it takes to undo it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::chance::Chance;

/// Files in memory.
#[derive(Default)]
pub(crate) struct FileSystem {
    folders: BTreeMap<PathBuf, Folder>,
    files: BTreeMap<u64, Content>,
    next: u64,
    pending: Vec<Change>,
    absent: BTreeSet<PathBuf>,
}

#[derive(Default)]
struct Folder {
    files: BTreeMap<String, u64>,
    folders: BTreeSet<String>,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
    // After a failed sync the kernel takes the lost pages for clean: no later sync brings them to the disk.
    lost: bool,
}

enum Change {
    Created { path: PathBuf },
    Renamed { from: PathBuf, to: PathBuf, file: u64, replaced: Option<u64> },
    Removed { path: PathBuf, file: u64 },
}

impl Change {
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Created { path }
            | Self::Removed { path, .. }
            | Self::Renamed { to: path, .. } => path.parent(),
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl FileSystem {
    /// Takes a directory away, as when its disk is not mounted, or brings it back.
    pub(crate) fn set_absent(&mut self, root: &Path, absent: bool) {
        match absent {
            true => self.absent.insert(root.to_path_buf()),
            false => self.absent.remove(root),
        };
    }

    fn folder(&mut self, path: &Path) -> io::Result<&mut Folder> {
        if self.absent.iter().any(|root| path.starts_with(root)) {
            return Err(ErrorKind::NotFound.into());
        }
        self.folders.get_mut(path).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn parent(&mut self, path: &Path) -> io::Result<&mut Folder> {
        self.folder(path.parent().unwrap_or(Path::new("/")))
    }

    /// Returns the file of this name.
    pub(crate) fn find(&mut self, path: &Path) -> io::Result<u64> {
        let name = name_of(path);
        self.parent(path)?.files.get(&name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Returns a file's bytes.
    pub(crate) fn bytes(&mut self, file: u64) -> &mut Vec<u8> {
        &mut self.files.entry(file).or_default().bytes
    }

    pub(crate) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let file = self.next;
        let folder = self.parent(path)?;
        if folder.files.contains_key(&name_of(path)) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        folder.files.insert(name_of(path), file);
        self.next += 1;
        self.files.insert(file, Content::default());
        self.pending.push(Change::Created { path: path.to_path_buf() });
        Ok(file)
    }

    pub(crate) fn sync(&mut self, file: u64) {
        let content = self.files.entry(file).or_default();
        if !content.lost {
            content.synced = content.bytes.len();
        }
    }

    /// Lets a sync fail: what was not durable never will be, though it can be read until the power goes.
    pub(crate) fn lose(&mut self, file: u64) {
        self.files.entry(file).or_default().lost = true;
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let file = self.find(from)?;
        let replaced = self.parent(to)?.files.insert(name_of(to), file);
        self.parent(from)?.files.remove(&name_of(from));
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        self.pending.push(Change::Renamed { from, to, file, replaced });
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let file = self.find(path)?;
        self.parent(path)?.files.remove(&name_of(path));
        self.pending.push(Change::Removed { path: path.to_path_buf(), file });
        Ok(())
    }

    pub(crate) fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.folder(path)?;
        self.pending.retain(|change| change.folder() != Some(path));
        Ok(())
    }

    pub(crate) fn list(&mut self, path: &Path) -> io::Result<Vec<String>> {
        let folder = self.folder(path)?;
        Ok(folder.files.keys().chain(&folder.folders).cloned().collect())
    }

    pub(crate) fn create_folder(&mut self, path: &Path) -> io::Result<()> {
        let mut below = path.to_path_buf();
        // Directories are few and made ahead: they count as durable at once.
        while !self.folders.contains_key(&below) {
            self.folders.insert(below.clone(), Folder::default());
            let name = name_of(&below);
            if !below.pop() {
                break;
            }
            self.folders.entry(below.clone()).or_default().folders.insert(name);
        }
        Ok(())
    }

    pub(crate) fn exists(&mut self, path: &Path) -> bool {
        self.find(path).is_ok() || self.folder(path).is_ok()
    }

    /// Returns all files below `root` whose names end like this, in order.
    pub(crate) fn below(&self, root: &Path, suffix: &str) -> Vec<PathBuf> {
        let folders = self.folders.iter().filter(|(path, _)| path.starts_with(root));
        let files =
            folders.flat_map(|(path, folder)| folder.files.keys().map(move |name| path.join(name)));
        files.filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
    }

    /// Copies everything below a folder to another one, as a copy of the whole disk holds it: all of it is durable there.
    pub(crate) fn copy_below(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let below = self.folders.iter().filter(|(path, _)| path.starts_with(from));
        let folders: Vec<_> = below.map(|(path, it)| (path.clone(), it.files.clone())).collect();
        for (path, files) in folders {
            let target = to.join(path.strip_prefix(from).unwrap_or(Path::new("")));
            self.create_folder(&target)?;
            for (name, file) in files {
                let bytes = self.bytes(file).clone();
                let copy = Content { synced: bytes.len(), bytes, lost: false };
                let number = self.next;
                self.next += 1;
                self.files.insert(number, copy);
                self.folder(&target)?.files.insert(name, number);
            }
        }
        Ok(())
    }

    /// Lets the power go: of what is not synced nothing stays, or with `luck` a part of it, some of that as zeros.
    pub(crate) fn cut_power(&mut self, luck: Option<&mut Chance>) {
        let mut none = Chance::new(0);
        let (keeps, luck) = match luck {
            Some(luck) => (true, luck),
            None => (false, &mut none),
        };
        for content in self.files.values_mut() {
            let unsynced = content.bytes.len() - content.synced;
            let stays =
                if keeps && luck.coin() { luck.below(unsynced as u64 + 1) as usize } else { 0 };
            content.bytes.truncate(content.synced + stays);
            if stays > 0 && (content.lost || luck.coin()) {
                content.bytes[content.synced..].fill(0);
            }
            (content.synced, content.lost) = (content.bytes.len(), false);
        }
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if !(keeps && luck.coin()) {
                self.take_back(change);
            }
        }
    }

    fn take_back(&mut self, change: Change) {
        let mut put = |path: &Path, file: Option<u64>| {
            let folder = self.folders.entry(path.parent().unwrap_or(Path::new("/")).to_path_buf());
            let files = &mut folder.or_default().files;
            match file {
                Some(file) => files.insert(name_of(path), file),
                None => files.remove(&name_of(path)),
            }
        };
        match change {
            Change::Created { path } => {
                put(&path, None);
            }
            Change::Renamed { from, to, file, replaced } => {
                put(&to, replaced);
                put(&from, Some(file));
            }
            Change::Removed { path, file } => {
                put(&path, Some(file));
            }
        }
    }
}
