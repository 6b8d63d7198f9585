//! How fast a store is: one larger object up and down, whole and in parts, and the time that small requests take.

use std::time::Duration;

use bytes::Bytes;
use storepool::clock::Clock;
use storepool::entropy::{Entropy, random_bytes};
use storepool::selftest::Examination;

use super::SMALL_BYTES;
use super::trace::Trace;
use crate::error::Result;

/// What is put and read: as long as a pack of a vault usually is.
const LARGE_BYTES: usize = 8 << 20;
/// Parts that are read of it, and how long they are.
const PARTS: u64 = 5;
const PART_BYTES: u64 = 100_000;
/// Small objects that are put and read one after the other.
const SMALL: usize = 5;
/// Slower than this the first copy of a server takes weeks.
const SPEED_LEAST: f64 = 512.0 * 1024.0;
/// From here on what is done one by one takes long.
const WAIT_MOST: Duration = Duration::from_millis(800);

/// Measures.
pub(super) async fn examine(
    trace: &mut Trace<'_>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    found: &mut Examination,
) -> Result<()> {
    small(trace, clock, entropy, found).await?;
    large(trace, clock, entropy, found).await
}

async fn small(
    trace: &mut Trace<'_>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    found: &mut Examination,
) -> Result<()> {
    const CHECK: &str = "latency";
    let store = trace.store();
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for _ in 0..SMALL {
        let name = trace.name(entropy);
        let body = Bytes::copy_from_slice(&random_bytes::<{ SMALL_BYTES as usize }>(entropy));
        let begin = clock.monotonic();
        store.put_new(&name, body).await?;
        let put = clock.monotonic();
        store.get(&name, SMALL_BYTES).await?;
        let got = clock.monotonic();
        puts.push(put.saturating_sub(begin));
        gets.push(got.saturating_sub(put));
    }
    let (put, get) = (median(puts), median(gets));
    let seen = format!("{} to put a small object, {} to read it", told(put), told(get));
    match put.max(get) > WAIT_MOST {
        true => found.note(CHECK, seen, "a nearer store makes commits and single files quicker"),
        false => found.good(CHECK, seen),
    }
    Ok(())
}

async fn large(
    trace: &mut Trace<'_>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    found: &mut Examination,
) -> Result<()> {
    let store = trace.store();
    let name = trace.name(entropy);
    // Bytes that nobody on the way makes fewer.
    let mut body = vec![0; LARGE_BYTES];
    let key = random_bytes::<32>(entropy);
    blake3::Hasher::new_keyed(&key).finalize_xof().fill(&mut body);
    let body = Bytes::from(body);
    let begin = clock.monotonic();
    store.put_new(&name, body.clone()).await?;
    let put = clock.monotonic();
    let read = store.get(&name, LARGE_BYTES as u64).await?.bytes;
    let got = clock.monotonic();
    let mut sound = read == body;
    for _ in 0..PARTS {
        let at = u64::from_le_bytes(random_bytes(entropy)) % (LARGE_BYTES as u64 - PART_BYTES);
        let part = store.get_range(&name, at..at + PART_BYTES).await?.bytes;
        sound &= part[..] == body[at as usize..(at + PART_BYTES) as usize];
    }
    match sound {
        true => found.good("ranges", "a large object is read whole and in parts as it was put"),
        false => found.unfit(
            "ranges",
            "a large object, or a part of it, is not read as it was put",
            "choose another store, or another way there",
        ),
    }
    judge_speed(put.saturating_sub(begin), got.saturating_sub(put), found);
    Ok(())
}

fn judge_speed(up: Duration, down: Duration, found: &mut Examination) {
    const CHECK: &str = "speed";
    const MIB: f64 = 1024.0 * 1024.0;
    let rate = |took: Duration| LARGE_BYTES as f64 / took.as_secs_f64().max(1e-6);
    let seen = format!("{:.1} MiB a second up, {:.1} down", rate(up) / MIB, rate(down) / MIB);
    if rate(up).min(rate(down)) >= SPEED_LEAST {
        return found.good(CHECK, seen);
    }
    let days = (1u64 << 40) as f64 / rate(up).min(rate(down)) / 86_400.0;
    found.note(CHECK, seen, format!("one TiB takes {days:.0} days on this line, up or down"));
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

fn told(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storepool::selftest::Grade;

    #[test]
    fn a_slow_line_is_told_with_the_days_it_takes() {
        let mut found = Examination::default();
        judge_speed(Duration::from_secs(1), Duration::from_millis(500), &mut found);
        assert_eq!(found.findings[0].seen, "8.0 MiB a second up, 16.0 down");
        assert_eq!(found.grade(), Grade::Good);

        judge_speed(Duration::from_secs(80), Duration::from_secs(1), &mut found);
        assert_eq!(found.grade(), Grade::Note);
        let advice = found.findings[1].advice.as_deref();
        assert_eq!(advice, Some("one TiB takes 121 days on this line, up or down"));
    }
}
