//! The key file: the unlocked ring of one installation, for unattended work. The passphrase is not in it and
//! cannot be had from it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use storepool::wire::WireReader;
use zeroize::Zeroizing;

use crate::crypto::ring::{KeyRing, RING_LENGTH, RealmKeys};
use crate::error::{Error, Result, SealError};
use crate::layout::{InstanceId, RealmId, VaultId};
use crate::vault::file::{read_small_file, write_private_file};

const MAGIC: &[u8; 8] = b"KWKEYF1\n";
const VERSION: u16 = 1;
const CHECK_LENGTH: usize = 8;
const RING_START: usize = 80;
const FILE_LENGTH: usize = RING_START + RING_LENGTH + CHECK_LENGTH;

/// The unlocked keys of a realm, and which installation may use them.
#[derive(Clone, Debug)]
pub struct UnlockedKey {
    /// The vault.
    pub vault: VaultId,
    /// The installation.
    pub instance: InstanceId,
    /// The keys, with their realm.
    pub keys: RealmKeys,
}

impl UnlockedKey {
    /// Returns the bytes of the key file, for a place that keeps them as safe as a file of mode 0600, such as
    /// a systemd credential.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Reserved at once: a vector that grows leaves its earlier copies behind in memory.
        let mut out = Zeroizing::new(Vec::with_capacity(FILE_LENGTH));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(self.vault.as_bytes());
        out.extend_from_slice(self.keys.realm().as_bytes());
        out.extend_from_slice(self.instance.as_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&self.keys.ring().encode());
        let check = blake3::hash(&out);
        out.extend_from_slice(&check.as_bytes()[..CHECK_LENGTH]);
        out
    }

    /// Reads the bytes of a key file.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        if bytes.len() != FILE_LENGTH {
            return Err(SealError::Length);
        }
        let (content, check) = bytes.split_at(FILE_LENGTH - CHECK_LENGTH);
        let mut reader = WireReader::new(content);
        if &reader.array()? != MAGIC {
            return Err(SealError::Magic);
        }
        if blake3::hash(content).as_bytes()[..CHECK_LENGTH] != *check {
            return Err(SealError::Content);
        }
        match reader.u16()? {
            VERSION => {}
            other => {
                return Err(SealError::Unknown { field: "key file version", value: other.into() });
            }
        }
        if reader.array()? != [0; 6] {
            return Err(SealError::Reserved);
        }
        let vault = VaultId(reader.array()?);
        let realm = RealmId(reader.array()?);
        let instance = InstanceId(reader.array()?);
        if reader.array()? != [0; 16] {
            return Err(SealError::Reserved);
        }
        let ring = KeyRing::decode(reader.rest())?;
        Ok(Self { vault, instance, keys: RealmKeys::new(realm, ring) })
    }

    /// Writes the key file with mode 0600; durable on return.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_private_file(path, &self.encode())
    }

    /// Reads the key file, after checking that nobody but its owner can, and that the owner is this user or root.
    pub fn load(path: &Path) -> Result<Self> {
        Self::load_unless(path, 0o077)
    }

    /// Reads a key that systemd keeps as a credential of this service: there the group's bits show who else the service
    /// itself lets in.
    pub fn load_credential(path: &Path) -> Result<Self> {
        Self::load_unless(path, 0o007)
    }

    fn load_unless(path: &Path, exposed: u32) -> Result<Self> {
        let status = std::fs::metadata(path).map_err(Error::file("read", path))?;
        let own = status.uid() == 0 || status.uid() == rustix::process::geteuid().as_raw();
        if status.mode() & exposed != 0 || !own {
            return Err(Error::KeyFileExposed {
                path: path.to_path_buf(),
                mode: status.mode() & 0o7777,
                owner: status.uid(),
            });
        }
        let bytes = read_small_file(path, FILE_LENGTH as u64)?;
        Self::decode(&bytes).map_err(|reason| Error::KeyFileDamaged {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededEntropy;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use storepool::clock::Timestamp;

    fn key() -> UnlockedKey {
        let ring = KeyRing::generate(&SeededEntropy::new(1), Timestamp(1), "web1");
        let keys = RealmKeys::new(RealmId([2; 16]), ring);
        UnlockedKey { vault: VaultId([1; 16]), instance: InstanceId([3; 16]), keys }
    }

    #[test]
    fn a_key_file_comes_back_and_opens_only_for_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("main.key");
        key().save(&path).expect("saved");

        let loaded = UnlockedKey::load(&path).expect("loaded");
        assert_eq!(
            (loaded.vault, loaded.instance, loaded.keys.ring()),
            (key().vault, key().instance, key().keys.ring())
        );
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 1112);

        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
            assert!(
                matches!(UnlockedKey::load(&path), Err(Error::KeyFileExposed { .. })),
                "{mode:o}"
            );
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).expect("changed");
        assert!(UnlockedKey::load(&path).is_ok());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = key().encode();
        for position in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[position] ^= 1;
            assert!(UnlockedKey::decode(&bad).is_err(), "{position}");
        }
        assert!(UnlockedKey::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
