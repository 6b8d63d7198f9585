//! The way from a base to a place after it: which timeline, which segments, and whether all of them are there.

use std::collections::BTreeMap;

use storepool::clock::Timestamp;
use storepool::entry::FileTime;

use super::base::BaseDetail;
use super::error::PostgresError;
use super::lsn::{Lsn, Segment, WalFile};
use crate::console::units::rfc3339;

/// How far a cluster is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the end of the base, without any other WAL.
    Base,
    /// To the end of the WAL.
    Latest,
    /// To the last transaction that was committed by then.
    Time(Timestamp),
    /// To this place.
    Lsn(Lsn),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Base => f.write_str("the end of the base"),
            Self::Latest => f.write_str("the end of the WAL"),
            Self::Time(time) => f.write_str(&rfc3339(*time)),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
        }
    }
}

/// A timeline on the way, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leg {
    timeline: u32,
    begin: Lsn,
}

/// The way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The timeline it ends on.
    pub(crate) timeline: u32,
    /// The files that recovery is given, by name.
    pub(crate) files: Vec<String>,
}

// Segments without a gap.
struct Stretch {
    files: Vec<String>,
    // The first segment that is not there.
    number: u64,
    // When the one before it was written to last.
    newest: Option<FileTime>,
}

/// How far the WAL leads on from a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// When the last segment before a gap or the end was written to last; `None`: none leads on from the base.
    pub(crate) newest: Option<Timestamp>,
    /// The first segment that is missing though there are later ones.
    pub(crate) missing: Option<String>,
}

/// What is known of the WAL that there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    /// When each file was written to last.
    pub(crate) files: BTreeMap<String, FileTime>,
    /// The histories of timelines, by timeline.
    pub(crate) histories: BTreeMap<u32, String>,
}

impl Shelf {
    /// Plans the way from the end of `base` to `target`, on `timeline` or else on the newest that leads on from the base.
    ///
    /// # Errors
    /// [`PostgresError::TargetTooEarly`], [`PostgresError::WalMissing`]: the target cannot be reached, and how far one would come.
    pub(crate) fn route(
        &self,
        base: &BaseDetail,
        target: Target,
        timeline: Option<u32>,
    ) -> Result<Route, PostgresError> {
        if target == Target::Base {
            return Ok(Route { timeline: base.timeline, files: Vec::new() });
        }
        if let Target::Lsn(lsn) = target
            && lsn < base.end
        {
            let consistent = format!("LSN {}", base.end);
            return Err(PostgresError::TargetTooEarly { consistent, wanted: target.to_string() });
        }
        let legs = self.legs(base, timeline)?;
        let mut files: Vec<String> = self.histories.keys().map(|id| history_name(*id)).collect();
        let stretch = self.stretch(&legs, base);
        self.must_reach(target, &legs, &stretch, base.wal_segment_bytes)?;
        files.extend(stretch.files);
        let timeline = legs.last().map_or(base.timeline, |leg| leg.timeline);
        Ok(Route { timeline, files })
    }

    /// Returns how far the WAL leads on from the end of `base`, on the newest timeline that does.
    ///
    /// # Errors
    /// [`PostgresError::Unusable`]: the history of a timeline is none.
    pub(crate) fn end(&self, base: &BaseDetail) -> Result<LogEnd, PostgresError> {
        let legs = self.legs(base, None)?;
        let size = base.wal_segment_bytes;
        let stretch = self.stretch(&legs, base);
        let missing = self
            .has_gap(&legs, stretch.number, size)
            .then(|| first_missing(&legs, stretch.number, size));
        Ok(LogEnd { newest: stretch.newest.map(|time| Timestamp(nanoseconds(time))), missing })
    }

    // The segments that follow each other from the end of a base on.
    fn stretch(&self, legs: &[Leg], base: &BaseDetail) -> Stretch {
        let size = base.wal_segment_bytes;
        // The server switches segments when a base ends, and the base has all up to there; recovery may have the last one from either place.
        let own = base.end.0.saturating_sub(1) / size;
        let mut stretch =
            Stretch { files: self.at(legs, own, size), number: own + 1, newest: None };
        loop {
            let found = self.at(legs, stretch.number, size);
            let Some(time) = found.iter().filter_map(|name| self.files.get(name)).max() else {
                return stretch;
            };
            stretch.newest = Some(*time);
            stretch.files.extend(found);
            stretch.number += 1;
        }
    }

