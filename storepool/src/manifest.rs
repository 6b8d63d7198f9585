//! The manifest: everything about a recovery point that is not in its tree, in self-contained bytes.
//!
//! Byte by byte in `docs/format.md`, section 6. The point's id is the manifest's chunk id.

use std::collections::BTreeMap;

use crate::clock::Timestamp;
use crate::entry::EntryPath;
use crate::id::{ChunkId, ChunkKind, PointId, PoolId, TreeId};
use crate::tree::Entry;
use crate::wire::{WireError, WireReader, put_bytes, put_varint};

/// Most problems that a manifest lists; the count goes on.
pub const PROBLEMS_LIMIT: usize = 10_000;
/// Longest manifest in bytes.
pub const MANIFEST_LIMIT: usize = 7 << 20;

const MAGIC: &[u8; 8] = b"KWPOINT1";

/// What happened to an entry that is not in the point as it was in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ProblemKind {
    /// It changed each time it was read; its content is not in the point.
    Changed = 1,
    /// It was listed, then gone.
    Vanished = 2,
    /// It cannot be read.
    Unreadable = 3,
    /// The format cannot hold it.
    Unsupported = 4,
    /// The entry is in the point, but some of its metadata is not.
    Metadata = 5,
    /// The entry is in the point as it is in the source, where it is damaged.
    Damaged = 6,
}

impl ProblemKind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Changed,
            2 => Self::Vanished,
            3 => Self::Unreadable,
            4 => Self::Unsupported,
            5 => Self::Metadata,
            6 => Self::Damaged,
            _ => return None,
        })
    }

    /// Returns the word for programs and people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Vanished => "vanished",
            Self::Unreadable => "unreadable",
            Self::Unsupported => "unsupported",
            Self::Metadata => "metadata",
            Self::Damaged => "damaged",
        }
    }
}

/// One entry of the source that is not in the point as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which entry.
    pub path: EntryPath,
    /// What happened.
    pub kind: ProblemKind,
    /// The details, for people.
    pub message: String,
}

/// The sizes of a point and of the work it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks, pipes, sockets, devices.
    pub others: u64,
    /// Bytes of the files' content, holes not counted.
    pub bytes: u64,
    /// Bytes read from the source in this run.
    pub bytes_read: u64,
    /// Bytes of chunks that the pool did not have, before compression.
    pub bytes_new: u64,
    /// Bytes added to packs.
    pub bytes_stored: u64,
    /// Chunks that the pool did not have.
    pub chunks_new: u64,
}

/// Names of numeric owners at the time of the backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// User names by number.
    pub users: BTreeMap<u32, Vec<u8>>,
    /// Group names by number.
    pub groups: BTreeMap<u32, Vec<u8>>,
}

/// Points of several sources that were held still together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PointSet {
    /// Random; the same in all points of the set.
    pub id: [u8; 16],
    /// How many points the set has.
    pub count: u32,
}

impl PointSet {
    fn encode(&self) -> Vec<u8> {
        [self.id.as_slice(), &self.count.to_le_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = WireReader::new(bytes);
        let set = Self { id: reader.array()?, count: reader.u32()? };
        match reader.is_empty() {
            true => Ok(set),
            false => Err(WireError("bytes follow the set of a point")),
        }
    }
}

/// A recovery point's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Random; equal trees at equal times are still two points.
    pub nonce: [u8; 16],
    /// The pool it was made in.
    pub pool: PoolId,
    /// When the run began: the point shows the source as it was from here on.
    pub started: Timestamp,
    /// When everything had been read.
    pub finished: Timestamp,
    /// Label of the server.
    pub host: String,
    /// Protection group; empty for none.
    pub group: String,
    /// Data source; with the group it names the series of points.
    pub source: String,
    /// Kind of workload, such as `files`.
    pub workload: String,
    /// What was backed up, as the user gave it.
    pub paths: Vec<Vec<u8>>,
    /// Version of the program.
    pub program: String,
    /// The point that the run compared with.
    pub base: Option<PointId>,
    /// Sizes.
    pub totals: Totals,
    /// Names of owners.
    pub owners: Owners,
    /// What went wrong for single entries, the first [`PROBLEMS_LIMIT`].
    pub problems: Vec<Problem>,
    /// How many problems there were.
    pub problem_count: u64,
    /// For the workload alone; JSON, may be empty.
    pub detail: String,
    /// The points that show several sources as they were at one moment; `None` for a point that stands for itself.
    pub set: Option<PointSet>,
    /// Entries of the root directory.
    pub root: TreeId,
    /// Metadata of the root directory; its name is `.`.
    pub root_entry: Entry,
}

