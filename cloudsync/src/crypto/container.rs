//! The sealed container: the one outer form of packs, indexes, manifests, commits and checkpoints
//! (`docs/format-vault.md`, section 5).
//!
//! The key of an object is derived from a synthetic salt over everything in it. So no nonce is ever repeated
//! with other content, whatever becomes of the random generator or of a restored virtual machine, and sealing
//! the same plaintext twice gives the same object.

use std::fmt;
use std::ops::Range;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use zeroize::Zeroizing;

use crate::crypto::equal_in_constant_time;
use crate::crypto::padding::padded_length;
use crate::crypto::ring::{RealmKeys, SealingKeys, Secret};
use crate::error::SealError;
use crate::layout::{Generation, ObjectHash, ObjectKind, RealmId};

/// Length of the header in bytes.
pub const HEADER_LENGTH: usize = 160;
/// Bytes of plaintext in a segment.
pub const SEGMENT_LENGTH: usize = 1 << SEGMENT_EXPONENT;
/// Bytes of a stored segment: plaintext and tag.
pub const STORED_SEGMENT_LENGTH: usize = SEGMENT_LENGTH + TAG_LENGTH;

const MAGIC: &[u8; 8] = b"KWSEAL1\n";
const VERSION: u16 = 1;
const WRAP_REALM_KEY: u8 = 1;
const SEGMENT_EXPONENT: u8 = 16;
const TAG_LENGTH: usize = 16;
const SALT: Range<usize> = 32..64;
const COMMITMENT: Range<usize> = 64..96;
const FRAME_VERSION: u32 = 1;
const FRAME_LENGTH: usize = 16;
const ZEROS: [u8; 4096] = [0; 4096];

/// The place of a commit or checkpoint in the chain; part of its header, readable without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The generation of the commit, or of the commit that a checkpoint follows.
    pub generation: Generation,
    /// The epoch: how often the realm was claimed.
    pub epoch: u32,
    /// The hash of the commit object before (of a commit) or of the same generation (of a checkpoint).
    pub previous: ObjectHash,
}

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An object named by its content: any kind but commit and checkpoint.
    Object(ObjectKind),
    /// A commit.
    Commit(Link),
    /// A checkpoint.
    Checkpoint(Link),
}

impl Content {
    /// Returns the kind of object that this is.
    pub fn kind(self) -> ObjectKind {
        match self {
            Self::Object(kind) => kind,
            Self::Commit(_) => ObjectKind::Commit,
            Self::Checkpoint(_) => ObjectKind::Checkpoint,
        }
    }

    fn link(self) -> Option<Link> {
        match self {
            Self::Object(_) => None,
            Self::Commit(link) | Self::Checkpoint(link) => Some(link),
        }
    }
}

/// A sealed object, ready to be put.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The object's bytes.
    pub object: Vec<u8>,
    /// The hash of the object's bytes, which names it.
    pub hash: ObjectHash,
    /// The synthetic salt, by which a reader of a part recognises the object.
    pub salt: [u8; 32],
}

/// Returns the most padded bytes that an object of this kind may have.
pub fn plaintext_limit(kind: ObjectKind) -> u64 {
    match kind {
        ObjectKind::Data | ObjectKind::Metadata => 128 << 20,
        ObjectKind::Index | ObjectKind::Commit | ObjectKind::Manifest => 64 << 20,
        ObjectKind::Checkpoint => 1 << 30,
    }
}

/// Returns the length of the object that holds so many padded bytes.
pub fn object_length(padded: u64) -> u64 {
    HEADER_LENGTH as u64 + padded + TAG_LENGTH as u64 * padded.div_ceil(SEGMENT_LENGTH as u64)
}

/// Returns how many padded bytes an object of this length holds; nothing if no object has this length.
fn plaintext_length(stored: u64) -> Option<u64> {
    let body = stored.checked_sub(HEADER_LENGTH as u64)?;
    let segments = body.div_ceil(STORED_SEGMENT_LENGTH as u64);
    let padded = body.checked_sub(segments * TAG_LENGTH as u64)?;
    (padded > 0 && object_length(padded) == stored).then_some(padded)
}

/// Returns the most bytes that an object of this kind may have in the store.
pub fn object_limit(kind: ObjectKind) -> u64 {
    object_length(plaintext_limit(kind))
}

