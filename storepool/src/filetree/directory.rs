//! Directories and files of the running system, read through open handles.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, StatxFlags, fgetxattr, flistxattr,
    ioctl_getflags, openat, readlinkat, seek, statx,
};
use rustix::io::Errno;

use crate::entry::{EntryPath, FileTime, Run, Xattr};
use crate::filetree::filter::Filter;
use crate::manifest::ProblemKind;
use crate::source::{
    Listing, SourceDetail, SourceDirectory, SourceEntry, SourceError, SourceFile, SourceKind,
    SourceStat,
};

/// Room for names in one `getdents` call.
const NAMES_LENGTH: usize = 64 << 10;
/// Extended attributes of one entry that are read; the kernel allows 64 KiB of names and of each value.
const XATTR_LENGTH: usize = 64 << 10;

pub(crate) struct TreeDirectory {
    fd: OwnedFd,
    path: EntryPath,
    // Device of the path given by the user: --one-file-system compares with it.
    root_device: u64,
    filter: Arc<Filter>,
}

impl TreeDirectory {
    pub(crate) fn new(fd: OwnedFd, path: EntryPath, root_device: u64, filter: Arc<Filter>) -> Self {
        Self { fd, path, root_device, filter }
    }

    /// Examines one entry, exclusions applied; `None` if it is left out.
    pub(crate) fn examine(&self, name: &[u8]) -> Result<Option<SourceEntry>, SourceError> {
        let stat = stat_of(self.fd.as_fd(), name)
            .map_err(|error| SourceError::io("examine", &error.into()))?;
        Ok(self.admits(name, &stat).then(|| SourceEntry { name: name.into(), stat }))
    }

    fn admits(&self, name: &[u8], stat: &SourceStat) -> bool {
        let is_directory = stat.kind == SourceKind::Directory;
        let too_large = stat.kind == SourceKind::File
            && self.filter.larger_than.is_some_and(|limit| stat.size > limit);
        let forbidden = is_directory && self.filter.never_enters(stat.device, stat.inode);
        !too_large && !forbidden && !self.filter.excludes(&self.path, name, is_directory)
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>, Errno> {
        // A fresh handle: the position of a shared one would be shared too.
        let fd = openat(
            &self.fd,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut buffer = vec![MaybeUninit::uninit(); NAMES_LENGTH];
        let mut directory = RawDir::new(fd, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = directory.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.into());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    // The name of a tag file that empties this directory.
    fn tag(&self, names: &[Box<[u8]>]) -> Option<Box<[u8]>> {
        let present = |name: &[u8]| names.binary_search_by(|other| (**other).cmp(name)).is_ok();
        let tag = self.filter.tags.iter().find(|(name, header)| {
            present(name) && (header.is_empty() || self.begins_with(name, header))
        })?;
        Some(tag.0.as_slice().into())
    }

    fn begins_with(&self, name: &[u8], header: &[u8]) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(fd) = openat(&self.fd, name, flags, Mode::empty()) else { return false };
        let mut bytes = vec![0; header.len()];
        matches!(rustix::io::pread(&fd, &mut bytes, 0), Ok(length) if length == header.len() && bytes == header)
    }

    // A path that the kernel resolves to the entry without following it if it is a symlink.
    fn entry_path(&self, name: &[u8]) -> Result<CString, SourceError> {
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        CString::new(path).map_err(|_| SourceError {
            kind: ProblemKind::Unsupported,
            message: "its name holds a NUL byte".to_string(),
        })
    }
}

impl SourceDirectory for TreeDirectory {
    fn list(&self) -> Result<Listing, SourceError> {
        let mut names = self.names().map_err(|error| SourceError::io("list", &error.into()))?;
        if let Some(tag) = self.tag(&names) {
            names = vec![tag];
        }
        let mut listing =
            Listing { entries: Vec::with_capacity(names.len()), problems: Vec::new() };
        for name in names {
            match stat_of(self.fd.as_fd(), &name) {
                Ok(stat) if self.admits(&name, &stat) => {
                    listing.entries.push(SourceEntry { name, stat });
                }
                Ok(_) => {}
                // Gone between the two calls: it was never there, as far as this point is concerned.
                Err(Errno::NOENT) => {}
                Err(error) => {
                    let error = SourceError::io("examine", &error.into());
                    listing.problems.push((name, error));
                }
            }
        }
        Ok(listing)
    }

    fn directory(&self, entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        let path = self.path.join(&entry.name);
        if self.filter.one_file_system && entry.stat.device != self.root_device {
            return Ok(Arc::new(MountPoint));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.fd, &*entry.name, flags, Mode::empty())
            .map_err(|error| SourceError::io("open", &error.into()))?;
        Ok(Arc::new(Self { fd, path, root_device: self.root_device, filter: self.filter.clone() }))
    }

    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        // NONBLOCK: a pipe put in the file's place must not make us wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match openat(&self.fd, &*entry.name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may read without a trace.
            Err(Errno::PERM) => openat(&self.fd, &*entry.name, flags, Mode::empty()),
            other => other,
        };
        let fd = opened.map_err(|error| SourceError::io("open", &error.into()))?;
        Ok(Box::new(TreeFile(fd)))
    }

