use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

fn in_place() -> RestoreOptions {
    RestoreOptions { in_place: true, ..threads(2) }
}

fn tree() -> Point {
    let mut point = Point::new();
    for path in ["a/one", "a/two", "b/three"] {
        point.add_file(path, &content(path, 2500));
    }
    point.add("b/link", symlink(b"three"));
    point.add("b/pipe", leaf(Node::Fifo));
    point
}

fn inode(places: &Places, name: &str) -> u64 {
    std::fs::symlink_metadata(places.target.join(name)).unwrap().ino()
}

fn set_time(path: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_second_run_finds_nothing_to_do() {
    let places = places();
    let mut point = tree();
    point.restore(&places.target, &threads(1)).unwrap();
    let before = inode(&places, "a/one");
    let read = point.chunks.frames_read.load(Ordering::Relaxed);

    let report = point.restore(&places.target, &in_place()).unwrap();

    let unchanged = RestoreReport { unchanged: 8, ..RestoreReport::default() };
    assert_eq!(report, unchanged);
    assert_eq!(inode(&places, "a/one"), before);
    assert_eq!(point.chunks.frames_read.load(Ordering::Relaxed), read);
}

#[test]
fn only_what_differs_is_written() {
    let places = places();
    let mut point = tree();
    point.restore(&places.target, &threads(1)).unwrap();
    let before = (inode(&places, "a/one"), inode(&places, "a/two"), inode(&places, "b/three"));
    std::fs::write(places.target.join("a/one"), "changed").unwrap();
    let closed = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(places.target.join("a/two"), closed).unwrap();
    std::fs::remove_file(places.target.join("b/link")).unwrap();
    std::os::unix::fs::symlink("elsewhere", places.target.join("b/link")).unwrap();

    let report = point.restore(&places.target, &in_place()).unwrap();

    assert_eq!((report.files, report.others, report.bytes), (2, 1, 2500));
    assert_eq!(std::fs::read(places.target.join("a/one")).unwrap(), content("a/one", 2500));
    let two = std::fs::metadata(places.target.join("a/two")).unwrap();
    assert_eq!((two.ino(), two.mode() & 0o777), (before.1, 0o644));
    assert_ne!(inode(&places, "a/one"), before.0);
    assert_eq!(inode(&places, "b/three"), before.2);
    assert_eq!(std::fs::read_link(places.target.join("b/link")).unwrap(), Path::new("three"));
}

#[test]
fn what_the_point_does_not_have_goes_only_if_asked_and_not_if_excluded() {
    let places = places();
    let mut point = tree();
    point.restore(&places.target, &threads(1)).unwrap();
    std::fs::create_dir_all(places.target.join("b/more/below")).unwrap();
    for name in ["extra", "keep.log", "b/more/below/x", "a/.keepwell-0011223344556677.part"] {
        std::fs::write(places.target.join(name), "mine").unwrap();
    }

    let report = point.restore(&places.target, &in_place()).unwrap();
    assert_eq!((report.deleted, names(&places.target).len()), (0, 13));

    let delete = RestoreOptions { delete: true, exclude: vec!["*.log".to_string()], ..in_place() };
    let dry_run = RestoreOptions { dry_run: true, ..delete.clone() };
    let report = point.restore(&places.target, &dry_run).unwrap();
    assert_eq!((report.deleted, names(&places.target).len()), (5, 13));

    let report = point.restore(&places.target, &delete).unwrap();
    assert_eq!((report.deleted, report.problem_count), (5, 0));
    assert_eq!(
        names(&places.target),
        ["a", "a/one", "a/two", "b", "b/link", "b/pipe", "b/three", "keep.log"]
    );
}

#[test]
fn nothing_is_removed_from_a_directory_whose_entries_are_lost() {
    let places = places();
    let mut point = tree();
    point.restore(&places.target, &threads(1)).unwrap();
    let Node::Directory { tree, .. } = point.finish().root_entry.node else { panic!() };
    let reader = point.chunks.reader().unwrap();
    let b = crate::tree::find_entry(&*reader, tree, b"b").unwrap().unwrap();
    drop(reader);
    let Node::Directory { tree: lost, .. } = b.node else { panic!() };
    std::fs::write(places.target.join("b/mine"), "mine").unwrap();
    std::fs::write(places.target.join("a/mine"), "mine").unwrap();
    let manifest = point.finish();
    point.chunks.metadata.remove(&lost);

    let options = RestoreOptions { delete: true, ..in_place() };
    let root = EntryPath::root();
    let report =
        restore(&point.chunks, &manifest, &root, &places.target, &options, &SilentMonitor).unwrap();

    assert!(places.target.join("b/mine").exists() && places.target.join("b/three").exists());
    assert!(!places.target.join("a/mine").exists());
    assert!(report.problem_count >= 1);
    assert!(messages(&report)[0].contains("entries of the directory are lost"), "{report:?}");
}

#[test]
fn a_directory_gives_way_if_deleting_is_allowed() {
    let places = places();
    let mut point = tree();
    std::fs::create_dir_all(places.target.join("a/one/full")).unwrap();

    let options = RestoreOptions { delete: true, ..in_place() };
    let report = point.restore(&places.target, &options).unwrap();

    assert_eq!((report.files, report.deleted, report.problem_count), (3, 2, 0));
    assert_eq!(std::fs::read(places.target.join("a/one")).unwrap(), content("a/one", 2500));
}

#[test]
fn a_silent_change_is_found_by_comparing_content() {
    let places = places();
    let mut point = tree();
    point.restore(&places.target, &threads(1)).unwrap();
    let path = places.target.join("a/one");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1700] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    set_time(&path);

    let trusting = point.restore(&places.target, &in_place()).unwrap();
    assert_eq!((trusting.files, trusting.unchanged), (0, 8));

    let verify = RestoreOptions { verify: true, ..in_place() };
    let report = point.restore(&places.target, &verify).unwrap();

    assert_eq!((report.files, report.bytes, report.problem_count), (1, 2500, 0));
    assert_eq!(std::fs::read(&path).unwrap(), content("a/one", 2500));
    assert_eq!(names(&places.target).len(), 7);
}

