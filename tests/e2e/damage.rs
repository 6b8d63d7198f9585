//! Any byte of a pool may rot: every damage is harmless or reported, and no wrong byte is ever restored as if it were right.
//!
//! In the usual run every byte of header, table and trailer of a pack of each kind, of a point and of the marker, and a sample of the rest that is another
//! one each time; `KEEPWELL_E2E_EVERY_BYTE=1` takes them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::home::{Home, announce, backup_arguments, setting};
use crate::tree::{Observed, Random, write};

/// Bytes of the rest that the usual run tries.
const SAMPLES: usize = 250;
/// Longest time for one story.
const PATIENCE: Duration = Duration::from_secs(90);
/// Begins what is told of a restore that did not succeed.
const RESTORE_FAILED: &str = "restore failed";
const PACK_HEADER_BYTES: usize = 48;
const PACK_TRAILER_BYTES: usize = 64;

/// What came of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is as it should be.
    Harmless,
    /// `check` or `restore` says so.
    Reported,
    /// A restore succeeded with wrong content, or damage went by in silence.
    Wrong,
}

#[test]
fn no_flipped_byte_is_ever_restored_as_right() {
    let pool = SmallPool::new();
    let (mut random, seed) = Random::fresh();
    let mut places = pool.places_to_flip(&mut random);
    // In any order, so that a slow machine leaves out other ones each time.
    for place in (1..places.len()).rev() {
        places.swap(place, random.below(place as u64 + 1) as usize);
    }
    let masks: Vec<u8> = places.iter().map(|_| 1 << random.below(8)).collect();
    let results = on_two_threads(places.len(), |number, scratch| {
        let (file, offset) = &places[number];
        pool.outcome(scratch, |root| {
            let path = root.join(file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[*offset] ^= masks[number];
            fs::write(&path, bytes).unwrap();
        })
    });

    let mut wrong = Vec::new();
    let mut counts = BTreeMap::new();
    let mut trouble = Vec::new();
    let tried = results.iter().flatten().count();
    for ((file, offset), result) in places.iter().zip(results) {
        let Some((outcome, told)) = result else { continue };
        // A bit of a compressed frame that decodes to the same bytes says nothing.
        let kind = if pool.is_in_frames(file, *offset) { "frame" } else { kind_of(file) };
        *counts.entry((kind, outcome)).or_insert(0) += 1;
        // A flip in its version makes it an index of a newer program, which is refused politely. Other damage inside it is mended, passed over, or
        // told by `check` as damage of the index; restores find every chunk all the same.
        let newer = told.contains("this version reads up to");
        let harmless = told.contains("index") && !told.contains(RESTORE_FAILED);
        if kind == "index" && outcome == Outcome::Reported && !newer && !harmless {
            trouble.push(format!("byte {offset}: {told}"));
        }
        if outcome == Outcome::Wrong {
            wrong.push(format!("byte {offset} of {}: {told}", file.display()));
        }
    }
    announce(&format!("{tried} of {} bytes flipped, seed {seed}: {counts:?}", places.len()));
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
    assert!(
        trouble.is_empty(),
        "seed {seed}: a damaged index is in the way:\n{}",
        trouble[..trouble.len().min(5)].join("\n")
    );
    assert!(
        !counts.contains_key(&("pack", Outcome::Harmless)),
        "every byte of header, table and trailer of a pack is covered: {counts:?}"
    );
    let frames = |outcome| counts.get(&("frame", outcome)).copied().unwrap_or(0);
    let (silent, told) = (frames(Outcome::Harmless), frames(Outcome::Reported));
    assert!(silent * 20 <= told, "nearly every byte of a frame is covered: {counts:?}");
}

#[test]
fn files_that_are_short_long_empty_gone_or_swapped_are_reported() {
    let pool = SmallPool::new();
    let packs: Vec<_> = pool.files.keys().filter(|file| kind_of(file) == "pack").collect();
    type Harm = (String, Box<dyn Fn(&Path) + Sync>);
    let mut harms: Vec<Harm> = Vec::new();
    for file in pool.files.keys().filter(|file| kind_of(file) != "lock") {
        let length = pool.files[file].len();
        for cut in [0, 1, length / 2, length.saturating_sub(1)] {
            let name = file.clone();
            let harm = move |root: &Path| {
                let bytes = fs::read(root.join(&name)).unwrap();
                fs::write(root.join(&name), &bytes[..cut.min(bytes.len())]).unwrap();
            };
            harms.push((format!("{} cut to {cut} bytes", file.display()), Box::new(harm)));
        }
        let name = file.clone();
        let longer = move |root: &Path| {
            let mut bytes = fs::read(root.join(&name)).unwrap();
            bytes.extend_from_slice(b"more");
            fs::write(root.join(&name), bytes).unwrap();
        };
        harms.push((format!("{} made longer", file.display()), Box::new(longer)));
        let name = file.clone();
        let gone = move |root: &Path| fs::remove_file(root.join(&name)).unwrap();
        harms.push((format!("{} removed", file.display()), Box::new(gone)));
    }
    for (number, one) in packs.iter().enumerate() {
        for other in &packs[number + 1..] {
            let (one, other) = ((*one).clone(), (*other).clone());
            let text = format!("{} and {} swapped", one.display(), other.display());
            let swap = move |root: &Path| {
                let kept = fs::read(root.join(&one)).unwrap();
                fs::copy(root.join(&other), root.join(&one)).unwrap();
                fs::write(root.join(&other), kept).unwrap();
            };
            harms.push((text, Box::new(swap)));
        }
    }

    let results =
        on_two_threads(harms.len(), |number, scratch| pool.outcome(scratch, &*harms[number].1));

    let wrong: Vec<_> = harms
        .iter()
        .zip(&results)
        .filter_map(|((text, _), result)| Some((text, result.as_ref()?)))
        .filter(|(_, (outcome, _))| *outcome == Outcome::Wrong)
        .map(|(text, (_, told))| format!("{text}: {told}"))
        .collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    for ((text, _), result) in harms.iter().zip(&results) {
        let Some((outcome, told)) = result else { continue };
        let of_pack = text.contains(".pack");
        assert!(!of_pack || *outcome == Outcome::Reported, "{text} goes by in silence: {told}");
    }
}

#[test]
fn a_point_whose_file_is_gone_is_told_and_comes_back() {
    let pool = SmallPool::new();
    let (point, observed) = &pool.points[1];
    let file = pool.home.pool().join(format!("points/{point}.point"));
    fs::remove_file(&file).unwrap();

    let first = pool.home.run(["points"]).expect_code(0);
    assert!(first.stderr().contains(&point[..8]), "{first}");
    assert_eq!(pool.home.points().len(), 1);

    pool.home.run(["repair", "--recover-points"]).expect_code(0);
    assert_eq!(pool.home.points().len(), 2);
    observed.expect(&Observed::of(&pool.home.restore(point, "target")), "the point that was lost");
    pool.home.expect_sound("after the repair");
}

#[test]
fn after_repair_and_the_next_backup_a_damaged_pool_is_whole_again() {
    let pool = SmallPool::new();
    for (file, bytes) in pool.files.iter().filter(|(file, _)| kind_of(file) == "pack") {
        let scratch = Home::in_memory();
        pool.copy_to(&scratch);
        let mut damaged = bytes.clone();
        // The first byte of the first frame.
        damaged[PACK_HEADER_BYTES] ^= 0x20;
        fs::write(scratch.path().join(file), damaged).unwrap();
        scratch.run(["check", "--read-data"]).expect_code(5);

        let repair = scratch.run(["repair"]);
        assert!(matches!(repair.code(), Some(0 | 5)), "{}: {repair}", file.display());
        let source = pool.home.beside("source");
        let point = scratch.run(backup_arguments(&source, &["--force"])).expect_code(0).point();

        let (_, observed) = &pool.points[1];
        let what = format!("a backup after the repair of {}", file.display());
        observed.expect(&Observed::of(&scratch.restore(&point, "target")), &what);
        for (point, observed) in &pool.points {
            let target = scratch.vacant("target");
            let restore = scratch.run(["restore", point, "--to", target.to_str().expect("text")]);
            if restore.code() == Some(0) {
                observed.expect(&Observed::of(&target), "a point that restores after the repair");
            }
        }
    }
}

/// A sound pool of some kilobytes with two points.
struct SmallPool {
    home: Home,
    files: BTreeMap<PathBuf, Vec<u8>>,
    points: Vec<(String, Observed)>,
}

impl SmallPool {
    fn new() -> Self {
        let home = Home::in_memory();
        let source = home.directory("source");
        let mut random = Random::new(77);
        write(&source.join("folder/text"), "some text that repeats itself\n".repeat(60).as_bytes());
        write(&source.join("folder/noise"), &random.bytes(2500));
        write(&source.join("empty"), b"");
        fs::hard_link(source.join("empty"), source.join("empty too")).unwrap();
        std::os::unix::fs::symlink("folder/text", source.join("link")).unwrap();
        let mut points = vec![(home.backup(&source, &[]), Observed::of(&source))];
        write(&source.join("second"), &random.bytes(900));
        let second =
            home.run(backup_arguments(&source, &["--tag", "second"])).expect_code(0).point();
        points.push((second, Observed::of(&source)));
        // Ballast holds nothing.
        let _ = fs::remove_file(home.pool().join("reserve"));
        let mut files = BTreeMap::new();
        collect(home.path(), Path::new("pool"), &mut files);
        Self { home, files, points }
    }

    fn places_to_flip(&self, random: &mut Random) -> Vec<(PathBuf, usize)> {
        let everything = setting("KEEPWELL_E2E_EVERY_BYTE", 0) != 0;
        let mut places = Vec::new();
        let mut rest = Vec::new();
        let mut covered = BTreeSet::new();
        for (file, bytes) in &self.files {
            let kind = kind_of(file);
            // The first of each kind; bytes 10 of packs tell data and metadata apart.
            let first = covered.insert((kind, bytes.get(10).filter(|_| kind == "pack")));
            for offset in 0..bytes.len() {
                let structure = match kind {
                    "pack" => !self.is_in_frames(file, offset),
                    "point" | "marker" | "notes" => true,
                    _ => false,
                };
                let always = first && structure;
                if always || everything {
                    places.push((file.clone(), offset));
                } else {
                    rest.push((file.clone(), offset));
                }
            }
        }
        for _ in 0..SAMPLES.min(rest.len()) {
            places.push(rest.swap_remove(random.below(rest.len() as u64) as usize));
        }
        places
    }

    fn is_in_frames(&self, file: &Path, offset: usize) -> bool {
        if kind_of(file) != "pack" {
            return false;
        }
        let bytes = &self.files[file];
        let trailer = &bytes[bytes.len() - PACK_TRAILER_BYTES..];
        let table = u64::from_le_bytes(trailer[..8].try_into().unwrap()) as usize;
        (PACK_HEADER_BYTES..table).contains(&offset)
    }

    /// Harms a copy of the home and looks what comes of it.
    fn outcome(&self, scratch: &Home, harm: impl Fn(&Path)) -> (Outcome, String) {
        self.copy_to(scratch);
        harm(scratch.path());
        let check = scratch.run(["check", "--read-data"]);
        // A point is its file: without it there is none any more, but that is said aloud once.
        let disappeared = check.stderr().contains("the file of a point has disappeared");
        let mut reported = disappeared || check.code() != Some(0);
        if check.code().is_none() || check.stderr().contains("panicked") {
            return (Outcome::Wrong, format!("check crashed: {check}"));
        }
        // The newest point needs what the older one needs, and more.
        let mut failed = String::new();
        let newest = self.points.len() - 1;
        let chosen = if reported { &self.points[..] } else { &self.points[newest..] };
        for (point, observed) in chosen {
            let target = scratch.vacant("target");
            let restore = scratch.run(["restore", point, "--to", target.to_str().expect("text")]);
            match restore.code() {
                Some(0) => {
                    let differences = observed.differences(&Observed::of(&target));
                    if !differences.is_empty() {
                        return (
                            Outcome::Wrong,
                            format!("restored wrong: {differences:?}\n{restore}"),
                        );
                    }
                }
                None => return (Outcome::Wrong, format!("restore crashed: {restore}")),
                Some(_) if restore.stderr().contains("panicked") => {
                    return (Outcome::Wrong, format!("restore crashed: {restore}"));
                }
                Some(_) => {
                    reported = true;
                    failed = format!("\n{RESTORE_FAILED}: {restore}");
                }
            }
        }
        if reported && !disappeared && check.code() == Some(0) {
            return (
                Outcome::Wrong,
                format!("a point cannot be restored, and check sees nothing: {check}"),
            );
        }
        let outcome = if reported { Outcome::Reported } else { Outcome::Harmless };
        (outcome, format!("{check}{failed}"))
    }

    fn copy_to(&self, scratch: &Home) {
        let _ = fs::remove_dir_all(scratch.pool());
        for name in ["points", "tmp", "locks"] {
            fs::create_dir_all(scratch.pool().join(name)).unwrap();
        }
        for group in 0..=255 {
            fs::create_dir_all(scratch.pool().join(format!("packs/{group:02x}"))).unwrap();
        }
        fs::copy(self.home.path().join("keepwell.toml"), scratch.path().join("keepwell.toml"))
            .unwrap();
        for (file, bytes) in &self.files {
            write(&scratch.path().join(file), bytes);
        }
    }
}

fn kind_of(file: &Path) -> &'static str {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    match name.rsplit('.').next() {
        Some("pack") => "pack",
        Some("point") => "point",
        Some("notes") => "notes",
        Some("json") => "marker",
        Some("db" | "db-wal" | "db-shm") => "index",
        _ => "lock",
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(path, fs::read(entry.path()).unwrap());
        }
    }
}

/// Runs `work` for every number below `count`, two at a time, each thread with a home of its own. A machine that is too slow or too busy to get through
/// leaves the rest out, and says so.
fn on_two_threads<T: Send>(
    count: usize,
    work: impl Fn(usize, &Home) -> T + Sync,
) -> Vec<Option<T>> {
    let everything = setting("KEEPWELL_E2E_EVERY_BYTE", 0) != 0;
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::from_iter((0..count).map(|_| None)));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let scratch = Home::in_memory();
                while everything || begun.elapsed() < PATIENCE {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let result = work(number, &scratch);
                    results.lock().unwrap()[number] = Some(result);
                }
                announce(&format!("too slow: not all of {count} damages were tried"));
            });
        }
    });
    results.into_inner().unwrap()
}
