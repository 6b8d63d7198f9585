//! Reading packs whole: every frame decoded, every chunk compared with its name.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::check::{CheckReport, DamagedObject, has_gone};
use crate::chunks::PoolChunks;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind};
use crate::index::PackRow;
use crate::monitor::{Event, Monitor};
use crate::pack::frame::{FrameCodec, verify_chunks};
use crate::pack::reader::PackReader;
use crate::pool::{Pool, Session};
use crate::simulated;
use crate::tree::ChunkFetch;

/// Most threads that read.
const THREADS_MOST: usize = 8;
const SECONDS_OF_DAY: i64 = 24 * 60 * 60;

/// Chooses `percent` of the packs for the day of `now`: each pack has a fixed place on a circle, the share is a window that moves on by its own length
/// each day.
pub(super) fn choose(packs: &[PackRow], percent: f64, now: Timestamp) -> Vec<PackRow> {
    let share = percent / 100.0;
    if share >= 1.0 {
        return packs.to_vec();
    }
    let day = now.seconds().div_euclid(SECONDS_OF_DAY) as f64;
    let start = (day * share).rem_euclid(1.0);
    let place = |row: &PackRow| {
        let first =
            row.id.as_bytes()[..4].iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte));
        f64::from(first) / (f64::from(u32::MAX) + 1.0)
    };
    packs.iter().filter(|row| (place(row) - start).rem_euclid(1.0) < share).cloned().collect()
}

/// What one thread has found.
#[derive(Default)]
struct Findings {
    packs: u64,
    bytes_read: u64,
    bytes_verified: u64,
    damaged: Vec<(ChunkId, ChunkKind)>,
    // Packs with what is wrong in them.
    packs_damaged: Vec<(PackRow, String)>,
}

/// Reads packs in several threads. Returns the chunks whose bytes are wrong.
pub(super) fn read(
    pool: &Pool,
    packs: &[PackRow],
    report: &mut CheckReport,
    monitor: &dyn Monitor,
) -> Result<HashMap<ChunkId, ChunkKind>> {
    let findings = read_in_threads(pool, packs, monitor)?;
    report.packs_read += findings.packs;
    report.bytes_read += findings.bytes_read;
    report.bytes_verified += findings.bytes_verified;
    for (row, detail) in findings.packs_damaged {
        report.add(DamagedObject::Pack, row.id, detail);
    }
    Ok(findings.damaged.into_iter().collect())
}

/// Reads packs in several threads. Returns those with anything wrong in them.
pub(crate) fn read_all(
    pool: &Pool,
    packs: &[PackRow],
    monitor: &dyn Monitor,
) -> Result<Vec<(PackRow, String)>> {
    Ok(read_in_threads(pool, packs, monitor)?.packs_damaged)
}

fn read_in_threads(pool: &Pool, packs: &[PackRow], monitor: &dyn Monitor) -> Result<Findings> {
    monitor.event(Event::Expected {
        items: packs.len() as u64,
        bytes: packs.iter().map(|row| row.length).sum(),
    });
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let threads = simulated::threads(threads);
    let threads = threads.min(THREADS_MOST).min(packs.len()).max(1);
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Findings::default());
    std::thread::scope(|scope| {
        let (next, all) = (&next, &all);
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(move || {
                    let findings = read_packs(pool, packs, next, monitor)?;
                    all.lock().unwrap_or_else(PoisonError::into_inner).merge(findings);
                    Ok(())
                })
            })
            .collect();
        for thread in running {
            thread.join().map_err(|_| Error::WorkerPanicked { stage: "reading packs" })??;
        }
        Ok::<_, Error>(())
    })?;
    let mut findings = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    findings.packs_damaged.sort_by_key(|(row, _)| row.no);
    Ok(findings)
}

impl Findings {
    fn merge(&mut self, other: Findings) {
        self.packs += other.packs;
        self.bytes_read += other.bytes_read;
        self.bytes_verified += other.bytes_verified;
        self.damaged.extend(other.damaged);
        self.packs_damaged.extend(other.packs_damaged);
    }
}

fn read_packs(
    pool: &Pool,
    packs: &[PackRow],
    next: &AtomicUsize,
    monitor: &dyn Monitor,
) -> Result<Findings> {
    let mut codec = FrameCodec::new(pool.options().compression_level)?;
    let mut stored = Vec::new();
    let mut findings = Findings::default();
    while let Some(row) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
        if monitor.cancelled() {
            return Err(Error::Interrupted);
        }
        match pool.open_pack(row) {
            Ok(pack) => findings.read_pack(row, &pack, &mut stored, &mut codec, monitor),
            Err(error) if has_gone(pool, row, &error)? => {}
            Err(error) if error.is_damage() => {
                findings.packs_damaged.push((row.clone(), error.to_string()));
            }
            Err(error) => return Err(error),
        }
        monitor.event(Event::Done { items: 1, bytes: 0 });
    }
    Ok(findings)
}

impl Findings {
    fn read_pack(
        &mut self,
        row: &PackRow,
        pack: &PackReader,
        stored: &mut Vec<u8>,
        codec: &mut FrameCodec,
        monitor: &dyn Monitor,
    ) {
        let mut first = None;
        let before = self.damaged.len();
        for (entry, frame) in pack.toc().frames().iter().zip(0u32..) {
            let (_, chunks) = pack.toc().chunks_of(frame).expect("the frame is in the table");
            match pack.read_frame(frame, stored, codec) {
                Ok(decoded) => {
                    self.bytes_verified += decoded.len() as u64;
                    if verify_chunks(chunks, decoded).is_err() {
                        let mut rest = decoded;
                        for chunk in chunks {
                            let (own, after) = rest.split_at(chunk.length as usize);
                            if ChunkId::of(chunk.kind, own) != chunk.id {
                                self.damaged.push((chunk.id, chunk.kind));
                            }
                            rest = after;
                        }
                        first.get_or_insert(format!("frame {frame} holds chunks with wrong bytes"));
                    }
                }
                Err(error) => {
                    self.damaged.extend(chunks.iter().map(|chunk| (chunk.id, chunk.kind)));
                    first.get_or_insert(error.to_string());
                }
            }
            let bytes = u64::from(entry.stored_length);
            self.bytes_read += bytes;
            monitor.event(Event::Done { items: 0, bytes });
        }
        self.packs += 1;
        if let Some(first) = first {
            let damaged = self.damaged.len() - before;
            let count = pack.toc().chunks().len();
            let detail = format!("{first}; {damaged} of its {count} chunks are damaged");
            self.packs_damaged.push((row.clone(), detail));
        }
    }
}

/// Returns those of `damaged` of which there is no sound copy elsewhere in the pool.
pub(super) fn without_other_copy(
    session: &Session,
    damaged: HashMap<ChunkId, ChunkKind>,
    report: &mut CheckReport,
) -> Result<Vec<ChunkId>> {
    let reader = PoolChunks::new(session).pool_reader()?;
    let mut lost = Vec::new();
    for (id, kind) in damaged {
        match reader.fetch(id, kind) {
            Ok(_) => {}
            Err(error) if error.is_damage() => {
                report.add(DamagedObject::of_chunk(kind), id, error);
                lost.push(id);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}
