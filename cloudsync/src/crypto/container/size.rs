//! How long objects are, and how long they may be: limits are checked before memory is taken.

use crate::layout::ObjectKind;

/// Length of the header in bytes.
pub const HEADER_LENGTH: usize = 160;
/// Bytes of plaintext in a segment.
pub const SEGMENT_LENGTH: usize = 1 << SEGMENT_EXPONENT;
/// Bytes of a stored segment: plaintext and tag.
pub const STORED_SEGMENT_LENGTH: usize = SEGMENT_LENGTH + TAG_LENGTH;

pub(super) const SEGMENT_EXPONENT: u8 = 16;
pub(super) const TAG_LENGTH: usize = 16;

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
pub(super) fn plaintext_length(stored: u64) -> Option<u64> {
    let body = stored.checked_sub(HEADER_LENGTH as u64)?;
    let segments = body.div_ceil(STORED_SEGMENT_LENGTH as u64);
    let padded = body.checked_sub(segments * TAG_LENGTH as u64)?;
    (padded > 0 && object_length(padded) == stored).then_some(padded)
}

/// Returns the most bytes that an object of this kind may have in the store.
pub fn object_limit(kind: ObjectKind) -> u64 {
    object_length(plaintext_limit(kind))
}