    // Whether there are segments behind one that is not there.
    fn has_gap(&self, legs: &[Leg], number: u64, size: u64) -> bool {
        self.files.keys().any(|name| match WalFile::parse(name) {
            Some(WalFile::Segment(other)) => {
                other.number(size) > number && legs.iter().any(|leg| leg.timeline == other.timeline)
            }
            _ => false,
        })
    }

    fn must_reach(
        &self,
        target: Target,
        legs: &[Leg],
        stretch: &Stretch,
        size: u64,
    ) -> Result<(), PostgresError> {
        let (number, newest) = (stretch.number, stretch.newest);
        let reachable = Lsn(number * size);
        let reaches = match target {
            Target::Base => true,
            Target::Latest => !self.has_gap(legs, number, size),
            Target::Lsn(lsn) => lsn <= reachable,
            Target::Time(time) => newest.is_some_and(|newest| nanoseconds(newest) >= time.0),
        };
        if reaches {
            return Ok(());
        }
        let segment = first_missing(legs, number, size);
        let reachable = match (target, newest) {
            (Target::Time(_), Some(newest)) => rfc3339(Timestamp(nanoseconds(newest))),
            (Target::Time(_), None) => "only the end of the base".to_string(),
            _ => format!("LSN {reachable}"),
        };
        let wanted = target.to_string();
        Err(PostgresError::WalMissing { segment, reachable, wanted })
    }

    // The segments of a number that recovery may use: of each timeline that had begun by then.
    fn at(&self, legs: &[Leg], number: u64, size: u64) -> Vec<String> {
        let begun = legs.iter().filter(|leg| leg.begin.0 / size <= number);
        let names = begun.map(|leg| Segment::numbered(leg.timeline, number, size).to_string());
        names.filter(|name| self.files.contains_key(name)).collect()
    }

    fn legs(&self, base: &BaseDetail, timeline: Option<u32>) -> Result<Vec<Leg>, PostgresError> {
        let own = vec![Leg { timeline: base.timeline, begin: Lsn(0) }];
        let ids = self.histories.keys().rev().copied();
        for id in ids.filter(|id| timeline.is_none_or(|wanted| wanted == *id)) {
            let legs = self.history(id)?;
            if leads_on_from(&legs, base) {
                return Ok(legs);
            }
        }
        match timeline {
            Some(wanted) if wanted != base.timeline => Err(PostgresError::Unusable {
                object: format!("timeline {wanted}"),
                why: "no history in the pool leads to it from this base".to_string(),
            }),
            _ => Ok(own),
        }
    }

    fn history(&self, timeline: u32) -> Result<Vec<Leg>, PostgresError> {
        let wrong = || PostgresError::Unusable {
            object: history_name(timeline),
            why: "it is no history of a timeline".to_string(),
        };
        let mut legs = Vec::new();
        let mut begin = Lsn(0);
        let text = self.histories.get(&timeline).map(String::as_str).unwrap_or_default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let parent = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
            legs.push(Leg { timeline: parent, begin });
            begin = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        }
        legs.push(Leg { timeline, begin });
        Ok(legs)
    }
}

fn first_missing(legs: &[Leg], number: u64, size: u64) -> String {
    let last = legs.iter().rfind(|leg| leg.begin.0 / size <= number);
    Segment::numbered(last.map_or(1, |leg| leg.timeline), number, size).to_string()
}

// The base lies on the way, and the way left its timeline only after its end.
fn leads_on_from(legs: &[Leg], base: &BaseDetail) -> bool {
    let place = legs.iter().position(|leg| leg.timeline == base.timeline);
    let Some(place) = place else { return false };
    legs.get(place + 1).is_none_or(|next| next.begin >= base.end)
}

/// Returns the name of the history of a timeline.
pub(crate) fn history_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

