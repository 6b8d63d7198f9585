//! The names of objects in a vault, and the identifiers that names are made of (`docs/format-vault.md`, section 1).
//!
//! No plaintext hash and nothing about files is ever part of a name. A name that can be parsed is also a safe
//! relative path.

use std::fmt;
use std::str::FromStr;

/// Longest object name in bytes.
pub const NAME_LIMIT: usize = 255;
/// Longest label of a server in bytes.
pub const LABEL_LIMIT: usize = 63;
/// Generations per folder of commits: one list request finds all that a checkpoint does not cover.
pub const COMMITS_PER_BLOCK: u64 = 256;

/// The name of the object that makes a vault a vault.
pub const DESCRIPTOR: &str = "keepwell-vault.json";
/// The prefix of the objects that say which servers are registered.
pub const SERVERS: &str = "servers/";
/// The prefix of the objects that say which state the vault is in.
pub const STATES: &str = "state/";
/// The prefix of the objects that the test of the store writes and deletes.
pub const PROBES: &str = "probe/";

/// The text is not an identifier, label or name of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct ParseNameError {
    expected: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Returns the bytes of the identifier.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&storepool::id::hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}…)"), storepool::id::hex(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                let mut bytes = [0; $bytes];
                unhex(text, &mut bytes).ok_or(ParseNameError { expected: $expected })?;
                Ok(Self(bytes))
            }
        }
    };
}

identifier!(
    /// Names a vault; random, drawn by `vault create`.
    VaultId, 16, "32 hexadecimal digits"
);
identifier!(
    /// Names a realm: what one server owns in a vault; random, drawn at registration.
    RealmId, 16, "32 hexadecimal digits"
);
identifier!(
    /// Names a passphrase slot of a realm; random.
    SlotId, 16, "32 hexadecimal digits"
);
identifier!(
    /// Names one installation that writes to a realm; random, renewed by a take-over.
    InstanceId, 16, "32 hexadecimal digits"
);
identifier!(
    /// The BLAKE3 hash of a whole object as stored.
    ObjectHash, 32, "64 hexadecimal digits"
);

impl ObjectHash {
    /// Computes the hash of an object's bytes.
    pub fn of(object: &[u8]) -> Self {
        Self(*blake3::hash(object).as_bytes())
    }
}

/// The number of a commit in a realm's chain; the first commit is generation 1, and 0 is the state before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// Returns the generation that follows.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// What a sealed object is; part of its header and of how its name begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ObjectKind {
    /// A pack of chunks of file content.
    Data = 1,
    /// A pack of trees, lists and manifests.
    Metadata = 2,
    /// Tables of contents of packs.
    Index = 3,
    /// A commit of the chain.
    Commit = 4,
    /// The state after a commit.
    Checkpoint = 5,
    /// The manifest of one recovery point.
    Manifest = 6,
}

impl ObjectKind {
    /// The kinds that are named by content and recorded in commits.
    pub const RECORDED: [Self; 4] = [Self::Data, Self::Metadata, Self::Index, Self::Manifest];

    /// Returns whether objects of this kind hold chunks.
    pub fn is_pack(self) -> bool {
        matches!(self, Self::Data | Self::Metadata)
    }

    /// Returns the kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Data),
            2 => Some(Self::Metadata),
            3 => Some(Self::Index),
            4 => Some(Self::Commit),
            5 => Some(Self::Checkpoint),
            6 => Some(Self::Manifest),
            _ => None,
        }
    }

    /// Returns the noun for messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Data => "data pack",
            Self::Metadata => "metadata pack",
            Self::Index => "index",
            Self::Commit => "commit",
            Self::Checkpoint => "checkpoint",
            Self::Manifest => "manifest",
        }
    }

    pub(crate) fn folder(self) -> char {
        match self {
            Self::Data => 'p',
            Self::Metadata => 't',
            Self::Index => 'i',
            Self::Commit => 'c',
            Self::Checkpoint => 'h',
            Self::Manifest => 'm',
        }
    }
}

