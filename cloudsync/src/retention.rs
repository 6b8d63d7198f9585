//! Which points stay and why: a pure function, used for disk and vault alike.
//!
//! Nothing is decided by the clock alone. `within` counts back from the newest point, not from now: when backups stop, nothing expires. A point from
//! the future (a clock was wrong) stays and takes no other point's place, and the newest point of a series always stays.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use storepool::clock::Timestamp;

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

/// A number of points or periods, possibly without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// So many.
    Limited(u32),
    /// All there are.
    Unlimited,
    /// None; the policy does not ask for such points.
    #[default]
    None,
}

/// A length of calendar time such as `1y6m14d12h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Within {
    /// Years.
    pub years: u16,
    /// Months.
    pub months: u16,
    /// Weeks.
    pub weeks: u16,
    /// Days.
    pub days: u16,
    /// Hours.
    pub hours: u16,
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

/// Why a point stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeepReason {
    /// It is the newest of its series.
    Newest,
    /// It is pinned, for this reason.
    Pinned(String),
    /// It has this tag.
    Tag(String),
    /// It is among the newest, at this place.
    Last(u32),
    /// It is not older than the policy's `within`.
    Within(Within),
    /// It is the newest of its period.
    Period(Period),
    /// It is the oldest, and there are fewer periods with points than the policy asks for.
    Oldest(Period),
    /// It was made later than now: a clock is or was wrong.
    Future,
}

/// A period of which one point stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
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
        [
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Year, self.yearly),
        ]
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

impl Count {
    fn reaches(self, place: u32) -> bool {
        match self {
            Self::None => false,
            Self::Limited(count) => place <= count,
            Self::Unlimited => true,
        }
    }

    fn limit(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Limited(count) => Some(u64::from(count)),
            Self::Unlimited => None,
        }
    }

    fn covers(self, least: Self) -> bool {
        match (self.limit(), least.limit()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(least)) => own >= least,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("0"),
            Self::Limited(count) => write!(f, "{count}"),
            Self::Unlimited => f.write_str("all"),
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" | "unlimited" | "-1" => Ok(Self::Unlimited),
            _ => match text.parse() {
                Ok(0) => Ok(Self::None),
                Ok(count) => Ok(Self::Limited(count)),
                Err(_) => Err(format!("\"{text}\" is neither a number nor \"all\"")),
            },
        }
    }
}

impl Within {
    /// Returns the moment that lies this long before `time`; `None` if that is before the calendar begins.
    fn before(&self, time: &Zoned) -> Option<Zoned> {
        let span = Span::new()
            .try_years(self.years)
            .and_then(|span| span.try_months(self.months))
            .and_then(|span| span.try_weeks(self.weeks))
            .and_then(|span| span.try_days(self.days))
            .and_then(|span| span.try_hours(self.hours))
            .ok()?;
        time.checked_sub(span).ok()
    }

    fn parts(&self) -> [(u16, char); 5] {
        [
            (self.years, 'y'),
            (self.months, 'm'),
            (self.weeks, 'w'),
            (self.days, 'd'),
            (self.hours, 'h'),
        ]
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in self.parts().into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{number}{unit}")?;
        }
        Ok(())
    }
}

impl FromStr for Within {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is not a length of time such as 14d, 8w or 1y6m (m are months)");
        let mut within = Self::default();
        let mut rest = text;
        let mut units = "ymwdh";
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: u16 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
            // Each unit once, the largest first.
            let place = units.find(unit).ok_or_else(wrong)?;
            units = &units[place + 1..];
            *match unit {
                'y' => &mut within.years,
                'm' => &mut within.months,
                'w' => &mut within.weeks,
                'd' => &mut within.days,
                _ => &mut within.hours,
            } = number;
            rest = &rest[digits + 1..];
        }
        if within == Self::default() { Err(wrong()) } else { Ok(within) }
    }
}

impl Period {
    // Equal for two moments exactly if they are in the same period.
    fn of(self, time: &Zoned) -> (i16, i16, i32) {
        match self {
            // With the offset: of the two equal hours in autumn each has its own point.
            Self::Hour => {
                let hour = i32::from(time.hour()) * 1_000_000 + time.offset().seconds();
                (time.year(), time.day_of_year(), hour)
            }
            Self::Day => (time.year(), time.day_of_year(), 0),
            Self::Week => {
                let week = time.date().iso_week_date();
                (week.year(), i16::from(week.week()), 0)
            }
            Self::Month => (time.year(), i16::from(time.month()), 0),
            Self::Year => (time.year(), 0, 0),
        }
    }