impl Manifest {
    /// Returns the point's id: the chunk id of the manifest's bytes.
    pub fn point_id(&self) -> PointId {
        ChunkId::of(ChunkKind::Manifest, &self.encode()).into()
    }

    /// Returns the canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut field = |tag: u16, value: &[u8]| {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        };
        field(1, &self.nonce);
        field(2, self.pool.as_bytes());
        field(3, &self.started.0.to_le_bytes());
        field(4, &self.finished.0.to_le_bytes());
        field(5, self.host.as_bytes());
        field(6, self.group.as_bytes());
        field(7, self.source.as_bytes());
        field(8, self.workload.as_bytes());
        field(9, &encode_all(&self.paths, |out, path| put_bytes(out, path)));
        field(10, self.program.as_bytes());
        if let Some(base) = &self.base {
            field(11, base.as_bytes());
        }
        field(13, &encode_all(&self.totals.numbers(), |out, number| put_varint(out, *number)));
        field(14, &self.owners.encode());
        field(15, &encode_all(&self.problems, encode_problem));
        field(16, &encode_all(&[self.problem_count], |out, count| put_varint(out, *count)));
        if !self.detail.is_empty() {
            field(17, self.detail.as_bytes());
        }
        if let Some(set) = &self.set {
            field(18, &set.encode());
        }
        field(0x8001, self.root.as_bytes());
        let mut root_entry = Vec::new();
        self.root_entry.encode(&mut root_entry);
        field(0x8002, &root_entry);
        out
    }

    /// Reads a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::read(bytes)?;
        let manifest = Self {
            nonce: fields.array(1)?,
            pool: PoolId(fields.array(2)?),
            started: Timestamp(i64::from_le_bytes(fields.array(3)?)),
            finished: Timestamp(i64::from_le_bytes(fields.array(4)?)),
            host: fields.text(5)?,
            group: fields.text(6)?,
            source: fields.text(7)?,
            workload: fields.text(8)?,
            paths: decode_all(fields.required(9)?, |reader| Ok(reader.bytes()?.to_vec()))?,
            program: fields.text(10)?,
            base: fields.optional(11).map(to_array).transpose()?.map(PointId),
            totals: Totals::from_numbers(&decode_all(fields.required(13)?, WireReader::varint)?)?,
            owners: Owners::decode(fields.required(14)?)?,
            problems: decode_all(fields.required(15)?, decode_problem)?,
            problem_count: WireReader::new(fields.required(16)?).varint()?,
            detail: fields.optional(17).map(to_text).transpose()?.unwrap_or_default(),
            set: fields.optional(18).map(PointSet::decode).transpose()?,
            root: ChunkId(fields.array(0x8001)?),
            root_entry: decode_root_entry(fields.required(0x8002)?)?,
        };
        if fields.0.keys().any(|tag| *tag >= 0x8000) {
            return Err(WireError("the manifest needs a newer version of this program"));
        }
        Ok(manifest)
    }
}

impl Totals {
    fn numbers(&self) -> [u64; 8] {
        [
            self.files,
            self.directories,
            self.others,
            self.bytes,
            self.bytes_read,
            self.bytes_new,
            self.bytes_stored,
            self.chunks_new,
        ]
    }

    fn from_numbers(numbers: &[u64]) -> Result<Self, WireError> {
        match numbers {
            [
                files,
                directories,
                others,
                bytes,
                bytes_read,
                bytes_new,
                bytes_stored,
                chunks_new,
                ..,
            ] => Ok(Self {
                files: *files,
                directories: *directories,
                others: *others,
                bytes: *bytes,
                bytes_read: *bytes_read,
                bytes_new: *bytes_new,
                bytes_stored: *bytes_stored,
                chunks_new: *chunks_new,
            }),
            _ => Err(WireError("totals are incomplete")),
        }
    }
}

