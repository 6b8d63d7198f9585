//! Known answers, hostile ones included, from `vectors/vault.json`: made by an independent implementation of
//! `docs/format-vault.md`, so that page and code can only be wrong together if they are wrong in the same way
//! twice.

use serde::Deserialize;
use storepool::id::{ChunkId, hex};

use crate::crypto::container::{self, Content, HEADER_LENGTH, Link, STORED_SEGMENT_LENGTH};
use crate::crypto::padding::padded_length;
use crate::crypto::passphrase::Passphrase;
use crate::crypto::ring::{KeyRing, RING_LENGTH, RealmKeys};
use crate::crypto::slot::{KdfLimits, SlotName, open_slot};
use crate::error::SealError;
use crate::layout::{Generation, ObjectHash, ObjectKind};

#[derive(Deserialize)]
struct Vectors {
    realm: String,
    ring: String,
    chunk_ids: Vec<ChunkIds>,
    witnesses: Vec<WitnessOf>,
    padding: Vec<(u64, u64)>,
    slots: Vec<Slot>,
    containers: Vec<Container>,
    hostile_containers: Vec<HostileContainer>,
    hostile_slots: Vec<HostileSlot>,
}

#[derive(Deserialize)]
struct ChunkIds {
    pool: String,
    vault: String,
}

#[derive(Deserialize)]
struct WitnessOf {
    generation: u64,
    head: String,
    text: String,
}

#[derive(Deserialize)]
struct Slot {
    passphrase: String,
    slot: String,
    revision: u64,
    object: String,
}

#[derive(Deserialize)]
struct Container {
    seed: String,
    length: usize,
    kind: u8,
    older_key: bool,
    salt: String,
    hash: String,
    generation: Option<u64>,
    epoch: Option<u32>,
    previous: Option<String>,
    object: Option<String>,
}

