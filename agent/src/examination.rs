//! Examining what is configured: the disks of the pool and the places of the vaults, from the program's side.

use std::path::{Path, PathBuf};

use cloudsync::store::selftest;
use cloudsync::vault::credentials::Credentials;
use serde::Serialize;
use storepool::disk::{Disk, SystemDisk};
use storepool::marker::Marker;
use storepool::pool::World;
use storepool::selftest::{Depth, Examination, Examiner, Finding, Grade, examine};

use crate::console::Console;
use crate::error::Cause;
use crate::vaults::Engine;

/// Examines the directory `path`.
pub(crate) fn examine_disk(path: &Path, depth: Depth) -> Result<Examination, storepool::Error> {
    let World { disk, clock, entropy } = World::system();
    examine(path, &Examiner { disk: &*disk, clock: &*clock, entropy: &*entropy, depth })
}

/// Examines the place of the vault that credentials are for. It is asked once for each thing and not patiently: who asks wants to know how it
/// is now.
pub(crate) fn examine_vault(
    engine: &Engine,
    credentials: &Credentials,
    depth: Depth,
) -> Result<Examination, cloudsync::Error> {
    let opening = engine.opening(&credentials.access);
    let entropy = engine.around().entropy;
    engine.run(selftest::examine(&credentials.address, &opening, entropy, depth))
}

/// Looks at a vault's place before a server registers with it: warns of what is weak.
///
/// # Errors
/// [`Cause::UnfitVault`] for a place that cannot keep a vault; what the store reports if it cannot be asked.
pub(crate) fn before_registration(
    console: &Console,
    engine: &Engine,
    credentials: &Credentials,
) -> Result<Examination, Cause> {
    let found = examine_vault(engine, credentials, Depth::Quick)?;
    if let Some(unfit) = found.findings.iter().find(|finding| finding.grade == Grade::Unfit) {
        let (place, seen) = (credentials.address.to_string(), unfit.seen.clone());
        return Err(Cause::UnfitVault { place, check: unfit.check, seen });
    }
    warn(console, &credentials.address.to_string(), &found);
    Ok(found)
}

fn warn(console: &Console, what: &str, found: &Examination) {
    for complaint in found.complaints() {
        console.warn(format!("{what}: {}", complaint.seen));
        if let Some(advice) = &complaint.advice {
            console.hint(advice);
        }
    }
}

/// What was seen of a directory that a pool is about to be made in.
#[derive(Debug, Serialize)]
pub(crate) struct NewDisk {
    /// The directory.
    pub(crate) path: PathBuf,
    /// How good it is.
    pub(crate) grade: Grade,
    /// What is worse than a note.
    pub(crate) complaints: Vec<Finding>,
}

/// Looks at the directories of a pool before it is made there: warns of weak ones. Directories that belong to a pool already are left out,
/// and so are those that nothing can be written to: whoever makes the pool says so.
///
/// # Errors
/// [`Cause::Unfit`] for one in which a pool would not work; nothing is left there.
pub(crate) fn before_pool(console: &Console, paths: &[PathBuf]) -> Result<Vec<NewDisk>, Cause> {
    let mut seen = Vec::new();
    for path in paths {
        let disk: &dyn Disk = &SystemDisk;
        if !matches!(Marker::read(disk, path), Ok(None)) {
            continue;
        }
        let made = !path.exists();
        if disk.create_directory(path).is_err() {
            continue;
        }
        let Ok(found) = examine_disk(path, Depth::Quick) else { continue };
        let unfit = found.findings.iter().find(|finding| finding.grade == Grade::Unfit);
        if let Some(unfit) = unfit {
            if made {
                // Only if it is empty; and an empty directory harms nobody.
                let _ = std::fs::remove_dir(path);
            }
            let (path, seen) = (path.clone(), unfit.seen.clone());
            return Err(Cause::Unfit { path, check: unfit.check, seen });
        }
        warn(console, &path.display().to_string(), &found);
        let (grade, complaints) = (found.grade(), found.complaints().cloned().collect());
        seen.push(NewDisk { path: path.clone(), grade, complaints });
    }
    Ok(seen)
}
