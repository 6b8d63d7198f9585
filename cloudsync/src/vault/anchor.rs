//! The anchor: what this installation has seen of its vault and will not unlearn (`docs/format-vault.md`, section 9).
//!
//! It is the only thing that tells a rewound vault from a true one, and one's own commit from a twin's. Its
//! place is outside pool and vault, and it is written before a commit is sent and again before a commit is
//! acknowledged.

use std::path::{Path, PathBuf};

use storepool::clock::Timestamp;
use storepool::wire::{WireError, WireReader};

use crate::crypto::equal_in_constant_time;
use crate::crypto::ring::RealmKeys;
use crate::error::{Error, Result};
use crate::layout::{Generation, InstanceId, ObjectHash, RealmId, VaultId};
use crate::vault::file::{read_small_file, write_private_file};
use crate::vault::snapshot::Snapshot;

const MAGIC: &[u8; 8] = b"KWANCH1\n";
const VERSION: u16 = 1;
const CODE_LENGTH: usize = 32;
const FILE_LENGTH: usize = 288;
// How many sent commits of unknown fate are remembered for one generation. A request older than that does not
// land any more.
const PENDING_LIMIT: usize = 4;

/// What an installation knows about its realm, kept in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    path: PathBuf,
    vault: VaultId,
    realm: RealmId,
    instance: InstanceId,
    generation: Generation,
    head: ObjectHash,
    epoch: u32,
    vault_time: Option<Timestamp>,
    pending_generation: Generation,
    pending: Vec<ObjectHash>,
}

impl Anchor {
    /// Begins to remember, with the state that a snapshot shows; nothing is written yet.
    pub fn begin(
        path: &Path,
        vault: VaultId,
        realm: RealmId,
        instance: InstanceId,
        snapshot: &Snapshot,
    ) -> Self {
        Self {
            path: path.to_path_buf(),
            vault,
            realm,
            instance,
            generation: snapshot.generation(),
            head: snapshot.head(),
            epoch: snapshot.epoch(),
            vault_time: None,
            pending_generation: Generation(0),
            pending: Vec::new(),
        }
    }

