//! What a source is told of the frames that will be read.

use super::*;

fn tree() -> Point {
    let mut point = Point::new();
    for index in 0..60 {
        point.add_file(format!("{}/{index}", index % 5), &content(&index.to_string(), 2900));
    }
    point
}

fn announced(point: &Point) -> Vec<(u64, u32)> {
    let expected = std::mem::take(&mut *point.chunks.expected.lock().unwrap());
    assert!(expected.iter().all(|(_, hold)| hold.upgrade().is_none()), "something is still held");
    expected.into_iter().flat_map(|(frames, _)| frames).collect()
}

#[test]
fn every_frame_is_announced_once_in_order_and_given_up_in_the_end() {
    let places = places();
    let mut point = tree();

    let report = point.restore(&places.target, &threads(3)).unwrap();

    assert_eq!((report.files, report.problem_count), (60, 0));
    let announced = announced(&point);
    assert!(announced.is_sorted_by(|one, other| one < other), "{announced:?}");
    assert_eq!(announced.len(), 60 * 3 / FRAME_CHUNKS);
    assert_eq!(point.chunks.frames_read.load(Ordering::Relaxed), announced.len() as u64);
}

#[test]
fn of_compared_files_only_what_differs_is_announced_and_read() {
    let places = places();
    let mut point = tree();
    point.restore(&places.target, &threads(1)).unwrap();
    let (all, read) = (announced(&point), point.chunks.frames_read.load(Ordering::Relaxed));
    let path = places.target.join("0/0");
    std::fs::write(&path, content("another", 2900)).unwrap();

    let options = RestoreOptions { in_place: true, verify: true, ..threads(2) };
    let report = point.restore(&places.target, &options).unwrap();

    assert_eq!((report.files, report.problem_count), (1, 0));
    assert_eq!(std::fs::read(&path).unwrap(), content("0", 2900));
    // The file's three chunks were the first to be stored.
    assert_eq!(announced(&point), all[..1]);
    assert_eq!(point.chunks.frames_read.load(Ordering::Relaxed) - read, 1);
}

#[test]
fn a_restore_that_fails_gives_everything_up() {
    let places = places();
    let mut point = tree();
    std::fs::create_dir_all(places.target.join("0")).unwrap();
    std::fs::write(places.target.join("0/0"), "in the way").unwrap();

    point.restore(&places.target, &threads(2)).expect_err("refused");
    assert_eq!(announced(&point), []);

    let manifest = point.finish();
    let cancelled = CancelledAfter { chunks: &point.chunks, frames: 0 };
    let error = restore_cancelled(&point, &manifest, &places, &cancelled);
    assert!(matches!(error, Error::Interrupted), "{error}");
    announced(&point);
}

#[test]
fn who_waits_for_a_frame_is_let_go_when_the_restore_is_cancelled() {
    let places = places();
    let mut point = tree();
    point.chunks.stuck = true;

    let manifest = point.finish();
    let cancelled = CancelledAfter { chunks: &point.chunks, frames: 1 };
    let error = restore_cancelled(&point, &manifest, &places, &cancelled);

    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!((1..=2).contains(&point.chunks.frames_read.load(Ordering::Relaxed)));
    announced(&point);
}

fn restore_cancelled(
    point: &Point,
    manifest: &Manifest,
    places: &Places,
    cancelled: &CancelledAfter<'_>,
) -> Error {
    let (root, target) = (EntryPath::root(), places.outside.join("out"));
    restore(&point.chunks, manifest, &root, &target, &threads(2), cancelled).expect_err("cancelled")
}

struct CancelledAfter<'a> {
    chunks: &'a MemoryChunks,
    frames: u64,
}

impl crate::monitor::Monitor for CancelledAfter<'_> {
    fn event(&self, _event: crate::monitor::Event) {}

    fn cancelled(&self) -> bool {
        self.chunks.frames_read.load(Ordering::Relaxed) >= self.frames
    }
}
