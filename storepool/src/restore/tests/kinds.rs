use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;
use crate::entry::Xattr;
use crate::restore::{find_path, read_file};

#[test]
fn every_kind_of_entry_comes_back_with_its_metadata() {
    let places = places();
    let mut point = Point::new();
    let time = |metadata: &std::fs::Metadata| (metadata.mtime(), metadata.mtime_nsec());
    let setuid = point.file(b"program").with(|metadata| {
        metadata.mode = 0o4755;
        metadata.xattrs = vec![Xattr { name: b"user.note".to_vec(), value: b"\0\xff".to_vec() }];
    });
    point
        .add(b"bin/pr\xffgram", setuid)
        .add("bin/closed", directory().with(|metadata| metadata.mode = 0o1555))
        .add("link", symlink(b"bin/nowhere\xfe"))
        .add("pipe", leaf(Node::Fifo).with(|metadata| metadata.mode = 0o622))
        .add("socket", leaf(Node::Socket).with(|metadata| metadata.mode = 0o777));
    point.add_file("empty", b"").add_file("bin/closed/inside", &content("inside", 4500));
    point.root.metadata.mode = 0o750;

    let report = point.restore(&places.target, &threads(2)).unwrap();

    assert_eq!(messages(&report), [""; 0]);
    assert_eq!((report.files, report.directories, report.others), (3, 3, 3));
    assert_eq!(report.bytes, 4507);
    let program = places.target.join("bin").join(OsStr::from_bytes(b"pr\xffgram"));
    assert_eq!(std::fs::read(&program).unwrap(), b"program");
    let at = |name: &str| std::fs::symlink_metadata(places.target.join(name)).unwrap();
    assert_eq!(std::fs::metadata(&program).unwrap().mode() & 0o7777, 0o4755);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(&program, "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"\0\xff");
    assert_eq!(at("bin/closed").mode() & 0o7777, 0o1555);
    assert_eq!(
        std::fs::read(places.target.join("bin/closed/inside")).unwrap(),
        content("inside", 4500)
    );
    let link = std::fs::read_link(places.target.join("link")).unwrap();
    assert_eq!(link.as_os_str().as_bytes(), b"bin/nowhere\xfe");
    assert!(at("pipe").file_type().is_fifo() && at("socket").file_type().is_socket());
    assert_eq!((at("pipe").mode() & 0o7777, at("socket").mode() & 0o7777), (0o622, 0o777));
    assert_eq!(at("").mode() & 0o7777, 0o750);
    for name in ["", "bin", "bin/closed", "bin/closed/inside", "link", "pipe", "socket", "empty"] {
        assert_eq!(time(&at(name)), (1_000_000_000, 123_456_789), "{name}");
    }
}

#[test]
fn device_nodes_and_foreign_owners_come_back_for_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let places = places();
    let mut point = Point::new();
    let owner = |metadata: &mut Metadata| (metadata.uid, metadata.gid) = (12_345, 54_321);
    let file = point.file(b"x").with(owner).with(|metadata| metadata.mode = 0o6755);
    point
        .add("null", leaf(Node::CharDevice { major: 1, minor: 3 }).with(owner))
        .add("loop", leaf(Node::BlockDevice { major: 7, minor: 300 }))
        .add("file", file)
        .add("link", symlink(b"x").with(owner))
        .add("directory", directory().with(owner));

    let report = point.restore(&places.target, &threads(1)).unwrap();

    assert_eq!(messages(&report), [""; 0]);
    let at = |name: &str| std::fs::symlink_metadata(places.target.join(name)).unwrap();
    assert!(at("null").file_type().is_char_device() && at("loop").file_type().is_block_device());
    assert_eq!(rustix::fs::makedev(1, 3), at("null").rdev());
    assert_eq!(rustix::fs::makedev(7, 300), at("loop").rdev());
    for name in ["null", "file", "link", "directory"] {
        assert_eq!((at(name).uid(), at(name).gid()), (12_345, 54_321), "{name}");
    }
    assert_eq!(at("file").mode() & 0o7777, 0o6755);
}

