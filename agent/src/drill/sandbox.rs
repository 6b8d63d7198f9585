//! The sandbox: a private folder in which points are restored only to be looked at. It goes with the drill, and the next drill sweeps what a killed one left.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use storepool::disk::SystemDisk;
use storepool::entropy::SystemEntropy;
use storepool::lock::{HeldLock, Locks};
use storepool::space::Reserve;

use crate::accounts::User;
use crate::error::Cause;
use crate::scratch;
use crate::workload::WorkloadError;

/// Begins the name of each sandbox, wherever it is: nothing else is ever swept.
const PREFIX: &str = "keepwell-drill-";
/// Begins the name of a lock.
const SESSION: &str = "session-";
/// Ends the name of the file that says where the sandbox of a lock is.
const PLACE: &str = ".place";
/// Where a sandbox goes whose tenant may not enter the folder of the state.
const OPEN_TO_ALL: &str = "/var/tmp";

/// A sandbox; removed when dropped.
pub(crate) struct Sandbox {
    path: PathBuf,
    place: PathBuf,
    // Held for as long as the folder is there: whoever finds it free may remove both.
    _lock: HeldLock,
}

/// Returns the folder of the state in which drills are entered, made if it is not there.
fn desk(state: &Path) -> Result<PathBuf, Cause> {
    let desk = state.join("drills");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&desk);
    made.map_err(|cause| Cause::Io { action: "create", path: desk.clone(), cause })?;
    Ok(desk)
}

/// Removes the sandboxes of drills that are gone; returns how many there were.
///
/// # Errors
/// One cannot be removed: its room is missing, and somebody has to know.
pub(crate) fn sweep(state: &Path) -> Result<u64, Cause> {
    let desk = desk(state)?;
    let locks = Locks::new(desk.clone(), String::new());
    let list = fs::read_dir(&desk).map_err(|cause| Cause::Io {
        action: "list",
        path: desk.clone(),
        cause,
    })?;
    let mut swept = 0;
    for entry in list.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(session) = name.strip_suffix(PLACE).filter(|name| name.starts_with(SESSION))
        else {
            continue;
        };
        if locks.is_alive(session)? {
            continue;
        }
        // Half a file names nothing: then nothing was made yet.
        let path = fs::read(entry.path()).unwrap_or_default();
        let path = PathBuf::from(OsStr::from_bytes(&path));
        if is_ours(&path, session) {
            remove(&path)?;
            swept += 1;
        }
        // Somebody else may have been faster.
        let _ = fs::remove_file(entry.path());
    }
    Ok(swept)
}

fn is_ours(path: &Path, session: &str) -> bool {
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let number = session.strip_prefix(SESSION).unwrap_or_default();
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    path.is_absolute() && is_folder && !number.is_empty() && name == format!("{PREFIX}{number}")
}

fn remove(path: &Path) -> Result<(), Cause> {
    scratch::remove(path).map_err(|cause| Cause::Io {
        action: "remove",
        path: path.to_path_buf(),
        cause,
    })
}