/// Seals the pieces of a plaintext, joined and padded, with the newest key.
///
/// # Errors
/// [`SealError::Format`] when the plaintext is longer than an object of the kind may be.
pub fn seal(keys: &RealmKeys, content: Content, pieces: &[&[u8]]) -> Result<Sealed, SealError> {
    let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    let padded = padded_length(length);
    if padded > plaintext_limit(content.kind()) {
        return Err(SealError::Format("the plaintext is longer than the format allows"));
    }
    let sealing = keys.newest();
    let mut header = outer_header(keys.realm(), content, padded);
    let padding = (padded - length) as usize;
    let salt = synthetic_salt(sealing, &header, pieces.iter().copied().chain(zeros(padding)));
    header[SALT].copy_from_slice(&salt);
    let (secret, commitment) = object_key(sealing, &header);
    header[COMMITMENT].copy_from_slice(&commitment);

    let cipher = Aes256Gcm::new((&secret.0).into());
    let associated = blake3::hash(&header);
    let mut object = Vec::with_capacity(object_length(padded) as usize);
    object.extend_from_slice(&header);
    let mut sealer = SegmentSealer {
        cipher,
        associated: *associated.as_bytes(),
        object,
        start: HEADER_LENGTH,
        index: 0,
        count: padded.div_ceil(SEGMENT_LENGTH as u64),
    };
    for piece in pieces.iter().copied().chain(zeros(padding)) {
        sealer.push(piece);
    }
    let object = sealer.finish();
    let hash = ObjectHash::of(&object);
    Ok(Sealed { object, hash, salt })
}

struct SegmentSealer {
    cipher: Aes256Gcm,
    associated: [u8; 32],
    object: Vec<u8>,
    // Where the open segment begins in the object.
    start: usize,
    index: u64,
    count: u64,
}

impl SegmentSealer {
    fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let room = self.start + SEGMENT_LENGTH - self.object.len();
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.object.extend_from_slice(now);
            if now.len() == room {
                self.close_segment();
            }
            piece = later;
        }
    }

    // Sealed in place while the segment is still in the processor's cache.
    fn close_segment(&mut self) {
        let nonce = segment_nonce(self.index, self.index + 1 == self.count);
        let segment = &mut self.object[self.start..];
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, &self.associated, InOutBuf::from(segment))
            .expect("a segment is shorter than the longest message of AES-GCM");
        self.object.extend_from_slice(&tag);
        self.start = self.object.len();
        self.index += 1;
    }

    fn finish(mut self) -> Vec<u8> {
        if self.object.len() > self.start {
            self.close_segment();
        }
        assert_eq!(self.index, self.count, "the pieces fill exactly the announced segments");
        self.object
    }
}

/// The header of a container, before or after it was proved to be genuine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEADER_LENGTH],
    kind: ObjectKind,
    realm: RealmId,
    padded: u64,
    link: Option<Link>,
}

impl Header {
    /// Reads a header. Proves nothing yet: only [`ContainerReader::new`] does.
    pub fn read(bytes: &[u8]) -> Result<Self, SealError> {
        let bytes: [u8; HEADER_LENGTH] = *bytes.first_chunk().ok_or(SealError::Length)?;
        let mut reader = storepool::wire::WireReader::new(&bytes);
        if &reader.array()? != MAGIC {
            return Err(SealError::Magic);
        }
        let unknown = |field, value: u64| Err(SealError::Unknown { field, value });
        match reader.u16()? {
            VERSION => {}
            other => return unknown("container version", other.into()),
        }
        let number = reader.byte()?;
        let Some(kind) = ObjectKind::from_number(number) else {
            return unknown("object type", number.into());
        };
        match reader.byte()? {
            WRAP_REALM_KEY => {}
            other => return unknown("wrap", other.into()),
        }
        match reader.byte()? {
            SEGMENT_EXPONENT => {}
            other => return unknown("segment size", other.into()),
        }
        if reader.array()? != [0; 3] {
            return Err(SealError::Reserved);
        }
        let realm = RealmId(reader.array()?);
        reader.take(COMMITMENT.end - SALT.start)?;
        let padded = reader.u64()?;
        if padded == 0 || padded > plaintext_limit(kind) {
            return Err(SealError::Length);
        }
        let link = Link {
            generation: Generation(reader.u64()?),
            epoch: reader.u32()?,
            previous: {
                if reader.array()? != [0; 12] {
                    return Err(SealError::Reserved);
                }
                ObjectHash(reader.array()?)
            },
        };
        let chained = matches!(kind, ObjectKind::Commit | ObjectKind::Checkpoint);
        if !chained && bytes[104..].iter().any(|byte| *byte != 0) {
            return Err(SealError::Reserved);
        }
        Ok(Self { bytes, kind, realm, padded, link: chained.then_some(link) })
    }