#[test]
fn owners_are_known_by_name_unless_numbers_are_asked_for() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut point = Point::new();
    let owner = |metadata: &mut Metadata| (metadata.uid, metadata.gid) = (70_001, 70_002);
    let file = point.file(b"x").with(owner);
    point.add("file", file);
    // A user that every machine has, under a number that this one does not give it.
    point.owners.users.insert(70_001, b"daemon".to_vec());
    point.owners.groups.insert(70_002, b"no such group".to_vec());
    let daemon = crate::filetree::OwnerNames::load().user(b"daemon").unwrap();
    let owner_after = |point: &mut Point, numeric_owner| {
        let places = places();
        let options = RestoreOptions { numeric_owner, ..threads(1) };
        point.restore(&places.target, &options).unwrap();
        let file = std::fs::metadata(places.target.join("file")).unwrap();
        (file.uid(), file.gid())
    };

    assert_eq!(owner_after(&mut point, false), (daemon, 70_002));
    assert_eq!(owner_after(&mut point, true), (70_001, 70_002));
}

#[test]
fn names_of_one_file_are_one_file_again() {
    let places = places();
    let mut point = Point::new();
    let group = |metadata: &mut Metadata| {
        (metadata.hard_link_device, metadata.inode) = (Some(9), 77);
    };
    let file = point.file(&content("shared", 9000)).with(group);
    let pipe = |metadata: &mut Metadata| {
        (metadata.hard_link_device, metadata.inode) = (Some(9), 78);
    };
    point.add("a/first", file.clone()).add("b/second", file.clone()).add("third", file);
    point.add("a/pipe", leaf(Node::Fifo).with(pipe)).add("b/pipe", leaf(Node::Fifo).with(pipe));

    let report = point.restore(&places.target, &threads(2)).unwrap();

    assert_eq!((report.files, report.others, report.bytes), (3, 2, 9000));
    let inode = |name: &str| std::fs::metadata(places.target.join(name)).unwrap().ino();
    assert_eq!(inode("a/first"), inode("b/second"));
    assert_eq!(inode("a/first"), inode("third"));
    assert_eq!(inode("a/pipe"), inode("b/pipe"));
    assert_eq!(std::fs::read(places.target.join("third")).unwrap(), content("shared", 9000));
    let modified = std::fs::metadata(places.target.join("b")).unwrap().mtime();
    assert_eq!(modified, 1_000_000_000);
}

#[test]
fn holes_stay_holes_and_listed_windows_fit_together() {
    let places = places();
    let mut point = Point::new();
    let (one, two) = (content("one", 2500), content("two", 5000));
    let sparse = point.sparse(&[
        (1 << 20, &[(4096, &one[..700]), (500_000, &one[700..])]),
        (1 << 20, &[]),
        (1 << 20, &[(0, &two)]),
    ]);
    point
        .add("image", sparse)
        .add("hole", leaf(Node::File { size: 1 << 30, content: Content::None }));
    let inline = Extents {
        runs: vec![DataRun { hole: 1 << 20, data: 2500 }],
        chunks: point.chunks.chunks_of(&one),
    };
    point.add("inline", leaf(Node::File { size: 3 << 20, content: Content::Inline(inline) }));
    let mut expected = vec![0; 3 << 20];
    expected[4096..4796].copy_from_slice(&one[..700]);
    expected[504_796..506_596].copy_from_slice(&one[700..]);
    expected[2 << 20..][..5000].copy_from_slice(&two);

    point.restore(&places.target, &threads(3)).unwrap();

    let path = places.target.join("image");
    assert!(std::fs::read(&path).unwrap() == expected);
    let allocated =
        |name: &str| std::fs::metadata(places.target.join(name)).unwrap().blocks() * 512;
    assert!(allocated("image") < 256 << 10, "{}", allocated("image"));
    assert_eq!(allocated("hole"), 0);
    assert_eq!(std::fs::metadata(places.target.join("hole")).unwrap().len(), 1 << 30);
    assert!(allocated("inline") < 64 << 10);
    let inline = std::fs::read(places.target.join("inline")).unwrap();
    assert!(inline[1 << 20..][..2500] == one && inline.len() == 3 << 20);
}

