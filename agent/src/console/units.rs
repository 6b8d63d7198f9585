//! Numbers as people read them.

use std::time::Duration;

use jiff::tz::TimeZone;
use storepool::clock::Timestamp;
use storepool::size::Size;

/// Returns a size with three digits and a binary unit: `1.20 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// Returns a number with its thousands set apart: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a number with the noun it counts: `1 file`, `2 files`, `2 entries`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    if number == 1 {
        return format!("1 {one}");
    }
    match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => {
            format!("{} {stem}ies", count(number))
        }
        _ => format!("{} {one}s", count(number)),
    }
}

/// Returns a span of time as a clock shows it: `0:07`, `12:34`, `1:02:03`.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours == 0 {
        format!("{minutes}:{seconds:02}")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02}")
    }
}

/// Returns a span of time in words: `0.84 s`, `2.5 s`, `42 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let whole = seconds.round() as u64;
    if seconds < 0.995 {
        format!("{seconds:.2} s")
    } else if seconds < 9.95 {
        format!("{seconds:.1} s")
    } else if whole < 60 {
        format!("{whole} s")
    } else if whole < 3600 {
        format!("{} min {} s", whole / 60, whole % 60)
    } else {
        format!("{} h {} min", whole / 3600, whole / 60 % 60)
    }
}

/// Returns a span of time for programs: seconds, to the millisecond.
pub(crate) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Returns a moment in the local zone, with the zone: `2026-03-29 14:03:12 CEST`.
pub(crate) fn local(time: Timestamp) -> String {
    in_zone(time, TimeZone::system())
}

fn in_zone(time: Timestamp, zone: TimeZone) -> String {
    to_jiff(time).to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// Returns a moment for programs: RFC 3339 in UTC.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    to_jiff(time).to_string()
}

/// Returns the moment as the time library knows it.
pub(crate) fn to_jiff(time: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(i128::from(time.0))
        .expect("64 bits of nanoseconds are within the years the library knows")
}

/// Returns the time between two moments, zero if they are in the wrong order.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_nanos(to.0.saturating_sub(from.0).max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_and_nouns_agree() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2000, "file"), "2,000 files");
        assert_eq!(counted(0, "entry"), "0 entries");
        assert_eq!(counted(2, "day"), "2 days");
    }

    #[test]
    fn times_say_their_zone() {
        let winter = Timestamp(1_700_000_000_000_000_000);
        let zone = TimeZone::get("Europe/Berlin").unwrap();

        assert_eq!(in_zone(winter, zone), "2023-11-14 23:13:20 CET");
        assert_eq!(rfc3339(winter), "2023-11-14T22:13:20Z");
        rfc3339(Timestamp(i64::MIN));
        rfc3339(Timestamp(i64::MAX));
    }

    #[test]
    fn spans_of_time_are_short() {
        assert_eq!(clock(Duration::from_secs(7)), "0:07");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(duration(Duration::from_millis(840)), "0.84 s");
        assert_eq!(duration(Duration::from_millis(2540)), "2.5 s");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_millis(59_700)), "1 min 0 s");
        assert_eq!(duration(Duration::from_secs(7500)), "2 h 5 min");
        assert_eq!(seconds(Duration::from_micros(1_234_567)), 1.235);
    }
}