    /// Returns the kind of object.
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// Returns the realm it belongs to.
    pub fn realm(&self) -> RealmId {
        self.realm
    }

    /// Returns the number of bytes of padded plaintext.
    pub fn padded_length(&self) -> u64 {
        self.padded
    }

    /// Returns the length of the whole object in bytes.
    pub fn object_length(&self) -> u64 {
        object_length(self.padded)
    }

    /// Returns the place in the chain, for commits and checkpoints.
    pub fn link(&self) -> Option<Link> {
        self.link
    }

    /// Returns the synthetic salt, by which the object is recognised.
    pub fn salt(&self) -> [u8; 32] {
        let mut salt = [0; 32];
        salt.copy_from_slice(&self.bytes[SALT]);
        salt
    }

    fn commitment(&self) -> [u8; 32] {
        let mut commitment = [0; 32];
        commitment.copy_from_slice(&self.bytes[COMMITMENT]);
        commitment
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("kind", &self.kind)
            .field("realm", &self.realm)
            .field("padded", &self.padded)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// Opens parts of one object: knows the object's key and where its segments lie.
pub struct ContainerReader {
    header: Header,
    cipher: Aes256Gcm,
    associated: [u8; 32],
    sealing: SealingKeys,
}

impl ContainerReader {
    /// Proves that the header belongs to this realm and kind, and that one of the keys made it.
    pub fn new(keys: &RealmKeys, kind: ObjectKind, header: &[u8]) -> Result<Self, SealError> {
        let header = Header::read(header)?;
        if header.realm != keys.realm() {
            return Err(SealError::Realm);
        }
        if header.kind != kind {
            return Err(SealError::Kind { found: header.kind.noun(), expected: kind.noun() });
        }
        for sealing in keys.sealing() {
            let (secret, commitment) = object_key(sealing, &header.bytes);
            if equal_in_constant_time(&commitment, &header.commitment()) {
                return Ok(Self {
                    header,
                    cipher: Aes256Gcm::new((&secret.0).into()),
                    associated: *blake3::hash(&header.bytes).as_bytes(),
                    sealing: sealing.clone(),
                });
            }
        }
        Err(SealError::Key)
    }

    /// Creates the reader of an object whose header is determined by what a commit says of it: nothing need be
    /// read before its segments, which prove it. For objects named by their content alone.
    ///
    /// `None` if there are several master keys: then only the header's commitment tells which one it was.
    pub fn of_record(
        keys: &RealmKeys,
        kind: ObjectKind,
        salt: [u8; 32],
        stored_length: u64,
    ) -> Result<Option<Self>, SealError> {
        let [sealing] = keys.sealing() else { return Ok(None) };
        let padded = plaintext_length(stored_length).ok_or(SealError::Length)?;
        if padded > plaintext_limit(kind) {
            return Err(SealError::Length);
        }
        let mut bytes = outer_header(keys.realm(), Content::Object(kind), padded);
        bytes[SALT].copy_from_slice(&salt);
        let (secret, commitment) = object_key(sealing, &bytes);
        bytes[COMMITMENT].copy_from_slice(&commitment);
        Ok(Some(Self {
            cipher: Aes256Gcm::new((&secret.0).into()),
            associated: *blake3::hash(&bytes).as_bytes(),
            sealing: sealing.clone(),
            header: Header::read(&bytes)?,
        }))
    }

    /// Returns the header, now proved.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the number of segments.
    pub fn segments(&self) -> u64 {
        self.header.padded.div_ceil(SEGMENT_LENGTH as u64)
    }

    /// Returns which segments hold a range of the plaintext.
    pub fn segments_of(&self, plaintext: Range<u64>) -> Range<u64> {
        let first = plaintext.start / SEGMENT_LENGTH as u64;
        first
            ..plaintext.end.div_ceil(SEGMENT_LENGTH as u64).clamp(first, self.segments().max(first))
    }

    /// Returns where in the object these segments are stored.
    pub fn stored_range(&self, segments: Range<u64>) -> Range<u64> {
        let at = |segment: u64| HEADER_LENGTH as u64 + segment * STORED_SEGMENT_LENGTH as u64;
        at(segments.start)..at(segments.end).min(self.header.object_length())
    }

    /// Opens consecutive whole segments, the first of which is number `first`; appends their plaintext to `out`.
    ///
    /// On an error nothing is appended.
    pub fn open_segments(
        &self,
        first: u64,
        stored: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let before = out.len();
        out.reserve(stored.len());
        let opened = self.open_segments_into(first, stored, out);
        if opened.is_err() {
            // What was already opened is genuine, but half an answer is nobody's answer.
            out.truncate(before);
        }
        opened
    }

    fn open_segments_into(
        &self,
        first: u64,
        stored: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let count = self.segments();
        for (index, segment) in (first..).zip(stored.chunks(STORED_SEGMENT_LENGTH)) {
            let Some(length) = self.segment_length(index) else {
                return Err(SealError::Length);
            };
            if segment.len() != length + TAG_LENGTH {
                return Err(SealError::Length);
            }
            let (ciphertext, tag) = segment.split_at(length);
            let tag: &Tag<Aes256Gcm> = tag.try_into().map_err(|_| SealError::Length)?;
            let start = out.len();
            out.resize(start + length, 0);
            let buffer =
                InOutBuf::new(ciphertext, &mut out[start..]).map_err(|_| SealError::Length)?;
            let nonce = segment_nonce(index, index + 1 == count);
            self.cipher
                .decrypt_inout_detached(&nonce, &self.associated, buffer, tag)
                .map_err(|_| SealError::Content)?;
        }
        Ok(())
    }

    fn segment_length(&self, index: u64) -> Option<usize> {
        let start = index.checked_mul(SEGMENT_LENGTH as u64)?;
        let left = self.header.padded.checked_sub(start).filter(|left| *left > 0)?;
        Some(left.min(SEGMENT_LENGTH as u64) as usize)
    }

    /// Compares the whole padded plaintext with the synthetic salt of the header.
    fn verify_salt(&self, plaintext: &[u8]) -> Result<(), SealError> {
        let salt = synthetic_salt(&self.sealing, &self.header.bytes, [plaintext].into_iter());
        match equal_in_constant_time(&salt, &self.header.salt()) {
            true => Ok(()),
            false => Err(SealError::Content),
        }
    }
}

impl fmt::Debug for ContainerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerReader").field("header", &self.header).finish_non_exhaustive()
    }
}

