use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;
use crate::restore::Conflict;

fn on(conflict: Conflict) -> RestoreOptions {
    RestoreOptions { conflict, ..threads(2) }
}

#[test]
fn a_symlink_of_the_target_in_the_place_of_a_directory_is_never_followed() {
    for conflict in [Conflict::Fail, Conflict::Skip, Conflict::Newer, Conflict::Overwrite] {
        let places = places();
        let mut point = Point::new();
        point.add_file("etc/passwd", b"from the point").add_file("zebra", b"after it");
        std::fs::create_dir(&places.target).unwrap();
        std::os::unix::fs::symlink(&places.outside, places.target.join("etc")).unwrap();

        let report = point.restore(&places.target, &on(conflict));

        assert_eq!(names(&places.outside), [""; 0], "{conflict:?}");
        match conflict {
            Conflict::Fail => assert!(report.is_err()),
            Conflict::Skip | Conflict::Newer => {
                let report = report.unwrap();
                assert_eq!((report.files, report.skipped), (1, 2));
                assert!(places.target.join("etc").is_symlink());
            }
            Conflict::Overwrite => {
                assert_eq!(report.unwrap().files, 2);
                assert!(!places.target.join("etc").is_symlink());
                assert!(places.target.join("etc/passwd").is_file());
            }
        }
    }
}

#[test]
fn a_symlink_of_the_target_in_the_place_of_a_file_is_replaced_itself() {
    let places = places();
    let mut point = Point::new();
    point.add_file("file", b"from the point").add("pipe", leaf(Node::Fifo));
    let precious = places.outside.join("precious");
    std::fs::write(&precious, "mine").unwrap();
    std::fs::create_dir(&places.target).unwrap();
    for name in ["file", "pipe"] {
        std::os::unix::fs::symlink(&precious, places.target.join(name)).unwrap();
    }

    for options in [on(Conflict::Overwrite), RestoreOptions { in_place: true, ..threads(1) }] {
        let report = point.restore(&places.target, &options).unwrap();
        assert_eq!(report.problem_count, 0);
        assert!(!places.target.join("file").is_symlink());
        assert!(!places.target.join("pipe").is_symlink());
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");
    }
}

#[test]
fn a_planted_temporary_file_is_not_written_through() {
    let places = places();
    let mut point = Point::new();
    point.add_file("file", b"from the point");
    let precious = places.outside.join("precious");
    std::fs::write(&precious, "mine").unwrap();
    std::fs::create_dir(&places.target).unwrap();
    std::fs::write(places.target.join("file"), "old").unwrap();
    let spot = crate::restore::batch::Spot {
        directory: std::sync::Arc::new(crate::restore::batch::TargetDirectory {
            parent: None,
            name: Box::default(),
            depth: 0,
            fresh: false,
            gives_acl: false,
            attributes: None,
            tree: None,
            swept: false,
        }),
        name: (*b"file").into(),
    };
    let temporary = String::from_utf8(spot.temporary_name()).unwrap();
    std::os::unix::fs::symlink(&precious, places.target.join(temporary)).unwrap();

    let report = point.restore(&places.target, &on(Conflict::Overwrite)).unwrap();

    assert_eq!((report.files, report.problem_count), (1, 0));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");
    assert_eq!(std::fs::read(places.target.join("file")).unwrap(), b"from the point");
    assert_eq!(names(&places.target), ["file"]);
}

#[test]
fn the_points_own_symlinks_are_made_but_not_followed() {
    let places = places();
    let mut point = Point::new();
    let outside = places.outside.to_str().unwrap().as_bytes().to_vec();
    point.add("evil", symlink(&outside)).add_file("evil2/file", b"x");
    point.restore(&places.target, &threads(1)).unwrap();
    // The next point has a directory where this one had the symlink.
    let mut next = Point::new();
    next.add_file("evil/file", b"x");

    for conflict in [Conflict::Skip, Conflict::Overwrite] {
        next.restore(&places.target, &on(conflict)).unwrap();
    }

    assert_eq!(names(&places.outside), [""; 0]);
    assert!(places.target.join("evil").is_dir() && !places.target.join("evil").is_symlink());
}

#[test]
fn names_that_lead_out_are_refused() {
    let places = places();
    for name in [&b".."[..], b"../outside/x", b"a/b", b"", b"."] {
        let mut point = Point::new();
        point.add_file("file", b"x");
        let mut manifest = point.finish();
        let mut node = b"KT\x01\x00\x01".to_vec();
        let metadata = metadata();
        let target = b"x".to_vec();
        let entry = Entry { name: name.to_vec(), metadata, node: Node::Symlink { target } };
        entry.encode(&mut node);
        manifest.root = point.chunks.put(ChunkKind::Tree, &node);
        manifest.root_entry.node = Node::Directory { tree: manifest.root, files: 1, bytes: 0 };

        let root = EntryPath::root();
        let options = threads(1);
        let report =
            restore(&point.chunks, &manifest, &root, &places.target, &options, &SilentMonitor)
                .unwrap();

        assert_eq!((report.others, report.problem_count), (0, 1), "{name:?}");
        assert_eq!(names(&places.target), [""; 0]);
        assert_eq!(names(&places.outside), [""; 0]);
    }
}

#[test]
fn a_process_that_exchanges_directories_for_symlinks_gains_nothing() {
    let places = places();
    let mut point = Point::new();
    for index in 0..12 {
        point.add_file(format!("a/b/{index}"), &content(&index.to_string(), 1500));
        point.add(format!("a/b/c{index}/link"), symlink(b"x"));
        point.add_file(format!("a/b/c{index}/deep"), b"deep");
    }
    std::fs::create_dir_all(places.target.join("a/b")).unwrap();
    let decoy = places.outside.join("decoy");
    std::fs::create_dir_all(decoy.join("b")).unwrap();
    std::os::unix::fs::symlink(&decoy, places.outside.join("trap")).unwrap();
    let done = AtomicBool::new(false);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for name in ["a", "a/b"] {
                    let inside = places.target.join(name);
                    let trap = places.outside.join("trap");
                    // Back and forth; a moment is all that is needed.
                    for _ in 0..2 {
                        let _ = renameat_with(CWD, &inside, CWD, &trap, RenameFlags::EXCHANGE);
                    }
                }
            }
        });
        for round in 0..60 {
            let conflict = if round % 2 == 0 { Conflict::Overwrite } else { Conflict::Newer };
            let options =
                RestoreOptions { in_place: round % 3 == 0, delete: round % 6 == 0, ..on(conflict) };
            let _ = point.restore(&places.target, &options);
        }
        done.store(true, Ordering::Relaxed);
    });

    assert_eq!(names(&decoy), ["b"]);
}