    /// Reads the anchor file; nothing if there is none.
    pub fn load(path: &Path, keys: &RealmKeys) -> Result<Option<Self>> {
        let bytes = match read_small_file(path, FILE_LENGTH as u64) {
            Err(Error::File { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let damaged = |reason| Error::AnchorDamaged { path: path.to_path_buf(), reason };
        if bytes.len() != FILE_LENGTH {
            return Err(damaged("its length is wrong"));
        }
        let (content, code) = bytes.split_at(FILE_LENGTH - CODE_LENGTH);
        let code = code.try_into().map_err(|_| damaged("its length is wrong"))?;
        if !equal_in_constant_time(&keys.anchor_code(content), &code) {
            return Err(damaged("it was changed, or belongs to another server"));
        }
        Self::decode(path, content).map(Some).map_err(|error| damaged(error.0))
    }

    fn decode(path: &Path, content: &[u8]) -> Result<Self, WireError> {
        let mut reader = WireReader::new(content);
        if &reader.array()? != MAGIC || reader.u16()? != VERSION || reader.array()? != [0; 6] {
            return Err(WireError("it is of an unknown version"));
        }
        let (vault, realm, instance) =
            (VaultId(reader.array()?), RealmId(reader.array()?), InstanceId(reader.array()?));
        let (generation, head) = (Generation(reader.u64()?), ObjectHash(reader.array()?));
        let vault_time = Some(reader.u64()? as i64).filter(|time| *time != 0).map(Timestamp);
        let epoch = reader.u32()?;
        let count = reader.u32()? as usize;
        if count > PENDING_LIMIT {
            return Err(WireError("it has too many pending commits"));
        }
        let pending_generation = Generation(reader.u64()?);
        let pending = (0..count)
            .map(|_| Ok(ObjectHash(reader.array()?)))
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            path: path.to_path_buf(),
            vault,
            realm,
            instance,
            generation,
            head,
            epoch,
            vault_time,
            pending_generation,
            pending,
        })
    }

    fn encode(&self, keys: &RealmKeys) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_LENGTH);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(self.vault.as_bytes());
        out.extend_from_slice(self.realm.as_bytes());
        out.extend_from_slice(self.instance.as_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(&self.vault_time.map_or(0, |time| time.0).to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&(self.pending.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.pending_generation.0.to_le_bytes());
        self.pending.iter().for_each(|hash| out.extend_from_slice(hash.as_bytes()));
        out.resize(FILE_LENGTH - CODE_LENGTH, 0);
        let code = keys.anchor_code(&out);
        out.extend_from_slice(&code);
        out
    }

    /// Writes the anchor file; durable on return.
    pub fn save(&self, keys: &RealmKeys) -> Result<()> {
        write_private_file(&self.path, &self.encode(keys))
    }

    /// Returns the vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// Returns the realm.
    pub fn realm(&self) -> RealmId {
        self.realm
    }

    /// Returns the installation that this anchor belongs to.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Returns the highest generation that was seen.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the hash of that generation's commit object.
    pub fn head(&self) -> ObjectHash {
        self.head
    }

    /// Returns the newest time that was seen from the vault.
    pub fn vault_time(&self) -> Option<Timestamp> {
        self.vault_time
    }

    /// Returns whether this is a commit that this installation sent without learning what became of it.
    pub(super) fn is_pending(&self, generation: Generation, hash: ObjectHash) -> bool {
        self.pending_generation == generation && self.pending.contains(&hash)
    }

    /// Remembers that a commit is about to be sent.
    pub(super) fn expect(&mut self, generation: Generation, hash: ObjectHash) {
        if self.pending_generation != generation {
            self.pending.clear();
            self.pending_generation = generation;
        }
        if self.pending.len() == PENDING_LIMIT {
            self.pending.remove(0);
        }
        self.pending.push(hash);
    }

    /// Remembers a state that was seen; never goes back.
    pub(super) fn advance(&mut self, snapshot: &Snapshot, vault_time: Option<Timestamp>) {
        if snapshot.generation() >= self.generation {
            (self.generation, self.head, self.epoch) =
                (snapshot.generation(), snapshot.head(), snapshot.epoch());
        }
        self.vault_time = self.vault_time.max(vault_time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ring::KeyRing;
    use crate::testing::SeededEntropy;

    fn keys() -> RealmKeys {
        RealmKeys::new(
            RealmId([2; 16]),
            KeyRing::generate(&SeededEntropy::new(1), Timestamp(0), ""),
        )
    }

    fn anchor(path: &Path) -> Anchor {
        Anchor::begin(
            path,
            VaultId([1; 16]),
            RealmId([2; 16]),
            InstanceId([3; 16]),
            &Snapshot::genesis(),
        )
    }

    #[test]
    fn an_anchor_comes_back_and_no_byte_of_it_can_be_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("anchor");
        assert_eq!(Anchor::load(&path, &keys()).expect("no anchor"), None);
        let mut anchor = anchor(&path);
        anchor.expect(Generation(7), ObjectHash([9; 32]));
        anchor.advance(&Snapshot::genesis(), Some(Timestamp(5)));

        anchor.save(&keys()).expect("saved");

        assert_eq!(Anchor::load(&path, &keys()).expect("loaded"), Some(anchor));
        let bytes = std::fs::read(&path).expect("read");
        assert_eq!(bytes.len(), FILE_LENGTH);
        for position in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[position] ^= 1;
            std::fs::write(&path, bad).expect("written");
            assert!(
                matches!(Anchor::load(&path, &keys()), Err(Error::AnchorDamaged { .. })),
                "{position}"
            );
        }
    }

    #[test]
    fn the_last_attempts_of_one_generation_are_remembered() {
        let mut anchor = anchor(Path::new("unused"));
        for number in 0..6 {
            anchor.expect(Generation(7), ObjectHash([number; 32]));
        }
        assert!(anchor.is_pending(Generation(7), ObjectHash([5; 32])));
        assert!(anchor.is_pending(Generation(7), ObjectHash([2; 32])));
        assert!(!anchor.is_pending(Generation(7), ObjectHash([1; 32])));
        anchor.expect(Generation(8), ObjectHash([9; 32]));
        assert!(!anchor.is_pending(Generation(7), ObjectHash([5; 32])));
    }
}
