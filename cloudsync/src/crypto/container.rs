//! The sealed container: the one outer form of packs, indexes, manifests, commits and checkpoints
//! (`docs/format-vault.md`, section 5).
//!
//! The key of an object is derived from a synthetic salt over everything in it. So no nonce is ever repeated
//! with other content, whatever becomes of the random generator or of a restored virtual machine, and sealing
//! the same plaintext twice gives the same object.

mod body;
mod header;
mod key;
mod reader;
mod sealer;
mod size;
#[cfg(test)]
mod tests;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::KeyInit;

use crate::crypto::container::header::{COMMITMENT, SALT, outer_header};
use crate::crypto::container::key::{object_key, synthetic_salt};
use crate::crypto::container::sealer::{SegmentSealer, zeros};
use crate::crypto::padding::padded_length;
use crate::crypto::ring::RealmKeys;
use crate::error::SealError;
use crate::layout::{ObjectHash, ObjectKind};

pub(crate) use body::refuse_padding_other_than_zeros;
pub use body::{body, seal_body};
pub use header::{Content, Header, Link};
pub use reader::ContainerReader;
pub use size::{
    HEADER_LENGTH, SEGMENT_LENGTH, STORED_SEGMENT_LENGTH, object_length, object_limit,
    plaintext_limit,
};

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
    let count = padded.div_ceil(SEGMENT_LENGTH as u64);
    let mut sealer = SegmentSealer::new(cipher, *associated.as_bytes(), object, count);
    for piece in pieces.iter().copied().chain(zeros(padding)) {
        sealer.push(piece);
    }
    let object = sealer.finish();
    let hash = ObjectHash::of(&object);
    Ok(Sealed { object, hash, salt })
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
    if object.len() as u64 != reader.header().object_length() {
        return Err(SealError::Length);
    }
    let mut plaintext = Vec::with_capacity(reader.header().padded_length() as usize);
    reader.open_segments_into(0, &object[HEADER_LENGTH..], &mut plaintext)?;
    reader.verify_salt(&plaintext)?;
    Ok(Opened { header: *reader.header(), plaintext })
}
