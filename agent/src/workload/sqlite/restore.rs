//! Giving databases back: each whole or not at all. What is in use gets its content in one transaction; what is not there is renamed into place.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use storepool::entry::EntryPath;
use storepool::restore::find_path;

use super::copy::{beside, prove, replace_content};
use super::{FORMAT, Sqlite, SqliteDetail};
use crate::config::SqliteConfig;
use crate::error::Cause;
use crate::workload::{
    PointContents, RestoreOrder, RestoredService, Restorer, ServiceConflict, WorkloadError,
};

/// Restores points of databases.
pub(crate) struct SqliteRestore;

/// One database on its way back.
struct Transfer {
    file: EntryPath,
    target: PathBuf,
    exists: bool,
}

impl Restorer for SqliteRestore {
    fn restore(
        &self,
        point: &PointContents<'_>,
        order: &RestoreOrder<'_>,
    ) -> Result<RestoredService, Cause> {
        let transfers = plan(point, order)?;
        let targets = transfers.iter().map(|transfer| transfer.target.display().to_string());
        let mut done = RestoredService {
            target: targets.collect::<Vec<_>>().join(", "),
            ..RestoredService::default()
        };
        if order.dry_run {
            done.items = transfers.len() as u64;
            return Ok(done);
        }
        let replaced: Vec<PathBuf> = transfers
            .iter()
            .filter(|transfer| transfer.exists)
            .map(|transfer| transfer.target.clone())
            .collect();
        if !replaced.is_empty() {
            let config = SqliteConfig { files: replaced, discover: Vec::new() };
            let made = (order.safety_point)(&Sqlite::new(config)).map_err(|cause| {
                WorkloadError::failed("no point can be made of what is there: it is not replaced")
                    .hint("move the database away with its -wal and -shm, and restore again")
                    .because(cause.chain())
            });
            done.safety_point = Some(made?);
        }
        for transfer in &transfers {
            done.bytes += give_back(point, transfer)?;
            done.items += 1;
        }
        Ok(done)
    }
}

fn plan(point: &PointContents<'_>, order: &RestoreOrder<'_>) -> Result<Vec<Transfer>, Cause> {
    let detail: SqliteDetail = point.detail()?;
    if detail.format != FORMAT {
        let message = format!("point {} was made by a newer Keepwell", point.id.short());
        return Err(WorkloadError::failed(message).hint("use that version").into());
    }
    let mut faults = Vec::new();
    for name in order.parameters.keys() {
        if !["path", "folder"].contains(&name.as_str()) {
            faults.push(format!(
                "there is no parameter \"{name}\": \"path\" and \"folder\" are known"
            ));
        }
    }
    let (path, folder) = (order.parameters.get("path"), order.parameters.get("folder"));
    if path.is_some() && (detail.databases.len() > 1 || folder.is_some()) {
        faults.push(
            "\"path\" is for a single database, and not together with \"folder\"".to_string(),
        );
    }
    let replaces = order.replace || order.conflict == ServiceConflict::Replace;
    let mut transfers: Vec<Transfer> = Vec::new();
    for database in &detail.databases {
        let target = match (path, folder, database.path.file_name()) {
            (Some(path), _, _) => PathBuf::from(path),
            (None, Some(folder), Some(name)) => Path::new(folder).join(name),
            _ => database.path.clone(),
        };
        let shown = target.display();
        if transfers.iter().any(|other| other.target == target) {
            faults.push(format!("two databases would become {shown}"));
        }
        if !target.is_absolute() {
            faults.push(format!("{shown} is no absolute path"));
        }
        if !target.parent().is_some_and(Path::is_dir) {
            faults.push(format!("there is no folder for {shown}"));
        }
        let exists = fs::symlink_metadata(&target).is_ok();
        if exists && !replaces {
            faults.push(format!("{shown} is there already (--replace replaces its content)"));
        }
        // SQLite would take such a file for a part of the restored database.
        let is_left = |suffix: &&str| {
            fs::metadata(beside(&target, suffix)).is_ok_and(|metadata| metadata.len() > 0)
        };
        let stale = ["-wal", "-journal"].into_iter().find(is_left);
        if let Some(suffix) = stale.filter(|_| !exists) {
            faults.push(format!("{shown}{suffix} is left of another database: move it away"));
        }
        match EntryPath::parse(database.file.as_bytes()) {
            Some(file) => transfers.push(Transfer { file, target, exists }),
            None => faults.push(format!("the point names a file \"{}\"", database.file)),
        }
    }
    if faults.is_empty() {
        return Ok(transfers);
    }
    let message = format!("point {} cannot be restored: {}", point.id.short(), faults.join("; "));
    Err(WorkloadError::refused(message).hint("nothing was changed; -n checks again").into())
}

fn give_back(point: &PointContents<'_>, transfer: &Transfer) -> Result<u64, Cause> {
    let Transfer { file, target, exists } = transfer;
    let new = Unfinished(beside(target, ".keepwell-restore"));
    let io = |action| {
        let path = new.0.clone();
        move |cause| Cause::Io { action, path, cause }
    };
    let mut out = fs::File::create(&new.0).map_err(io("create"))?;
    out.set_permissions(fs::Permissions::from_mode(0o600)).map_err(io("protect"))?;
    let bytes = point.copy(file, &mut out)?;
    out.flush().and_then(|()| out.sync_all()).map_err(io("write"))?;
    drop(out);
    prove(&new.0, target)?;
    if *exists {
        replace_content(&new.0, target)?;
        return Ok(bytes);
    }
    let reader = point.chunks.reader()?;
    let metadata = find_path(&*reader, point.manifest, file)?.metadata;
    if rustix::process::geteuid().is_root() {
        chown(&new.0, Some(metadata.uid), Some(metadata.gid)).map_err(io("give away"))?;
    }
    let permissions = fs::Permissions::from_mode(metadata.mode & 0o777);
    fs::set_permissions(&new.0, permissions).map_err(io("protect"))?;
    fs::rename(&new.0, target).map_err(io("rename"))?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync"))?;
    Ok(bytes)
}

// Removed with what SQLite keeps beside it, unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(beside(&self.0, suffix));
        }
    }
}