fn nanoseconds(time: FileTime) -> i64 {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

#[cfg(test)]
mod tests {
    use super::super::base::DETAIL_FORMAT;
    use super::*;

    const SIZE: u64 = 16 << 20;

    fn base() -> BaseDetail {
        BaseDetail {
            format: DETAIL_FORMAT,
            system_identifier: "7".to_string(),
            server_version: 150_018,
            wal_segment_bytes: SIZE,
            timeline: 1,
            start: Lsn(2 * SIZE + 40),
            end: Lsn(2 * SIZE + 300),
            page_checksums: true,
            archives: Vec::new(),
        }
    }

    // Segments by timeline and number; each was written to last at its number in seconds.
    fn shelf(segments: &[(u32, u64)]) -> Shelf {
        let mut shelf = Shelf::default();
        for (timeline, number) in segments {
            let name = Segment::numbered(*timeline, *number, SIZE).to_string();
            let time = FileTime { seconds: *number as i64, nanos: 0 };
            shelf.files.insert(name, time);
        }
        shelf
    }

    fn missing(result: Result<Route, PostgresError>) -> String {
        match result {
            Err(PostgresError::WalMissing { segment, .. }) => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_gap_everything_up_to_the_end_is_given() {
        let shelf = shelf(&[(1, 1), (1, 2), (1, 3), (1, 4)]);

        let route = shelf.route(&base(), Target::Latest, None).unwrap();

        assert_eq!(route.timeline, 1);
        assert_eq!(
            route.files,
            ["000000010000000000000002", "000000010000000000000003", "000000010000000000000004"]
        );
        let without_own = Shelf {
            files: shelf
                .files
                .clone()
                .into_iter()
                .filter(|(name, _)| !name.ends_with('2'))
                .collect(),
            ..Shelf::default()
        };
        assert_eq!(without_own.route(&base(), Target::Latest, None).unwrap().files.len(), 2);
        let base_only = shelf.route(&base(), Target::Base, None).unwrap();
        assert!(base_only.files.is_empty());
    }

    #[test]
    fn a_gap_stops_only_who_wants_to_cross_it() {
        let shelf = shelf(&[(1, 2), (1, 3), (1, 5)]);
        let route = |target| shelf.route(&base(), target, None);

        assert_eq!(missing(route(Target::Latest)), "000000010000000000000004");
        let end = shelf.end(&base()).unwrap();
        assert_eq!(end.missing.as_deref(), Some("000000010000000000000004"));
        assert_eq!(end.newest, Some(Timestamp(3_000_000_000)));
        assert_eq!(missing(route(Target::Lsn(Lsn(4 * SIZE + 1)))), "000000010000000000000004");
        assert_eq!(
            missing(route(Target::Time(Timestamp(4_000_000_000)))),
            "000000010000000000000004"
        );
        assert!(route(Target::Lsn(Lsn(4 * SIZE))).is_ok());
        assert!(route(Target::Time(Timestamp(3_000_000_000))).is_ok());
    }

    #[test]
    fn what_was_not_archived_yet_cannot_be_reached() {
        let shelf = shelf(&[(1, 2), (1, 3)]);
        let route = |target| shelf.route(&base(), target, None);

        assert_eq!(
            missing(route(Target::Time(Timestamp(9_000_000_000)))),
            "000000010000000000000004"
        );
        assert!(matches!(
            route(Target::Lsn(Lsn(2 * SIZE))),
            Err(PostgresError::TargetTooEarly { .. })
        ));
    }

    #[test]
    fn the_newest_timeline_that_leads_on_from_the_base_is_followed() {
        let mut shelf = shelf(&[(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 2)]);
        let left_at = |lsn: u64| format!("1\t{}\tno recovery target specified\n", Lsn(lsn));
        shelf.histories.insert(2, left_at(3 * SIZE + 100));
        // Left before the base was at its end.
        shelf.histories.insert(3, left_at(2 * SIZE + 100));

        let route = shelf.route(&base(), Target::Latest, None).unwrap();
        assert_eq!(route.timeline, 2);
        assert!(route.files.contains(&"00000002.history".to_string()));
        assert!(route.files.contains(&"000000020000000000000004".to_string()));
        assert!(!route.files.contains(&"000000020000000000000002".to_string()));

        let other = shelf.route(&base(), Target::Latest, Some(1)).unwrap();
        assert_eq!(other.timeline, 1);
        assert!(!other.files.contains(&"000000020000000000000003".to_string()));
        assert!(shelf.route(&base(), Target::Latest, Some(3)).is_err());
    }
}
