//! Giving an entry of the target its metadata, in the one order in which no call undoes another: owner, stale attributes, mode, attributes, flags, time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, IFlags, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::{Errno, Result as SystemResult};

use crate::entry::{FileTime, Metadata, Xattr, display_bytes};
use crate::target::kind_of;

/// Inode flags that may be set by a caller, as in the kernel's `FS_FL_USER_MODIFIABLE`, with no-CoW and project inheritance.
const SETTABLE: u32 = 0x0003_80ff | 0x0080_0000 | 0x2000_0000;
/// Immutable and append-only: nothing can be done to a file that has one, so they are set when everything else is finished.
const FREEZING: u32 = 0x30;
/// Flags that say how data is laid out: another file system may not have them, and nothing is lost.
const LAYOUT: u32 = 0x0082_c007 | 0x0002_0000 | 0x2000_0000;
/// Flags that only a file without data takes: compression and no-CoW.
const BEFORE_DATA: u32 = 0x0080_0004;
/// Longest value or list of names of extended attributes; the kernel's limit.
const XATTR_MOST: usize = 64 << 10;

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// The metadata that an entry gets; owners are numbers of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: FileTime,
    rare: Option<Box<RareAttributes>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RareAttributes {
    xattrs: Vec<Xattr>,
    inode_flags: u32,
}

/// What could not be given to an entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shortfalls {
    /// The owner was refused: only a privileged process may give files away.
    pub(crate) owner: bool,
    /// An attribute was refused for the same reason.
    pub(crate) privileged_attribute: bool,
    /// Everything else, for people.
    pub(crate) failures: Vec<String>,
}

// What became of a change of owner.
struct Given {
    any: bool,
    // Mode bits that would now speak for a wrong owner.
    withheld: u32,
}

/// The entry that gets attributes: an open file or directory, or the name of what is better not opened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<'a> {
    Open(BorrowedFd<'a>),
    Named { parent: BorrowedFd<'a>, name: &'a [u8] },
}

impl Attributes {
    pub(crate) fn new(metadata: &Metadata, uid: u32, gid: u32) -> Self {
        let inode_flags = metadata.inode_flags.unwrap_or(0) & SETTABLE;
        let rare = (!metadata.xattrs.is_empty() || inode_flags != 0)
            .then(|| Box::new(RareAttributes { xattrs: metadata.xattrs.clone(), inode_flags }));
        Self { mode: metadata.mode, uid, gid, mtime: metadata.mtime, rare }
    }

