//! A vault in a directory, durable and exclusive on its own: the embedded default, and the way to NFS, USB
//! disks and mounted shares.
//!
//! Not `object_store`'s local file system: that syncs only on request, never after a delete, and knows
//! nothing of a directory that was unmounted meanwhile.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use storepool::clock::Timestamp;
use storepool::selftest::scratch::SCRATCH_NAME;

use crate::error::{Error, Result, StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::{
    LIST_LIMIT, ObjectBody, ObjectMeta, ObjectStore, PutReceipt, VaultAddress, check_prefix,
};

// A dot keeps it out of the name space of objects.
const TEMPORARY: &str = ".tmp";
const TEMPORARY_TRIES: u32 = 1000;
// Far longer than any put takes; a writer whose file was removed nevertheless fails cleanly and tries again.
const TEMPORARY_AGE_LIMIT: Duration = Duration::from_secs(24 * 3600);
const DEPTH_LIMIT: usize = 16;

/// Objects as files below one directory.
///
/// A put is written to a temporary file, synced, renamed without replacing, and the directory is synced: when
/// it returns, the object survives a power failure, and no reader ever sees a part of it. The directory must
/// stay the one that was opened; if another appears in its place, because something was mounted or unmounted,
/// every call fails as unreachable instead of finding nothing.
#[derive(Debug)]
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    address: String,
    identity: (u64, u64),
    temporary_number: AtomicU64,
    // Folders whose names are known to be durable, all the way up to the root.
    durable_folders: Mutex<HashSet<PathBuf>>,
}

