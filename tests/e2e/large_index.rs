//! An index of many rows: memory stays bounded however large the pool, and the index is made anew from packs and points alone.
//!
//! `KEEPWELL_E2E_ROWS=20000000` measures the size that docs/benchmarks.md speaks of; the usual run takes a small part of it.

use std::path::Path;
use std::sync::Arc;

use storepool::catalog::{Notes, Point};
use storepool::clock::Timestamp;
use storepool::entry::Metadata;
use storepool::id::ChunkKind;
use storepool::manifest::{Manifest, Owners, Totals};
use storepool::pool::{Pool, PoolOptions, World};
use storepool::tree::{ChunkRef, Content, Entry, Extents, ListRef, Node, TreeBuilder};
use storepool::writer::{PoolWriter, SpacePolicy};

use crate::home::{Home, announce, setting};
use crate::memory::run_measured;

const ROWS_USUALLY: u64 = 300_000;
const ROWS_OF_A_LIST: u64 = 100_000;
/// What issue and documentation promise for 20 million rows.
const MEMORY_LIMIT_KIB: u64 = 256 << 10;

/// Makes a pool whose one point is a file of `rows` different chunks, as small as they can be.
fn make_pool(path: &Path, rows: u64) {
    let paths = [path.to_path_buf()];
    let pool = Arc::new(Pool::open(&paths, PoolOptions::default(), World::system()).unwrap());
    let session = pool.begin_session().unwrap();
    let writer = PoolWriter::new(&session, SpacePolicy::KeepReserve).unwrap();
    let mut chunks = writer.chunk_writer().unwrap();
    let mut lists = Vec::new();
    let mut size = 0;
    for first in (0..rows).step_by(ROWS_OF_A_LIST as usize) {
        let mut extents = Extents::default();
        for row in first..(first + ROWS_OF_A_LIST).min(rows) {
            let content = row.to_le_bytes();
            let (id, _) = chunks.put(ChunkKind::Data, &content).unwrap();
            extents.chunks.push(ChunkRef { id, length: content.len() as u32 });
        }
        let span = extents.chunks.len() as u64 * 8;
        let (id, _) = chunks.put(ChunkKind::List, &extents.encode_list()).unwrap();
        lists.push(ListRef { id, span });
        size += span;
    }
    let mut sink = |node: &[u8]| chunks.put(ChunkKind::Tree, node).map(|(id, _)| id);
    let mut builder = TreeBuilder::default();
    let file = Node::File { size, content: Content::Listed(lists) };
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    builder
        .push(&Entry { name: b"large".to_vec(), metadata: metadata.clone(), node: file }, &mut sink)
        .unwrap();
    let tree = builder.finish(&mut sink).unwrap();
    let root = Node::Directory { tree, files: 1, bytes: size };
    let manifest = Manifest {
        nonce: [1; 16],
        pool: pool.id(),
        started: Timestamp(1),
        finished: Timestamp(2),
        host: "host".to_string(),
        group: String::new(),
        source: "large".to_string(),
        workload: "files".to_string(),
        paths: vec![b"/large".to_vec()],
        program: "test".to_string(),
        base: None,
        totals: Totals { files: 1, bytes: size, ..Totals::default() },
        owners: Owners::default(),
        problems: Vec::new(),
        problem_count: 0,
        detail: String::new(),
        set: None,
        root: tree,
        root_entry: Entry { name: b".".to_vec(), metadata, node: root },
    };
    let bytes = manifest.encode();
    chunks.put(ChunkKind::Manifest, &bytes).unwrap();
    chunks.finish().unwrap();
    writer.flush().unwrap();
    let id = manifest.point_id();
    for files in pool.point_files() {
        files.write(id, &bytes, &pool.temporary(files.directory)).unwrap();
    }
    pool.catalog().add(&Point::of(id, &manifest, Notes::default()), &[]).unwrap();
}

#[test]
fn memory_is_bounded_however_many_rows_the_index_has() {
    let rows = setting("KEEPWELL_E2E_ROWS", ROWS_USUALLY);
    let home = Home::empty();
    home.run(["init"]).expect_code(0);
    make_pool(&home.pool(), rows);
    let small = home.directory("small");
    std::fs::write(small.join("file"), b"something new").unwrap();
    let small = small.to_str().expect("a temporary path is text").to_string();

    let mut figures = Vec::new();
    for arguments in [
        &["backup", "--files", &small][..],
        &["points"],
        &["check"],
        &["check", "--read-data"],
        &["prune"],
        &["stats"],
    ] {
        figures.push((arguments.join(" "), run_measured(home.command(arguments))));
    }
    std::fs::remove_file(home.pool().join("pool.db")).unwrap();
    let points = run_measured(home.command(["points"]));
    figures.push(("points, index made anew".to_string(), points));
    figures.push(("check after it".to_string(), run_measured(home.command(["check"]))));

    for (what, (finished, peak)) in &figures {
        announce(&format!("{rows} rows: {what}: exit {:?}, {} MiB", finished.code(), peak >> 10));
    }
    for (what, (finished, peak)) in figures {
        finished.expect_code(0);
        assert!(peak <= MEMORY_LIMIT_KIB, "{what} took {} MiB", peak >> 10);
    }
}