impl Sandbox {
    /// Makes a sandbox below `base`, or below the state. A `tenant` may enter it beside us, but not list it.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(crate) fn make(
        state: &Path,
        holder: &str,
        base: Option<&Path>,
        tenant: Option<&User>,
    ) -> Result<Self, Cause> {
        let desk = desk(state)?;
        let base = match base {
            Some(base) => base.to_path_buf(),
            None if tenant.is_none_or(|tenant| may_enter(tenant, &desk)) => desk.clone(),
            None => PathBuf::from(OPEN_TO_ALL),
        };
        let absolute = std::path::absolute(&base);
        let base = absolute.map_err(|cause| Cause::Io { action: "find", path: base, cause })?;
        if let Some(tenant) = tenant.filter(|tenant| !may_enter(tenant, &base)) {
            let message = format!("user \"{}\" may not enter {}", tenant.name, base.display());
            let hint = "name a folder that its server can reach with --in DIR";
            return Err(WorkloadError::failed(message).hint(hint).into());
        }
        let (session, lock) =
            Locks::new(desk.clone(), holder.to_string()).begin_session(&SystemEntropy)?;
        let number = session.strip_prefix(SESSION).unwrap_or(&session);
        let path = base.join(format!("{PREFIX}{number}"));
        let place = desk.join(format!("{session}{PLACE}"));
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |cause| Cause::Io { action, path, cause }
        };
        // Entered before it is made: a kill in between leaves a name without a folder, never a folder without a name.
        fs::write(&place, path.as_os_str().as_bytes()).map_err(failed("write", &place))?;
        let sandbox = Self { path, place, _lock: lock };
        let path = &sandbox.path;
        DirBuilder::new().mode(0o700).create(path).map_err(failed("create", path))?;
        if tenant.is_some() {
            let mode = fs::Permissions::from_mode(0o711);
            fs::set_permissions(path, mode).map_err(failed("open", path))?;
        }
        Ok(sandbox)
    }

    /// Returns its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder in it, the tenant's own if there is one.
    pub(crate) fn folder(&self, name: &str, tenant: Option<&User>) -> Result<PathBuf, Cause> {
        let path = self.path.join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        let given = made.and_then(|()| match tenant {
            Some(tenant) => chown(&path, Some(tenant.uid), Some(tenant.gid)),
            None => Ok(()),
        });
        given.map_err(|cause| Cause::Io { action: "create", path: path.clone(), cause })?;
        Ok(path)
    }

    /// Makes sure that so many bytes can be written without touching the reserve of the disk.
    ///
    /// # Errors
    /// [`storepool::Error::TargetFull`].
    pub(crate) fn require_room(&self, reserve: &Reserve, bytes: u64) -> Result<(), Cause> {
        let room = reserve.room(&SystemDisk, &self.path)?;
        match bytes <= room {
            true => Ok(()),
            false => Err(Cause::NoRoomForDrill { path: self.path.clone(), needed: bytes, room }),
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// Something in it cannot be removed; the next sweep tries again.
    pub(crate) fn close(self) -> Result<(), Cause> {
        remove(&self.path)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // What cannot be removed now is left to the sweep of the next drill, with the file that names it.
        if scratch::remove(&self.path).is_ok() {
            let _ = fs::remove_file(&self.place);
        }
    }
}

// Whether the modes of a folder and of all above it let somebody through.
fn may_enter(user: &User, folder: &Path) -> bool {
    let Ok(folder) = std::path::absolute(folder) else { return false };
    folder.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|found| {
            let bit = match (found.uid() == user.uid, found.gid() == user.gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            found.mode() & bit != 0
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_private_and_goes_and_what_was_left_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let (state, base) = (place.path().join("state"), place.path().join("base"));
        fs::create_dir(&base).unwrap();

        let sandbox = Sandbox::make(&state, "test", Some(&base), None).unwrap();
        let path = sandbox.path().to_path_buf();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(sweep(&state).unwrap(), 0, "it is in use");
        assert!(path.exists());
        drop(sandbox);
        assert!(!path.exists());

        // As a killed one leaves it, with a lock that nobody holds.
        let left = base.join("keepwell-drill-00ff");
        fs::create_dir(&left).unwrap();
        fs::write(state.join("drills/session-00ff.place"), left.as_os_str().as_bytes()).unwrap();
        // What has another name is not ours, whatever the file says.
        let foreign = base.join("precious");
        fs::create_dir(&foreign).unwrap();
        let entry = state.join("drills/session-00fe.place");
        fs::write(&entry, foreign.as_os_str().as_bytes()).unwrap();

        assert_eq!(sweep(&state).unwrap(), 1);

        assert!(!left.exists() && foreign.exists() && !entry.exists());
        assert_eq!(fs::read_dir(state.join("drills")).unwrap().count(), 0);
    }
}
