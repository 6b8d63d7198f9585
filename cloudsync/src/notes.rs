//! What people attach to points, pins and tags, on its way from the pool to the vault: a pin holds there too, and
//! still holds when the pool is lost.

use storepool::catalog::Point;
use storepool::clock::Timestamp;

use crate::vault::commit::{PointNotes, PointRecord};

/// The reason of the pin that a point gets which was made on demand, with its own date of expiry.
pub const ON_DEMAND: &str = "on demand";
/// The date of a pin without an end.
pub const FOR_EVER: Timestamp = Timestamp(i64::MAX);

/// Returns what the vault is to remember of a point's notes: of several pins the one that ends last.
pub fn notes_of(point: &Point) -> PointNotes {
    let ends = point.notes.pins.iter().map(|pin| pin.until.map_or(FOR_EVER, Timestamp));
    let mut tags = point.notes.tags.clone();
    tags.sort();
    tags.dedup();
    PointNotes {
        point: point.id,
        keep_until: ends.max(),
        on_demand: point.notes.pins.iter().any(|pin| pin.reason == ON_DEMAND),
        tags,
    }
}

/// Returns whether a point in the vault already has these notes.
pub fn are_noted(record: &PointRecord, notes: &PointNotes) -> bool {
    record.keep_until == notes.keep_until
        && record.on_demand == notes.on_demand
        && record.tags == notes.tags
}

/// Returns why retention leaves a point of the vault alone at the moment `now`, if it does.
pub fn pinned(record: &PointRecord, now: Timestamp) -> Option<String> {
    let until = record.keep_until.filter(|until| *until > now)?;
    let what = if record.on_demand { "on demand" } else { "kept" };
    Some(match until == FOR_EVER {
        true => what.to_string(),
        false => format!("{what} until {}", crate::vault::plain::date(until)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use storepool::catalog::{Notes, Pin};
    use storepool::id::{ChunkId, PointId};

    fn point(pins: &[(&str, Option<i64>)]) -> Point {
        let pin = |(reason, until): &(&str, Option<i64>)| Pin {
            reason: (*reason).to_string(),
            until: *until,
        };
        Point {
            id: PointId([1; 32]),
            started: Timestamp(0),
            finished: Timestamp(0),
            host: String::new(),
            group: String::new(),
            source: String::new(),
            workload: String::new(),
            paths: Vec::new(),
            root: ChunkId([0; 32]),
            files: 0,
            bytes: 0,
            bytes_stored: 0,
            problem_count: 0,
            notes: Notes {
                tags: vec!["b".into(), "a".into(), "b".into()],
                pins: pins.iter().map(pin).collect(),
                ..Notes::default()
            },
        }
    }

    #[test]
    fn the_pin_that_ends_last_counts() {
        for (pins, until, on_demand) in [
            (vec![], None, false),
            (vec![("audit", Some(5)), (ON_DEMAND, Some(3))], Some(5), true),
            (vec![("audit", Some(5)), ("law", None)], Some(i64::MAX), false),
        ] {
            let notes = notes_of(&point(&pins));

            assert_eq!(notes.keep_until, until.map(Timestamp), "{pins:?}");
            assert_eq!(notes.on_demand, on_demand, "{pins:?}");
            assert_eq!(notes.tags, ["a", "b"]);
        }
    }
}