impl Owners {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (class, names) in [(0, &self.users), (1, &self.groups)] {
            for (id, name) in names {
                out.push(class);
                put_varint(&mut out, u64::from(*id));
                put_bytes(&mut out, name);
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut owners = Self::default();
        let mut reader = WireReader::new(bytes);
        while !reader.is_empty() {
            let names = match reader.byte()? {
                0 => &mut owners.users,
                1 => &mut owners.groups,
                _ => return Err(WireError("unknown class of owner")),
            };
            let id = reader.varint32()?;
            names.insert(id, reader.bytes()?.to_vec());
        }
        Ok(owners)
    }
}

struct Fields<'a>(BTreeMap<u16, &'a [u8]>);

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() > MANIFEST_LIMIT {
            return Err(WireError("the manifest is too long"));
        }
        let mut reader = WireReader::new(bytes);
        if &reader.array::<8>()? != MAGIC {
            return Err(WireError("not a manifest of this version"));
        }
        let mut fields = BTreeMap::new();
        while !reader.is_empty() {
            let tag = reader.u16()?;
            let length = reader.u32()?;
            if fields.last_key_value().is_some_and(|(last, _)| *last >= tag) {
                return Err(WireError("fields are out of order"));
            }
            fields.insert(tag, reader.take(length as usize)?);
        }
        Ok(Self(fields))
    }

    fn optional(&mut self, tag: u16) -> Option<&'a [u8]> {
        self.0.remove(&tag)
    }

    fn required(&mut self, tag: u16) -> Result<&'a [u8], WireError> {
        self.optional(tag).ok_or(WireError("a field of the manifest is missing"))
    }

    fn array<const N: usize>(&mut self, tag: u16) -> Result<[u8; N], WireError> {
        to_array(self.required(tag)?)
    }

    fn text(&mut self, tag: u16) -> Result<String, WireError> {
        to_text(self.required(tag)?)
    }
}

fn to_array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError("a field of the manifest has the wrong length"))
}

fn to_text(bytes: &[u8]) -> Result<String, WireError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError("text of the manifest is not UTF-8"))
}

fn encode_all<T>(items: &[T], put: impl Fn(&mut Vec<u8>, &T)) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items {
        put(&mut out, item);
    }
    out
}

fn decode_all<'a, T>(
    bytes: &'a [u8],
    take: impl Fn(&mut WireReader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let mut reader = WireReader::new(bytes);
    let mut items = Vec::new();
    while !reader.is_empty() {
        items.push(take(&mut reader)?);
    }
    Ok(items)
}

fn encode_problem(out: &mut Vec<u8>, problem: &Problem) {
    put_bytes(out, problem.path.as_bytes());
    out.push(problem.kind as u8);
    put_bytes(out, problem.message.as_bytes());
}

fn decode_problem(reader: &mut WireReader<'_>) -> Result<Problem, WireError> {
    let path =
        EntryPath::parse(reader.bytes()?).ok_or(WireError("a problem has a forbidden path"))?;
    let kind =
        ProblemKind::from_number(reader.byte()?).ok_or(WireError("unknown kind of problem"))?;
    Ok(Problem { path, kind, message: String::from_utf8_lossy(reader.bytes()?).into_owned() })
}

fn decode_root_entry(bytes: &[u8]) -> Result<Entry, WireError> {
    let mut reader = WireReader::new(bytes);
    let entry = Entry::decode(&mut reader, true)?;
    if !reader.is_empty() {
        return Err(WireError("bytes follow the root entry"));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Metadata;
    use crate::tree::Node;

    fn manifest() -> Manifest {
        let root = ChunkId([5; 32]);
        Manifest {
            nonce: [1; 16],
            pool: PoolId([2; 16]),
            started: Timestamp(-1),
            finished: Timestamp(1 << 60),
            host: "server".to_string(),
            group: String::new(),
            source: "/srv".to_string(),
            workload: "files".to_string(),
            paths: vec![b"/srv/\xff".to_vec()],
            program: "0.1.0".to_string(),
            base: Some(PointId([3; 32])),
            totals: Totals { files: 1, bytes: 1 << 40, ..Totals::default() },
            owners: Owners {
                users: BTreeMap::from([(0, b"root".to_vec())]),
                groups: BTreeMap::new(),
            },
            problems: vec![Problem {
                path: EntryPath::parse(b"a/b").unwrap(),
                kind: ProblemKind::Vanished,
                message: "gone".to_string(),
            }],
            problem_count: 20_000,
            detail: String::new(),
            set: Some(PointSet { id: [9; 16], count: 2 }),
            root,
            root_entry: Entry {
                name: b".".to_vec(),
                metadata: Metadata::default(),
                node: Node::Directory { tree: root, files: 1, bytes: 1 << 40 },
            },
        }
    }

    #[test]
    fn a_manifest_comes_back_and_shorter_ones_are_refused() {
        let manifest = manifest();

        let bytes = manifest.encode();

        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn an_unknown_field_is_skipped_unless_it_is_critical() {
        let mut bytes = manifest().encode();
        bytes.extend_from_slice(&0x8003u16.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        assert!(Manifest::decode(&bytes).is_err());
    }
}
