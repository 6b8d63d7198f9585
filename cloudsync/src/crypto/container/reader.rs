//! Reading parts of an object.

use std::fmt;
use std::ops::Range;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aead::{AeadInOut, KeyInit, Tag};

use crate::crypto::container::header::{COMMITMENT, Content, Header, SALT, outer_header};
use crate::crypto::container::key::{object_key, segment_nonce, synthetic_salt};
use crate::crypto::container::size::{
    HEADER_LENGTH, SEGMENT_LENGTH, STORED_SEGMENT_LENGTH, TAG_LENGTH, plaintext_length,
    plaintext_limit,
};
use crate::crypto::equal_in_constant_time;
use crate::crypto::ring::{RealmKeys, SealingKeys};
use crate::error::SealError;
use crate::layout::ObjectKind;

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
        if header.realm() != keys.realm() {
            return Err(SealError::Realm);
        }
        if header.kind() != kind {
            return Err(SealError::Kind { found: header.kind().noun(), expected: kind.noun() });
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
        self.header.padded_length().div_ceil(SEGMENT_LENGTH as u64)
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

    /// As [`Self::open_segments`], but after an error `out` holds what was opened before it.
    pub(super) fn open_segments_into(
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
        let left = self.header.padded_length().checked_sub(start).filter(|left| *left > 0)?;
        Some(left.min(SEGMENT_LENGTH as u64) as usize)
    }

    /// Compares the whole padded plaintext with the synthetic salt of the header.
    pub(super) fn verify_salt(&self, plaintext: &[u8]) -> Result<(), SealError> {
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
