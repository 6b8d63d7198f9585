//! Passphrase slots: the small object that turns a passphrase into the ring (`docs/format-vault.md`, section 4).
//!
//! A slot comes from a place that is not trusted. Its costs are judged before any memory is taken, and its
//! key commitment is compared before anything is decrypted, so that an attempt costs a bounded amount and
//! tests exactly one passphrase.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use storepool::wire::WireReader;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::equal_in_constant_time;
use crate::crypto::passphrase::Passphrase;
use crate::crypto::ring::{KeyRing, RING_LENGTH, Secret};
use crate::error::SealError;
use crate::layout::{RealmId, SlotId};

/// Length of a slot object in bytes.
pub const SLOT_LENGTH: usize = BODY_START + BODY_LENGTH + CHECKSUM_LENGTH;
/// Most slots of a realm.
pub const SLOTS_LIMIT: usize = 8;

const MAGIC: &[u8; 8] = b"KWSLOT1\n";
const VERSION: u16 = 1;
const KDF_ARGON2ID: u8 = 1;
const BODY_START: usize = 132;
const BODY_LENGTH: usize = RING_LENGTH + TAG_LENGTH;
const TAG_LENGTH: usize = 16;
const CHECKSUM_LENGTH: usize = 32;
const CONTEXT: &str = "keepwell 2026 v1 slot";

const MEMORY_LEAST_KIB: u32 = 64 << 10;
const MEMORY_MOST_KIB: u32 = 2 << 20;
const PASSES_MOST: u32 = 16;
const LANES_MOST: u32 = 16;
// 64 MiB three times, the second recommendation of RFC 9106; less is a downgrade.
const MEMORY_TIMES_PASSES_LEAST_KIB: u64 = 192 << 10;

/// What one guess of the passphrase costs: the parameters of Argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfCosts {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl KdfCosts {
    /// What new slots cost: 256 MiB, 3 passes, about half a second.
    pub const STANDARD: Self = Self { memory_kib: 256 << 10, passes: 3, lanes: 4 };
    /// The least that a reader accepts, for small machines.
    pub const LIGHTEST: Self = Self { memory_kib: MEMORY_LEAST_KIB, passes: 3, lanes: 4 };

    /// Returns the standard costs, with less memory where a reader of this size could not open the slot otherwise.
    pub fn fitting(limits: &KdfLimits) -> Self {
        let memory_kib = Self::STANDARD.memory_kib.min(limits.memory_kib).max(MEMORY_LEAST_KIB);
        Self { memory_kib, ..Self::STANDARD }
    }

    /// Refuses costs that would exhaust this machine and costs that protect nothing.
    pub fn check(&self, limits: &KdfLimits) -> Result<(), SealError> {
        let within =
            |field, value: u64, least: u64, most: u64| match (least..=most).contains(&value) {
                true => Ok(()),
                false => Err(SealError::Cost { field, value, least, most }),
            };
        let most = limits.memory_kib.min(MEMORY_MOST_KIB);
        within(
            "key derivation memory (KiB)",
            self.memory_kib.into(),
            MEMORY_LEAST_KIB.into(),
            most.into(),
        )?;
        within("key derivation passes", self.passes.into(), 1, PASSES_MOST.into())?;
        within("key derivation lanes", self.lanes.into(), 1, LANES_MOST.into())?;
        let product = u64::from(self.memory_kib) * u64::from(self.passes);
        within(
            "key derivation memory x passes (KiB)",
            product,
            MEMORY_TIMES_PASSES_LEAST_KIB,
            u64::MAX,
        )
    }
}

/// How much a reader is willing to spend on one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfLimits {
    /// Most memory in KiB.
    pub memory_kib: u32,
}

impl KdfLimits {
    /// Returns the limits of this machine: half of its memory, and 2 GiB at most.
    pub fn of_this_machine() -> Self {
        let status = rustix::system::sysinfo();
        let bytes = u128::from(status.totalram) * u128::from(status.mem_unit.max(1));
        let half_kib = u32::try_from(bytes / 2048).unwrap_or(u32::MAX);
        Self { memory_kib: half_kib.min(MEMORY_MOST_KIB) }
    }
}

/// Names one revision of one slot of one realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotName {
    /// The realm it opens.
    pub realm: RealmId,
    /// The slot.
    pub slot: SlotId,
    /// Which revision of it.
    pub revision: u64,
}