/// The name of an object: segments of `a-z A-Z 0-9 . _ -` joined by `/`, none empty and none starting with a dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(String);

impl ObjectName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Returns the name of the vault's descriptor.
    pub fn descriptor() -> Self {
        Self(DESCRIPTOR.to_owned())
    }

    /// Returns the name of the object that registers `label`.
    pub fn server(label: &Label) -> Self {
        Self(format!("{SERVERS}{label}.json"))
    }

    /// Returns the name of a subscription state.
    pub fn state(revision: u64) -> Self {
        Self(format!("{STATES}{revision}.json"))
    }

    /// Returns the name of a test object.
    pub fn probe(random: [u8; 16]) -> Self {
        Self(format!("{PROBES}{}", storepool::id::hex(&random)))
    }

    /// Returns the name of a revision of a slot.
    pub fn slot(realm: RealmId, slot: SlotId, revision: u64) -> Self {
        Self(format!("r/{realm}/k/{slot}.{revision}"))
    }

    /// Returns the name of a commit.
    pub fn commit(realm: RealmId, generation: Generation) -> Self {
        let folder = commit_block_prefix(realm, generation);
        Self(format!("{folder}{:016x}", generation.0))
    }

    /// Returns the name of a checkpoint.
    pub fn checkpoint(realm: RealmId, generation: Generation) -> Self {
        Self(format!("{}{:016x}", checkpoint_prefix(realm), generation.0))
    }

    /// Returns the name of an object that is named by its content; `copy` counts the burials of that content.
    pub fn content(realm: RealmId, kind: ObjectKind, hash: ObjectHash, copy: u32) -> Self {
        let text = hash.to_string();
        Self(format!("r/{realm}/{}/{}/{text}.{copy}", kind.folder(), &text[..1]))
    }

    /// Returns hash and copy number, if this is the name of an object that is named by its content.
    pub fn content_parts(&self) -> Option<(ObjectHash, u32)> {
        let (hash, copy) = self.file_name().split_once('.')?;
        Some((hash.parse().ok()?, parse_decimal(copy)?.try_into().ok()?))
    }

    /// Returns the generation, if this is the name of a commit or checkpoint.
    pub fn generation(&self) -> Option<Generation> {
        let mut bytes = [0; 8];
        unhex(self.file_name(), &mut bytes)?;
        Some(Generation(u64::from_be_bytes(bytes)))
    }

    /// Returns slot and revision, if this is the name of a slot.
    pub fn slot_parts(&self) -> Option<(SlotId, u64)> {
        let (slot, revision) = self.file_name().split_once('.')?;
        Some((slot.parse().ok()?, parse_decimal(revision)?))
    }

    /// Returns the label, if this is the name of a registered server.
    pub fn label(&self) -> Option<Label> {
        self.0.strip_prefix(SERVERS)?.strip_suffix(".json")?.parse().ok()
    }

    /// Returns the revision, if this is the name of a subscription state.
    pub fn state_revision(&self) -> Option<u64> {
        parse_decimal(self.0.strip_prefix(STATES)?.strip_suffix(".json")?)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for ObjectName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let fine = !text.is_empty() && text.len() <= NAME_LIMIT && text.split('/').all(is_segment);
        match fine {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseNameError { expected: "an object name" }),
        }
    }
}

/// Returns the prefix of all slots of a realm.
pub fn slot_prefix(realm: RealmId) -> String {
    format!("r/{realm}/k/")
}

/// Returns the prefix of the commits that share a block with `generation`.
pub fn commit_block_prefix(realm: RealmId, generation: Generation) -> String {
    format!("r/{realm}/c/{:014x}/", generation.0 / COMMITS_PER_BLOCK)
}

/// Returns the prefix of all checkpoints of a realm.
pub fn checkpoint_prefix(realm: RealmId) -> String {
    format!("r/{realm}/h/")
}