    /// Returns the attributes that something has, without the rare ones.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: time_of(stat),
            rare: None,
        }
    }

    /// Returns the flags that freeze the entry, to be given to [`freeze`] when all is done.
    pub(crate) fn freezing_flags(&self) -> u32 {
        self.inode_flags() & FREEZING
    }

    fn inode_flags(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.inode_flags)
    }

    fn xattrs(&self) -> &[Xattr] {
        self.rare.as_ref().map_or(&[], |rare| &rare.xattrs)
    }

    /// Returns whether size apart an entry that looks like this one would be trusted to be it.
    pub(crate) fn same_time(&self, stat: &Stat) -> bool {
        self.mtime == time_of(stat)
    }

    /// Sets the flags that must be there before the first byte of data.
    pub(crate) fn prepare(&self, file: BorrowedFd<'_>) {
        let early = self.inode_flags() & BEFORE_DATA;
        if early != 0
            && let Ok(flags) = rustix::fs::ioctl_getflags(file)
        {
            // Only the layout is at stake.
            let _ = rustix::fs::ioctl_setflags(file, flags | IFlags::from_bits_retain(early));
        }
    }

    /// Makes the subject's metadata these attributes; `current` is what it has. With `used`, it may have attributes that it must lose: it existed
    /// before, or inherited an ACL. Returns whether anything had to be changed.
    pub(crate) fn apply(
        &self,
        subject: Subject<'_>,
        current: &Stat,
        used: bool,
        shortfalls: &mut Shortfalls,
    ) -> SystemResult<bool> {
        let kind = kind_of(current);
        let mut changed = false;
        let mut mode = self.mode;
        let mut lost = 0;
        if (current.st_uid, current.st_gid) != (self.uid, self.gid) {
            let given = self.give_away(subject, current, shortfalls)?;
            mode &= !given.withheld;
            changed = given.any;
            // The kernel takes these bits away when the owner changes.
            lost = if given.any { 0o6000 } else { 0 };
        }
        if used {
            changed |= self.remove_stale(subject, kind)?;
        }
        let bits = current.st_mode & 0o7777;
        if kind != FileType::Symlink && (bits != mode || mode & lost != 0) {
            subject.chmod(kind, mode)?;
            changed = true;
        }
        for xattr in self.xattrs() {
            if used && subject.xattr(&xattr.name).is_ok_and(|value| value == xattr.value) {
                continue;
            }
            changed = true;
            if let Err(errno) = subject.set_xattr(xattr) {
                note_refused_xattr(xattr, errno, shortfalls);
            }
        }
        if used || self.inode_flags() != 0 {
            changed |= self.set_flags(subject, used, shortfalls);
        }
        if time_of(current) != self.mtime {
            subject.set_time(self.mtime)?;
            changed = true;
        }
        Ok(changed)
    }

    fn give_away(
        &self,
        subject: Subject<'_>,
        current: &Stat,
        shortfalls: &mut Shortfalls,
    ) -> SystemResult<Given> {
        let uid = (current.st_uid != self.uid).then_some(self.uid);
        let gid = (current.st_gid != self.gid).then_some(self.gid);
        match subject.chown(uid, gid) {
            Ok(()) => return Ok(Given { any: true, withheld: 0 }),
            Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => shortfalls.owner = true,
            Err(errno) => return Err(errno),
        }
        // A member of the group may still give the group.
        let group_given = uid.is_some() && gid.is_some() && subject.chown(None, gid).is_ok();
        let user = if uid.is_some() { 0o4000 } else { 0 };
        let group = if gid.is_some() && !group_given { 0o2000 } else { 0 };
        Ok(Given { any: group_given, withheld: user | group })
    }

    fn remove_stale(&self, subject: Subject<'_>, kind: FileType) -> SystemResult<bool> {
        let mut changed = false;
        for name in subject.xattr_names() {
            let known = self.xattrs().iter().any(|xattr| xattr.name == name);
            if !known && (is_ours(&name) || kind != FileType::Symlink && is_acl(&name)) {
                subject.remove_xattr(&name)?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn set_flags(&self, subject: Subject<'_>, used: bool, shortfalls: &mut Shortfalls) -> bool {
        let Subject::Open(file) = subject else { return false };
        let wanted = self.inode_flags() & !FREEZING;
        let current = match rustix::fs::ioctl_getflags(file) {
            Ok(flags) => flags.bits(),
            Err(_) if wanted & !LAYOUT == 0 => return false,
            Err(errno) => {
                shortfalls.failures.push(flags_failure(errno));
                return false;
            }
        };
        // Frozen things stay frozen here; what the point does not have frozen cannot be changed at all while it is.
        let kept = if used { !SETTABLE | FREEZING } else { !0 };
        let all = current & kept | wanted;
        if all == current {
            return false;
        }
        let set = |flags: u32| rustix::fs::ioctl_setflags(file, IFlags::from_bits_retain(flags));
        if set(all).is_ok() {
            return true;
        }
        let needed = current & kept | wanted & !LAYOUT;
        if needed != current
            && wanted & !LAYOUT != 0
            && let Err(errno) = set(needed)
        {
            shortfalls.failures.push(flags_failure(errno));
        }
        true
    }
}

/// Sets the freezing flags of an open file or directory, when nothing else remains to be done to it.
pub(crate) fn freeze(file: BorrowedFd<'_>, flags: u32) -> SystemResult<()> {
    let current = rustix::fs::ioctl_getflags(file)?;
    rustix::fs::ioctl_setflags(file, current | IFlags::from_bits_retain(flags & FREEZING))
}

/// Returns whether what is made in this open directory inherits an ACL.
pub(crate) fn has_default_acl(directory: BorrowedFd<'_>) -> bool {
    Subject::Open(directory).xattr(DEFAULT_ACL).is_ok()
}

/// Removes an inherited ACL from a directory that was just made.
pub(crate) fn remove_acl(directory: BorrowedFd<'_>) {
    for name in [ACCESS_ACL, DEFAULT_ACL] {
        // Absent ones are what is wanted.
        let _ = Subject::Open(directory).remove_xattr(name);
    }
}

/// Returns the time of the last change of content.
pub(crate) fn time_of(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 }
}

fn flags_failure(errno: Errno) -> String {
    format!("inode flags cannot be set: {}", std::io::Error::from(errno))
}

// Attributes that backups carry and programs set; labels of security modules are the machine's own.
fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || name == b"security.capability"
}