/// Seals a ring for a passphrase; returns the slot object.
///
/// Takes the memory and time that `costs` say, which must be ones that a reader accepts. The salt must be
/// random and fresh: with it, the key of the slot is used once.
pub fn seal_slot(
    name: SlotName,
    ring: &KeyRing,
    passphrase: &Passphrase,
    costs: KdfCosts,
    salt: [u8; 32],
) -> Result<Vec<u8>, SealError> {
    costs.check(&KdfLimits { memory_kib: MEMORY_MOST_KIB })?;
    let keys = SlotKeys::derive(passphrase, &salt, costs, name)?;
    let mut object = Vec::with_capacity(SLOT_LENGTH);
    object.extend_from_slice(MAGIC);
    object.extend_from_slice(&VERSION.to_le_bytes());
    object.extend_from_slice(&[KDF_ARGON2ID, 0]);
    for cost in [costs.memory_kib, costs.passes, costs.lanes] {
        object.extend_from_slice(&cost.to_le_bytes());
    }
    object.extend_from_slice(name.realm.as_bytes());
    object.extend_from_slice(name.slot.as_bytes());
    object.extend_from_slice(&name.revision.to_le_bytes());
    object.extend_from_slice(&salt);
    object.extend_from_slice(&keys.commitment);
    object.extend_from_slice(&(BODY_LENGTH as u32).to_le_bytes());
    let mut header = [0; BODY_START];
    header.copy_from_slice(&object);

    let mut body = ring.encode();
    let tag = keys
        .cipher()
        .encrypt_inout_detached(&Default::default(), &header, InOutBuf::from(body.as_mut_slice()))
        .expect("a ring is shorter than the longest message of AES-GCM");
    object.extend_from_slice(&body);
    object.extend_from_slice(&tag);
    let checksum = blake3::hash(&object);
    object.extend_from_slice(checksum.as_bytes());
    Ok(object)
}

/// Opens a slot object with a passphrase.
///
/// `Err(SealError::Key)` means that the passphrase is wrong; anything else means that the object was refused
/// without trying it. Takes the memory and time that the slot asks for, after they were found to be within
/// `limits`.
pub fn open_slot(
    object: &[u8],
    name: SlotName,
    passphrase: &Passphrase,
    limits: &KdfLimits,
) -> Result<KeyRing, SealError> {
    let slot = SlotObject::read(object)?;
    if slot.name.realm != name.realm {
        return Err(SealError::Realm);
    }
    if slot.name != name {
        return Err(SealError::Name);
    }
    slot.costs.check(limits)?;
    let keys = SlotKeys::derive(passphrase, &slot.salt, slot.costs, name)?;
    if !equal_in_constant_time(&keys.commitment, &slot.commitment) {
        return Err(SealError::Key);
    }
    let mut body = Zeroizing::new(slot.ciphertext.to_vec());
    keys.cipher()
        .decrypt_inout_detached(
            &Default::default(),
            slot.header,
            InOutBuf::from(body.as_mut_slice()),
            &slot.tag.into(),
        )
        .map_err(|_| SealError::Content)?;
    KeyRing::decode(&body)
}

struct SlotObject<'a> {
    header: &'a [u8],
    costs: KdfCosts,
    name: SlotName,
    salt: [u8; 32],
    commitment: [u8; 32],
    ciphertext: &'a [u8],
    tag: [u8; TAG_LENGTH],
}

impl<'a> SlotObject<'a> {
    fn read(object: &'a [u8]) -> Result<Self, SealError> {
        if object.len() != SLOT_LENGTH {
            return Err(SealError::Length);
        }
        let (content, checksum) = object.split_at(SLOT_LENGTH - CHECKSUM_LENGTH);
        let (header, body) = content.split_at(BODY_START);
        let mut reader = WireReader::new(header);
        if &reader.array()? != MAGIC {
            return Err(SealError::Magic);
        }
        // Before any field is looked at: damage by accident must not look like a newer version or a wrong passphrase.
        if blake3::hash(content).as_bytes() != checksum {
            return Err(SealError::Content);
        }
        let unknown = |field, value| Err(SealError::Unknown { field, value });
        match reader.u16()? {
            VERSION => {}
            other => return unknown("slot version", other.into()),
        }
        match reader.byte()? {
            KDF_ARGON2ID => {}
            other => return unknown("key derivation", other.into()),
        }
        match reader.byte()? {
            0 => {}
            other => return unknown("slot flags", other.into()),
        }
        let costs =
            KdfCosts { memory_kib: reader.u32()?, passes: reader.u32()?, lanes: reader.u32()? };
        let name = SlotName {
            realm: RealmId(reader.array()?),
            slot: SlotId(reader.array()?),
            revision: reader.u64()?,
        };
        let salt = reader.array()?;
        let commitment = reader.array()?;
        if reader.u32()? as usize != BODY_LENGTH {
            return Err(SealError::Length);
        }
        let mut body = WireReader::new(body);
        let ciphertext = body.take(RING_LENGTH)?;
        Ok(Self { header, costs, name, salt, commitment, ciphertext, tag: body.array()? })
    }
}

