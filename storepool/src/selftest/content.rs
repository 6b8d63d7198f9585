//! Contents: what is written is read, syncs, how long they take, and whether a disk can be that quick.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::finding::Examination;
use super::place::Medium;
use super::{Depth, Examiner};
use crate::entropy::random_bytes;

/// What one sync is given to write.
const SYNC_LENGTH: usize = 4096;
/// A disk of 15,000 turns a minute needs 4 ms for one; half a turn on average, and some luck.
const TURN_LEAST: Duration = Duration::from_micros(1000);
/// No medium that outlives the power answers through a file system in less.
const SYNC_LEAST: Duration = Duration::from_micros(5);
/// From here on each command waits noticeably.
const SYNC_SLOW: Duration = Duration::from_millis(100);
/// What is written at once when speed is measured, and how often.
const PIECE_LENGTH: usize = 1 << 20;
const PIECES: usize = 32;
/// Slower than this a first backup takes days.
const SPEED_LEAST: u64 = 10 << 20;
/// How much of the room that is there an examination takes at most.
const ROOM_SHARE: u64 = 8;

/// Tries all of it in the folder `folder`.
pub(super) fn examine(
    folder: &Path,
    examiner: &Examiner<'_>,
    medium: Medium,
    found: &mut Examination,
) {
    if let Err(error) = syncs(folder, examiner, medium, found) {
        found.failed("sync", &error);
    }
    if let Err(error) = allocation(folder, examiner, found) {
        found.failed("reserve", &error);
    }
    if let Err(error) = contents(folder, examiner, found) {
        found.failed("content", &error);
    }
    if medium != Medium::Memory {
        found
            .cannot_see("whether synced bytes outlive a power cut: only pulling the plug shows it");
    }
}

fn syncs(
    folder: &Path,
    examiner: &Examiner<'_>,
    medium: Medium,
    found: &mut Examination,
) -> io::Result<()> {
    let (disk, clock) = (examiner.disk, examiner.clock);
    let mut file = disk.create(&folder.join("synced"))?;
    let piece = noise(&random_bytes(examiner.entropy), SYNC_LENGTH);
    let mut took = Vec::new();
    for _ in 0..examiner.rounds(5, 40) {
        file.append(&piece)?;
        let begin = clock.monotonic();
        file.sync()?;
        took.push(clock.monotonic().saturating_sub(begin));
    }
    disk.sync_directory(folder)?;
    took.sort();
    judge_syncs(took[took.len() / 2], took[took.len() - 1], medium, found);
    Ok(())
}

fn judge_syncs(median: Duration, longest: Duration, medium: Medium, found: &mut Examination) {
    const CHECK: &str = "sync";
    let seen = format!("{} each, {} at most", told(median), told(longest));
    match medium {
        Medium::Memory => found.good(CHECK, seen),
        Medium::Turning if median < TURN_LEAST => found.weak(
            CHECK,
            format!("{seen}: a disk that turns cannot be that quick"),
            "a controller with a battery can; without one, what was synced is lost in a power cut: switch the disk's write cache off with \"hdparm -W 0\"",
        ),
        _ if median < SYNC_LEAST => found.weak(
            CHECK,
            format!("{seen}: no disk is that quick"),
            "syncs seem to be left out: see whether libeatmydata or a hypervisor's unsafe cache is in use",
        ),
        _ if median > SYNC_SLOW => found.note(
            CHECK,
            format!("{seen}: slow"),
            "each backup waits for some of them; a quieter or quicker disk helps",
        ),
        _ => found.good(CHECK, seen),
    }
}

fn told(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..1000 => format!("{micros} µs"),
        micros => format!("{:.1} ms", micros as f64 / 1000.0),
    }
}

// The reserve that lets a prune run on a full disk is a file whose room is really taken.
fn allocation(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) -> io::Result<()> {
    const LENGTH: u64 = 1 << 20;
    let (disk, path) = (examiner.disk, folder.join("reserve"));
    disk.allocate(&path, LENGTH)?;
    let length = disk.open(&path)?.length()?;
    disk.remove(&path)?;
    match length >= LENGTH {
        true => found.good("reserve", "room can be kept back"),
        false => found.weak(
            "reserve",
            "room that was to be kept back was not",
            "keep an eye on the room: a prune may find none on a full disk",
        ),
    }
    Ok(())
}

