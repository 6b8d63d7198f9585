//! Somebody asks what a disk is worth before it is relied on, and is told, with what cannot be seen.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::wait_until;
use crate::home::{Home, is_root, text_of};
use crate::mount::Mount;
use crate::tree::Random;

const SCRATCH: &str = ".keepwell-selftest";

fn examined(document: &Value) -> &Value {
    &document["examined"][0]
}

fn finding<'a>(examined: &'a Value, check: &str) -> &'a Value {
    let findings = examined["findings"].as_array().expect("findings");
    let own = findings.iter().find(|finding| finding["check"] == check);
    own.unwrap_or_else(|| panic!("{check} was not looked at: {examined}"))
}

fn examine(home: &Home, directory: &Path, code: i32) -> Value {
    let path = directory.to_str().expect("UTF-8");
    let finished = home.run(["--json", "selftest", "storage", path]).expect_code(code);
    assert!(!directory.join(SCRATCH).exists(), "nothing is left behind: {finished}");
    finished.json()
}

#[test]
fn memory_is_weak_and_says_why() {
    if !is_root("a file system of its own: NOT TESTED") {
        return;
    }
    let home = Home::empty();
    let name = format!("disk-{:x}", Random::fresh().0.next());
    let disk = Mount::tmpfs(&home.beside(&name), 64 << 20);

    let document = examine(&home, disk.path(), 3);

    let one = examined(&document);
    assert_eq!((text_of(one, "kind"), text_of(one, "grade")), ("disk".into(), "weak".into()));
    assert_eq!(one["path"], disk.path().to_str().expect("UTF-8"));
    let system = finding(one, "file-system");
    assert_eq!(system["grade"], "weak");
    assert!(text_of(system, "seen").contains("gone when the machine restarts"), "{system}");
    assert!(text_of(system, "advice").contains("trials"), "{system}");
    for check in ["create-only", "replace", "list", "names", "locks", "index", "sync", "content"] {
        assert_eq!(finding(one, check)["grade"], "good", "{one}");
    }
    let words = home.run(["selftest", "storage", "--quick", disk.path().to_str().expect("UTF-8")]);
    let words = words.expect_code(3).stdout();
    assert!(words.contains(": weak\n") && words.contains("file-system"), "{words}");
}

#[test]
fn a_real_file_system_passes_and_what_a_power_cut_does_is_said_to_be_unseen() {
    if !is_root("a loop-mounted ext4: NOT TESTED") {
        return;
    }
    let home = Home::empty();
    let disk = Mount::ext4(&home.beside("disk"), 256 << 20);

    let document = examine(&home, disk.path(), 0);

    let one = examined(&document);
    assert!(text_of(finding(one, "file-system"), "seen").starts_with("ext4 at "), "{one}");
    assert!(text_of(finding(one, "write-cache"), "seen").starts_with("loop"), "{one}");
    for check in ["create-only", "replace", "list", "names", "locks", "index", "content"] {
        assert_eq!(finding(one, check)["grade"], "good", "{one}");
    }
    let unseen = one["unseen"].to_string();
    assert!(unseen.contains("power cut") && unseen.contains("behind loop"), "{unseen}");
    assert!(finding(one, "speed")["seen"].as_str().is_some_and(|seen| seen.contains("MiB")));
}

#[test]
fn a_disk_without_barriers_is_weak_and_a_read_only_one_unfit() {
    if !is_root("a loop-mounted ext4: NOT TESTED") {
        return;
    }
    let home = Home::empty();
    let disk = Mount::ext4(&home.beside("disk"), 64 << 20);
    let cache = text_of(finding(examined(&examine(&home, disk.path(), 0)), "write-cache"), "seen");

    disk.remount("barrier=0");
    let one = home.run(["--json", "selftest", "storage", "--quick", "disk"]);
    // Without a volatile cache there is nothing that a barrier would flush.
    let (code, grade) = if cache.contains("each sync empties") { (3, "weak") } else { (0, "note") };
    let one = one.expect_code(code).json();
    let options = finding(examined(&one), "mount-options");
    assert_eq!(options["grade"], grade, "{one}");
    assert!(text_of(options, "seen").contains("barrier"), "{one}");

    disk.remount("ro");
    let one = home.run(["--json", "selftest", "storage", "disk"]).expect_code(1).json();
    assert_eq!(finding(examined(&one), "mount-options")["grade"], "unfit", "{one}");
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    if !is_root("a file system of its own: NOT TESTED") {
        return;
    }
    let home = Home::empty();
    let disk = Mount::tmpfs(&home.beside("disk"), 1 << 20);
    let filler = disk.path().join("filler");
    let written = std::fs::write(&filler, vec![1; 2 << 20]);
    assert!(written.is_err(), "the disk is full now");

    let finished = home.run(["--json", "selftest", "storage", "disk"]);

    let document = finished.json();
    let one = examined(&document);
    assert_ne!(one["grade"], "good", "{finished}");
    assert_eq!(finding(one, "space")["grade"], "weak", "{finished}");
    assert!(!disk.path().join(SCRATCH).exists(), "{finished}");
}