/// An object that was opened as a whole.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its header.
    pub header: Header,
    /// Its plaintext, with padding.
    pub plaintext: Vec<u8>,
}

/// Opens a whole object; every byte of it is proved when this returns.
pub fn open(keys: &RealmKeys, kind: ObjectKind, object: &[u8]) -> Result<Opened, SealError> {
    let reader = ContainerReader::new(keys, kind, object)?;
    if object.len() as u64 != reader.header.object_length() {
        return Err(SealError::Length);
    }
    let mut plaintext = Vec::with_capacity(reader.header.padded as usize);
    reader.open_segments_into(0, &object[HEADER_LENGTH..], &mut plaintext)?;
    reader.verify_salt(&plaintext)?;
    Ok(Opened { header: reader.header, plaintext })
}

/// Seals the body of an index, commit, checkpoint or manifest.
pub fn seal_body(keys: &RealmKeys, content: Content, body: &[u8]) -> Result<Sealed, SealError> {
    seal(keys, content, &[&body_frame(content.kind(), body.len()), body])
}

/// Returns the 16 bytes that come before the body of an index, commit, checkpoint or manifest.
fn body_frame(kind: ObjectKind, body_length: usize) -> [u8; FRAME_LENGTH] {
    let mut frame = [0; FRAME_LENGTH];
    frame[..4].copy_from_slice(body_magic(kind));
    frame[4..8].copy_from_slice(&FRAME_VERSION.to_le_bytes());
    frame[8..].copy_from_slice(&(body_length as u64).to_le_bytes());
    frame
}