fn contents(folder: &Path, examiner: &Examiner<'_>, found: &mut Examination) -> io::Result<()> {
    const CHECK: &str = "content";
    let (disk, clock) = (examiner.disk, examiner.clock);
    let room = disk.space(folder)?.available / ROOM_SHARE / PIECE_LENGTH as u64;
    let pieces = (examiner.rounds(1, PIECES) as u64).min(room.max(1)) as usize;
    let seed = random_bytes(examiner.entropy);
    let piece = noise(&seed, PIECE_LENGTH);
    let path = folder.join("content");
    let mut file = disk.create(&path)?;
    let begin = clock.monotonic();
    for number in 0..pieces {
        file.append(&numbered(&piece, number))?;
    }
    file.sync()?;
    let took = clock.monotonic().saturating_sub(begin);
    drop(file);
    let file = disk.open(&path)?;
    let mut sound = file.length()? == (pieces * PIECE_LENGTH) as u64;
    let mut read = vec![0; PIECE_LENGTH];
    for number in 0..pieces {
        file.read_exact_at(&mut read, (number * PIECE_LENGTH) as u64)?;
        sound &= read == numbered(&piece, number);
    }
    disk.remove(&path)?;
    match sound {
        true => found.good(CHECK, format!("{pieces} MiB read back as they were written")),
        false => found.unfit(
            CHECK,
            "what was read is not what was written",
            "use another disk; see the system's log, and test the memory of this machine too",
        ),
    }
    if examiner.depth == Depth::Full {
        judge_speed((pieces * PIECE_LENGTH) as u64, took, found);
        found.cannot_see("how fast it reads: what was just written is still in memory");
    }
    Ok(())
}

fn judge_speed(bytes: u64, took: Duration, found: &mut Examination) {
    const CHECK: &str = "speed";
    let speed = (bytes as f64 / took.as_secs_f64().max(1e-6)) as u64;
    let seen = format!("{} MiB a second written and synced", speed >> 20);
    match speed < SPEED_LEAST {
        true => found.note(
            CHECK,
            seen,
            "the first backup will take long; later ones write only what is new",
        ),
        false => found.good(CHECK, seen),
    }
}

// Bytes that no disk makes smaller.
fn noise(seed: &[u8; 32], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(seed).finalize_xof().fill(&mut bytes);
    bytes
}

fn numbered(piece: &[u8], number: usize) -> Vec<u8> {
    let mut piece = piece.to_vec();
    piece[..8].copy_from_slice(&(number as u64).to_le_bytes());
    piece
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::Grade;

    #[test]
    fn a_sync_that_is_quicker_than_its_medium_is_not_believed() {
        let grade = |micros, medium| {
            let mut found = Examination::default();
            let median = Duration::from_micros(micros);
            judge_syncs(median, median * 3, medium, &mut found);
            found.grade()
        };

        assert_eq!(grade(8_000, Medium::Turning), Grade::Good);
        assert_eq!(grade(90, Medium::Turning), Grade::Weak);
        assert_eq!(grade(90, Medium::Other), Grade::Good);
        assert_eq!(grade(2, Medium::Other), Grade::Weak);
        assert_eq!(grade(2, Medium::Memory), Grade::Good);
        assert_eq!(grade(400_000, Medium::Other), Grade::Note);
    }

    #[test]
    fn speed_is_told_and_never_makes_a_disk_unfit() {
        let mut found = Examination::default();
        judge_speed(32 << 20, Duration::from_millis(500), &mut found);
        assert_eq!(found.findings[0].seen, "64 MiB a second written and synced");
        judge_speed(32 << 20, Duration::from_secs(32), &mut found);
        assert_eq!(found.grade(), Grade::Note);
    }
}
