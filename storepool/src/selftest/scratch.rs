//! The folder of an examination: whatever a killed one leaves there is removed by the next.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::entropy::Entropy;
use crate::error::{Error, Result};
use crate::lock::{HeldLock, Locks};

/// Name of the folder in the examined directory. Only examinations use it, and it is gone when none runs.
pub const SCRATCH_NAME: &str = ".keepwell-selftest";
/// Begins the names of the folders in there, one for each examination; the rest is the name of its session.
const WORK: &str = "work-";
/// How often the folder is made again because another examination has just removed it.
const TRIES: usize = 100;

/// A folder of one's own, for as long as it is held.
pub(super) struct Scratch {
    work: PathBuf,
    folder: PathBuf,
    session: Option<HeldLock>,
}

impl Scratch {
    /// Makes the folder, and removes those of examinations that are no more.
    pub(super) fn create(directory: &Path, entropy: &dyn Entropy) -> Result<Self> {
        let folder = directory.join(SCRATCH_NAME);
        let holder = format!("keepwell selftest (process {})", std::process::id());
        let locks = Locks::new(folder.clone(), holder);
        let mut tries = 0;
        let (name, session) = loop {
            let begun = make(&folder).and_then(|()| locks.begin_session(entropy));
            match begun {
                Err(Error::Io { cause, .. })
                    if cause.kind() == io::ErrorKind::NotFound && tries < TRIES =>
                {
                    tries += 1;
                }
                begun => break begun?,
            }
        };
        let work = folder.join(format!("{WORK}{name}"));
        let scratch = Self { work, folder, session: Some(session) };
        make(&scratch.work)?;
        scratch.remove_dead(&locks)?;
        Ok(scratch)
    }

    /// Returns the folder to work in.
    pub(super) fn path(&self) -> &Path {
        &self.work
    }

    // A work folder is made after its session and removed before it: without a living session it is nobody's.
    fn remove_dead(&self, locks: &Locks) -> Result<()> {
        let entries = fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(Error::io("list", &self.folder))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            if let Some(session) = name.strip_prefix(WORK)
                && path != self.work
                && !locks.is_alive(session)?
            {
                // Best effort: who comes next tries again.
                let _ = fs::remove_dir_all(&path);
            }
        }
        for session in locks.session_files()? {
            // Looking removes the file of a dead one.
            locks.is_alive(&session)?;
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed by the next examination.
        let _ = fs::remove_dir_all(&self.work);
        drop(self.session.take());
        // Refused for as long as another examination is in there.
        let _ = fs::remove_dir(&self.folder);
    }
}

fn make(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(Error::io("create", folder)),
    }
}