#[test]
fn one_file_is_read_without_a_target() {
    let mut point = Point::new();
    let one = content("one", 2500);
    let sparse = point.sparse(&[(100_000, &[(70_000, &one)]), (9, &[])]);
    point.add("a/image", sparse).add("a/link", symlink(b"image"));
    point.add_file("a/text", &content("text", 7777));
    let manifest = point.finish();
    let path = |text: &str| EntryPath::parse(text.as_bytes()).unwrap();
    let read = |text: &str| {
        let mut out = Vec::new();
        let length = read_file(&point.chunks, &manifest, &path(text), &mut out)?;
        assert_eq!(length, out.len() as u64);
        Ok::<_, Error>(out)
    };

    let mut expected = vec![0; 100_009];
    expected[70_000..72_500].copy_from_slice(&one);
    assert!(read("a/image").unwrap() == expected);
    assert!(read("a/text").unwrap() == content("text", 7777));
    assert!(matches!(read("a/link"), Err(Error::NotAFile { .. })));
    assert!(matches!(read("a/text/below"), Err(Error::PathNotFound { .. })));
    let reader = point.chunks.reader().unwrap();
    assert!(find_path(&*reader, &manifest, &path("")).unwrap().name == b".");
    assert!(matches!(find_path(&*reader, &manifest, &path("b")), Err(Error::PathNotFound { .. })));
}

#[test]
fn each_frame_is_read_once_however_many_files_need_it() {
    let places = places();
    let mut point = Point::new();
    let text = content("text", 3000);
    for index in 0..200 {
        point.add_file(format!("{}/{index}", index % 7), &text[..1000 * (index % 4)]);
    }

    let report = point.restore(&places.target, &threads(2)).unwrap();

    assert_eq!((report.files, report.problem_count), (200, 0));
    assert_eq!(point.chunks.frames_read.load(Ordering::Relaxed), 1);
    assert_eq!(point.chunks.fetched.load(Ordering::Relaxed), 0);
}

#[test]
fn more_entries_than_a_batch_holds_come_back() {
    let places = places();
    let mut point = Point::new();
    let linked = |metadata: &mut Metadata| {
        (metadata.hard_link_device, metadata.inode) = (Some(1), 5);
    };
    let first = point.file(b"linked").with(linked);
    point.add("000/first", first.clone()).add("999", first);
    let large = content("large", 50_000);
    let large_runs: Vec<[(u64, &[u8]); 1]> = large.chunks(10).map(|part| [(0, part)]).collect();
    let windows: Vec<_> = large_runs.iter().map(|runs| (10, &runs[..])).collect();
    let large_item = point.sparse(&windows);
    point.add("500/large", large_item);
    for index in 0..9000 {
        point.add_file(
            format!("{:03}/{index}", index / 10),
            &content(&index.to_string(), index % 30),
        );
    }

    let report = point.restore(&places.target, &threads(2)).unwrap();

    assert_eq!((report.files, report.directories, report.problem_count), (9003, 901, 0));
    for index in [0, 29, 4711, 8999] {
        let file = places.target.join(format!("{:03}/{index}", index / 10));
        assert_eq!(std::fs::read(file).unwrap(), content(&index.to_string(), index % 30));
    }
    assert!(std::fs::read(places.target.join("500/large")).unwrap() == large);
    let inode = |name: &str| std::fs::metadata(places.target.join(name)).unwrap().ino();
    assert_eq!(inode("000/first"), inode("999"));
}