struct SlotKeys {
    encryption: Secret,
    commitment: [u8; 32],
}

impl SlotKeys {
    fn derive(
        passphrase: &Passphrase,
        salt: &[u8; 32],
        costs: KdfCosts,
        name: SlotName,
    ) -> Result<Self, SealError> {
        let stretched = stretch(passphrase, salt, costs)?;
        let mut hasher = Zeroizing::new(blake3::Hasher::new_derive_key(CONTEXT));
        hasher.update(&stretched.0).update(name.realm.as_bytes()).update(name.slot.as_bytes());
        let mut output = Zeroizing::new(hasher.finalize_xof());
        let mut keys = Self { encryption: Secret([0; 32]), commitment: [0; 32] };
        output.fill(&mut keys.encryption.0);
        output.fill(&mut keys.commitment);
        Ok(keys)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&self.encryption.0).into())
    }
}

fn stretch(passphrase: &Passphrase, salt: &[u8; 32], costs: KdfCosts) -> Result<Secret, SealError> {
    let refused = SealError::Format("the key derivation refused its parameters");
    let params =
        Params::new(costs.memory_kib, costs.passes, costs.lanes, Some(32)).map_err(|_| refused)?;
    let count = params.block_count();
    let mut memory = Vec::new();
    memory
        .try_reserve_exact(count)
        .map_err(|_| SealError::Format("there is not enough memory for the key derivation"))?;
    memory.resize(count, Block::new());
    let mut stretched = Secret([0; 32]);
    let outcome = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(
            passphrase.expose().as_bytes(),
            salt,
            &mut stretched.0,
            memory.as_mut_slice(),
        );
    memory.iter_mut().for_each(Zeroize::zeroize);
    outcome.map_err(|_| refused)?;
    Ok(stretched)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededEntropy;
    use storepool::clock::Timestamp;

    const NAME: SlotName = SlotName { realm: RealmId([1; 16]), slot: SlotId([2; 16]), revision: 3 };
    const LIMITS: KdfLimits = KdfLimits { memory_kib: MEMORY_LEAST_KIB };
    const COSTS: KdfCosts = KdfCosts { memory_kib: MEMORY_LEAST_KIB, passes: 3, lanes: 1 };

    fn passphrase() -> Passphrase {
        Passphrase::new("correct horse battery staple").expect("acceptable")
    }

    fn slot() -> (KeyRing, Vec<u8>) {
        let entropy = SeededEntropy::new(3);
        let ring = KeyRing::generate(&entropy, Timestamp(5), "web1");
        let object = seal_slot(NAME, &ring, &passphrase(), COSTS, [9; 32]).expect("sealed");
        (ring, object)
    }

    // What a hostile vault would do: change a field and make the checksum fit again.
    fn forged(object: &[u8], position: usize, bytes: &[u8]) -> Vec<u8> {
        let mut forged = object[..SLOT_LENGTH - CHECKSUM_LENGTH].to_vec();
        forged[position..position + bytes.len()].copy_from_slice(bytes);
        let checksum = blake3::hash(&forged);
        forged.extend_from_slice(checksum.as_bytes());
        forged
    }

    #[test]
    fn the_right_passphrase_opens_and_a_wrong_one_is_told_apart() {
        let (ring, object) = slot();
        let wrong = Passphrase::new("correct horse battery stapler").expect("acceptable");

        assert_eq!(object.len(), SLOT_LENGTH);
        assert_eq!(open_slot(&object, NAME, &passphrase(), &LIMITS).as_ref(), Ok(&ring));
        assert_eq!(open_slot(&object, NAME, &wrong, &LIMITS).err(), Some(SealError::Key));
    }

    #[test]
    fn a_damaged_slot_is_never_taken_for_a_wrong_passphrase() {
        let (_, object) = slot();
        for position in 0..object.len() {
            let mut damaged = object.clone();
            damaged[position] ^= 0x10;
            let error = open_slot(&damaged, NAME, &passphrase(), &LIMITS).expect_err("refused");
            assert!(matches!(error, SealError::Magic | SealError::Content), "{position}: {error}");
        }
        for length in 0..object.len() {
            let error = open_slot(&object[..length], NAME, &passphrase(), &LIMITS).err();
            assert_eq!(error, Some(SealError::Length), "{length}");
        }
    }

    #[test]
    fn hostile_costs_are_refused_before_anything_is_spent() {
        let (_, object) = slot();
        let hostile: [(u32, u32, u32); 9] = [
            (u32::MAX, 3, 1),
            (MEMORY_LEAST_KIB, u32::MAX, 1),
            (MEMORY_LEAST_KIB, 3, u32::MAX),
            (MEMORY_LEAST_KIB - 1, 16, 1),
            (MEMORY_LEAST_KIB, 2, 1),
            (MEMORY_LEAST_KIB, 0, 1),
            (MEMORY_LEAST_KIB, 3, 0),
            (8, 1, 1),
            (MEMORY_LEAST_KIB + 1, 3, 1),
        ];
        let start = std::time::Instant::now();
        for (memory, passes, lanes) in hostile {
            let costs = [memory.to_le_bytes(), passes.to_le_bytes(), lanes.to_le_bytes()].concat();
            let error = open_slot(&forged(&object, 12, &costs), NAME, &passphrase(), &LIMITS).err();
            assert!(
                matches!(error, Some(SealError::Cost { .. })),
                "{memory} {passes} {lanes}: {error:?}"
            );
        }
        assert!(start.elapsed().as_millis() < 50, "refusing is cheap");
    }

    #[test]
    fn a_forged_slot_is_refused_field_by_field() {
        let (_, object) = slot();
        let open =
            |object: &[u8]| open_slot(object, NAME, &passphrase(), &LIMITS).expect_err("refused");

        assert_eq!(
            open(&forged(&object, 8, &[2])),
            SealError::Unknown { field: "slot version", value: 2 }
        );
        assert_eq!(
            open(&forged(&object, 10, &[2])),
            SealError::Unknown { field: "key derivation", value: 2 }
        );
        assert_eq!(
            open(&forged(&object, 11, &[1])),
            SealError::Unknown { field: "slot flags", value: 1 }
        );
        assert_eq!(open(&forged(&object, 24, &[9])), SealError::Realm);
        assert_eq!(open(&forged(&object, 40, &[9])), SealError::Name);
        assert_eq!(open(&forged(&object, 56, &[9])), SealError::Name);
        assert_eq!(open(&forged(&object, 128, &[9])), SealError::Length);
    }

    #[test]
    fn another_salt_commitment_or_body_does_not_open() {
        let (_, object) = slot();
        let open =
            |object: &[u8]| open_slot(object, NAME, &passphrase(), &LIMITS).expect_err("refused");

        assert_eq!(open(&forged(&object, 64, &[object[64] ^ 1])), SealError::Key);
        assert_eq!(open(&forged(&object, 96, &[object[96] ^ 1])), SealError::Key);
        assert_eq!(open(&forged(&object, 132, &[object[132] ^ 1])), SealError::Content);
        assert_eq!(open(&forged(&object, 1171, &[object[1171] ^ 1])), SealError::Content);
        assert_eq!(open(&forged(&object, 16, &4u32.to_le_bytes())), SealError::Key);
    }

    #[test]
    fn the_standard_costs_work_and_a_writer_cannot_go_below_the_least() {
        let (ring, _) = slot();
        let standard = KdfLimits { memory_kib: KdfCosts::STANDARD.memory_kib };
        let object =
            seal_slot(NAME, &ring, &passphrase(), KdfCosts::STANDARD, [8; 32]).expect("sealed");

        assert_eq!(open_slot(&object, NAME, &passphrase(), &standard).as_ref(), Ok(&ring));
        let weak = KdfCosts { passes: 1, ..COSTS };
        assert!(seal_slot(NAME, &ring, &passphrase(), weak, [7; 32]).is_err());
        assert_eq!(KdfCosts::fitting(&LIMITS), KdfCosts::LIGHTEST);
        assert!(KdfLimits::of_this_machine().memory_kib > 0);
    }
}