    /// Returns the word in `keep-daily` and the like.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Pinned(reason) => write!(f, "pinned: {reason}"),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Last(place) => write!(f, "last {place}"),
            Self::Within(within) => write!(f, "within {within}"),
            Self::Period(period) => f.write_str(period.word()),
            Self::Oldest(period) => write!(f, "oldest, {}", period.word()),
            Self::Future => f.write_str("in the future"),
        }
    }
}

fn zoned(time: Timestamp, zone: &TimeZone) -> Zoned {
    jiff::Timestamp::from_nanosecond(i128::from(time.0))
        .expect("64 bits of nanoseconds are within the years of the calendar")
        .to_zoned(zone.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn at(time: &str) -> Timestamp {
        let nanos = time.parse::<jiff::Timestamp>().unwrap().as_nanosecond();
        Timestamp(i64::try_from(nanos).unwrap())
    }

    fn points(times: &[&str]) -> Vec<Candidate> {
        let point = |time: &&str| Candidate { started: at(time), tags: vec![], pinned: None };
        times.iter().map(point).collect()
    }

    fn reasons(
        policy: &RetentionPolicy,
        points: &[Candidate],
        zone: &str,
        now: &str,
    ) -> Vec<String> {
        let zone = TimeZone::get(zone).unwrap();
        let plan = policy.plan(points, &zone, at(now));
        (0..points.len())
            .map(|index| {
                let words: Vec<_> = plan.reasons(index).iter().map(ToString::to_string).collect();
                words.join("; ")
            })
            .collect()
    }

    #[test]
    fn each_part_of_a_policy_keeps_what_it_says() {
        let times = [
            "2024-12-30T10:00:00Z",
            "2025-11-01T10:00:00Z",
            "2026-03-01T09:00:00Z",
            "2026-03-01T10:00:00Z",
            "2026-03-07T10:00:00Z",
            "2026-03-08T09:00:00Z",
            "2026-03-08T10:30:00Z",
            "2026-03-08T10:45:00Z",
        ];
        let empty = RetentionPolicy::default;
        let two = Count::Limited(2);
        for (policy, expected) in [
            (empty(), ["", "", "", "", "", "", "", "newest"]),
            (
                RetentionPolicy { last: two, ..empty() },
                ["", "", "", "", "", "", "last 2", "newest; last 1"],
            ),
            (
                RetentionPolicy { hourly: two, ..empty() },
                ["", "", "", "", "", "hourly", "", "newest; hourly"],
            ),
            (
                RetentionPolicy { daily: two, ..empty() },
                ["", "", "", "", "daily", "", "", "newest; daily"],
            ),
            // The 8th of March 2026 is a Sunday and ends the week that began on the 2nd.
            (
                RetentionPolicy { weekly: two, ..empty() },
                ["", "", "", "weekly", "", "", "", "newest; weekly"],
            ),
            (
                RetentionPolicy { monthly: two, ..empty() },
                ["", "monthly", "", "", "", "", "", "newest; monthly"],
            ),
            (
                RetentionPolicy { yearly: two, ..empty() },
                ["", "yearly", "", "", "", "", "", "newest; yearly"],
            ),
            (
                RetentionPolicy { yearly: Count::Unlimited, ..empty() },
                ["yearly", "yearly", "", "", "", "", "", "newest; yearly"],
            ),
            (
                RetentionPolicy { within: Some("1d1h".parse().unwrap()), ..empty() },
                [
                    "",
                    "",
                    "",
                    "",
                    "within 1d1h",
                    "within 1d1h",
                    "within 1d1h",
                    "newest; within 1d1h",
                ],
            ),
            (
                RetentionPolicy { daily: two, weekly: two, ..empty() },
                ["", "", "", "weekly", "daily", "", "", "newest; daily; weekly"],
            ),
        ] {
            let found = reasons(&policy, &points(&times), "UTC", "2026-03-09T00:00:00Z");

            assert_eq!(found, expected, "{policy:?}");
        }
    }

    #[test]
    fn the_oldest_point_stays_while_the_history_is_shorter_than_the_policy() {
        let times = ["2026-03-01T09:00:00Z", "2026-03-01T10:00:00Z", "2026-03-02T10:00:00Z"];
        let policy = RetentionPolicy { daily: Count::Limited(3), ..RetentionPolicy::default() };

        let found = reasons(&policy, &points(&times), "UTC", "2026-03-03T00:00:00Z");

        assert_eq!(found, ["oldest, daily", "daily", "newest; daily"]);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let times = ["2026-01-01T04:30:00Z", "2026-01-01T05:30:00Z"];
        let policy = RetentionPolicy { daily: Count::Limited(9), ..RetentionPolicy::default() };

        let utc = reasons(&policy, &points(&times), "UTC", "2026-02-01T00:00:00Z");
        let york = reasons(&policy, &points(&times), "America/New_York", "2026-02-01T00:00:00Z");

        assert_eq!(utc, ["oldest, daily", "newest; daily"]);
        assert_eq!(york, ["daily", "newest; daily"]);
    }

    #[test]
    fn the_doubled_hour_has_two_points_and_the_skipped_one_harms_nothing() {
        let autumn = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T01:40:00Z"];
        let spring = ["2026-03-29T00:59:00Z", "2026-03-29T01:01:00Z"];
        let policy = RetentionPolicy { hourly: Count::Limited(9), ..RetentionPolicy::default() };
        let berlin = |times: &[&str]| {
            reasons(&policy, &points(times), "Europe/Berlin", "2027-01-01T00:00:00Z")
        };

        assert_eq!(berlin(&autumn), ["hourly", "", "newest; hourly"]);
        assert_eq!(berlin(&spring), ["hourly", "newest; hourly"]);
    }

    #[test]
    fn a_week_belongs_to_one_year_only() {
        let times = ["2025-12-29T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-05T00:00:00Z"];
        let policy = RetentionPolicy { weekly: Count::Limited(5), ..RetentionPolicy::default() };

        let found = reasons(&policy, &points(&times), "UTC", "2026-02-01T00:00:00Z");

        assert_eq!(found, ["oldest, weekly", "weekly", "newest; weekly"]);
    }

    #[test]
    fn when_backups_stop_nothing_expires() {
        let times = ["2020-01-01T00:00:00Z", "2020-01-05T00:00:00Z", "2020-01-06T00:00:00Z"];
        let policy =
            RetentionPolicy { within: Some("2d".parse().unwrap()), ..RetentionPolicy::default() };

        let soon = reasons(&policy, &points(&times), "UTC", "2020-01-07T00:00:00Z");
        let late = reasons(&policy, &points(&times), "UTC", "2035-01-07T00:00:00Z");

        assert_eq!(soon, late);
        assert_eq!(soon, ["", "within 2d", "newest; within 2d"]);
    }

    #[test]
    fn a_point_from_the_future_displaces_no_other() {
        let times = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2099-01-01T00:00:00Z"];
        let policy = RetentionPolicy {
            last: Count::Limited(1),
            daily: Count::Limited(1),
            within: Some("1h".parse().unwrap()),
            ..RetentionPolicy::default()
        };

        let found = reasons(&policy, &points(&times), "UTC", "2026-01-03T00:00:00Z");
        let before = reasons(&policy, &points(&times), "UTC", "1970-01-01T00:00:00Z");

        assert_eq!(found, ["", "last 1; within 1h; daily", "newest; in the future"]);
        assert!(before.iter().all(|reasons| reasons.ends_with("in the future")));
    }

    #[test]
    fn pins_and_tags_hold_a_point() {
        let mut list = points(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
        list.extend(points(&["2026-01-03T00:00:00Z"]));
        list[0].pinned = Some("before the upgrade".to_string());
        list[1].tags = vec!["release".to_string()];
        let policy =
            RetentionPolicy { tags: vec!["release".to_string()], ..RetentionPolicy::default() };

        let found = reasons(&policy, &list, "UTC", "2026-02-01T00:00:00Z");

        assert_eq!(found, ["pinned: before the upgrade", "tag release", "newest"]);
    }

    #[test]
    fn lengths_of_time_are_read_strictly() {
        let within: Within = "1y6m2w14d12h".parse().unwrap();

        assert_eq!(within.to_string(), "1y6m2w14d12h");
        for text in ["", "14", "d", "0d", "14s", "1d1y", "1d1d", "-1d", "1 d", "99999d", "1µ"] {
            assert!(text.parse::<Within>().is_err(), "{text}");
        }
        assert_eq!("all".parse(), Ok(Count::Unlimited));
        assert_eq!("0".parse(), Ok(Count::None));
        assert!("-2".parse::<Count>().is_err());
    }

    #[test]
    fn a_policy_below_the_floor_is_told_with_both_numbers() {
        let floor = RetentionPolicy {
            daily: Count::Limited(7),
            weekly: Count::Limited(4),
            ..RetentionPolicy::default()
        };
        let own = RetentionPolicy {
            daily: Count::Limited(5),
            weekly: Count::Unlimited,
            ..RetentionPolicy::default()
        };

        assert_eq!(own.below(&floor), [(Period::Day, Count::Limited(5), Count::Limited(7))]);
        assert_eq!(floor.points_most(), Some(11));
        assert_eq!(own.points_most(), None);
    }

    fn counts() -> impl Strategy<Value = Count> {
        prop_oneof![Just(Count::None), (1u32..6).prop_map(Count::Limited), Just(Count::Unlimited)]
    }

    fn policies() -> impl Strategy<Value = RetentionPolicy> {
        let within = prop_oneof![
            Just(None),
            (0u16..2, 0u16..3, 1u16..40).prop_map(|(years, months, days)| Some(Within {
                years,
                months,
                days,
                ..Within::default()
            }))
        ];
        (counts(), counts(), counts(), counts(), counts(), counts(), within).prop_map(
            |(last, hourly, daily, weekly, monthly, yearly, within)| RetentionPolicy {
                last,
                hourly,
                daily,
                weekly,
                monthly,
                yearly,
                within,
                tags: vec![],
            },
        )
    }

    fn series() -> impl Strategy<Value = Vec<Candidate>> {
        // Years around changes of the clock, in steps from minutes to months.
        let gaps = prop_oneof![0..HOUR, HOUR..30 * HOUR, 100 * HOUR..2000 * HOUR];
        (prop::collection::vec(gaps, 0..40), 1_600_000_000i64..1_800_000_000).prop_map(
            |(gaps, start)| {
                let mut time = start * 1_000_000_000;
                gaps.into_iter()
                    .map(|gap| {
                        time += gap;
                        Candidate { started: Timestamp(time), tags: vec![], pinned: None }
                    })
                    .collect()
            },
        )
    }

    fn zones() -> impl Strategy<Value = TimeZone> {
        prop::sample::select(vec![
            "UTC",
            "Europe/Berlin",
            "America/St_Johns",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Asia/Kathmandu",
        ])
        .prop_map(|name| TimeZone::get(name).expect("the zone is in the library's own table"))
    }

    fn grown(count: Count) -> Count {
        match count {
            Count::None => Count::Limited(1),
            Count::Limited(count) => Count::Limited(count + 1),
            Count::Unlimited => Count::Unlimited,
        }
    }

    proptest! {
        #[test]
        fn the_newest_stays_and_a_larger_policy_keeps_no_less(
            policy in policies(),
            points in series(),
            zone in zones(),
            part in 0usize..6,
        ) {
            let now = Timestamp(i64::MAX);
            let plan = policy.plan(&points, &zone, now);
            let mut larger = policy.clone();
            let count = match part {
                0 => &mut larger.last,
                1 => &mut larger.hourly,
                2 => &mut larger.daily,
                3 => &mut larger.weekly,
                4 => &mut larger.monthly,
                _ => &mut larger.yearly,
            };
            *count = grown(*count);

            let kept: HashSet<_> = plan.kept().collect();
            let more: HashSet<_> = larger.plan(&points, &zone, now).kept().collect();

            prop_assert!(kept.is_subset(&more));
            if let Some(newest) = points.len().checked_sub(1) {
                prop_assert!(kept.contains(&newest));
            }
            prop_assert_eq!(kept.len() + plan.removed().count(), points.len());
        }

        #[test]
        fn the_order_in_which_points_are_given_does_not_matter(
            policy in policies(),
            points in series(),
            zone in zones(),
        ) {
            let mut distinct = points;
            distinct.dedup_by_key(|point| point.started);
            let reversed: Vec<_> = distinct.iter().rev().cloned().collect();
            let now = Timestamp(i64::MAX);

            let plan = policy.plan(&distinct, &zone, now);
            let mirrored = policy.plan(&reversed, &zone, now);

            for index in 0..distinct.len() {
                prop_assert_eq!(
                    plan.reasons(index),
                    mirrored.reasons(distinct.len() - 1 - index)
                );
            }
        }

        #[test]
        fn what_one_run_keeps_the_next_keeps_too(
            policy in policies(),
            points in series(),
            zone in zones(),
        ) {
            let now = Timestamp(i64::MAX);
            let plan = policy.plan(&points, &zone, now);
            let left: Vec<_> = plan.kept().map(|index| points[index].clone()).collect();

            let again = policy.plan(&left, &zone, now);

            prop_assert_eq!(again.removed().count(), 0);
        }
    }
}
