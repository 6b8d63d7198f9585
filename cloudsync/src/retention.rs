//! Which points stay and why: a pure function, used for disk and vault alike.
//!
//! Nothing is decided by the clock alone. `within` counts back from the newest point, not from now: when backups stop, nothing expires. A point from
//! the future (a clock was wrong) stays and takes no other point's place, and the newest point of a series always stays.

mod limits;
#[cfg(test)]
mod tests;
mod words;

use std::collections::HashSet;

use jiff::Zoned;
use jiff::tz::TimeZone;
use storepool::clock::Timestamp;

pub use limits::{POINTS_PER_SOURCE, POINTS_WARNING, floor};
pub use words::{Count, KeepReason, Period, Within};

/// How many points of each period stay. Of each hour, day, ... the newest point counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The newest points, whatever their time.
    pub last: Count,
    /// Hours that have a point.
    pub hourly: Count,
    /// Days.
    pub daily: Count,
    /// Weeks, from Monday on.
    pub weekly: Count,
    /// Months.
    pub monthly: Count,
    /// Years.
    pub yearly: Count,
    /// Everything not older than this, counted back from the newest point.
    pub within: Option<Within>,
    /// Everything with one of these tags.
    pub tags: Vec<String>,
}

/// A point as retention sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// When its run began.
    pub started: Timestamp,
    /// Its tags.
    pub tags: Vec<String>,
    /// Why it is pinned, if it is.
    pub pinned: Option<String>,
}

/// The decision about every point of a series, in the order in which the points were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionPlan {
    decisions: Vec<Vec<KeepReason>>,
}

impl RetentionPolicy {
    /// Returns whether the policy asks for nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Decides about the points of one series, given in any order. Days and the like are those of `zone`.
    ///
    /// The newest point stays whatever the policy says, so a series never becomes empty.
    ///
    /// ```
    /// use cloudsync::retention::{Candidate, Count, RetentionPolicy};
    /// use storepool::clock::Timestamp;
    ///
    /// let day = 86_400_000_000_000;
    /// let points: Vec<_> = (0..10)
    ///     .map(|number| Candidate { started: Timestamp(number * day), tags: vec![], pinned: None })
    ///     .collect();
    /// let policy = RetentionPolicy { daily: Count::Limited(3), ..RetentionPolicy::default() };
    ///
    /// let plan = policy.plan(&points, &jiff::tz::TimeZone::UTC, Timestamp(11 * day));
    ///
    /// assert_eq!(plan.kept().collect::<Vec<_>>(), [7, 8, 9]);
    /// ```
    pub fn plan(&self, points: &[Candidate], zone: &TimeZone, now: Timestamp) -> RetentionPlan {
        let mut decisions = vec![Vec::new(); points.len()];
        let mut order: Vec<usize> = (0..points.len()).collect();
        // Newest first; of equal times the one that was given last is the newer.
        order.sort_by_key(|index| std::cmp::Reverse((points[*index].started, *index)));
        if let Some(newest) = order.first() {
            decisions[*newest].push(KeepReason::Newest);
        }
        for (point, reasons) in points.iter().zip(&mut decisions) {
            reasons.extend(point.pinned.iter().cloned().map(KeepReason::Pinned));
            let tags = self.tags.iter().filter(|tag| point.tags.contains(tag));
            reasons.extend(tags.cloned().map(KeepReason::Tag));
            if point.started > now {
                reasons.push(KeepReason::Future);
            }
        }
        order.retain(|index| points[*index].started <= now);
        let times: Vec<Zoned> =
            order.iter().map(|index| zoned(points[*index].started, zone)).collect();
        for (place, index) in order.iter().enumerate() {
            let place = u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1);
            if self.last.reaches(place) {
                decisions[*index].push(KeepReason::Last(place));
            }
        }
        if let (Some(within), Some(newest)) = (self.within, times.first()) {
            let since = within.before(newest);
            for (index, time) in order.iter().zip(&times) {
                if since.as_ref().is_none_or(|since| time >= since) {
                    decisions[*index].push(KeepReason::Within(within));
                }
            }
        }
        for (period, count) in self.periods() {
            let mut seen = HashSet::new();
            for (index, time) in order.iter().zip(&times) {
                let fresh = !seen.contains(&period.of(time));
                let next = u32::try_from(seen.len()).unwrap_or(u32::MAX).saturating_add(1);
                if !count.reaches(next) {
                    break;
                }
                if fresh {
                    seen.insert(period.of(time));
                    decisions[*index].push(KeepReason::Period(period));
                } else if Some(index) == order.last() {
                    // Otherwise a young series would lose its beginning, though the policy asks for a longer history than there is.
                    decisions[*index].push(KeepReason::Oldest(period));
                }
            }
        }
        RetentionPlan { decisions }
    }

    /// Returns how many points the policy can hold at most, tags, pins and `within` aside; `None` without limit.
    pub fn points_most(&self) -> Option<u64> {
        let mut sum = self.last.limit()?;
        for (_, count) in self.periods() {
            sum += count.limit()?;
        }
        Some(sum)
    }

    /// Returns the periods for which this policy asks for fewer points than `floor`, with both numbers.
    pub fn below(&self, floor: &RetentionPolicy) -> Vec<(Period, Count, Count)> {
        let pairs = self.periods().into_iter().zip(floor.periods());
        pairs
            .filter(|((_, own), (_, least))| !own.covers(*least))
            .map(|((period, own), (_, least))| (period, own, least))
            .collect()
    }

    fn periods(&self) -> [(Period, Count); 5] {
        [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year]
            .map(|period| (period, self.count(period)))
    }
}

impl RetentionPlan {
    /// Returns why the point at `index` stays; empty if it goes.
    pub fn reasons(&self, index: usize) -> &[KeepReason] {
        &self.decisions[index]
    }

    /// Returns the places of the points that stay.
    pub fn kept(&self) -> impl Iterator<Item = usize> {
        let decisions = self.decisions.iter().enumerate();
        decisions.filter(|(_, reasons)| !reasons.is_empty()).map(|(index, _)| index)
    }

    /// Returns the places of the points that go.
    pub fn removed(&self) -> impl Iterator<Item = usize> {
        let decisions = self.decisions.iter().enumerate();
        decisions.filter(|(_, reasons)| reasons.is_empty()).map(|(index, _)| index)
    }
}

fn zoned(time: Timestamp, zone: &TimeZone) -> Zoned {
    jiff::Timestamp::from_nanosecond(i128::from(time.0))
        .expect("64 bits of nanoseconds are within the years of the calendar")
        .to_zoned(zone.clone())
}