impl DirectoryStore {
    /// Opens an existing directory.
    pub fn open(root: &Path) -> Result<Self> {
        let address = VaultAddress::Directory(root.to_path_buf()).to_string();
        let status = fs::metadata(root).map_err(|cause| {
            // A directory that is not there is usually one that is not mounted.
            let fault = match fault_of(&cause) {
                StoreFault::NotFound => StoreFault::Unreachable,
                other => other,
            };
            StoreError::new("open", &address, fault).because(cause)
        })?;
        if !status.is_dir() {
            return Err(Error::Address { address, reason: "it is not a directory" });
        }
        let inner = Inner {
            root: root.to_path_buf(),
            address,
            identity: (status.dev(), status.ino()),
            temporary_number: AtomicU64::new(0),
            durable_folders: Mutex::default(),
        };
        inner.remove_old_temporaries();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Creates the directory and opens it; one that exists must be empty.
    pub fn create(root: &Path) -> Result<Self> {
        let address = VaultAddress::Directory(root.to_path_buf()).to_string();
        let failed = |cause: io::Error| {
            Error::from(StoreError::new("create", &address, fault_of(&cause)).because(cause))
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        let mut entries = fs::read_dir(root).map_err(failed)?;
        // What a killed examination left holds nothing.
        let ours = ["lost+found", SCRATCH_NAME];
        let is_ours = |name: &std::ffi::OsStr| ours.iter().any(|own| name == *own);
        if entries.any(|entry| entry.is_ok_and(|entry| !is_ours(&entry.file_name()))) {
            let found = root.join(crate::layout::DESCRIPTOR).exists();
            // The caller finds out which vault it is.
            if !found {
                return Err(Error::Address { address, reason: "the directory is not empty" });
            }
        }
        // Without this a crash could lose the directory and every object in it.
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_folder(parent.unwrap_or(Path::new("."))).map_err(failed)?;
        Self::open(root)
    }

    // File operations block, so none of them runs on an asynchronous thread.
    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        object: &str,
        work: impl FnOnce(&Inner) -> Result<T, io::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let outcome = tokio::task::spawn_blocking(move || work(&inner)).await;
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(cause)) => Err(StoreError::new(action, object, fault_of(&cause)).because(cause)),
            Err(cause) => Err(StoreError::new(action, object, StoreFault::Other).because(cause)),
        }
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    fn address(&self) -> &str {
        &self.inner.address
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        let object = name.clone();
        self.blocking("create", name.as_str(), move |inner| inner.put_new(&object, &body)).await
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        let object = name.clone();
        self.blocking("read", name.as_str(), move |inner| inner.get(&object, limit_bytes)).await
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        let object = name.clone();
        self.blocking("read", name.as_str(), move |inner| inner.get_range(&object, range)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let object = name.clone();
        self.blocking("look at", name.as_str(), move |inner| inner.head(object)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        check_prefix(prefix)?;
        let folder = prefix.to_owned();
        self.blocking("list", prefix, move |inner| inner.list(&folder)).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let object = name.clone();
        self.blocking("delete", name.as_str(), move |inner| inner.delete(&object)).await
    }
}

impl Inner {
    fn path(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    // Without this, "not mounted" would look like "empty", and a put would fill the disk below the mount point.
    fn check_root(&self) -> io::Result<()> {
        let same = fs::metadata(&self.root)
            .is_ok_and(|status| (status.dev(), status.ino()) == self.identity);
        match same {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the directory is no longer the one that was opened",
            )),
        }
    }

    fn put_new(&self, name: &ObjectName, body: &[u8]) -> io::Result<PutReceipt> {
        self.check_root()?;
        let path = self.path(name);
        let folder = path.parent().expect("an object is below the root").to_path_buf();
        self.make_durable(&folder)?;
        // Looked at first, so that a repeated put does not cost a write; the rename decides.
        if path.symlink_metadata().is_ok() {
            sync_folder(&folder)?;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (temporary, file) = self.create_temporary()?;
        let outcome = self.publish(file, &temporary, &path, &folder, body);
        if outcome.is_err() {
            // Worth nothing; if this fails too, it is removed when the store is opened a day later.
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }

    fn publish(
        &self,
        mut file: File,
        temporary: &Path,
        path: &Path,
        folder: &Path,
        body: &[u8],
    ) -> io::Result<PutReceipt> {
        file.write_all(body)?;
        // Also the time stamp, from which a grace is counted. After an error the file is given up: the kernel
        // may have dropped its pages.
        file.sync_all()?;
        let modified = timestamp(&file.metadata()?);
        match rename_new(temporary, path) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                // The other creator may not have synced it yet, and our caller will rely on it.
                sync_folder(folder)?;
                Err(cause)
            }
            Err(cause) => {
                self.forget_durable();
                Err(cause)
            }
            Ok(()) => {
                sync_folder(folder)?;
                Ok(PutReceipt { server_time: modified })
            }
        }
    }

    fn get(&self, name: &ObjectName, limit_bytes: u64) -> io::Result<ObjectBody> {
        let (file, status) = self.open_object(name)?;
        if status.len() > limit_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "longer than such an object can be",
            ));
        }
        let mut bytes = Vec::with_capacity(status.len() as usize);
        file.take(limit_bytes).read_to_end(&mut bytes)?;
        Ok(ObjectBody {
            bytes: bytes.into(),
            object_size: status.len(),
            modified: timestamp(&status),
        })
    }

    fn get_range(&self, name: &ObjectName, range: Range<u64>) -> io::Result<ObjectBody> {
        let (file, status) = self.open_object(name)?;
        let end = range.end.min(status.len());
        if range.start >= end {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "shorter than the range asked for",
            ));
        }
        let mut bytes = vec![0; (end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(ObjectBody {
            bytes: bytes.into(),
            object_size: status.len(),
            modified: timestamp(&status),
        })
    }

    fn head(&self, name: ObjectName) -> io::Result<ObjectMeta> {
        let (_, status) = self.open_object(&name)?;
        Ok(ObjectMeta { name, size: status.len(), modified: timestamp(&status) })
    }

    fn open_object(&self, name: &ObjectName) -> io::Result<(File, fs::Metadata)> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(self.path(name))
            .and_then(|file| file.metadata().map(|status| (file, status)));
        match opened {
            Ok((_, status)) if !status.is_file() => Err(io::ErrorKind::NotFound.into()),
            Err(cause) if fault_of(&cause) == StoreFault::NotFound => {
                self.check_root()?;
                Err(cause)
            }
            other => other,
        }
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<ObjectMeta>> {
        self.check_root()?;
        let mut found = Vec::new();
        self.list_folder(&self.root.join(prefix), prefix, DEPTH_LIMIT, &mut found)?;
        Ok(found)
    }

    fn list_folder(
        &self,
        folder: &Path,
        prefix: &str,
        depth: usize,
        found: &mut Vec<ObjectMeta>,
    ) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(cause) if fault_of(&cause) == StoreFault::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}"))
            else {
                continue;
            };
            // Whatever could not be an object was not put by us.
            let Ok(name) = name.parse::<ObjectName>() else { continue };
            let kind = entry.file_type()?;
            if kind.is_dir() && depth > 0 {
                self.list_folder(&entry.path(), &format!("{name}/"), depth - 1, found)?;
            } else if kind.is_file() {
                let status = match entry.metadata() {
                    Err(cause) if fault_of(&cause) == StoreFault::NotFound => continue,
                    other => other?,
                };
                if found.len() == LIST_LIMIT {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "more objects than a list may have",
                    ));
                }
                found.push(ObjectMeta { name, size: status.len(), modified: timestamp(&status) });
            }
        }
        Ok(())
    }

    fn delete(&self, name: &ObjectName) -> io::Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(cause) if fault_of(&cause) == StoreFault::NotFound => self.check_root(),
            Err(cause) => Err(cause),
            Ok(()) => sync_folder(path.parent().expect("an object is below the root")),
        }
    }

    // Creates a folder with its parents and makes the names of all of them durable, once per process: whoever
    // created them may have crashed before.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        let mut durable = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.contains(folder) {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        for above in folder.ancestors().skip(1).take_while(|above| above.starts_with(&self.root)) {
            sync_folder(above)?;
        }
        durable.insert(folder.to_path_buf());
        Ok(())
    }

    fn forget_durable(&self) {
        self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn create_temporary(&self) -> io::Result<(PathBuf, File)> {
        let folder = self.root.join(TEMPORARY);
        self.make_durable(&folder)?;
        for _ in 0..TEMPORARY_TRIES {
            let number = self.temporary_number.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{}-{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                // Left by a process of the same number, here or on another machine of a shared directory.
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
                Err(cause) => {
                    self.forget_durable();
                    return Err(cause);
                }
                Ok(file) => return Ok((path, file)),
            }
        }
        Err(io::Error::other("too many temporary files"))
    }

    fn remove_old_temporaries(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(TEMPORARY)) else { return };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|status| status.modified())
                .map(|then| SystemTime::now().duration_since(then).unwrap_or_default());
            if age.is_ok_and(|age| age > TEMPORARY_AGE_LIMIT) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems without this flag, NFS among them, create exclusively by a second name.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a directory and need not.
        Err(cause) if Errno::from_io_error(&cause) == Some(Errno::INVAL) => Ok(()),
        other => other,
    }
}

