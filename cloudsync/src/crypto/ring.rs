//! The ring: the secrets of one realm, and the keys that are derived from them for one purpose each.

use std::fmt;

use storepool::clock::Timestamp;
use storepool::entropy::Entropy;
use storepool::id::ChunkId;
use storepool::wire::WireReader;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::SealError;
use crate::layout::{Generation, LABEL_LIMIT, ObjectHash, RealmId};

/// Length of an encoded ring in bytes, whatever it holds.
pub const RING_LENGTH: usize = 1024;
/// Most master keys of a ring.
pub const MASTERS_LIMIT: usize = 16;

const VERSION: u16 = 1;
const FIXED_LENGTH: usize = 56;
const MASTER_LENGTH: usize = 40;

/// A secret of 32 bytes; wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub(crate) [u8; 32]);

impl Secret {
    pub(crate) fn random(entropy: &dyn Entropy) -> Self {
        let mut secret = Self([0; 32]);
        entropy.fill(&mut secret.0);
        secret
    }

    pub(crate) fn derive(&self, context: &str, realm: RealmId) -> Self {
        let mut hasher = Zeroizing::new(blake3::Hasher::new_derive_key(context));
        hasher.update(&self.0).update(realm.as_bytes());
        let mut derived = Self([0; 32]);
        Zeroizing::new(hasher.finalize_xof()).fill(&mut derived.0);
        derived
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Master {
    key: Secret,
    made: Timestamp,
}

/// What a passphrase unlocks: the master keys of a realm, newest first, and the secret that outlives them.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    masters: Vec<Master>,
    lasting: Secret,
    label: String,
    made: Timestamp,
    slot_set_revision: u64,
}

impl KeyRing {
    /// Draws the ring of a new realm. The label names the slot for people.
    pub fn generate(entropy: &dyn Entropy, now: Timestamp, label: &str) -> Self {
        let masters = vec![Master { key: Secret::random(entropy), made: now }];
        Self {
            masters,
            lasting: Secret::random(entropy),
            label: fitting(label),
            made: now,
            slot_set_revision: 1,
        }
    }

    /// Returns the same keys for another slot.
    pub fn for_slot(&self, label: &str, slot_set_revision: u64, now: Timestamp) -> Self {
        Self { label: fitting(label), slot_set_revision, made: now, ..self.clone() }
    }

    /// Returns the name of the slot that this ring came from.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the revision of the slot set that this ring was written with.
    pub fn slot_set_revision(&self) -> u64 {
        self.slot_set_revision
    }

    /// Returns the encoded ring, always of the same length.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Reserved at once: a vector that grows leaves its earlier copies behind in memory.
        let mut out = Zeroizing::new(Vec::with_capacity(RING_LENGTH));
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.masters.len() as u8, self.label.len() as u8, 0, 0, 0, 0]);
        out.extend_from_slice(&self.slot_set_revision.to_le_bytes());
        out.extend_from_slice(&self.made.0.to_le_bytes());
        out.extend_from_slice(&self.lasting.0);
        for master in &self.masters {
            out.extend_from_slice(&master.key.0);
            out.extend_from_slice(&master.made.0.to_le_bytes());
        }
        out.extend_from_slice(self.label.as_bytes());
        out.resize(RING_LENGTH, 0);
        out
    }

    /// Reads an encoded ring.
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        if bytes.len() != RING_LENGTH {
            return Err(SealError::Length);
        }
        let mut reader = WireReader::new(bytes);
        let version = reader.u16()?;
        if version != VERSION {
            return Err(SealError::Unknown { field: "ring version", value: version.into() });
        }
        let count = usize::from(reader.byte()?);
        let label_length = usize::from(reader.byte()?);
        if reader.u32()? != 0 {
            return Err(SealError::Reserved);
        }
        if count == 0 || count > MASTERS_LIMIT || label_length > LABEL_LIMIT {
            return Err(SealError::Format("the ring has too many or too few parts"));
        }
        let slot_set_revision = reader.u64()?;
        let made = Timestamp(reader.u64()? as i64);
        let lasting = Secret(reader.array()?);
        let mut masters = Vec::with_capacity(count);
        for _ in 0..count {
            let key = Secret(reader.array()?);
            masters.push(Master { key, made: Timestamp(reader.u64()? as i64) });
        }
        let label = String::from_utf8(reader.take(label_length)?.to_vec())
            .map_err(|_| SealError::Format("the label is not text"))?;
        if reader.rest().iter().any(|byte| *byte != 0) {
            return Err(SealError::Reserved);
        }
        Ok(Self { masters, lasting, label, made, slot_set_revision })
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} master keys, slot {:?})", self.masters.len(), self.label)
    }
}

// The ring has a fixed place for it; a slot's label is a hint for people, so a long one is cut.
fn fitting(label: &str) -> String {
    let mut end = label.len().min(LABEL_LIMIT);
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    label[..end].to_owned()
}

const _: () = assert!(FIXED_LENGTH + MASTERS_LIMIT * MASTER_LENGTH + LABEL_LIMIT <= RING_LENGTH);

/// The name of a chunk in a vault: a keyed hash of its name in the pool, so that the vault cannot test for
/// known content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VaultChunkId(pub ChunkId);

/// 50 bits that stand for a realm's whole history, short enough to read out on the telephone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The generation it stands for.
    pub generation: Generation,
    /// The 50 bits.
    pub bits: u64,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        write!(f, "{} ", self.generation)?;
        for position in 0..10 {
            if position == 4 || position == 8 {
                f.write_str("-")?;
            }
            let symbol = SYMBOLS[(self.bits >> (45 - 5 * position) & 31) as usize];
            write!(f, "{}", char::from(symbol))?;
        }
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct SealingKeys {
    pub(crate) salt: Secret,
    pub(crate) seal: Secret,
}

