//! One target for each kind of bytes that is read from a disk or a vault.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cloudsync::crypto::container;
use cloudsync::crypto::passphrase::Passphrase;
use cloudsync::crypto::slot::{KdfLimits, SlotName, open_slot};
use cloudsync::layout::{ObjectKind, ObjectName, SlotId};
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::key_file::UnlockedKey;
use cloudsync::vault::tables::open_index;
use storepool::disk::SystemDisk;
use storepool::id::{ChunkKind, PoolId};
use storepool::manifest::Manifest;
use storepool::marker::{MARKER_NAME, Marker};
use storepool::pack::frame::{FrameCodec, verify_chunks};
use storepool::pack::reader::PackReader;
use storepool::tree::{Extents, TreeNode};

/// What a reader says of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are what was written, and this is the hash of what they say.
    Sound(blake3::Hash),
    /// They are not.
    Refused,
}

impl Verdict {
    fn of(content: impl AsRef<[u8]>) -> Self {
        Self::Sound(blake3::hash(content.as_ref()))
    }
}

/// A reader and bytes that it takes for sound.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) corpus: Vec<Vec<u8>>,
    pub(crate) read: fn(&[u8]) -> Verdict,
    /// Whether this reader alone must never give out anything that was not written; of others a name above proves the bytes before. A changed byte
    /// that says the same (a compressed frame can be written in more than one way) is no forgery.
    pub(crate) is_authentic: bool,
}

fn verdict<T, E>(read: Result<T, E>) -> Verdict {
    match read {
        Ok(_) => Verdict::of([]),
        Err(_) => Verdict::Refused,
    }
}

// Of bytes that can be written in one way only.
fn exact<T, E>(bytes: &[u8], read: Result<T, E>) -> Verdict {
    match read {
        Ok(_) => Verdict::of(bytes),
        Err(_) => Verdict::Refused,
    }
}

// The crates that call these functions lie at different depths below the root.
fn fixture() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut places = above.map(|folder| folder.join("tests/fixtures/format-1"));
    places.find(|place| place.is_dir()).expect("the crate lies in the workspace")
}

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the fixture") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => open.push(path),
                false if path.to_string_lossy().ends_with(suffix) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn contents(folder: &str, suffix: &str) -> Vec<Vec<u8>> {
    let paths = files(&fixture().join(folder), suffix);
    paths.iter().map(|path| fs::read(path).expect("a file of the fixture")).collect()
}

static KEY: LazyLock<UnlockedKey> = LazyLock::new(|| {
    let bytes = fs::read(fixture().join("key")).expect("a key file");
    UnlockedKey::decode(&bytes).expect("a sound key file")
});

static POOL: LazyLock<PoolId> = LazyLock::new(|| {
    let marker = Marker::read(&SystemDisk, &fixture().join("pool")).expect("a sound marker");
    marker.expect("a marker").pool
});

thread_local! {
    // A place for files that readers open by their names; gone with the thread.
    static SCRATCH: tempfile::TempDir = {
        let shared = Path::new("/dev/shm");
        match shared.is_dir() {
            true => tempfile::tempdir_in(shared),
            false => tempfile::tempdir(),
        }
        .expect("a folder")
    };
}

fn written(name: &str, bytes: &[u8]) -> PathBuf {
    let path = SCRATCH.with(|folder| folder.path().join(name));
    fs::write(&path, bytes).expect("written");
    path
}

// The chunks of one kind in the packs of the fixture.
fn chunks(kind: ChunkKind) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for path in files(&fixture().join("pool/packs"), ".pack") {
        let id = path.file_stem().expect("a name").to_string_lossy().parse().expect("an id");
        let pack = PackReader::open(&SystemDisk, &path, id, *POOL).expect("a sound pack");
        let (mut codec, mut stored) = (FrameCodec::new(1).expect("a codec"), Vec::new());
        for frame in 0..pack.toc().frames().len() as u32 {
            let decoded = pack.read_frame(frame, &mut stored, &mut codec).expect("a frame");
            let mut rest = decoded;
            for chunk in pack.toc().chunks_of(frame).expect("a frame").1 {
                let (own, after) = rest.split_at(chunk.length as usize);
                rest = after;
                if chunk.kind == kind {
                    found.push(own.to_vec());
                }
            }
        }
    }
    found
}

