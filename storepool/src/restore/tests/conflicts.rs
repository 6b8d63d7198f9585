use std::os::unix::fs::MetadataExt;

use super::*;
use crate::restore::Conflict;

fn on(conflict: Conflict) -> RestoreOptions {
    RestoreOptions { conflict, ..threads(2) }
}

// The target has a newer and an older file, a directory of its own mode, and something the point does not have.
fn scene() -> (Places, Point) {
    let places = places();
    let mut point = Point::new();
    for path in ["shared/newer", "shared/older", "shared/missing", "fresh/file"] {
        point.add_file(path, b"from the point");
    }
    std::fs::create_dir_all(places.target.join("shared")).unwrap();
    for (name, seconds) in [("newer", 2_000_000_000), ("older", 900_000_000)] {
        let path = places.target.join("shared").join(name);
        std::fs::write(&path, "mine").unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    std::fs::write(places.target.join("own"), "mine").unwrap();
    (places, point)
}

fn read(places: &Places, name: &str) -> String {
    std::fs::read_to_string(places.target.join(name)).unwrap()
}

#[test]
fn a_conflict_refuses_the_restore_before_anything_is_written() {
    let (places, mut point) = scene();
    let before = names(&places.target);

    let error = point.restore(&places.target, &on(Conflict::Fail)).unwrap_err();

    assert!(error.to_string().contains("\"shared/newer\" exists already"), "{error}");
    assert_eq!(names(&places.target), before);
}

#[test]
fn without_a_conflict_directories_are_merged_and_keep_their_metadata() {
    let (places, mut point) = scene();
    for name in ["newer", "older"] {
        std::fs::remove_file(places.target.join("shared").join(name)).unwrap();
    }

    let report = point.restore(&places.target, &on(Conflict::Fail)).unwrap();

    assert_eq!((report.files, report.problem_count), (4, 0));
    let shared = std::fs::metadata(places.target.join("shared")).unwrap();
    assert_ne!(shared.mtime(), 1_000_000_000);
    assert_eq!(read(&places, "own"), "mine");
}

#[test]
fn skipping_leaves_what_is_there() {
    let (places, mut point) = scene();

    let report = point.restore(&places.target, &on(Conflict::Skip)).unwrap();

    assert_eq!((report.files, report.skipped), (2, 2));
    assert_eq!(
        (read(&places, "shared/newer"), read(&places, "shared/older")),
        ("mine".into(), "mine".into())
    );
    assert_eq!(read(&places, "shared/missing"), "from the point");
}

#[test]
fn overwriting_replaces_whole_files_and_leaves_what_the_point_does_not_have() {
    let (places, mut point) = scene();
    let open = std::fs::File::open(places.target.join("shared/older")).unwrap();

    let report = point.restore(&places.target, &on(Conflict::Overwrite)).unwrap();

    assert_eq!((report.files, report.skipped, report.problem_count), (4, 0, 0));
    assert_eq!(read(&places, "shared/newer"), "from the point");
    assert_eq!(read(&places, "own"), "mine");
    // Who had the old file open still reads the old file.
    assert_eq!(std::io::read_to_string(open).unwrap(), "mine");
    let shared = std::fs::metadata(places.target.join("shared")).unwrap();
    assert_eq!(shared.mtime(), 1_000_000_000);
}

#[test]
fn only_older_files_are_replaced_if_that_is_wanted() {
    let (places, mut point) = scene();

    let report = point.restore(&places.target, &on(Conflict::Newer)).unwrap();

    assert_eq!((report.files, report.skipped), (3, 1));
    assert_eq!(read(&places, "shared/newer"), "mine");
    assert_eq!(read(&places, "shared/older"), "from the point");
}

#[test]
fn a_file_gives_way_to_a_directory_but_a_directory_to_nothing() {
    let places = places();
    let mut point = Point::new();
    point.add_file("a/b", b"below a").add_file("c", b"a file");
    std::fs::create_dir_all(places.target.join("c/full")).unwrap();
    std::fs::write(places.target.join("a"), "a file").unwrap();

    let report = point.restore(&places.target, &on(Conflict::Overwrite)).unwrap();

    assert_eq!(messages(&report), ["c: a directory is in its place"]);
    assert_eq!(read(&places, "a/b"), "below a");
    assert!(places.target.join("c/full").is_dir());
}

#[test]
fn an_existing_entry_of_a_link_group_is_replaced_by_the_group() {
    let places = places();
    let mut point = Point::new();
    let group = |metadata: &mut Metadata| {
        (metadata.hard_link_device, metadata.inode) = (Some(9), 77);
    };
    let file = point.file(b"shared").with(group);
    point.add("a", file.clone()).add("b", file);
    std::fs::create_dir(&places.target).unwrap();
    std::fs::write(places.target.join("b"), "mine").unwrap();

    let report = point.restore(&places.target, &on(Conflict::Overwrite)).unwrap();

    assert_eq!((report.files, report.problem_count), (2, 0));
    let inode = |name: &str| std::fs::metadata(places.target.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    assert_eq!(names(&places.target), ["a", "b"]);
}
