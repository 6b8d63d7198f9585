//! Whatever is changed about a sealed object, it does not open.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::KeyInit;
use proptest::prelude::*;
use storepool::clock::Timestamp;

use super::body::body_frame;
use super::header::{COMMITMENT, MAGIC, SALT, outer_header};
use super::key::object_key;
use super::sealer::SegmentSealer;
use super::*;
use crate::crypto::ring::KeyRing;
use crate::layout::{Generation, RealmId};
use crate::testing::SeededEntropy;

fn keys() -> RealmKeys {
    keys_of(11, [1; 16])
}

fn keys_of(seed: u64, realm: [u8; 16]) -> RealmKeys {
    let ring = KeyRing::generate(&SeededEntropy::new(seed), Timestamp(0), "test");
    RealmKeys::new(RealmId(realm), ring)
}

fn plaintext(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

const DATA: Content = Content::Object(ObjectKind::Data);

#[test]
fn what_was_sealed_opens_at_every_length_around_a_segment() {
    let keys = keys();
    for length in [0, 1, 1023, 1024, 1025, 65_535, 65_536, 65_537, 131_072, 200_000] {
        let plain = plaintext(length);
        let (left, right) = plain.split_at(length / 3);

        let sealed = seal(&keys, DATA, &[left, right]).expect("sealed");
        let opened = open(&keys, ObjectKind::Data, &sealed.object).expect("opened");

        assert_eq!(sealed.object.len() as u64, object_length(padded_length(length as u64)));
        assert_eq!(sealed.hash, ObjectHash::of(&sealed.object));
        assert_eq!(&opened.plaintext[..length], plain.as_slice());
        assert!(opened.plaintext[length..].iter().all(|byte| *byte == 0));
        assert_eq!(opened.header.salt(), sealed.salt);
    }
}

#[test]
fn sealing_again_gives_the_same_object_and_any_change_another_key() {
    let keys = keys();
    let plain = plaintext(5000);
    let link = Link { generation: Generation(9), epoch: 1, previous: ObjectHash([3; 32]) };
    let one = seal(&keys, DATA, &[&plain]).expect("sealed");
    let again = seal(&keys, DATA, &[&plain[..10], &plain[10..]]).expect("sealed");
    let others = [
        seal(&keys, Content::Object(ObjectKind::Metadata), &[&plain]),
        seal(&keys, DATA, &[&plain[1..]]),
        seal(&keys, Content::Commit(link), &[&plain]),
        seal(&keys, Content::Commit(Link { epoch: 2, ..link }), &[&plain]),
        seal(&keys, Content::Commit(Link { generation: Generation(10), ..link }), &[&plain]),
        seal(&keys, Content::Commit(Link { previous: ObjectHash([4; 32]), ..link }), &[&plain]),
        seal(&keys, Content::Checkpoint(link), &[&plain]),
        seal(&keys_of(11, [2; 16]), DATA, &[&plain]),
        seal(&keys_of(12, [1; 16]), DATA, &[&plain]),
    ];

    assert_eq!(one.object, again.object);
    let mut commitments = std::collections::HashSet::from([one.object[COMMITMENT].to_vec()]);
    for other in others {
        assert!(commitments.insert(other.expect("sealed").object[COMMITMENT].to_vec()));
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let keys = keys();
    let sealed = seal(&keys, DATA, &[&plaintext(1500)]).expect("sealed");
    for bit in 0..sealed.object.len() * 8 {
        let mut bad = sealed.object.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&keys, ObjectKind::Data, &bad).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let keys = keys();
    let sealed = seal(&keys, DATA, &[&plaintext(66_000)]).expect("sealed");
    let lengths = (0..2000).chain(sealed.object.len() - 2100..sealed.object.len());
    for length in lengths {
        assert!(open(&keys, ObjectKind::Data, &sealed.object[..length]).is_err(), "{length}");
    }
    for extra in [1, 16, 17, STORED_SEGMENT_LENGTH] {
        let mut long = sealed.object.clone();
        long.resize(long.len() + extra, 0);
        assert_eq!(open(&keys, ObjectKind::Data, &long).err(), Some(SealError::Length));
    }
}

#[test]
fn segments_cannot_be_swapped_dropped_doubled_or_borrowed() {
    let keys = keys();
    let sealed = seal(&keys, DATA, &[&plaintext(4 * SEGMENT_LENGTH)]).expect("sealed");
    let other = seal(&keys, DATA, &[&plaintext(4 * SEGMENT_LENGTH)[1..]]).expect("sealed");
    let reader = ContainerReader::new(&keys, ObjectKind::Data, &sealed.object).expect("genuine");
    let segment = |object: &[u8], index: usize| {
        let start = HEADER_LENGTH + index * STORED_SEGMENT_LENGTH;
        object[start..start + STORED_SEGMENT_LENGTH].to_vec()
    };
    for from in 0..4 {
        for to in 0..4 {
            let stored = segment(&sealed.object, from);
            let opened = reader.open_segments(to as u64, &stored, &mut Vec::new());
            assert_eq!(opened.is_ok(), from == to, "{from} in place of {to}");
            let borrowed = segment(&other.object, to);
            assert!(reader.open_segments(to as u64, &borrowed, &mut Vec::new()).is_err());
        }
    }
    assert_eq!(
        reader.open_segments(4, &segment(&sealed.object, 3), &mut Vec::new()),
        Err(SealError::Length)
    );
    let spliced = [&sealed.object[..HEADER_LENGTH], &other.object[HEADER_LENGTH..]].concat();
    assert_eq!(open(&keys, ObjectKind::Data, &spliced).err(), Some(SealError::Content));
}

#[test]
fn another_kind_realm_or_key_is_refused_by_name() {
    let keys = keys();
    let sealed = seal(&keys, DATA, &[b"x"]).expect("sealed");
    let open = |keys: &RealmKeys, kind| super::open(keys, kind, &sealed.object).err();

    assert_eq!(
        open(&keys, ObjectKind::Index),
        Some(SealError::Kind { found: "data pack", expected: "index" })
    );
    assert_eq!(open(&keys_of(11, [2; 16]), ObjectKind::Data), Some(SealError::Realm));
    assert_eq!(open(&keys_of(12, [1; 16]), ObjectKind::Data), Some(SealError::Key));
}

#[test]
fn a_salt_that_is_not_of_this_content_is_refused_even_under_the_right_key() {
    let keys = keys();
    let mut header = outer_header(keys.realm(), DATA, 1024);
    header[SALT].copy_from_slice(&[7; 32]);
    let (secret, commitment) = object_key(keys.newest(), &header);
    header[COMMITMENT].copy_from_slice(&commitment);
    let mut sealer = SegmentSealer::new(
        Aes256Gcm::new((&secret.0).into()),
        *blake3::hash(&header).as_bytes(),
        header.to_vec(),
        1,
    );
    sealer.push(&[5; 1024]);
    let object = sealer.finish();

    assert!(ContainerReader::new(&keys, ObjectKind::Data, &object).is_ok());
    assert_eq!(open(&keys, ObjectKind::Data, &object).err(), Some(SealError::Content));
}

#[test]
fn an_object_sealed_with_an_older_master_key_still_opens() {
    let old = keys();
    let sealed = seal(&old, DATA, &[b"old"]).expect("sealed");
    let rotated = old.with_new_master(&SeededEntropy::new(99), Timestamp(5));

    assert!(open(&rotated, ObjectKind::Data, &sealed.object).is_ok());
    let new = seal(&rotated, DATA, &[b"old"]).expect("sealed");
    assert_ne!(new.hash, sealed.hash);
    assert_eq!(open(&old, ObjectKind::Data, &new.object).err(), Some(SealError::Key));
    assert_eq!(
        rotated.chunk_id(&storepool::id::ChunkId([1; 32])),
        old.chunk_id(&storepool::id::ChunkId([1; 32]))
    );
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
    let keys = keys();
    let sealed = seal(&keys, DATA, &[b"x"]).expect("sealed");
    for padded in [0, plaintext_limit(ObjectKind::Data) + 1, u64::MAX] {
        let mut bad = sealed.object.clone();
        bad[96..104].copy_from_slice(&u64::to_le_bytes(padded));
        assert_eq!(open(&keys, ObjectKind::Data, &bad).err(), Some(SealError::Length));
    }
}

#[test]
fn a_body_tells_its_own_length_and_nothing_hides_behind_it() {
    let frame = body_frame(ObjectKind::Commit, 3);
    let plain = [&frame[..], b"abc", &[0; 100]].concat();

    assert_eq!(body(ObjectKind::Commit, &plain), Ok(b"abc".as_slice()));
    assert!(body(ObjectKind::Manifest, &plain).is_err());
    let hidden = [&frame[..], b"abcd", &[0; 100]].concat();
    assert_eq!(body(ObjectKind::Commit, &hidden), Err(SealError::Reserved));
    let long = [&body_frame(ObjectKind::Commit, usize::MAX)[..], b"abc"].concat();
    assert!(body(ObjectKind::Commit, &long).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_is_read_from_its_segments_alone(length in 1usize..400_000, a: prop::sample::Index, b: prop::sample::Index) {
        let keys = keys();
        let plain = plaintext(length);
        let sealed = seal(&keys, DATA, &[&plain]).expect("sealed");
        let (a, b) = (a.index(length), b.index(length));
        let wanted = a.min(b) as u64..a.max(b) as u64 + 1;

        let reader = ContainerReader::new(&keys, ObjectKind::Data, &sealed.object[..HEADER_LENGTH]).expect("genuine");
        let segments = reader.segments_of(wanted.clone());
        let stored = reader.stored_range(segments.clone());
        let mut out = Vec::new();
        reader.open_segments(segments.start, &sealed.object[stored.start as usize..stored.end as usize], &mut out).expect("opened");

        let skip = segments.start as usize * SEGMENT_LENGTH;
        prop_assert_eq!(&out[wanted.start as usize - skip..wanted.end as usize - skip], &plain[wanted.start as usize..wanted.end as usize]);
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_panic(bytes: Vec<u8>, header: bool) {
        let mut object = if header { [MAGIC.as_slice(), &[1, 0, 1, 1, 16, 0, 0, 0], &[1; 16]].concat() } else { Vec::new() };
        object.extend(bytes);
        prop_assert!(open(&keys(), ObjectKind::Data, &object).is_err());
    }
}
