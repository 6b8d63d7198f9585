//! Names of things: newtypes over 32 or 16 bytes, with hexadecimal text forms.
//!
//! A name is computed from content ([`ChunkId::of`]) or drawn at random ([`PoolId`], [`DirectoryId`]); the types keep
//! one from being used where the other is meant.

use std::fmt;
use std::str::FromStr;

/// What a chunk holds; part of the pack format and of how its id is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChunkKind {
    /// A piece of a file's content.
    Data = 0,
    /// A node of a directory tree.
    Tree = 1,
    /// A list of the chunks of one window of a large file.
    List = 2,
    /// The manifest of a recovery point.
    Manifest = 3,
}

impl ChunkKind {
    /// Returns the kind with this number in a pack's table of contents.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Tree),
            2 => Some(Self::List),
            3 => Some(Self::Manifest),
            _ => None,
        }
    }

    fn context(self) -> Option<&'static str> {
        match self {
            Self::Data => None,
            Self::Tree => Some("keepwell 2026 v1 tree"),
            Self::List => Some("keepwell 2026 v1 list"),
            Self::Manifest => Some("keepwell 2026 v1 manifest"),
        }
    }
}

/// The text is not an identifier of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} hexadecimal digits")]
pub struct ParseIdError {
    digits: usize,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Returns the first 8 hexadecimal digits: enough for people, never for machines.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }

            /// Returns the bytes of the identifier.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Returns the identifier with these bytes, if there are exactly enough of them.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $bytes];
                unhex(text, &mut bytes).ok_or(ParseIdError { digits: 2 * $bytes })?;
                Ok(Self(bytes))
            }
        }
    };
}

identifier!(
    /// Names a chunk by the BLAKE3 hash of its plaintext (`docs/format.md`, section 1).
    ChunkId, 32
);
identifier!(
    /// Names a pack by the hash of its header, table of contents and trailer.
    PackId, 32
);
identifier!(
    /// Names a recovery point: the chunk id of its manifest.
    PointId, 32
);
identifier!(
    /// Names a pool; random, drawn by `init`.
    PoolId, 16
);
identifier!(
    /// Names one directory of a pool; random, drawn by `init` or `pool add`.
    DirectoryId, 16
);

/// The chunk id of a tree node.
pub type TreeId = ChunkId;

impl ChunkId {
    /// Computes the id of a chunk from its kind and plaintext.
    pub fn of(kind: ChunkKind, plaintext: &[u8]) -> Self {
        match kind.context() {
            None => Self(*blake3::hash(plaintext).as_bytes()),
            Some(context) => {
                let mut hasher = blake3::Hasher::new_derive_key(context);
                hasher.update(plaintext);
                Self(*hasher.finalize().as_bytes())
            }
        }
    }

    /// Returns the key of this id in the index: its first 8 bytes as a signed integer.
    pub fn prefix(&self) -> i64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        i64::from_le_bytes(first)
    }
}

impl From<ChunkId> for PointId {
    fn from(manifest: ChunkId) -> Self {
        Self(manifest.0)
    }
}

impl From<PointId> for ChunkId {
    fn from(point: PointId) -> Self {
        Self(point.0)
    }
}

/// Returns `bytes` as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn unhex(text: &str, bytes: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != bytes.len() * 2 {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_of_an_id_agree() {
        let id = ChunkId::of(ChunkKind::Data, b"hello");

        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
        assert_eq!(
            id.to_string(),
            "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
        );
        assert!("EA8F".parse::<ChunkId>().is_err());
        assert!("zz".repeat(32).parse::<ChunkId>().is_err());
    }

    #[test]
    fn the_same_bytes_have_another_name_as_each_kind() {
        let kinds = [ChunkKind::Data, ChunkKind::Tree, ChunkKind::List, ChunkKind::Manifest];
        let names: std::collections::HashSet<_> =
            kinds.iter().map(|kind| ChunkId::of(*kind, b"same")).collect();

        assert_eq!(names.len(), kinds.len());
    }
}
