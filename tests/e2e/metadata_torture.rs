//! Everything that a Linux file system can hold goes in and comes out, as independent tools see it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, SeekFrom, Timespec, Timestamps, XattrFlags};

use crate::home::{Finished, Home, announce, backup_arguments, is_root, number_of};
use crate::mount::{Mount, run};
use crate::tree::{Observed, Random, write};

const MIB: u64 = 1 << 20;
/// 1912, 1969 with nanoseconds, and 2400: before and beyond what 32 bits hold.
const MOMENTS: [(i64, i64); 4] =
    [(-1_830_000_000, 1), (-1, 999_999_999), (13_569_465_600, 123_456_789), (0, 0)];

#[test]
fn every_kind_of_file_comes_back_as_it_was() {
    let home = Home::with_small_packs();
    let disk = home.beside("disk");
    let mount = is_root("no own file system, no devices, owners, capabilities and flags")
        .then(|| Mount::ext4(&disk, 640 * MIB));
    let source = disk.join("source");
    let target = disk.join("target");
    fs::create_dir_all(&source).unwrap();
    plant_every_kind(&source, mount.is_some());

    let point = home.backup(&source, &[]);
    home.run(["restore", &point, "--to"].map(OsStr::new).into_iter().chain([target.as_os_str()]))
        .expect_code(0);

    Observed::of(&source).expect(&Observed::of(&target), "the restored tree differs");
    expect_equal_for_rsync(&source, &target);
    expect_equal_for_rsync(&target, &source);
    expect_same_words(
        "getfattr",
        &["-R", "-P", "-h", "-d", "-m-", "-e", "hex", "."],
        &source,
        &target,
    );
    expect_same_words("getfacl", &["-R", "-P", "-n", "-p", "."], &source, &target);
    if mount.is_some() {
        expect_same_words("lsattr", &["-R", "-a", "."], &source, &target);
    }
    expect_same_holes(&source, &target);

    // Files that changed a moment ago are read again, but nothing is taken for changed.
    let again = home.run(backup_arguments(&source, &[])).expect_code(0).summary();
    assert_eq!(number_of(&again, "chunks_new"), 0, "{again}");
    home.expect_sound("after two backups");
}

#[test]
fn a_part_comes_back_alone() {
    let home = Home::with_small_packs();
    let source = home.directory("source");
    plant_plain(&source);
    let point = home.backup(&source, &[]);

    let folder = home.restore(&format!("{point}:docs/deep"), "folder");
    let file = home.restore(&format!("{point}:docs/guide.txt"), "file");

    Observed::of(&source.join("docs/deep")).expect(&Observed::of(&folder), "the folder differs");
    assert_eq!(Observed::of(&file).names(), ["guide.txt"]);
    assert_eq!(fs::read(file.join("guide.txt")).unwrap(), b"guide");
    let missing = home.run(["restore", &format!("{point}:docs/none"), "--to", "x"]);
    assert_eq!(missing.code(), Some(1), "{missing}");
    assert!(missing.stderr().contains("hint:"), "{missing}");
    assert!(!home.beside("x").exists(), "a refused restore makes nothing");
}

#[test]
fn patterns_choose_what_comes_back() {
    let home = Home::with_small_packs();
    let source = home.directory("source");
    plant_plain(&source);
    let point = home.backup(&source, &[]);
    let restored = |options: &[&str]| {
        let target = home.vacant("target");
        let mut arguments = vec!["restore", &point, "--to", target.to_str().unwrap()];
        arguments.extend(options);
        home.run(arguments).expect_code(0);
        Observed::of(&target)
            .names()
            .into_iter()
            .filter(|name| target.join(name).is_file())
            .collect::<Vec<_>>()
    };

    assert_eq!(restored(&["--include", "*.log"]), ["docs/deep/old.log", "one.log"]);
    assert_eq!(
        restored(&["--include", "/docs/", "--exclude", "*.log"]),
        ["docs/deep/note.txt", "docs/guide.txt"]
    );
    assert_eq!(
        restored(&["--exclude", "docs/deep/", "--exclude", "/one.log"]),
        ["docs/guide.txt", "two.txt"]
    );
}

