//! Points: files that can be written again, and manifests that lost theirs.

use std::collections::BTreeSet;

use crate::catalog::{Notes, Point};
use crate::chunks::PoolChunks;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, PointId};
use crate::manifest::Manifest;
use crate::pack::PackKind;
use crate::pool::{Pool, Session};
use crate::tree::ChunkFetch;

/// A manifest in the packs that has no point file: it was lost, or forgotten since the last prune.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPoint {
    /// The point.
    pub id: PointId,
    /// When its run began.
    pub started: Timestamp,
    /// Its protection group; empty for none.
    pub group: String,
    /// Its data source.
    pub source: String,
    /// Whether its file was written again.
    pub recovered: bool,
}

/// Writes each missing or damaged point file from another copy or from the manifest chunk. Returns how many.
pub(super) fn mend_files(session: &Session) -> Result<u64> {
    let pool = session.pool();
    let _alone = pool.lock_points()?;
    let forgotten = forgotten(pool)?;
    let mut points: BTreeSet<_> = pool.points()?.iter().map(|point| point.id).collect();
    for files in pool.point_files() {
        points.extend(files.names()?.points);
    }
    let reader = PoolChunks::new(session).pool_reader()?;
    let mut mended = 0;
    for point in points.difference(&forgotten) {
        let mut sound = None;
        let mut unsound = Vec::new();
        for files in pool.point_files() {
            match files.manifest(*point) {
                Ok((_, bytes)) => sound = Some(bytes),
                Err(_) => unsound.push(files),
            }
        }
        if unsound.is_empty() {
            continue;
        }
        let bytes = match sound {
            Some(bytes) => bytes,
            None => match reader.fetch((*point).into(), ChunkKind::Manifest) {
                Ok(bytes) => bytes,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            },
        };
        for files in unsound {
            files.write(*point, &bytes, &pool.temporary(files.directory))?;
            mended += 1;
        }
        if !pool.catalog().contains(*point)? {
            enter(pool, *point, &bytes)?;
        }
    }
    Ok(mended)
}

/// Returns the manifest with this name from a sound point file, if it is one and has one.
pub(super) fn manifest_bytes(pool: &Pool, id: ChunkId, kind: ChunkKind) -> Option<Vec<u8>> {
    let point = (kind == ChunkKind::Manifest).then(|| PointId::from(id))?;
    pool.point_files().find_map(|files| files.manifest(point).ok()).map(|(_, bytes)| bytes)
}

/// Returns the manifests in the packs that have no point file, oldest first.
pub(super) fn find(session: &Session) -> Result<Vec<FoundPoint>> {
    let pool = session.pool();
    let mut known = forgotten(pool)?;
    known.extend(pool.points()?.iter().map(|point| point.id));
    let mut lost = BTreeSet::new();
    for row in pool.index().packs()?.iter().filter(|row| row.kind == PackKind::Metadata) {
        let pack = match pool.open_pack(row) {
            Ok(pack) => pack,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        let manifests =
            pack.toc().chunks().iter().filter(|chunk| chunk.kind == ChunkKind::Manifest);
        let unknown = manifests.map(|chunk| chunk.id.into()).filter(|id| !known.contains(id));
        lost.extend(unknown);
    }
    let reader = PoolChunks::new(session).pool_reader()?;
    let mut found = Vec::new();
    for id in lost {
        match read_manifest(&reader, id) {
            Ok((manifest, _)) => found.push(FoundPoint {
                id,
                started: manifest.started,
                group: manifest.group,
                source: manifest.source,
                recovered: false,
            }),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|point| (point.started, point.id));
    Ok(found)
}

/// Writes the files of these points and enters them in the catalog.
pub(super) fn recover(session: &Session, points: &mut [FoundPoint]) -> Result<()> {
    let pool = session.pool();
    let reader = PoolChunks::new(session).pool_reader()?;
    for point in points {
        let (_, bytes) = read_manifest(&reader, point.id)?;
        for files in pool.point_files() {
            files.write(point.id, &bytes, &pool.temporary(files.directory))?;
        }
        enter(pool, point.id, &bytes)?;
        point.recovered = true;
    }
    Ok(())
}

// The packs it needs may have been condemned without knowing of it: all are taken back, the next prune decides anew.
fn enter(pool: &Pool, point: PointId, bytes: &[u8]) -> Result<()> {
    let manifest = Manifest::decode(bytes)
        .map_err(|error| Error::damaged(format!("manifest {}", point.short()), error.0))?;
    let mut notes = Notes::default();
    for files in pool.point_files() {
        notes = files.notes(point).unwrap_or_default();
    }
    let condemned: Vec<_> = pool
        .index()
        .packs()?
        .into_iter()
        .filter(|row| row.condemned_after.is_some())
        .map(|row| row.no)
        .collect();
    pool.catalog().add(&Point::of(point, &manifest, notes), &condemned)
}

fn read_manifest(fetch: &dyn ChunkFetch, point: PointId) -> Result<(Manifest, Vec<u8>)> {
    let bytes = fetch.fetch(point.into(), ChunkKind::Manifest)?;
    let manifest = Manifest::decode(&bytes)
        .map_err(|error| Error::damaged(format!("manifest {}", point.short()), error.0))?;
    Ok((manifest, bytes))
}

fn forgotten(pool: &Pool) -> Result<BTreeSet<PointId>> {
    let mut forgotten = BTreeSet::new();
    for files in pool.point_files() {
        forgotten.extend(files.names()?.forgotten);
    }
    Ok(forgotten)
}
