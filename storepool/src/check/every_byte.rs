//! Every byte of a small pool flipped in turn: each damage is harmless or told, and nothing wrong is ever read as if it were right.
//!
//! Every byte of packs, points, notes and marker each time; of the index, which is a cache, every 16th beginning at another one each day.
//! `KEEPWELL_EVERY_BYTE=1` takes all of them. The stories do the same in samples through the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::catalog::Notes;
use crate::id::PointId;
use crate::monitor::SilentMonitor;
use crate::testing::fixture::{
    Files, copy_tree, create_pool, files, make_point, open_pool, read_point, test_world,
};

const ALL: CheckOptions = CheckOptions { read_data: Some(100.0) };
/// The usual run tries one of so many bytes of the index.
const INDEX_STEP: usize = 16;

/// What came of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Harmless,
    Told,
}

/// A pool of some kilobytes as it was before any damage.
struct Sound {
    home: tempfile::TempDir,
    files: BTreeMap<PathBuf, Vec<u8>>,
    points: Vec<(PointId, Files)>,
}

impl Sound {
    fn new() -> Self {
        let home = in_memory();
        let (paths, pool) = create_pool(home.path(), 1, test_world());
        let mut points = Vec::new();
        let mut content = files("a", 2, 300);
        content.insert("text".to_string(), b"again and again, ".repeat(40));
        points.push((make_point(&pool, &content).unwrap(), content.clone()));
        content.extend(files("b", 1, 100));
        points.push((make_point(&pool, &content).unwrap(), content));
        let notes = Notes { tags: vec!["kept".to_string()], ..Notes::default() };
        pool.set_notes(points[1].0, &notes).unwrap();
        drop(pool);
        let mut files = BTreeMap::new();
        collect(&paths[0], Path::new(""), &mut files);
        files.retain(|path, _| !path.starts_with("locks") && !path.starts_with("tmp"));
        Self { home, files, points }
    }

    fn places(&self) -> Vec<(&Path, usize)> {
        let everything = std::env::var_os("KEEPWELL_EVERY_BYTE").is_some();
        let today = crate::clock::Clock::now(&crate::clock::SystemClock::new()).seconds() / 86_400;
        let mut places = Vec::new();
        for (file, bytes) in &self.files {
            let step = if is_index(file) && !everything { INDEX_STEP } else { 1 };
            let first = today as usize % step;
            places.extend((first..bytes.len()).step_by(step).map(|at| (file.as_path(), at)));
        }
        places
    }

    /// Makes `copy` what this pool is, whatever happened to it.
    fn put_back(&self, copy: &Path) {
        let mut there = BTreeMap::new();
        for folder in self.files.keys().filter_map(|file| file.parent()).collect::<BTreeSet<_>>() {
            for entry in std::fs::read_dir(copy.join(folder)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    there.insert(folder.join(entry.file_name()), entry.path());
                }
            }
        }
        for (file, path) in there {
            if !self.files.contains_key(&file) {
                std::fs::remove_file(path).unwrap();
            }
        }
        for (file, bytes) in &self.files {
            std::fs::write(copy.join(file), bytes).unwrap();
        }
    }

    /// Looks what a pool with a damage says of itself and of its points.
    fn outcome(&self, copy: &Path) -> std::result::Result<Outcome, String> {
        let Ok(pool) = open_pool(&[copy.to_path_buf()], test_world()) else {
            return Ok(Outcome::Told);
        };
        let found_sound = check(&pool, &ALL, &SilentMonitor).is_ok_and(|report| report.is_sound());
        let known: BTreeSet<_> = match pool.points() {
            Ok(points) => points.into_iter().map(|point| point.id).collect(),
            Err(_) if found_sound => return Err("its points cannot be listed".to_string()),
            Err(_) => BTreeSet::new(),
        };
        for (point, content) in &self.points {
            match read_point(&pool, *point) {
                Ok(read) if read != *content => return Err("was read wrong".to_string()),
                Err(error) if found_sound => {
                    return Err(format!("cannot be read, and check is silent: {error}"));
                }
                _ => {}
            }
            if found_sound && !known.contains(point) {
                return Err("a point is not listed, and check is silent".to_string());
            }
        }
        Ok(if found_sound { Outcome::Harmless } else { Outcome::Told })
    }
}

#[test]
fn every_flipped_byte_is_harmless_or_told() {
    let sound = Sound::new();
    let places = sound.places();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(BTreeMap::new());
    let wrong = Mutex::new(Vec::new());

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let home = in_memory();
                let copy = home.path().join("pool");
                copy_tree(&sound.home.path().join("disk0"), &copy);
                while let Some((file, at)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                    sound.put_back(&copy);
                    let mut bytes = sound.files[*file].clone();
                    bytes[*at] ^= 1 << (at * 5 % 8);
                    std::fs::write(copy.join(file), bytes).unwrap();
                    match sound.outcome(&copy) {
                        Ok(outcome) => {
                            *counts.lock().unwrap().entry((kind_of(file), outcome)).or_insert(0) +=
                                1;
                        }
                        Err(told) => {
                            wrong
                                .lock()
                                .unwrap()
                                .push(format!("{}, byte {at}: {told}", file.display()));
                        }
                    }
                }
            });
        }
    });

    let (counts, wrong) = (counts.into_inner().unwrap(), wrong.into_inner().unwrap());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(9)].join("\n"));
    let told = |kind| counts.get(&(kind, Outcome::Told)).copied().unwrap_or(0);
    let harmless = |kind| counts.get(&(kind, Outcome::Harmless)).copied().unwrap_or(0);
    let tried = places.len();
    assert!(
        told("pack") > 2000 && told("point") > 400 && told("marker") > 200,
        "{tried}: {counts:?}"
    );
    assert_eq!((harmless("point"), harmless("marker")), (0, 0), "{counts:?}");
    // Some bits of a compressed frame say nothing: it decodes to the same bytes, which is what is promised.
    assert!(harmless("pack") * 200 < told("pack"), "{counts:?}");
}

fn in_memory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
    folder.expect("a folder")
}

fn is_index(file: &Path) -> bool {
    file.to_string_lossy().starts_with("pool.db")
}

fn kind_of(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        _ if is_index(file) => "index",
        Some("pack") => "pack",
        Some("point") => "point",
        Some("notes") => "notes",
        _ => "marker",
    }
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, found);
        } else {
            found.insert(path, std::fs::read(entry.path()).unwrap());
        }
    }
}
