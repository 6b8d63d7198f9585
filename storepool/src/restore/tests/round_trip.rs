//! From a real directory through a real pool to another directory.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;

use super::*;
use crate::backup::{BackupOptions, backup};
use crate::chunks::PoolChunks;
use crate::filetree::{FileTree, FileTreeOptions};
use crate::monitor::{Event, Monitor};
use crate::pool::{Pool, PoolOptions, World};
use crate::space::Reserve;

/// Adds up what was expected and what was done.
#[derive(Default)]
struct Progress(Mutex<[u64; 4]>);

impl Monitor for Progress {
    fn event(&self, event: Event) {
        let mut counts = self.0.lock().unwrap();
        match event {
            Event::Expected { items, bytes } => (counts[0], counts[1]) = (items, bytes),
            Event::Done { items, bytes } => {
                counts[2] += items;
                counts[3] += bytes;
            }
            _ => {}
        }
    }
}

fn fill(source: &Path) {
    for index in 0..300 {
        let directory = source.join(format!("{}/{}", index % 3, index % 17));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join(format!("file {index}"));
        std::fs::write(&file, content(&index.to_string(), index * index)).unwrap();
        let mode = std::fs::Permissions::from_mode(0o600 + (index as u32 & 0o77));
        std::fs::set_permissions(&file, mode).unwrap();
    }
    std::fs::hard_link(source.join("0/0/file 0"), source.join("another name")).unwrap();
    std::os::unix::fs::symlink("0/0/file 0", source.join("symlink")).unwrap();
    let image = std::fs::File::create(source.join("image")).unwrap();
    image.set_len(150 << 20).unwrap();
    for offset in [0, 70 << 20, (128 << 20) - 500_000] {
        let bytes = content("image", 1_000_000);
        std::os::unix::fs::FileExt::write_all_at(&image, &bytes, offset).unwrap();
    }
}

/// What can be told about every entry, in order.
fn describe(root: &Path) -> Vec<String> {
    let describe = |name: &String| {
        let path = root.join(name);
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = match metadata.file_type() {
            kind if kind.is_file() => blake3::hash(&std::fs::read(&path).unwrap()).to_string(),
            kind if kind.is_symlink() => format!("{:?}", std::fs::read_link(&path).unwrap()),
            _ => String::new(),
        };
        let time = (metadata.mtime(), metadata.mtime_nsec());
        let links = if metadata.is_dir() { 0 } else { metadata.nlink() };
        let owner = (metadata.uid(), metadata.gid());
        format!("{name} {:o} {owner:?} {time:?} {links} {content}", metadata.mode())
    };
    names(root).iter().chain([&String::new()]).map(describe).collect()
}

#[test]
fn a_tree_comes_back_from_a_pool_and_progress_adds_up() {
    let places = places();
    let source = places.outside.join("source");
    fill(&source);
    let paths = [places.outside.join("pool")];
    let options = PoolOptions { reserve: Reserve::Bytes(0), ..PoolOptions::default() };
    let pool = std::sync::Arc::new(Pool::create(&paths, options, World::system()).unwrap());
    let tree = FileTree::open(std::slice::from_ref(&source), FileTreeOptions::default()).unwrap();
    let report = backup(&pool, &tree, &BackupOptions::default(), &SilentMonitor).unwrap();
    let manifest = pool.manifest(report.point.unwrap()).unwrap();
    let session = pool.begin_session().unwrap();

    let progress = Progress::default();
    let (chunks, root) = (PoolChunks::new(&session), EntryPath::root());
    let report =
        restore(&chunks, &manifest, &root, &places.target, &threads(2), &progress).unwrap();

    assert_eq!(messages(&report), [""; 0]);
    assert_eq!(describe(&places.target), describe(&source));
    let image = std::fs::metadata(places.target.join("image")).unwrap();
    assert!(image.blocks() * 512 < 8 << 20);
    let counts = *progress.0.lock().unwrap();
    assert_eq!((counts[0], counts[0]), (303, counts[2]));
    assert_eq!(counts[1], counts[3]);

    let in_place = RestoreOptions { in_place: true, verify: true, ..threads(2) };
    let again =
        restore(&chunks, &manifest, &root, &places.target, &in_place, &SilentMonitor).unwrap();
    assert_eq!((again.files, again.others, again.directories, again.bytes), (0, 0, 0, 0));
}
