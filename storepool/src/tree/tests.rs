//! Trees as their readers see them.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::entry::{FileTime, Metadata, Run, Xattr};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, TreeId};
use crate::tree::{
    ChunkFetch, ChunkRef, Content, Entry, Extents, ListRef, Node, TreeBuilder, TreeCursor,
    find_entry,
};
use crate::wire::WireReader;

#[derive(Default)]
struct Nodes(RefCell<HashMap<ChunkId, Vec<u8>>>);

impl Nodes {
    fn build(&self, entries: &[Entry]) -> TreeId {
        let mut sink = |node: &[u8]| {
            let id = ChunkId::of(ChunkKind::Tree, node);
            self.0.borrow_mut().insert(id, node.to_vec());
            Ok(id)
        };
        let mut builder = TreeBuilder::default();
        for entry in entries {
            builder.push(entry, &mut sink).unwrap();
        }
        builder.finish(&mut sink).unwrap()
    }
}

impl ChunkFetch for Nodes {
    fn fetch(&self, id: ChunkId, _kind: ChunkKind) -> Result<Vec<u8>> {
        self.0.borrow().get(&id).cloned().ok_or(Error::ChunkMissing { chunk: id })
    }
}

fn file(name: String) -> Entry {
    Entry {
        name: name.into_bytes(),
        metadata: Metadata { mode: 0o644, inode: 7, ..Metadata::default() },
        node: Node::File { size: 0, content: Content::None },
    }
}

#[test]
fn a_directory_of_any_size_comes_back_in_order() {
    for count in [0, 1, 63, 64, 1000, 30_000] {
        let nodes = Nodes::default();
        let entries: Vec<_> = (0..count).map(|index| file(format!("f{index:08}"))).collect();

        let root = nodes.build(&entries);

        let back: Vec<_> = TreeCursor::new(&nodes, root).collect::<Result<Vec<_>>>().unwrap();
        assert_eq!(back, entries, "{count} entries");
        assert!(nodes.0.borrow().values().all(|node| node.len() < 1 << 20));
        for entry in entries.iter().step_by(997) {
            assert_eq!(find_entry(&nodes, root, &entry.name).unwrap().as_ref(), Some(entry));
        }
        assert_eq!(find_entry(&nodes, root, b"zzz").unwrap(), None);
    }
}

#[test]
fn one_more_entry_changes_few_nodes() {
    let nodes = Nodes::default();
    let mut entries: Vec<_> = (0..30_000).map(|index| file(format!("f{index:08}"))).collect();
    nodes.build(&entries);
    let before = nodes.0.borrow().len();

    entries.insert(15_000, file("f00014999b".to_string()));
    nodes.build(&entries);

    let added = nodes.0.borrow().len() - before;
    assert!(added <= 5, "{added} nodes were written again");
}

#[test]
fn every_kind_of_entry_comes_back() {
    let chunk = ChunkRef { id: ChunkId([9; 32]), length: 5 };
    let nodes = [
        Node::File {
            size: 30,
            content: Content::Inline(Extents {
                runs: vec![Run { hole: 10, data: 5 }],
                chunks: vec![chunk],
            }),
        },
        Node::File {
            size: 5,
            content: Content::Inline(Extents { runs: vec![], chunks: vec![chunk] }),
        },
        Node::File {
            size: 99,
            content: Content::Listed(vec![ListRef { id: ChunkId([1; 32]), span: 99 }]),
        },
        Node::Directory { tree: ChunkId([3; 32]), files: 4, bytes: 1 << 40 },
        Node::Symlink { target: b"../\xff".to_vec() },
        Node::Fifo,
        Node::Socket,
        Node::CharDevice { major: 1, minor: 3 },
        Node::BlockDevice { major: 259, minor: 1 << 19 },
    ];
    for node in nodes {
        let entry = Entry {
            name: b"n\xf0me".to_vec(),
            metadata: Metadata {
                mode: 0o4755,
                uid: 1000,
                gid: u32::MAX,
                mtime: FileTime { seconds: -1, nanos: 999_999_999 },
                ctime: FileTime { seconds: 1 << 40, nanos: 1 },
                inode: u64::MAX,
                hard_link_device: Some(3),
                inode_flags: Some(0x10),
                xattrs: vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 255] }],
            },
            node,
        };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);

        let mut reader = WireReader::new(&bytes);
        assert_eq!(Entry::decode(&mut reader, false).unwrap(), entry);
        assert!(reader.is_empty());
        for length in 0..bytes.len() {
            assert!(Entry::decode(&mut WireReader::new(&bytes[..length]), false).is_err());
        }
    }
}

#[test]
fn hostile_names_are_refused() {
    for name in ["", ".", "..", "a/b", "a\0b"] {
        let mut bytes = Vec::new();
        file(name.to_string()).encode(&mut bytes);
        assert!(Entry::decode(&mut WireReader::new(&bytes), false).is_err(), "{name:?}");
    }
}