#[test]
fn of_a_large_file_only_the_differing_parts_are_written() {
    let places = places();
    let mut point = Point::new();
    let data = content("image", 1_500_000);
    let image = point
        .sparse(&[(1 << 20, &[(0, &data[..1 << 20])]), (1 << 20, &[(500_000, &data[1 << 20..])])]);
    point.add("image", image);
    point.restore(&places.target, &threads(2)).unwrap();
    let path = places.target.join("image");
    let expected = std::fs::read(&path).unwrap();
    let before = inode(&places, "image");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for offset in [10, 700_000, (1 << 20) + 200_000, (1 << 20) + 500_001] {
        std::os::unix::fs::FileExt::write_all_at(&file, b"!!!!!", offset).unwrap();
    }
    file.set_len(3 << 20).unwrap();
    drop(file);

    let report = point.restore(&places.target, &in_place()).unwrap();

    assert!(std::fs::read(&path).unwrap() == expected);
    assert_eq!(inode(&places, "image"), before);
    assert_eq!((report.files, report.bytes, report.problem_count), (1, 3000, 0));
    assert_eq!(std::fs::metadata(&path).unwrap().mtime(), 1_000_000_000);

    let verify = RestoreOptions { verify: true, ..in_place() };
    let report = point.restore(&places.target, &verify).unwrap();
    assert_eq!(report, RestoreReport { unchanged: 2, ..RestoreReport::default() });
}

#[test]
fn a_file_with_other_names_is_replaced_and_not_changed_in_place() {
    let places = places();
    let mut point = Point::new();
    point.add_file("image", &content("image", 1_200_000));
    std::fs::create_dir(&places.target).unwrap();
    let other = places.outside.join("precious");
    std::fs::write(&other, "not to be written").unwrap();
    std::fs::hard_link(&other, places.target.join("image")).unwrap();

    let report = point.restore(&places.target, &in_place()).unwrap();

    assert_eq!((report.files, report.problem_count), (1, 0));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "not to be written");
    assert!(std::fs::read(places.target.join("image")).unwrap() == content("image", 1_200_000));
}

#[test]
fn link_groups_are_kept_and_mended() {
    let places = places();
    let mut point = Point::new();
    let group = |metadata: &mut Metadata| {
        (metadata.hard_link_device, metadata.inode) = (Some(9), 77);
    };
    let file = point.file(b"shared").with(group);
    point.add("a", file.clone()).add("b", file.clone()).add("c", file);
    point.restore(&places.target, &threads(1)).unwrap();

    let report = point.restore(&places.target, &in_place()).unwrap();
    assert_eq!((report.files, report.unchanged), (0, 4));

    std::fs::remove_file(places.target.join("b")).unwrap();
    std::fs::write(places.target.join("b"), "broken off").unwrap();
    let report = point.restore(&places.target, &in_place()).unwrap();
    assert_eq!((report.files, report.unchanged), (1, 2));
    assert_eq!(inode(&places, "a"), inode(&places, "b"));
}

#[test]
fn stale_attributes_are_taken_away() {
    let places = places();
    let mut point = tree();
    point.restore(&places.target, &threads(1)).unwrap();
    let path = places.target.join("a/one");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&path, "user.stale", b"x", flags).is_err() {
        return;
    }

    let report = point.restore(&places.target, &in_place()).unwrap();

    assert_eq!((report.files, report.unchanged), (1, 7));
    assert!(rustix::fs::getxattr(&path, "user.stale", &mut [0; 9][..]).is_err());
}

#[test]
fn a_small_file_in_windows_is_never_put_together_from_parts() {
    let places = places();
    let mut point = Point::new();
    let data = content("windows", 6000);
    let item = point.sparse(&[(3000, &[(0, &data[..3000])]), (3000, &[(0, &data[3000..])])]);
    point.add("file", item);
    point.restore(&places.target, &threads(1)).unwrap();
    let path = places.target.join("file");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    set_time(&path);

    let verify = RestoreOptions { verify: true, ..in_place() };
    let report = point.restore(&places.target, &verify).unwrap();

    assert_eq!((report.files, report.problem_count), (1, 0));
    assert!(std::fs::read(&path).unwrap() == data);
}
