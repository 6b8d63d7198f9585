//! Mending markers: a directory that is plainly part of the pool, but does not say so any more.

use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::id::PoolId;
use crate::marker::Marker;
use crate::pack::{HEADER_LENGTH, Header};
use crate::point::PointFiles;
use crate::pool::World;

/// Writes the markers of directories in `paths` that hold packs or points of the pool and have no sound marker, if the other markers leave exactly one
/// member for exactly one such directory; and those that do not name every member. Returns which.
pub(super) fn mend(paths: &[PathBuf], world: &World, dry_run: bool) -> Result<Vec<PathBuf>> {
    let disk = &*world.disk;
    let mut sound = Vec::new();
    let mut unsound = Vec::new();
    for path in paths {
        match Marker::read(disk, path) {
            Ok(Some(marker)) => sound.push((path, marker)),
            Ok(None) => unsound.push(path),
            Err(error) if error.is_damage() => unsound.push(path),
            Err(error) => return Err(error),
        }
    }
    let Some((_, model)) = sound.first().cloned() else { return Ok(Vec::new()) };
    let mut members = Vec::new();
    for member in sound.iter().flat_map(|(_, marker)| &marker.members) {
        if !members.contains(member) {
            members.push(*member);
        }
    }
    let mut mended = Vec::new();
    let absent: Vec<_> = members
        .iter()
        .filter(|member| !sound.iter().any(|(_, marker)| marker.directory == **member))
        .collect();
    let mut ours = Vec::new();
    for path in unsound {
        if holds_things_of(disk, path, model.pool)? {
            ours.push(path);
        }
    }
    // With two such directories nobody could say which is which, and the index tells them apart by their ids.
    if let ([path], [member]) = (ours.as_slice(), absent.as_slice()) {
        let marker = Marker { directory: **member, members: members.clone(), ..model.clone() };
        if !dry_run {
            marker.write(disk, path)?;
        }
        mended.push((*path).clone());
    }
    for (path, marker) in sound {
        if marker.members != members {
            if !dry_run {
                Marker { members: members.clone(), ..marker }.write(disk, path)?;
            }
            mended.push(path.clone());
        }
    }
    Ok(mended)
}

// One pack or point of this pool is enough.
fn holds_things_of(disk: &dyn Disk, path: &Path, pool: PoolId) -> Result<bool> {
    let files = PointFiles { disk, directory: path };
    for point in files.names().unwrap_or_default().points {
        if let Ok((manifest, _)) = files.manifest(point) {
            return Ok(manifest.pool == pool);
        }
    }
    let packs = path.join("packs");
    let Ok(groups) = disk.list(&packs) else { return Ok(false) };
    for group in groups {
        let group = packs.join(group);
        for name in disk.list(&group).map_err(Error::io("list", &group))? {
            let mut bytes = [0; HEADER_LENGTH];
            let read = disk.open(&group.join(name));
            let read = read.and_then(|file| file.read_exact_at(&mut bytes, 0));
            if let (Ok(()), Ok(header)) = (read, Header::decode(&bytes)) {
                return Ok(header.pool == pool);
            }
        }
    }
    Ok(false)
}
