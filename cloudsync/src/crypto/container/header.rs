//! The header of a container: what can be known of an object without a key.

use std::fmt;
use std::ops::Range;

use crate::crypto::container::size::{
    HEADER_LENGTH, SEGMENT_EXPONENT, object_length, plaintext_limit,
};
use crate::error::SealError;
use crate::layout::{Generation, ObjectHash, ObjectKind, RealmId};

pub(super) const MAGIC: &[u8; 8] = b"KWSEAL1\n";
const VERSION: u16 = 1;
const WRAP_REALM_KEY: u8 = 1;
/// Where the kind of object is.
pub(super) const KIND: usize = 10;
/// Where the synthetic salt is.
pub(super) const SALT: Range<usize> = 32..64;
/// Where the commitment to the key is.
pub(super) const COMMITMENT: Range<usize> = 64..96;

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

/// The header of a container, before or after it was proved to be genuine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub(super) bytes: [u8; HEADER_LENGTH],
    kind: ObjectKind,
    realm: RealmId,
    padded: u64,
    link: Option<Link>,
}

impl Header {
    /// Reads a header. Proves nothing yet: only [`ContainerReader::new`](super::ContainerReader::new) does.
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

    /// Returns the commitment to the key.
    pub(super) fn commitment(&self) -> [u8; 32] {
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

/// Returns the header without salt and commitment.
pub(super) fn outer_header(realm: RealmId, content: Content, padded: u64) -> [u8; HEADER_LENGTH] {
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
    header[KIND] = kind as u8;
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