#[test]
fn paths_longer_than_the_kernel_takes_at_once_are_restored() {
    let places = places();
    let mut point = Point::new();
    let deep = vec!["a directory with a long name"; 200].join("/");
    assert!(deep.len() > 4096);
    point.add_file(format!("{deep}/file"), b"far down");
    point.add(format!("{deep}/link"), symlink(b"file"));

    let report = point.restore(&places.target, &threads(2)).unwrap();

    assert_eq!((report.files, report.directories, report.problem_count), (1, 201, 0));
    let target = crate::target::DirectoryTarget::open(&places.target).unwrap();
    let path = format!("{deep}/file");
    for target in [target, crate::target::DirectoryTarget::open(&places.target).unwrap().stepwise()]
    {
        let flags = rustix::fs::OFlags::RDONLY;
        let file = target.open_beneath(path.as_bytes(), flags, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(std::io::read_to_string(std::fs::File::from(file)).unwrap(), "far down");
    }
}

#[test]
fn the_mode_does_not_depend_on_the_umask_or_an_inherited_acl() {
    let places = places();
    std::fs::create_dir(&places.target).unwrap();
    // user::rwx, user:4711:rwx, group::rwx, mask::rwx, other::rwx, to be inherited.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, id) in [(1u16, u32::MAX), (2, 4711), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&7u16.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&places.target, "system.posix_acl_default", &acl, flags).is_err() {
        return;
    }
    let mut point = Point::new();
    let file = point.file(b"open").with(|metadata| metadata.mode = 0o666);
    point.add("a/b/open", file.clone()).add("top", file);
    let closed = point.file(&content("closed", 9000)).with(|metadata| metadata.mode = 0o400);
    point.add("a/closed", closed);
    point.add("pipe", leaf(Node::Fifo));

    let report = point.restore(&places.target, &threads(1)).unwrap();

    assert_eq!(messages(&report), [""; 0]);
    for (name, mode) in
        [("top", 0o666), ("a/b/open", 0o666), ("a/closed", 0o400), ("a", 0o755), ("pipe", 0o644)]
    {
        let path = places.target.join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode, "{name}");
        for acl in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert!(rustix::fs::getxattr(&path, acl, &mut [0; 100][..]).is_err(), "{name} {acl}");
        }
    }
}

#[test]
fn acls_and_inode_flags_come_back() {
    let places = places();
    let mut point = Point::new();
    let mut acl = vec![2, 0, 0, 0];
    for (tag, bits, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 4, 4711),
        (4, 4, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&bits.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    let name = b"system.posix_acl_access".to_vec();
    let shared = point.file(b"shared").with(|metadata| {
        metadata.mode = 0o640;
        metadata.xattrs = vec![Xattr { name, value: acl.clone() }];
    });
    let nodump = |metadata: &mut Metadata| metadata.inode_flags = Some(0x40 | 0x8_0000);
    let file = point.file(b"x").with(nodump);
    point.add("shared", shared).add("nodump", file).add("directory", directory().with(nodump));
    let frozen = |metadata: &mut Metadata| metadata.inode_flags = Some(0x10);
    let root = rustix::process::geteuid().is_root();
    if root {
        let file = point.file(b"immutable").with(frozen);
        point.add("frozen", directory().with(frozen)).add("frozen/file", file);
        point.add_file("frozen/other", b"later");
    }

    let report = point.restore(&places.target, &threads(2)).unwrap();

    if messages(&report)
        .iter()
        .any(|message| message.contains("flags") || message.contains("attribute"))
    {
        // The file system of this machine's temporary directory has neither.
        return;
    }
    assert_eq!(messages(&report), [""; 0]);
    let mut value = [0; 100];
    let length = rustix::fs::getxattr(
        places.target.join("shared"),
        "system.posix_acl_access",
        &mut value[..],
    );
    assert_eq!(&value[..length.unwrap()], acl);
    let flags = |name: &str| {
        let file = std::fs::File::open(places.target.join(name)).unwrap();
        rustix::fs::ioctl_getflags(file).unwrap().bits()
    };
    assert_eq!((flags("nodump") & 0x40, flags("directory") & 0x40), (0x40, 0x40));
    if root {
        assert_eq!((flags("frozen") & 0x10, flags("frozen/other") & 0x10), (0x10, 0));
        for name in ["frozen", "frozen/file"] {
            assert_eq!(flags(name) & 0x10, 0x10, "{name}");
            // So that the scratch directory can be removed.
            let file = std::fs::File::open(places.target.join(name)).unwrap();
            rustix::fs::ioctl_setflags(file, rustix::fs::IFlags::empty()).unwrap();
        }
    }
}