    fn detail(&self, entry: &SourceEntry) -> Result<SourceDetail, SourceError> {
        let mut detail = SourceDetail::default();
        if entry.stat.kind == SourceKind::Symlink {
            let target = readlinkat(&self.fd, &*entry.name, Vec::new())
                .map_err(|error| SourceError::io("read the link", &error.into()))?;
            detail.target = target.into_bytes();
        }
        let path = self.entry_path(&entry.name)?;
        let list = |buffer: &mut [u8]| rustix::fs::llistxattr(&path, buffer);
        let get = |name: &CString, buffer: &mut [u8]| rustix::fs::lgetxattr(&path, name, buffer);
        detail.xattrs = read_xattrs(list, get)?;
        Ok(detail)
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        detail_of_fd(self.fd.as_fd())
    }
}

/// A directory on another file system: kept, but empty.
struct MountPoint;

impl SourceDirectory for MountPoint {
    fn list(&self) -> Result<Listing, SourceError> {
        Ok(Listing::default())
    }

    fn directory(&self, _entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        Ok(Arc::new(MountPoint))
    }

    fn file(&self, _entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        Err(SourceError::io("open", &io::ErrorKind::NotFound.into()))
    }

    fn detail(&self, _entry: &SourceEntry) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        Ok(SourceDetail::default())
    }
}

struct TreeFile(OwnedFd);

impl SourceFile for TreeFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pread(&self.0, &mut *buffer, offset) {
                Ok(length) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn stat(&self) -> io::Result<SourceStat> {
        Ok(stat_of_fd(&self.0)?)
    }

    fn detail(&self) -> Result<SourceDetail, SourceError> {
        detail_of_fd(self.0.as_fd())
    }

    fn runs(&self, start: u64, end: u64) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        let mut at = start;
        while at < end {
            let data = match seek(&self.0, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                // No data behind here.
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            if data >= end {
                break;
            }
            let hole = seek(&self.0, SeekFrom::Hole(data))?.min(end);
            runs.push(Run { hole: data - at, data: hole - data });
            at = hole;
        }
        Ok(runs)
    }
}

fn detail_of_fd(fd: BorrowedFd<'_>) -> Result<SourceDetail, SourceError> {
    let list = |buffer: &mut [u8]| flistxattr(fd, buffer);
    let get = |name: &CString, buffer: &mut [u8]| fgetxattr(fd, name, buffer);
    let xattrs = read_xattrs(list, get)?;
    let inode_flags = match ioctl_getflags(fd) {
        Ok(flags) => Some(flags.bits()).filter(|bits| *bits != 0),
        // The file system has none.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => None,
        Err(error) => return Err(SourceError::io("read the inode flags", &error.into())),
    };
    Ok(SourceDetail { xattrs, inode_flags, target: Vec::new() })
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CString, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<Xattr>, SourceError> {
    let failed = |error: Errno| SourceError::io("read the extended attributes", &error.into());
    // Nearly all entries have none or few: a small room first, on the stack.
    let mut small = [0; 512];
    let mut large = Vec::new();
    let names: &[u8] = match list(&mut small) {
        Ok(length) => &small[..length],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            large.resize(XATTR_LENGTH, 0);
            let length = list(&mut large).map_err(failed)?;
            &large[..length]
        }
        Err(error) => return Err(failed(error)),
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut xattrs = Vec::new();
    let mut value = vec![0; XATTR_LENGTH];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name).expect("the list was split at NUL bytes");
        match get(&name, &mut value) {
            Ok(length) => {
                xattrs.push(Xattr { name: name.into_bytes(), value: value[..length].to_vec() })
            }
            // Removed meanwhile, or listed but not for us to see.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Looks at an entry without following it.
pub(crate) fn stat_of(directory: BorrowedFd<'_>, name: &[u8]) -> Result<SourceStat, Errno> {
    statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .and_then(|stat| convert(&stat))
}

/// Looks at an open file or directory.
pub(crate) fn stat_of_fd(fd: &OwnedFd) -> Result<SourceStat, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).and_then(|stat| convert(&stat))
}

fn convert(stat: &rustix::fs::Statx) -> Result<SourceStat, Errno> {
    let time =
        |time: &rustix::fs::StatxTimestamp| FileTime { seconds: time.tv_sec, nanos: time.tv_nsec };
    let raw_mode = u32::from(stat.stx_mode);
    let kind = match FileType::from_raw_mode(raw_mode) {
        FileType::RegularFile => SourceKind::File,
        FileType::Directory => SourceKind::Directory,
        FileType::Symlink => SourceKind::Symlink,
        FileType::Fifo => SourceKind::Fifo,
        FileType::Socket => SourceKind::Socket,
        FileType::CharacterDevice => SourceKind::CharDevice,
        FileType::BlockDevice => SourceKind::BlockDevice,
        FileType::Unknown => return Err(Errno::INVAL),
    };
    Ok(SourceStat {
        kind,
        mode: (raw_mode & 0o7777) as u16,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: stat.stx_nlink,
        size: stat.stx_size,
        allocated: stat.stx_blocks.saturating_mul(512),
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
        inode: stat.stx_ino,
        device: (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor),
        special: (stat.stx_rdev_major, stat.stx_rdev_minor),
    })
}