/// Returns the body of an opened index, commit, checkpoint or manifest.
pub fn body(kind: ObjectKind, plaintext: &[u8]) -> Result<&[u8], SealError> {
    let mut reader = storepool::wire::WireReader::new(plaintext);
    if &reader.array::<4>()? != body_magic(kind) {
        return Err(SealError::Format("the body does not begin like one of its kind"));
    }
    match reader.u32()? {
        FRAME_VERSION => {}
        other => return Err(SealError::Unknown { field: "body version", value: other.into() }),
    }
    let length = usize::try_from(reader.u64()?).map_err(|_| SealError::Length)?;
    let body = reader.take(length)?;
    refuse_padding_other_than_zeros(reader.rest())?;
    Ok(body)
}

/// Refuses padding that could carry something.
pub(crate) fn refuse_padding_other_than_zeros(padding: &[u8]) -> Result<(), SealError> {
    match padding.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(SealError::Reserved),
    }
}

fn body_magic(kind: ObjectKind) -> &'static [u8; 4] {
    match kind {
        ObjectKind::Data | ObjectKind::Metadata => b"KWVP",
        ObjectKind::Index => b"KWVI",
        ObjectKind::Commit => b"KWVC",
        ObjectKind::Checkpoint => b"KWVH",
        ObjectKind::Manifest => b"KWVM",
    }
}

// The header without salt and commitment.
fn outer_header(realm: RealmId, content: Content, padded: u64) -> [u8; HEADER_LENGTH] {
    let kind = content.kind();
    let chained = matches!(kind, ObjectKind::Commit | ObjectKind::Checkpoint);
    assert_eq!(
        chained,
        content.link().is_some(),
        "commits and checkpoints, and only they, have a place in the chain"
    );
    let mut header = [0; HEADER_LENGTH];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10] = kind as u8;
    header[11] = WRAP_REALM_KEY;
    header[12] = SEGMENT_EXPONENT;
    header[16..32].copy_from_slice(realm.as_bytes());
    header[96..104].copy_from_slice(&padded.to_le_bytes());
    if let Some(link) = content.link() {
        header[104..112].copy_from_slice(&link.generation.0.to_le_bytes());
        header[112..116].copy_from_slice(&link.epoch.to_le_bytes());
        header[128..].copy_from_slice(link.previous.as_bytes());
    }
    header
}

// Over the whole header: the same plaintext under two headers would otherwise use one nonce with two
// associated data, and give the authentication key away.
fn synthetic_salt<'a>(
    sealing: &SealingKeys,
    header: &[u8; HEADER_LENGTH],
    plaintext: impl Iterator<Item = &'a [u8]>,
) -> [u8; 32] {
    let mut hasher = Zeroizing::new(blake3::Hasher::new_keyed(&sealing.salt.0));
    hasher.update(&header[..SALT.start]).update(&header[COMMITMENT.end..]);
    for piece in plaintext {
        hasher.update(piece);
    }
    *hasher.finalize().as_bytes()
}

fn object_key(sealing: &SealingKeys, header: &[u8; HEADER_LENGTH]) -> (Secret, [u8; 32]) {
    let mut hasher = Zeroizing::new(blake3::Hasher::new_keyed(&sealing.seal.0));
    hasher.update(&header[..SALT.end]);
    let mut output = Zeroizing::new(hasher.finalize_xof());
    let mut secret = Secret([0; 32]);
    let mut commitment = [0; 32];
    output.fill(&mut secret.0);
    output.fill(&mut commitment);
    (secret, commitment)
}

fn segment_nonce(index: u64, last: bool) -> Nonce<Aes256Gcm> {
    let mut nonce = [0; 12];
    nonce[0] = u8::from(last);
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    nonce.into()
}

fn zeros<'a>(count: usize) -> impl Iterator<Item = &'a [u8]> {
    let rest = &ZEROS[..count % ZEROS.len()];
    std::iter::repeat_n(ZEROS.as_slice(), count / ZEROS.len()).chain(std::iter::once(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::ring::KeyRing;
    use crate::testing::SeededEntropy;
    use proptest::prelude::*;
    use storepool::clock::Timestamp;

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
        let reader =
            ContainerReader::new(&keys, ObjectKind::Data, &sealed.object).expect("genuine");
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
        let mut sealer = SegmentSealer {
            cipher: Aes256Gcm::new((&secret.0).into()),
            associated: *blake3::hash(&header).as_bytes(),
            object: header.to_vec(),
            start: HEADER_LENGTH,
            index: 0,
            count: 1,
        };
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
}
