//! The frame of types 3 to 6: a body that tells what it is and how long.

use crate::crypto::container::{Content, Sealed, seal};
use crate::crypto::ring::RealmKeys;
use crate::error::SealError;
use crate::layout::ObjectKind;

const FRAME_VERSION: u32 = 1;
const FRAME_LENGTH: usize = 16;

/// Seals the body of an index, commit, checkpoint or manifest.
pub fn seal_body(keys: &RealmKeys, content: Content, body: &[u8]) -> Result<Sealed, SealError> {
    seal(keys, content, &[&body_frame(content.kind(), body.len()), body])
}

/// Returns the 16 bytes that come before the body of an index, commit, checkpoint or manifest.
pub(super) fn body_frame(kind: ObjectKind, body_length: usize) -> [u8; FRAME_LENGTH] {
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