fn timestamp(status: &fs::Metadata) -> Option<Timestamp> {
    let seconds = status.mtime().checked_mul(1_000_000_000)?;
    Some(Timestamp(seconds.checked_add(status.mtime_nsec())?))
}

fn fault_of(cause: &io::Error) -> StoreFault {
    match cause.kind() {
        // A folder is not an object.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
            StoreFault::NotFound
        }
        io::ErrorKind::AlreadyExists => StoreFault::AlreadyExists,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreFault::PermissionDenied
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreFault::NoSpace,
        io::ErrorKind::TimedOut => StoreFault::Timeout,
        io::ErrorKind::NotConnected
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::StaleNetworkFileHandle => StoreFault::Unreachable,
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => StoreFault::Corrupt,
        _ => StoreFault::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::conformance::check_object_store;

    fn name(text: &str) -> ObjectName {
        text.parse().expect("a name")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_directory_is_an_object_store() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = DirectoryStore::open(directory.path()).expect("opened");

        check_object_store(Arc::new(store)).await;

        let left = fs::read_dir(directory.path().join(TEMPORARY)).expect("listed").count();
        assert_eq!(left, 0, "no temporary file is left behind");
    }

    #[tokio::test]
    async fn a_directory_that_was_swapped_is_unreachable_and_stays_untouched() {
        let above = tempfile::tempdir().expect("a directory");
        let root = above.path().join("vault");
        let store = DirectoryStore::create(&root).expect("created");
        store.put_new(&name("a"), Bytes::from_static(b"a")).await.expect("put");

        fs::rename(&root, above.path().join("unmounted")).expect("renamed");
        fs::create_dir(&root).expect("an empty mount point");

        for error in [
            store.put_new(&name("b/c"), Bytes::new()).await.expect_err("refused"),
            store.get(&name("a"), 10).await.expect_err("refused"),
            store.list("").await.expect_err("refused"),
            store.delete(&name("a")).await.expect_err("refused"),
        ] {
            assert_eq!(error.fault, StoreFault::Unreachable, "{error}");
        }
        assert_eq!(fs::read_dir(&root).expect("listed").count(), 0);
    }

    #[tokio::test]
    async fn a_symbolic_link_is_not_an_object() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = DirectoryStore::open(directory.path()).expect("opened");
        std::os::unix::fs::symlink("/etc/hostname", directory.path().join("link")).expect("linked");

        assert!(store.get(&name("link"), 1000).await.is_err());
        assert_eq!(store.list("").await.expect("listed"), []);
        let error = store.put_new(&name("link"), Bytes::new()).await.expect_err("refused");
        assert_eq!(error.fault, StoreFault::AlreadyExists);
    }

    #[test]
    fn a_missing_directory_is_unreachable_and_a_full_one_is_not_made_a_vault() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = DirectoryStore::open(&directory.path().join("none")).expect_err("refused");
        fs::write(directory.path().join("file"), b"x").expect("written");

        assert_eq!(missing.store_fault(), Some(StoreFault::Unreachable));
        assert!(matches!(DirectoryStore::create(directory.path()), Err(Error::Address { .. })));
    }
}
