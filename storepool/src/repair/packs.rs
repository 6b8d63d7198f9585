//! Damaged packs: what can be read of them is copied, the file is moved aside.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::check::read_all;
use crate::entropy::random_bytes;
use crate::error::{Error, Result};
use crate::id::{PackId, hex};
use crate::index::PackNo;
use crate::monitor::{Event, Monitor};
use crate::pack::frame::FrameCodec;
use crate::pack::salvage::Salvage;
use crate::pack::writer::pack_path;
use crate::pool::reconcile::list_packs;
use crate::pool::{Pool, Session};
use crate::writer::{PoolWriter, SpacePolicy};

/// Where damaged packs go, below their pool directory.
const DAMAGED_DIRECTORY: &str = "damaged";

/// A pack whose bytes are not those that its name promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPack {
    /// The pack.
    pub id: PackId,
    /// What is wrong with it.
    pub detail: String,
    /// Its file; after a repair, where it was moved.
    pub path: PathBuf,
    /// Chunks that could be read and are, or would be, copied (unless the pool has them elsewhere).
    pub chunks_sound: u64,
    /// Chunks that could not be read.
    pub chunks_lost: u64,
    /// Its row in the index, if it has one.
    no: Option<PackNo>,
    // The pool directory that holds it.
    directory: PathBuf,
}

/// Reads every pack file. Returns those with anything wrong in them, in the order of their names.
pub(super) fn find_damaged(pool: &Pool, monitor: &dyn Monitor) -> Result<Vec<DamagedPack>> {
    let rows = pool.index().packs()?;
    let known: HashSet<_> = rows.iter().map(|row| row.id).collect();
    let mut damaged = Vec::new();
    let mut add = |id: PackId, detail: String, no, directory: &Path| {
        damaged.push(DamagedPack {
            id,
            detail,
            path: pack_path(&directory.join("packs"), id),
            chunks_sound: 0,
            chunks_lost: 0,
            no,
            directory: directory.to_path_buf(),
        });
    };
    for (id, directory) in list_packs(pool)? {
        if known.contains(&id) {
            continue;
        }
        let Some(path) = pool.directory_path(directory) else { continue };
        match pool.open_pack_file(path, id) {
            Ok(_) => {}
            Err(error) if error.is_damage() => add(id, error.to_string(), None, path),
            Err(error) => return Err(error),
        }
    }
    for (row, detail) in read_all(pool, &rows, monitor)? {
        let Some(path) = pool.directory_path(row.directory) else { continue };
        add(row.id, detail, Some(row.no), path);
    }
    damaged.sort_by_key(|pack| pack.id);
    Ok(damaged)
}

/// Copies every readable chunk of `packs` that the pool does not have elsewhere, and when the copies are durable and known, moves the files aside and
/// drops their rows.
pub(super) fn salvage(
    session: &Session,
    packs: &mut [DamagedPack],
    dry_run: bool,
    monitor: &dyn Monitor,
) -> Result<()> {
    let pool = session.pool();
    let damaged: HashSet<_> = packs.iter().filter_map(|pack| pack.no).collect();
    monitor.event(Event::Expected { items: packs.len() as u64, bytes: 0 });
    let writer =
        (!dry_run).then(|| PoolWriter::new(session, SpacePolicy::UseReserve)).transpose()?;
    let mut chunks = writer.as_ref().map(PoolWriter::chunk_writer).transpose()?;
    let lookup = pool.index().lookup()?;
    let mut codec = FrameCodec::new(pool.options().compression_level)?;
    for pack in packs.iter_mut() {
        if monitor.cancelled() {
            return Err(Error::Interrupted);
        }
        let read = pool.world().disk.open(&pack.path).and_then(|file| Salvage::read(&*file));
        let salvage = match read {
            Ok(salvage) => salvage,
            Err(cause) => {
                pack.detail = format!("{}: {cause}", pack.detail);
                continue;
            }
        };
        let salvaged = salvage.chunks(&mut codec, |id, kind, bytes| {
            let Some(chunks) = &mut chunks else { return Ok(()) };
            let elsewhere = pool.find(&lookup, &id, |row| !damaged.contains(&row.no))?;
            if elsewhere.is_none() {
                chunks.put_again(id, kind, bytes)?;
            }
            Ok::<_, Error>(())
        })?;
        pack.chunks_sound = salvaged.sound;
        pack.chunks_lost = salvaged.lost;
        monitor.event(Event::Done { items: 1, bytes: 0 });
    }
    let (Some(writer), Some(chunks)) = (writer, chunks) else { return Ok(()) };
    chunks.finish()?;
    writer.flush()?;
    drop(writer);
    for pack in packs {
        move_aside(pool, pack)?;
    }
    pool.refresh_packs()
}

// The file first: a row without a file is dropped at the next start, a file without a row would be looked at again.
fn move_aside(pool: &Pool, pack: &mut DamagedPack) -> Result<()> {
    let disk = &pool.world().disk;
    let aside = pack.directory.join(DAMAGED_DIRECTORY);
    disk.create_directory(&aside).map_err(Error::io("create", &aside))?;
    let mut target = aside.join(format!("{}.pack", pack.id));
    // It was moved aside before, and has been put back since: both may be worth keeping.
    if disk.exists(&target).map_err(Error::io("look for", &target))? {
        let other = hex(&random_bytes::<4>(&*pool.world().entropy));
        target = aside.join(format!("{}.{other}.pack", pack.id));
    }
    let toc = pack.no.and_then(|no| {
        let row = pool.pack_row(no).ok()??;
        Some(pool.open_pack(&row).ok()?.toc().clone())
    });
    let group = pack.path.parent().expect("a pack lies in a directory").to_path_buf();
    disk.rename(&pack.path, &target).map_err(Error::io("rename", &pack.path))?;
    for directory in [&pack.directory, &aside, &group] {
        disk.sync_directory(directory).map_err(Error::io("sync", directory))?;
    }
    pack.path = target;
    if let Some(no) = pack.no {
        pool.close_pack(no);
        pool.index().remove_packs(&[(no, toc)])?;
    }
    Ok(())
}
