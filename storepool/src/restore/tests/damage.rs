use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicI64;

use super::*;
use crate::monitor::{Event, Monitor};
use crate::restore::Conflict;

fn tree() -> Point {
    let mut point = Point::new();
    for index in 0..60 {
        point.add_file(format!("{}/{index}", index % 5), &content(&index.to_string(), 2900));
    }
    point
}

fn chunk_of(name: &str, number: usize) -> ChunkId {
    let bytes = content(name, 2900);
    ChunkId::of(ChunkKind::Data, bytes.chunks(CHUNK_LENGTH).nth(number).unwrap())
}

#[test]
fn a_lost_chunk_costs_its_files_and_no_others() {
    let places = places();
    let mut point = tree();
    let shared = point.file(&content("7", 2900)).with(|metadata| {
        (metadata.hard_link_device, metadata.inode) = (Some(1), 1);
    });
    point.add("linked/a", shared.clone()).add("linked/b", shared);
    point.chunks.lost.insert(chunk_of("7", 1));
    point.chunks.places.remove(&chunk_of("20", 2));
    point.chunks.lost.insert(chunk_of("20", 2));

    let report = point.restore(&places.target, &threads(2)).unwrap();

    let told = messages(&report);
    assert_eq!(report.problem_count, 4, "{told:?}");
    let lost = format!("chunk {} is missing from the pool", chunk_of("7", 1).short());
    assert!(told[1] == format!("2/7: {lost}"), "{told:?}");
    assert!(told[0].starts_with("0/20: chunk"), "{told:?}");
    assert!(told[3].contains("hard link to \"linked/a\""), "{told:?}");
    assert_eq!(report.files, 58);
    for gone in ["2/7", "0/20", "linked/a", "linked/b"] {
        assert!(!places.target.join(gone).exists(), "{gone}");
    }
    for index in (0..60).filter(|index| ![7, 20].contains(index)) {
        let file = places.target.join(format!("{}/{index}", index % 5));
        assert!(std::fs::read(file).unwrap() == content(&index.to_string(), 2900), "{index}");
    }
}

#[test]
fn a_damaged_frame_is_made_up_for_by_other_copies() {
    let places = places();
    let mut point = tree();
    for index in 0..60 {
        point.chunks.damaged.insert(chunk_of(&index.to_string(), index % 3));
    }

    let report = point.restore(&places.target, &threads(2)).unwrap();

    assert_eq!((report.files, report.problem_count), (60, 0));
    assert_eq!(point.chunks.fetched.load(Ordering::Relaxed), 60);
    for index in 0..60 {
        let file = places.target.join(format!("{}/{index}", index % 5));
        assert!(std::fs::read(file).unwrap() == content(&index.to_string(), 2900), "{index}");
    }
}

#[test]
fn an_existing_file_survives_the_loss_of_its_replacement() {
    let places = places();
    let mut point = tree();
    point.chunks.lost.insert(chunk_of("7", 2));
    std::fs::create_dir_all(places.target.join("2")).unwrap();
    std::fs::write(places.target.join("2/7"), "mine").unwrap();

    let options = RestoreOptions { conflict: Conflict::Overwrite, ..threads(2) };
    let report = point.restore(&places.target, &options).unwrap();

    assert_eq!((report.files, report.problem_count), (59, 1));
    assert_eq!(std::fs::read_to_string(places.target.join("2/7")).unwrap(), "mine");
    assert!(names(&places.target).iter().all(|name| !name.contains("keepwell")));
}

#[test]
fn a_lost_window_of_a_large_file_costs_the_file() {
    let places = places();
    let mut point = tree();
    let data = content("image", 6000);
    let image = point.sparse(&[(3000, &[(0, &data[..3000])]), (3000, &[(0, &data[3000..])])]);
    let ItemNode::Leaf(Node::File { content: Content::Listed(lists), .. }) = &image.node else {
        panic!()
    };
    let lost = lists[1].id;
    point.add("image", image);
    let manifest = point.finish();
    point.chunks.metadata.remove(&lost);

    let root = EntryPath::root();
    let options = threads(2);
    let report =
        restore(&point.chunks, &manifest, &root, &places.target, &options, &SilentMonitor).unwrap();

    assert_eq!((report.files, report.problem_count), (60, 1));
    assert!(!places.target.join("image").exists());
}

/// Asks to stop after so many files.
struct StopAfter(AtomicI64);

impl Monitor for StopAfter {
    fn event(&self, event: Event) {
        if let Event::Done { items, .. } = event {
            self.0.fetch_sub(items as i64, Ordering::Relaxed);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= 0
    }
}

#[test]
fn an_interrupted_restore_leaves_no_file_that_looks_finished_and_can_be_run_again() {
    for files in [1, 3, 10, 25, 40] {
        let places = places();
        let mut point = tree();
        point.add_file("large", &content("large", 200_000));
        let manifest = point.finish();
        let root = EntryPath::root();

        let monitor = StopAfter(AtomicI64::new(files));
        let stopped =
            restore(&point.chunks, &manifest, &root, &places.target, &threads(2), &monitor);

        assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        for name in names(&places.target) {
            let path = places.target.join(&name);
            let metadata = std::fs::metadata(&path).unwrap();
            if metadata.is_file() && metadata.mtime() == 1_000_000_000 {
                let seed = path.file_name().unwrap().to_str().unwrap();
                let whole = content(seed, metadata.len() as usize);
                assert!(std::fs::read(&path).unwrap() == whole, "{name} is not what it seems");
                assert!(metadata.len() == 2900 || metadata.len() == 200_000, "{name}");
            }
        }

        let options = RestoreOptions { in_place: true, ..threads(2) };
        let report = point.restore(&places.target, &options).unwrap();
        assert_eq!((report.files + report.unchanged >= 61, report.problem_count), (true, 0));
        assert!(std::fs::read(places.target.join("large")).unwrap() == content("large", 200_000));
        assert_eq!(names(&places.target).len(), 66);
    }
}