#[derive(Deserialize)]
struct HostileContainer {
    base: String,
    why: String,
    edit: Edit,
    error: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Edit {
    Set(usize, String),
    Swap(usize, usize),
    Copy(usize, usize),
    Truncate(usize),
    Extend(usize),
    Graft(String),
}

#[derive(Deserialize)]
struct HostileSlot {
    why: String,
    error: String,
    set: (usize, String),
    checksum: bool,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/vault.json")).expect("the vectors can be read")
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

fn pattern(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

// The name of the variant, without its details.
fn class(error: SealError) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(']).next().unwrap_or(&text).to_owned()
}

impl Vectors {
    fn ring(&self) -> KeyRing {
        let mut bytes = unhex(&self.ring);
        bytes.resize(RING_LENGTH, 0);
        KeyRing::decode(&bytes).expect("the ring is in order")
    }

    fn keys(&self) -> RealmKeys {
        RealmKeys::new(self.realm.parse().expect("a realm"), self.ring())
    }

    fn slot_name(&self, slot: &Slot) -> SlotName {
        SlotName {
            realm: self.realm.parse().expect("a realm"),
            slot: slot.slot.parse().expect("a slot"),
            revision: slot.revision,
        }
    }

    fn seal(&self, seed: &str) -> Vec<u8> {
        let container = self.containers.iter().find(|one| one.seed == seed).expect("a container");
        container.seal(&self.keys())
    }
}

impl Container {
    fn content(&self) -> Content {
        let link = || Link {
            generation: Generation(self.generation.expect("a generation")),
            epoch: self.epoch.expect("an epoch"),
            previous: self
                .previous
                .as_deref()
                .expect("a hash")
                .parse::<ObjectHash>()
                .expect("a hash"),
        };
        match ObjectKind::from_number(self.kind).expect("a kind") {
            ObjectKind::Commit => Content::Commit(link()),
            ObjectKind::Checkpoint => Content::Checkpoint(link()),
            kind => Content::Object(kind),
        }
    }

    fn seal(&self, keys: &RealmKeys) -> Vec<u8> {
        container::seal(keys, self.content(), &[&pattern(&self.seed, self.length)])
            .expect("sealed")
            .object
    }
}

#[test]
fn names_witnesses_and_padding_are_as_written_down() {
    let vectors = vectors();
    let keys = vectors.keys();

    assert_eq!(
        hex(&vectors.ring().encode()).trim_end_matches("00"),
        vectors.ring.trim_end_matches("00")
    );
    for id in &vectors.chunk_ids {
        let pool: ChunkId = id.pool.parse().expect("an id");
        assert_eq!(keys.chunk_id(&pool).0.to_string(), id.vault);
    }
    for witness in &vectors.witnesses {
        let head = witness.head.parse().expect("a hash");
        assert_eq!(keys.witness(Generation(witness.generation), head).to_string(), witness.text);
    }
    for (length, padded) in &vectors.padding {
        assert_eq!(padded_length(*length), *padded);
    }
}

#[test]
fn slots_open_with_their_passphrase() {
    let vectors = vectors();
    let limits = KdfLimits { memory_kib: 1 << 20 };
    for slot in &vectors.slots {
        let passphrase = Passphrase::new(&slot.passphrase).expect("acceptable");
        let ring = open_slot(&unhex(&slot.object), vectors.slot_name(slot), &passphrase, &limits);
        assert_eq!(ring, Ok(vectors.ring()), "{}", slot.passphrase);
    }
}

#[test]
fn hostile_slots_are_refused_for_the_right_reason() {
    let vectors = vectors();
    let slot = &vectors.slots[0];
    let passphrase = Passphrase::new(&slot.passphrase).expect("acceptable");
    let limits = KdfLimits { memory_kib: 1 << 20 };
    for hostile in &vectors.hostile_slots {
        let mut object = unhex(&slot.object);
        let (offset, bytes) = (hostile.set.0, unhex(&hostile.set.1));
        object[offset..offset + bytes.len()].copy_from_slice(&bytes);
        if hostile.checksum {
            let content = object.len() - 32;
            let checksum = blake3::hash(&object[..content]);
            object[content..].copy_from_slice(checksum.as_bytes());
        }
        let error = open_slot(&object, vectors.slot_name(slot), &passphrase, &limits)
            .expect_err(&hostile.why);
        assert_eq!(class(error), hostile.error, "{}", hostile.why);
    }
}

#[test]
fn containers_are_sealed_and_opened_byte_for_byte() {
    let vectors = vectors();
    let keys = vectors.keys();
    for one in &vectors.containers {
        let plain = pattern(&one.seed, one.length);
        let kind = one.content().kind();
        let object = match (&one.object, one.older_key) {
            (Some(object), true) => unhex(object),
            _ => {
                let sealed = container::seal(&keys, one.content(), &[&plain]).expect("sealed");
                assert_eq!(sealed.hash.to_string(), one.hash, "{}", one.seed);
                assert_eq!(hex(&sealed.salt), one.salt, "{}", one.seed);
                if let Some(object) = &one.object {
                    assert_eq!(hex(&sealed.object), *object, "{}", one.seed);
                }
                sealed.object
            }
        };
        let opened = container::open(&keys, kind, &object).expect("opened");
        assert_eq!(&opened.plaintext[..plain.len()], plain.as_slice(), "{}", one.seed);
        assert_eq!(ObjectHash::of(&object).to_string(), one.hash, "{}", one.seed);
    }
}

#[test]
fn hostile_containers_are_refused_for_the_right_reason() {
    let vectors = vectors();
    let keys = vectors.keys();
    let segment = |index: usize| HEADER_LENGTH + index * STORED_SEGMENT_LENGTH;
    for hostile in &vectors.hostile_containers {
        let mut object = vectors.seal(&hostile.base);
        let kind = ObjectKind::from_number(object[10]).expect("a kind");
        match &hostile.edit {
            Edit::Set(offset, bytes) => {
                let bytes = unhex(bytes);
                object[*offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
            Edit::Swap(a, b) => {
                let first = object[segment(*a)..segment(a + 1)].to_vec();
                object.copy_within(segment(*b)..segment(b + 1), segment(*a));
                object[segment(*b)..segment(b + 1)].copy_from_slice(&first);
            }
            Edit::Copy(from, to) => {
                object.copy_within(segment(*from)..segment(from + 1), segment(*to))
            }
            Edit::Truncate(length) => object.truncate(*length),
            Edit::Extend(extra) => object.resize(object.len() + extra, 0),
            Edit::Graft(other) => {
                let other = vectors.seal(other);
                let end = object.len();
                object[HEADER_LENGTH..].copy_from_slice(&other[HEADER_LENGTH..end]);
            }
        }
        let error = container::open(&keys, kind, &object).expect_err(&hostile.why);
        assert_eq!(class(error), hostile.error, "{}: {}", hostile.base, hostile.why);
    }
}