#[test]
fn a_restore_in_place_rewrites_only_what_differs() {
    let home = Home::with_small_packs();
    let source = home.directory("source");
    plant_plain(&source);
    write(&source.join("large"), &Random::new(5).bytes(6 << 20));
    let before = Observed::of(&source);
    let point = home.backup(&source, &[]);
    let identity = |name: &str| {
        let metadata = fs::metadata(source.join(name)).unwrap();
        (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    let untouched = [identity("two.txt"), identity("docs/guide.txt")];
    fs::remove_file(source.join("one.log")).unwrap();
    write(&source.join("docs/deep/note.txt"), b"ruined");
    File::options()
        .write(true)
        .open(source.join("large"))
        .unwrap()
        .write_all_at(b"x", 4 << 20)
        .unwrap();
    fs::set_permissions(source.join("docs"), fs::Permissions::from_mode(0o711)).unwrap();

    let report = home.run(["restore", &point, "--in-place", "--json"]).expect_code(0).summary();

    before.expect(&Observed::of(&source), "the tree is not as it was");
    assert_eq!([identity("two.txt"), identity("docs/guide.txt")], untouched, "{report}");
    let written = report["bytes"].as_u64().unwrap();
    assert!(
        written < 3 << 20,
        "one changed byte of a large file costs little, not {written} bytes"
    );
}

#[test]
fn content_damaged_behind_size_and_time_is_found_when_asked_for() {
    let home = Home::with_small_packs();
    let source = home.directory("source");
    plant_plain(&source);
    let before = Observed::of(&source);
    let point = home.backup(&source, &[]);
    let file = source.join("two.txt");
    let times = fs::metadata(&file).unwrap();
    write(&file, b"tw0");
    set_time(&file, times.mtime(), times.mtime_nsec());

    home.run(["restore", &point, "--in-place", "--verify"]).expect_code(0);

    before.expect(&Observed::of(&source), "the damaged file was not put right");
}

#[test]
fn only_delete_removes_what_the_point_does_not_have() {
    let home = Home::with_small_packs();
    let source = home.directory("source");
    plant_plain(&source);
    let before = Observed::of(&source);
    let point = home.backup(&source, &[]);
    write(&source.join("docs/new/file"), b"new");
    symlink("/", source.join("root-link")).unwrap();

    home.run(["restore", &point, "--in-place"]).expect_code(0);
    let names = Observed::of(&source).names();
    assert!(names.contains(&"docs/new/file".to_string()), "{names:?}");

    home.run(["restore", &point, "--in-place", "--delete"]).expect_code(0);
    before.expect(&Observed::of(&source), "the tree is not as it was");
}

#[test]
fn what_is_there_already_is_treated_as_asked() {
    let home = Home::with_small_packs();
    let source = home.directory("source");
    write(&source.join("old"), b"point");
    write(&source.join("young"), b"point");
    write(&source.join("new"), b"point");
    set_time(&source.join("old"), 1_000_000_000, 0);
    set_time(&source.join("young"), 1_600_000_000, 0);
    let point = home.backup(&source, &[]);
    let restored = |conflict: &str| -> (Finished, [String; 3]) {
        let target = home.vacant("target");
        write(&target.join("old"), b"here");
        write(&target.join("young"), b"here");
        set_time(&target.join("old"), 1_300_000_000, 0);
        set_time(&target.join("young"), 1_300_000_000, 0);
        let run =
            home.run(["restore", &point, "--to", target.to_str().unwrap(), "--conflict", conflict]);
        let read = |name| fs::read_to_string(target.join(name)).unwrap_or_default();
        (run, ["old", "young", "new"].map(read))
    };

    let (refused, left) = restored("fail");
    assert_eq!(refused.code(), Some(1), "{refused}");
    assert!(refused.stderr().contains("--conflict"), "{refused}");
    assert_eq!(left, ["here", "here", ""]);
    for (conflict, expected) in [
        ("skip", ["here", "here", "point"]),
        ("overwrite", ["point", "point", "point"]),
        ("newer", ["here", "point", "point"]),
    ] {
        let (run, found) = restored(conflict);
        assert_eq!(run.code(), Some(0), "{run}");
        assert_eq!(found, expected, "--conflict {conflict}");
    }
}

fn plant_plain(root: &Path) {
    write(&root.join("one.log"), b"one");
    write(&root.join("two.txt"), b"two");
    write(&root.join("docs/guide.txt"), b"guide");
    write(&root.join("docs/deep/note.txt"), b"note");
    write(&root.join("docs/deep/old.log"), b"old");
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn plant_every_kind(root: &Path, privileged: bool) {
    plant_names(root);
    plant_links(root);
    plant_sparse(&root.join("sparse"));
    plant_modes(&root.join("modes"));
    plant_attributes(&root.join("attributes"), privileged);
    let many = root.join("many");
    for number in 0..5000 {
        write(&many.join(format!("entry-{number:04}")), format!("{number}").as_bytes());
    }
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .unwrap();
    rustix::fs::mknodat(CWD, root.join("socket"), FileType::Socket, Mode::from_raw_mode(0o755), 0)
        .unwrap();
    if privileged {
        plant_privileged(root);
    }
    plant_times(&root.join("times"));
    if privileged {
        // Last: nothing can be changed afterwards.
        plant_flags(&root.join("flags"));
    }
}

fn plant_names(root: &Path) {
    let names = root.join("names");
    fs::create_dir(&names).unwrap();
    fs::create_dir(names.join("an empty directory")).unwrap();
    write(&names.join("empty"), b"");
    for name in [
        b"not utf-8 \xff\xfe\x80".as_slice(),
        b"new\nline",
        b"tab\tand\x01control\x7f",
        b"back\\slash \\xff",
        b" spaces ",
        b"-rf",
        b"*?[a]{b}!#",
        "\u{fc}\u{6f22}\u{1f600}".as_bytes(),
        &[b'n'; 255],
        &[0xe4; 255],
        b"...",
        b"a:b",
    ] {
        write(&names.join(OsStr::from_bytes(name)), name);
    }
    let mut deep = root.join("deep");
    (0..200).for_each(|_| deep.push("d"));
    fs::create_dir_all(&deep).unwrap();
    write(&deep.join("bottom"), b"far down");
}

fn plant_links(root: &Path) {
    let links = root.join("links");
    fs::create_dir(&links).unwrap();
    symlink("nowhere/at all", links.join("dangling")).unwrap();
    symlink("../names", links.join("to a directory")).unwrap();
    symlink(OsStr::from_bytes(b"not utf-8 \xff"), links.join("odd target")).unwrap();
    symlink("/".repeat(4000), links.join("long target")).unwrap();
    symlink("itself", links.join("itself")).unwrap();
    write(&links.join("hard"), b"one file, three names");
    fs::hard_link(links.join("hard"), links.join("hard too")).unwrap();
    fs::hard_link(links.join("hard"), root.join("names/hard elsewhere")).unwrap();
    write(&links.join("empty hard"), b"");
    fs::hard_link(links.join("empty hard"), links.join("empty hard too")).unwrap();
    // Both names of a symlink are one symlink.
    fs::hard_link(links.join("dangling"), links.join("dangling too")).unwrap();
}

fn plant_sparse(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let mut random = Random::new(11);
    let mut sparse = |name: &str, length: u64, pieces: &[(u64, usize)]| {
        let file = File::create(folder.join(name)).unwrap();
        file.set_len(length).unwrap();
        for (offset, size) in pieces {
            file.write_all_at(&random.bytes(*size), *offset).unwrap();
        }
    };
    sparse("hole first", 3 * MIB, &[(2 * MIB, 1 << 20)]);
    sparse("hole last", 3 * MIB, &[(0, 1 << 20)]);
    sparse("hole between", 3 * MIB, &[(0, 4096), (3 * MIB - 100, 100)]);
    sparse("only a hole", 5 * MIB, &[]);
    sparse("odd end", MIB + 4097, &[(MIB, 4097)]);
    // Several windows, one of them a hole, and data over a border between two.
    sparse(
        "several windows",
        300 * MIB + 17,
        &[(0, 10), (64 * MIB - 8192, 16384), (200 * MIB, 1 << 20)],
    );
    let many: Vec<_> = (0..500).map(|piece| (piece * 16384, 4096)).collect();
    sparse("many holes", 500 * 16384, &many);
    // Zeros that are stored are data, not a hole.
    write(&folder.join("zeros"), &vec![0; 2 << 20]);
}

fn plant_modes(folder: &Path) {
    for mode in [0o000, 0o400, 0o644, 0o1777, 0o2755, 0o4755, 0o7777] {
        let file = folder.join(format!("file {mode:o}"));
        write(&file, b"mode");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    for mode in [0o700, 0o1777, 0o2775, 0o555] {
        let directory = folder.join(format!("directory {mode:o}"));
        write(&directory.join("inside"), b"inside");
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn plant_attributes(folder: &Path, privileged: bool) {
    fs::create_dir_all(folder.join("directory")).unwrap();
    let file = folder.join("file");
    write(&file, b"attributes");
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
            .unwrap_or_else(|error| panic!("cannot set {name} on {}: {error}", path.display()));
    };
    set(&file, "user.text", b"value");
    set(&file, "user.binary", b"\x00\xff\n\x00");
    set(&file, "user.empty", b"");
    set(&folder.join("directory"), "user.of a directory", b"d");
    if privileged {
        write(&folder.join("large value"), b"large");
        set(&folder.join("large value"), "user.large", &Random::new(3).bytes(60 << 10));
        set(&file, "trusted.secret", b"root");
        symlink("file", folder.join("link")).unwrap();
        set(&folder.join("link"), "trusted.of a link", b"l");
        write(&folder.join("capable"), b"\x7fELF");
        run(Command::new("setcap")
            .arg("cap_net_bind_service,cap_net_raw+ep")
            .arg(folder.join("capable")));
    }
    let acl = |arguments: &[&str], name: &str| {
        write(&folder.join("acl/file"), b"acl");
        run(Command::new("setfacl").args(arguments).arg(folder.join(name)));
    };
    acl(&["-m", "u:4711:rw,g:4712:r,m:rw"], "acl/file");
    acl(&["-m", "u:4711:rwx,d:u:4711:rwx,d:g:4712:rx,d:o::-"], "acl");
    // Made below a directory with a default ACL, which a restore must not apply a second time.
    write(&folder.join("acl/inherits"), b"inherits");
    fs::create_dir(folder.join("acl/inherits too")).unwrap();
}

fn plant_privileged(root: &Path) {
    let devices = root.join("devices");
    fs::create_dir(&devices).unwrap();
    for (name, kind, major, minor) in [
        ("null", FileType::CharacterDevice, 1, 3),
        ("far", FileType::CharacterDevice, 4095, 1_048_575),
        ("disk", FileType::BlockDevice, 8, 17),
    ] {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, devices.join(name), kind, Mode::from_raw_mode(0o660), device)
            .unwrap();
    }
    let owners = root.join("owners");
    for (number, (user, group)) in
        [(1, 1), (12_345, 54_321), (4_294_967_294, 0), (0, 65_534)].into_iter().enumerate()
    {
        let file = owners.join(format!("{number}"));
        write(&file, b"owned");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
        std::os::unix::fs::chown(&file, Some(user), Some(group)).unwrap();
        // Giving a file away takes its setuid bit.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6755)).unwrap();
        let link = owners.join(format!("link {number}"));
        symlink("x", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(user), Some(group)).unwrap();
    }
    std::os::unix::fs::chown(&owners, Some(33), Some(33)).unwrap();
    std::os::unix::fs::chown(root.join("fifo"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::chown(devices.join("disk"), Some(0), Some(6)).unwrap();
}

fn plant_times(folder: &Path) {
    for (number, (seconds, nanoseconds)) in MOMENTS.into_iter().enumerate() {
        let file = folder.join(format!("file {number}"));
        write(&file, b"time");
        set_time(&file, seconds, nanoseconds);
        let link = folder.join(format!("link {number}"));
        symlink("x", &link).unwrap();
        set_time(&link, seconds, nanoseconds);
        let directory = folder.join(format!("directory {number}"));
        write(&directory.join("inside"), b"time");
        set_time(&directory, seconds, nanoseconds);
    }
}

fn plant_flags(folder: &Path) {
    for flags in ["i", "a", "d", "A", "S", "iA"] {
        let file = folder.join(format!("file {flags}"));
        write(&file, b"flags");
        run(Command::new("chattr").arg(format!("+{flags}")).arg(&file));
    }
    for flags in ["i", "a", "d", "AD"] {
        let directory = folder.join(format!("directory {flags}"));
        write(&directory.join("inside"), b"inside");
        run(Command::new("chattr").arg(format!("+{flags}")).arg(&directory));
    }
}

fn expect_equal_for_rsync(from: &Path, to: &Path) {
    let mut rsync = Command::new("rsync");
    rsync.args([
        "-aHAXn",
        "--checksum",
        "--delete",
        "--itemize-changes",
        "--numeric-ids",
        "--modify-window=-1",
    ]);
    let source = format!("{}/", from.display());
    let output = run(rsync.arg(source).arg(format!("{}/", to.display())));
    assert!(
        output.is_empty(),
        "rsync would change {} to make it like {}:\n{}",
        to.display(),
        from.display(),
        String::from_utf8_lossy(&output)
    );
}

fn expect_same_words(tool: &str, arguments: &[&str], left: &Path, right: &Path) {
    let words = |directory: &Path| {
        let output = run(Command::new(tool).args(arguments).current_dir(directory));
        let text = String::from_utf8_lossy(&output).into_owned();
        // Tools list directories in the order of the disk.
        let mut blocks: Vec<_> =
            text.split("\n\n").flat_map(|block| block_lines(tool, block)).collect();
        blocks.sort();
        blocks
    };
    let (left, right) = (words(left), words(right));
    let differences: Vec<_> = left
        .iter()
        .filter(|line| right.binary_search(line).is_err())
        .map(|line| format!("  only in the source: {line:.300}"))
        .chain(
            right
                .iter()
                .filter(|line| left.binary_search(line).is_err())
                .map(|line| format!("  only in the target: {line:.300}")),
        )
        .collect();
    assert!(!left.is_empty(), "{tool} says nothing");
    assert!(differences.is_empty(), "{tool} sees differences:\n{}", differences.join("\n"));
}

// `lsattr` has a line for each file, the others have a block.
fn block_lines(tool: &str, block: &str) -> Vec<String> {
    match tool {
        "lsattr" => block.lines().map(str::to_string).collect(),
        _ => vec![block.trim().to_string()],
    }
}

fn expect_same_holes(source: &Path, target: &Path) {
    let mut compared = 0;
    for entry in fs::read_dir(source.join("sparse")).unwrap() {
        let name = entry.unwrap().file_name();
        let (from, to) = (source.join("sparse").join(&name), target.join("sparse").join(&name));
        let (before, after) = (data_runs(&from), data_runs(&to));
        assert_eq!(after, before, "holes of {name:?}");
        let blocks = |path: &PathBuf| fs::metadata(path).unwrap().blocks();
        assert!(
            blocks(&to) <= blocks(&from) + 128,
            "{name:?} takes {} blocks instead of {}",
            blocks(&to),
            blocks(&from)
        );
        compared += 1;
    }
    assert_eq!(compared, 8);
    if data_runs(&source.join("sparse/only a hole")).len() == 1 {
        announce("this file system has no holes: holes are not compared");
    }
}

fn data_runs(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let mut runs = Vec::new();
    let mut position = 0;
    while position < length {
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(position)) else { break };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        runs.push((start, end));
        position = end;
    }
    runs
}