/// Returns the prefix of all objects of this kind, where there are few enough for one list.
pub fn content_prefix(realm: RealmId, kind: ObjectKind) -> String {
    format!("r/{realm}/{}/", kind.folder())
}

/// Returns the 16 prefixes that together hold all objects of this kind, to be listed side by side.
pub fn content_prefixes(realm: RealmId, kind: ObjectKind) -> impl Iterator<Item = String> {
    "0123456789abcdef".chars().map(move |digit| format!("r/{realm}/{}/{digit}/", kind.folder()))
}

/// The name of a server, chosen by its administrator and visible to the vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(String);

impl Label {
    /// Returns the label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a label from a host name or any other text: what does not fit becomes `-`.
    ///
    /// Returns nothing when no letter or digit is left.
    pub fn suggest(text: &str) -> Option<Self> {
        let fitting: String = text
            .trim()
            .chars()
            .map(
                |c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' },
            )
            .collect();
        let trimmed = fitting.trim_start_matches(['-', '.', '_']);
        trimmed[..trimmed.len().min(LABEL_LIMIT)].parse().ok()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Label {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        match is_segment(text) && text.len() <= LABEL_LIMIT && !text.starts_with('-') {
            true => Ok(Self(text.to_owned())),
            false => Err(ParseNameError {
                expected: "1 to 63 letters, digits, \".\", \"_\" or \"-\", not starting with \".\" or \"-\"",
            }),
        }
    }
}

fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

// Only the shortest form: a name must not have a second spelling.
fn parse_decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn unhex(text: &str, bytes: &mut [u8]) -> Option<()> {
    if text.len() != bytes.len() * 2 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REALM: RealmId = RealmId([0xab; 16]);

    #[test]
    fn names_come_apart_into_what_they_were_made_of() {
        let hash = ObjectHash::of(b"object");
        let slot = SlotId([7; 16]);

        let pack = ObjectName::content(REALM, ObjectKind::Data, hash, 12);
        let commit = ObjectName::commit(REALM, Generation(0x1234));
        let label: Label = "web1.example".parse().expect("a label");

        assert_eq!(pack.content_parts(), Some((hash, 12)));
        assert_eq!(commit.generation(), Some(Generation(0x1234)));
        assert_eq!(ObjectName::checkpoint(REALM, Generation(3)).generation(), Some(Generation(3)));
        assert_eq!(ObjectName::slot(REALM, slot, 9).slot_parts(), Some((slot, 9)));
        assert_eq!(ObjectName::server(&label).label(), Some(label));
        assert_eq!(ObjectName::state(3).state_revision(), Some(3));
        assert!(commit.as_str().starts_with(&commit_block_prefix(REALM, Generation(0x12ff))));
        assert_eq!(pack.as_str().parse::<ObjectName>(), Ok(pack));
    }

    #[test]
    fn a_name_has_one_spelling_and_stays_inside_the_vault() {
        for hostile in ["", "/", "a//b", "../a", "a/..", "a/.b", "/a", "a/", "a\0", "ä", "a b"] {
            assert!(hostile.parse::<ObjectName>().is_err(), "{hostile:?}");
        }
        assert!("a/".repeat(200).parse::<ObjectName>().is_err());
        let zeros: ObjectName = format!("{}.007", "0".repeat(64)).parse().expect("a name");
        assert_eq!(zeros.content_parts(), None);
    }

    #[test]
    fn a_host_name_makes_a_label() {
        assert_eq!(Label::suggest("web1.example.org").expect("fits").as_str(), "web1.example.org");
        assert_eq!(Label::suggest("-büro 7").expect("fits").as_str(), "b-ro-7");
        assert_eq!(Label::suggest(&"x".repeat(200)).expect("fits").as_str().len(), LABEL_LIMIT);
        assert_eq!(Label::suggest("…"), None);
    }
}