/// The keys of a realm, ready for use; the only thing that seals, opens and names in it.
#[derive(Clone)]
pub struct RealmKeys {
    realm: RealmId,
    ring: KeyRing,
    sealing: Vec<SealingKeys>,
    anchor: Secret,
    witness: Secret,
    chunk: Secret,
    shuffle: Secret,
}

impl RealmKeys {
    /// Derives all keys of a realm from its ring.
    pub fn new(realm: RealmId, ring: KeyRing) -> Self {
        let sealing = ring
            .masters
            .iter()
            .map(|master| SealingKeys {
                salt: master.key.derive("keepwell 2026 v1 container salt", realm),
                seal: master.key.derive("keepwell 2026 v1 container key", realm),
            })
            .collect();
        let lasting = |context| ring.lasting.derive(context, realm);
        Self {
            realm,
            sealing,
            anchor: lasting("keepwell 2026 v1 anchor"),
            witness: lasting("keepwell 2026 v1 witness"),
            chunk: lasting("keepwell 2026 v1 chunk id"),
            shuffle: lasting("keepwell 2026 v1 shuffle"),
            ring,
        }
    }

    /// Returns the realm that the keys are for.
    pub fn realm(&self) -> RealmId {
        self.realm
    }

    /// Returns the ring, to be put into another slot or a key file.
    pub fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// Returns the same keys with a new master key in front, for all objects that are sealed from now on.
    ///
    /// The oldest key beyond [`MASTERS_LIMIT`] is dropped; nothing sealed with it may be left then.
    pub fn with_new_master(&self, entropy: &dyn Entropy, now: Timestamp) -> Self {
        let mut ring = self.ring.clone();
        ring.masters.insert(0, Master { key: Secret::random(entropy), made: now });
        ring.masters.truncate(MASTERS_LIMIT);
        Self::new(self.realm, ring)
    }

    /// Returns the name that a chunk of the pool has in the vault.
    pub fn chunk_id(&self, chunk: &ChunkId) -> VaultChunkId {
        VaultChunkId(ChunkId(*blake3::keyed_hash(&self.chunk.0, chunk.as_bytes()).as_bytes()))
    }

    /// Returns the key that decides in which order chunks are put into packs.
    pub fn shuffle_key(&self) -> &Secret {
        &self.shuffle
    }

    /// Returns the witness of the history that ends with this commit object.
    pub fn witness(&self, generation: Generation, head: ObjectHash) -> Witness {
        let mut hasher = Zeroizing::new(blake3::Hasher::new_keyed(&self.witness.0));
        hasher.update(&generation.0.to_le_bytes()).update(head.as_bytes());
        let hash = hasher.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Witness { generation, bits: u64::from_be_bytes(first) >> 14 }
    }

    /// Returns the code that proves that this realm's owner wrote an anchor.
    pub(crate) fn anchor_code(&self, anchor: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.anchor.0, anchor).as_bytes()
    }

    pub(crate) fn newest(&self) -> &SealingKeys {
        self.sealing.first().expect("a ring has at least one master key")
    }

    pub(crate) fn sealing(&self) -> &[SealingKeys] {
        &self.sealing
    }
}

impl fmt::Debug for RealmKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RealmKeys({})", self.realm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededEntropy;

    fn ring() -> KeyRing {
        KeyRing::generate(&SeededEntropy::new(7), Timestamp(1), "web1")
    }

    #[test]
    fn a_ring_comes_back_from_its_bytes() {
        let ring = ring();
        let encoded = ring.encode();

        assert_eq!(encoded.len(), RING_LENGTH);
        assert_eq!(KeyRing::decode(&encoded).as_ref(), Ok(&ring));
    }

    #[test]
    fn a_ring_that_breaks_the_format_is_refused() {
        let good = ring().encode();
        for (position, value) in [(0, 2), (2, 0), (2, 17), (3, 64), (4, 1), (1023, 1)] {
            let mut bad = good.clone();
            bad[position] = value;
            assert!(KeyRing::decode(&bad).is_err(), "byte {position} = {value}");
        }
        assert!(KeyRing::decode(&good[..1023]).is_err());
    }

    #[test]
    fn purposes_and_realms_have_their_own_keys() {
        let keys = RealmKeys::new(RealmId([1; 16]), ring());
        let other = RealmKeys::new(RealmId([2; 16]), ring());
        let secrets = [
            &keys.newest().salt,
            &keys.newest().seal,
            &keys.anchor,
            &keys.witness,
            &keys.chunk,
            &keys.shuffle,
            &other.newest().salt,
            &other.newest().seal,
            &other.anchor,
            &other.witness,
            &other.chunk,
            &other.shuffle,
        ];
        let distinct: std::collections::HashSet<_> =
            secrets.iter().map(|secret| secret.0).collect();
        assert_eq!(distinct.len(), secrets.len());
    }

    #[test]
    fn a_witness_is_ten_symbols() {
        let witness = Witness { generation: Generation(1842), bits: 1 };
        assert_eq!(witness.to_string(), "g1842 0000-0000-01");
        let witness = Witness { generation: Generation(7), bits: (1 << 50) - 1 };
        assert_eq!(witness.to_string(), "g7 ZZZZ-ZZZZ-ZZ");
    }

    #[test]
    fn debug_output_shows_no_key() {
        let keys = RealmKeys::new(RealmId([1; 16]), ring());
        let shown = format!("{keys:?} {:?} {:?}", keys.ring(), keys.shuffle_key());
        let secret = storepool::id::hex(&keys.ring.lasting.0[..4]);
        assert!(!shown.contains(&secret));
    }
}
