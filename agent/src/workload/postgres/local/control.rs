//! The control file, which the server may write at any moment: read until it is whole.
//!
//! Its CRC-32C covers all fields before it (`src/include/catalog/pg_control.h`); how many there are differs between versions, so the place of the sum is
//! searched for.

use std::io::{self, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, checksum};

use super::super::lsn::Lsn;
use super::folder::Folder;

/// Its name in the data directory.
pub(super) const CONTROL: &str = "global/pg_control";
/// How often it is read, and how long the server is given in between.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(20);
/// Longest control file (`PG_CONTROL_FILE_SIZE` is 8192).
const LONGEST: u64 = 64 << 10;
/// Where its sum may lie: no version has had fewer or more fields.
const FEWEST_FIELDS: usize = 200;
const MOST_FIELDS: usize = 508;

/// A whole control file.
pub(super) struct Control {
    /// All its bytes.
    pub(super) bytes: Vec<u8>,
}

impl Control {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, or it stays without a right sum.
    pub(super) fn read(data: &Folder) -> io::Result<Self> {
        for _ in 0..LOOKS {
            let mut bytes = Vec::new();
            data.file(Path::new(CONTROL))?.take(LONGEST).read_to_end(&mut bytes)?;
            if is_whole(&bytes) {
                return Ok(Self { bytes });
            }
            sleep(PAUSE);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong"))
    }

    /// Returns the number that a cluster is known by.
    pub(super) fn system_identifier(&self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|at| self.bytes[at]))
    }

    /// Returns the version of the catalogs, which is part of the names of folders in tablespaces.
    pub(super) fn catalog_version(&self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|at| self.bytes[12 + at]))
    }

    /// Returns where recovery from its last checkpoint begins.
    pub(super) fn redo(&self) -> Lsn {
        Lsn(u64::from_le_bytes(std::array::from_fn(|at| self.bytes[40 + at])))
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    (FEWEST_FIELDS..=MOST_FIELDS).step_by(4).any(|end| {
        let sum = bytes.get(end..end + 4).and_then(|sum| sum.try_into().ok());
        sum.is_some_and(|sum| {
            checksum(CrcAlgorithm::Crc32Iscsi, &bytes[..end]) as u32 == u32::from_le_bytes(sum)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_control_file_that_is_half_written_is_never_taken() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("global")).unwrap();
        let mut bytes: Vec<u8> = (0..288).map(|at| (at * 7 % 251) as u8).collect();
        bytes[40..48].copy_from_slice(&0x300_0028_u64.to_le_bytes());
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
        bytes.extend(sum.to_le_bytes());
        bytes.resize(8192, 0);
        let data = Folder::open(place.path()).unwrap();

        fs::write(place.path().join(CONTROL), &bytes).unwrap();
        let control = Control::read(&data).unwrap();
        assert_eq!((&control.bytes, control.redo()), (&bytes, Lsn(0x300_0028)));
        for at in [0, 100, 287, 290] {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert!(!is_whole(&torn), "{at}");
        }
        assert!(!is_whole(&bytes[..280]) && !is_whole(&[]));
    }
}
