//! The marker file of a pool directory: what it is and which directories belong together (`docs/format.md`, section 7).

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::id::{DirectoryId, PoolId, hex};

/// Name of the marker file.
pub const MARKER_NAME: &str = "keepwell-pool.json";

const FORMAT: u64 = 1;
const MARKER_LIMIT: u64 = 64 << 10;

/// What a pool directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The pool it belongs to.
    pub pool: PoolId,
    /// This directory.
    pub directory: DirectoryId,
    /// All directories of the pool.
    pub members: Vec<DirectoryId>,
    /// When the pool was made, RFC 3339.
    pub created: String,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    format: u64,
    pool: String,
    directory: String,
    members: Vec<String>,
    created: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    check: String,
}

impl Marker {
    /// Reads the marker of the directory `path`; `None` if there is none.
    pub fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>> {
        let file = path.join(MARKER_NAME);
        let bytes = match disk.read(&file, MARKER_LIMIT) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("read", &file)(error)),
        };
        let object = file.display().to_string();
        let damaged = |reason: &str| Error::damaged(object.clone(), reason);
        let mut fields: Fields =
            serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
        if fields.format != FORMAT {
            return Err(Error::NewerFormat { object, found: fields.format, supported: FORMAT });
        }
        let check = std::mem::take(&mut fields.check);
        if check != fields.digest() {
            return Err(damaged("its check value is wrong"));
        }
        let members: std::result::Result<Vec<_>, _> =
            fields.members.iter().map(|member| member.parse()).collect();
        let marker = (|| {
            Some(Self {
                pool: fields.pool.parse().ok()?,
                directory: fields.directory.parse().ok()?,
                members: members.ok()?,
                created: fields.created.clone(),
            })
        })();
        marker.map(Some).ok_or_else(|| damaged("an identifier is malformed"))
    }

    /// Writes the marker durably, replacing an older one.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<()> {
        let mut fields = Fields {
            format: FORMAT,
            pool: self.pool.to_string(),
            directory: self.directory.to_string(),
            members: self.members.iter().map(ToString::to_string).collect(),
            created: self.created.clone(),
            check: String::new(),
        };
        fields.check = fields.digest();
        let mut bytes = serde_json::to_vec_pretty(&fields).expect("text always has a JSON form");
        bytes.push(b'\n');
        let temporary = path.join(format!("{MARKER_NAME}.new"));
        let file = path.join(MARKER_NAME);
        if let Err(error) = disk.remove(&temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(Error::io("remove", &temporary)(error));
        }
        write_durably(disk, &temporary, &file, &bytes)
    }
}

impl Fields {
    fn digest(&self) -> String {
        let text = serde_json::to_vec(self).expect("text always has a JSON form");
        hex(blake3::hash(&text).as_bytes())
    }
}

/// Writes a small file so that it is either there whole or not at all: write, sync, rename, sync the directory.
pub fn write_durably(disk: &dyn Disk, temporary: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let written = (|| {
        let mut file = disk.create(temporary).map_err(Error::io("create", temporary))?;
        file.append(bytes).map_err(Error::io("write", temporary))?;
        file.sync().map_err(Error::io("sync", temporary))?;
        disk.rename(temporary, path).map_err(Error::io("rename", temporary))
    })();
    if written.is_err() {
        let _ = disk.remove(temporary);
        return written;
    }
    let directory = path.parent().expect("a file of a pool lies in a directory");
    disk.sync_directory(directory).map_err(Error::io("sync", directory))
}