fn is_acl(name: &[u8]) -> bool {
    name == ACCESS_ACL || name == DEFAULT_ACL
}

fn note_refused_xattr(xattr: &Xattr, errno: Errno, shortfalls: &mut Shortfalls) {
    let privileged = !xattr.name.starts_with(b"user.") && !is_acl(&xattr.name);
    if privileged && errno == Errno::PERM {
        shortfalls.privileged_attribute = true;
        return;
    }
    shortfalls.failures.push(format!(
        "extended attribute {} cannot be set: {}",
        display_bytes(&xattr.name),
        std::io::Error::from(errno)
    ));
}

impl Subject<'_> {
    fn chown(self, uid: Option<u32>, gid: Option<u32>) -> SystemResult<()> {
        let uid = uid.map(Uid::from_raw);
        let gid = gid.map(Gid::from_raw);
        match self {
            Self::Open(file) => rustix::fs::fchown(file, uid, gid),
            Self::Named { parent, name } => {
                rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    pub(crate) fn chmod(self, kind: FileType, mode: u32) -> SystemResult<()> {
        let mode = Mode::from_bits_truncate(mode);
        match self {
            Self::Open(file) => rustix::fs::fchmod(file, mode),
            Self::Named { parent, name } => {
                // chmod by name would follow a symlink put there meanwhile: pinned, looked at, and changed through the pin.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let pin = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                if kind_of(&rustix::fs::fstat(&pin)?) != kind {
                    return Err(Errno::LOOP);
                }
                rustix::fs::chmod(process_path(pin.as_fd(), None), mode)
            }
        }
    }

    fn set_time(self, time: FileTime) -> SystemResult<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() },
        };
        match self {
            Self::Open(file) => rustix::fs::futimens(file, &times),
            Self::Named { parent, name } => {
                rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    // The calls for attributes know no handle of a parent. The path of the handle leads to the very directory, and `l…` follows no last symlink.
    fn set_xattr(self, xattr: &Xattr) -> SystemResult<()> {
        let flags = XattrFlags::empty();
        match self {
            Self::Open(file) => {
                rustix::fs::fsetxattr(file, xattr.name.as_slice(), &xattr.value, flags)
            }
            Self::Named { parent, name } => rustix::fs::lsetxattr(
                process_path(parent, Some(name)),
                xattr.name.as_slice(),
                &xattr.value,
                flags,
            ),
        }
    }

    fn remove_xattr(self, attribute: &[u8]) -> SystemResult<()> {
        match self {
            Self::Open(file) => rustix::fs::fremovexattr(file, attribute),
            Self::Named { parent, name } => {
                rustix::fs::lremovexattr(process_path(parent, Some(name)), attribute)
            }
        }
    }

    fn xattr(self, attribute: &[u8]) -> SystemResult<Vec<u8>> {
        let mut value = vec![0; XATTR_MOST];
        let length = match self {
            Self::Open(file) => rustix::fs::fgetxattr(file, attribute, value.as_mut_slice())?,
            Self::Named { parent, name } => rustix::fs::lgetxattr(
                process_path(parent, Some(name)),
                attribute,
                value.as_mut_slice(),
            )?,
        };
        value.truncate(length);
        Ok(value)
    }

    // A file system without attributes has none to list.
    fn xattr_names(self) -> Vec<Vec<u8>> {
        // Nearly all entries have none or few: a small room first, on the stack.
        let mut small = [0; 256];
        let mut large = Vec::new();
        let list: &[u8] = match self.list_xattrs(&mut small) {
            Ok(length) => &small[..length],
            Err(Errno::RANGE) => {
                large.resize(XATTR_MOST, 0);
                let length = self.list_xattrs(&mut large).unwrap_or(0);
                &large[..length]
            }
            Err(_) => &[],
        };
        list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
    }

    fn list_xattrs(self, room: &mut [u8]) -> SystemResult<usize> {
        match self {
            Self::Open(file) => rustix::fs::flistxattr(file, room),
            Self::Named { parent, name } => {
                rustix::fs::llistxattr(process_path(parent, Some(name)), room)
            }
        }
    }
}

fn process_path(handle: BorrowedFd<'_>, name: Option<&[u8]>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", handle.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}