// Whatever its name: a pack that opens says by itself which one it is.
fn read_pack(bytes: &[u8]) -> Verdict {
    let path = written("pack", bytes);
    for known in files(&fixture().join("pool/packs"), ".pack") {
        let id = known.file_stem().expect("a name").to_string_lossy().parse().expect("an id");
        let Ok(pack) = PackReader::open(&SystemDisk, &path, id, *POOL) else { continue };
        let (mut codec, mut stored) = (FrameCodec::new(1).expect("a codec"), Vec::new());
        let mut content = blake3::Hasher::new();
        let whole = (0..pack.toc().frames().len() as u32).all(|frame| {
            let (_, chunks) = pack.toc().chunks_of(frame).expect("a frame of the table");
            pack.read_frame(frame, &mut stored, &mut codec).is_ok_and(|decoded| {
                content.update(decoded);
                verify_chunks(chunks, decoded).is_ok()
            })
        });
        if whole {
            return Verdict::Sound(content.finalize());
        }
    }
    Verdict::Refused
}

fn read_marker(bytes: &[u8]) -> Verdict {
    let path = written(MARKER_NAME, bytes);
    match Marker::read(&SystemDisk, path.parent().expect("a folder")) {
        Ok(Some(_)) => Verdict::of([]),
        _ => Verdict::Refused,
    }
}

fn read_object(bytes: &[u8]) -> Verdict {
    let kinds = [
        ObjectKind::Data,
        ObjectKind::Metadata,
        ObjectKind::Index,
        ObjectKind::Commit,
        ObjectKind::Checkpoint,
        ObjectKind::Manifest,
    ];
    let opened = kinds.iter().find_map(|kind| container::open(&KEY.keys, *kind, bytes).ok());
    exact(bytes, opened.ok_or(()))
}

fn vault_objects(kinds: &[&str]) -> Vec<Vec<u8>> {
    let realm = KEY.keys.realm();
    kinds.iter().flat_map(|kind| contents(&format!("vault/r/{realm}/{kind}"), "")).collect()
}

// The costs of the fixture are too much for a reader of so little memory: everything before the derivation is read, nothing is derived.
fn read_slot(bytes: &[u8]) -> Verdict {
    let passphrase = Passphrase::new("correct horse battery staple").expect("long enough");
    let name = SlotName { realm: KEY.keys.realm(), slot: SlotId([0; 16]), revision: 1 };
    let opened = open_slot(bytes, name, &passphrase, &KdfLimits { memory_kib: 64 << 10 });
    // Refused as it is written, too: but by its name, and not by its form.
    match opened {
        Ok(_) => Verdict::Refused,
        Err(_) => Verdict::of([]),
    }
}

/// Returns all targets.
pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "pack",
            corpus: contents("pool/packs", ".pack"),
            read: read_pack,
            is_authentic: true,
        },
        Target {
            name: "tree",
            corpus: chunks(ChunkKind::Tree),
            read: |bytes| verdict(TreeNode::decode(bytes)),
            is_authentic: false,
        },
        Target {
            name: "list of chunks",
            corpus: vec![Extents { runs: Vec::new(), chunks: Vec::new() }.encode_list()],
            read: |bytes| verdict(Extents::decode_list(bytes, 0)),
            is_authentic: false,
        },
        Target {
            name: "manifest",
            corpus: contents("pool/points", ".point"),
            read: |bytes| verdict(Manifest::decode(bytes)),
            is_authentic: false,
        },
        Target {
            name: "marker",
            corpus: contents("pool", MARKER_NAME),
            read: read_marker,
            is_authentic: false,
        },
        Target {
            name: "object of a vault",
            corpus: vault_objects(&["p", "t", "i", "c", "m"]),
            read: read_object,
            is_authentic: true,
        },
        Target {
            name: "index of a vault",
            corpus: vault_objects(&["i"]),
            read: |bytes| exact(bytes, open_index(&KEY.keys, bytes)),
            is_authentic: true,
        },
        Target {
            name: "slot",
            corpus: vault_objects(&["k"]),
            read: read_slot,
            is_authentic: false,
        },
        Target {
            name: "name of an object",
            corpus: files(&fixture().join("vault"), "")
                .iter()
                .map(|path| path.strip_prefix(fixture().join("vault")).expect("below"))
                .map(|path| path.to_string_lossy().into_owned().into_bytes())
                .collect(),
            read: |bytes| verdict(String::from_utf8_lossy(bytes).parse::<ObjectName>()),
            is_authentic: false,
        },
        Target {
            name: "credentials",
            corpus: vec![fs::read(fixture().join("credentials")).expect("credentials")],
            read: |bytes| verdict(Credentials::parse(&String::from_utf8_lossy(bytes))),
            is_authentic: false,
        },
        Target {
            name: "key file",
            corpus: vec![fs::read(fixture().join("key")).expect("a key file")],
            read: |bytes| exact(bytes, UnlockedKey::decode(bytes)),
            is_authentic: true,
        },
    ]
}
