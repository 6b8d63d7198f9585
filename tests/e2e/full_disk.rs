//! A full disk stops backups, harms no point, and can always be cleaned up; a failing one is never taken for a good one.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::home::{Finished, Home, announce, backup_arguments, is_root};
use crate::mount::Mount;
use crate::tree::{Observed, Random, plant, write};

const MIB: u64 = 1 << 20;

#[test]
fn a_pool_that_is_full_to_the_last_byte_can_be_cleaned_up() {
    if !is_root("a full disk needs a file system of its own: NOT TESTED") {
        return;
    }
    for (size, pack) in [(24, 1), (64, 4)] {
        fill_and_clean_up(size * MIB, pack);
    }
}

fn fill_and_clean_up(disk_bytes: u64, pack_mib: u64) {
    let home = Home::empty_in_memory();
    let disk = Mount::tmpfs(&home.beside("disk"), disk_bytes);
    let pool = disk.path().join("pool");
    home.configure(&format!("paths = [{pool:?}]\npack_size = \"{pack_mib}M\"\n"));
    home.run(["init"]).expect_code(0);
    let source = home.directory("source");
    let mut random = Random::new(disk_bytes);
    let mut points = Vec::new();

    // Backups until there is no room.
    let refused = loop {
        plant_round(&source, disk_bytes / 6, &mut random);
        let finished = home.run(backup_arguments(&source, &[]));
        if finished.code() != Some(0) {
            break finished;
        }
        points.push((finished.point(), Observed::of(&source)));
        assert!(points.len() < 20, "a disk of {disk_bytes} bytes never becomes full");
    };
    assert_eq!(refused.code(), Some(7), "{refused}");
    let advice = refused.stderr();
    assert!(advice.contains("hint:") && advice.contains("prune"), "{refused}");
    assert!(points.len() >= 2, "the pool was full after {} points", points.len());
    expect_unharmed(&home, &points, "when the pool is full");

    // Somebody else takes the rest.
    let filler = fill(disk.path());
    let refused = home.run(backup_arguments(&source, &[]));
    assert_eq!(refused.code(), Some(7), "{refused}");
    expect_unharmed(&home, &points, "when the disk is full to the last byte");

    // Half of the points go, and their room comes back.
    let goes = points.len().div_ceil(2);
    let going: Vec<_> = points.drain(..goes).map(|(point, _)| point).collect();
    home.run(std::iter::once("forget".to_string()).chain(going)).expect_code(0);
    home.run(["prune"]).expect_code(0);
    expect_unharmed(&home, &points, "after the prune on a full disk");

    plant_round(&source, disk_bytes / 10, &mut random);
    let point = home.backup(&source, &[]);
    points.push((point, Observed::of(&source)));
    drop(filler);
    expect_unharmed(&home, &points, "after the next backup");
}

#[test]
fn a_disk_that_fails_to_sync_is_never_believed() {
    let home = Home::in_memory();
    let source = home.directory("source");
    let mut random = Random::new(1);
    plant(&source, 30, 2, &mut random);
    let mut points = vec![(home.backup(&source, &[]), Observed::of(&source))];

    let mut failures = 0;
    for position in 1..=40 {
        plant_round(&source, MIB, &mut random);
        let log = home.beside("strace.log");
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={position}");
        let log_name = log.to_str().expect("temporary names are text");
        let strace = [
            "strace",
            "-f",
            "-y",
            "-qq",
            "-o",
            log_name,
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            &inject,
        ];
        let finished = Finished::of(home.command_under(&strace, backup_arguments(&source, &[])));
        let log = std::fs::read_to_string(&log).unwrap();
        let injected: Vec<_> = log.lines().filter(|line| line.contains("INJECTED")).collect();

        if injected.is_empty() {
            assert_eq!(finished.code(), Some(0), "{finished}");
            points.push((finished.point(), Observed::of(&source)));
            break;
        }
        failures += 1;
        // The index is a cache that is proved at each start: its last checkpoint may fail.
        if finished.code() == Some(0) && injected.iter().all(|line| line.contains("/pool.db")) {
            points.push((finished.point(), Observed::of(&source)));
            expect_unharmed(
                &home,
                &points,
                &format!("after sync {position} of the index has failed"),
            );
            continue;
        }
        assert_ne!(finished.code(), Some(0), "sync {position} failed, unnoticed: {finished}");
        assert!(
            finished.message("summary").is_none(),
            "a failed run announces a point: {finished}"
        );
        expect_unharmed(&home, &points, &format!("after sync {position} has failed"));
    }

    assert!(failures >= 4, "only {failures} syncs were seen");
    announce(&format!("{failures} syncs failed, one after the other"));
    points.push((home.backup(&source, &[]), Observed::of(&source)));
    expect_unharmed(&home, &points, "after the disk has recovered");
}

fn expect_unharmed(home: &Home, points: &[(String, Observed)], when: &str) {
    home.expect_sound(when);
    for (point, observed) in points {
        let target = home.restore(point, "back");
        observed.expect(&Observed::of(&target), &format!("point {point} is wrong {when}"));
    }
}

fn plant_round(source: &Path, bytes: u64, random: &mut Random) {
    let pieces = bytes.div_ceil(256 << 10);
    for piece in 0..pieces {
        let length = (bytes / pieces) as usize;
        write(&source.join(format!("data/{piece}")), &random.bytes(length));
    }
    let left = std::fs::read_dir(source.join("data")).unwrap().count() as u64;
    for piece in pieces..left {
        let _ = std::fs::remove_file(source.join(format!("data/{piece}")));
    }
}

// Writes until not one more byte fits.
fn fill(disk: &Path) -> File {
    let mut filler = File::create(disk.join("filler")).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![7_u8; size];
        while filler.write(&block).is_ok_and(|written| written > 0) {}
    }
    filler
}