#[test]
fn init_warns_of_memory_and_doctor_goes_on_saying_it() {
    if !is_root("a file system of its own: NOT TESTED") {
        return;
    }
    let home = Home::empty();
    let disk = Mount::tmpfs(&home.beside("disk"), 256 << 20);
    let pool = disk.path().join("pool");

    let made = home.run(["--json", "init", "--pool", pool.to_str().expect("UTF-8")]);

    let made = made.expect_code(0);
    assert!(made.stderr().contains("gone when the machine restarts"), "{made}");
    let storage = &made.json()["storage"][0];
    assert_eq!(
        (&storage["grade"], &storage["complaints"][0]["check"]),
        (&"weak".into(), &"file-system".into())
    );
    assert!(!pool.join(SCRATCH).exists());

    let doctor = home.run(["--json", "doctor"]);
    let checks = doctor.json();
    let checks = checks["checks"].as_array().expect("checks").clone();
    let id = format!("disk {}", pool.display());
    let own =
        checks.iter().find(|check| check["id"] == id.as_str()).expect("the disk is looked at");
    assert_eq!(own["state"], "doubtful", "{doctor}");
    assert!(text_of(own, "reason").contains("file-system"), "{doctor}");
}

#[test]
fn what_a_killed_examination_left_goes_with_the_next_one_and_does_not_keep_a_pool_away() {
    let home = Home::empty();
    let directory = home.directory("disk");
    let scratch = directory.join(SCRATCH);
    let session = format!("session-{:016x}", Random::fresh().0.next());
    let work = scratch.join(format!("work-{session}"));
    std::fs::create_dir_all(&work).expect("made");
    std::fs::write(scratch.join(session), b"keepwell selftest").expect("written");
    std::fs::write(work.join("content"), vec![0; 1 << 20]).expect("written");

    home.run(["init", "--pool", directory.to_str().expect("UTF-8")]).expect_code(0);

    assert!(!scratch.exists());
    home.run(["check"]).expect_code(0);
}

#[test]
fn a_killed_examination_leaves_nothing_that_the_next_one_does_not_remove() {
    let home = Home::empty();
    let directory = home.directory("disk");
    let scratch = directory.join(SCRATCH);
    // On a busy machine it may have ended before the signal arrives; then it is tried again.
    let was_killed = (0..20).any(|_| {
        let mut running = home.command(["selftest", "storage", "disk"]).spawn().expect("started");
        wait_until("it is at work", || {
            let work = std::fs::read_dir(&scratch).into_iter().flatten().flatten();
            let mut names = work.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.any(|name| name.starts_with("work-"))
                || running.try_wait().expect("asked").is_some()
        });
        running.kill().expect("killed");
        running.wait().expect("gone");
        scratch.exists()
    });
    assert!(was_killed, "killed in the middle");

    home.run(["selftest", "storage", "--quick", "disk"]);
    assert!(!scratch.exists());
}

#[test]
fn what_cannot_be_examined_is_an_error_and_no_grade() {
    let home = Home::empty();
    let file = home.beside("file");
    std::fs::write(&file, b"x").expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("set");

    for what in ["file", "no-such-directory"] {
        let finished = home.run(["selftest", "storage", what]);

        assert!(matches!(finished.code(), Some(1 | 2)), "{finished}");
        assert!(finished.stderr().contains(what), "{finished}");
        assert_eq!(finished.stdout(), "", "{finished}");
    }
}
