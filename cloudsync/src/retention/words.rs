//! The words of a retention policy: counts, lengths of time, periods, and the reasons for which points stay.

use std::fmt;
use std::str::FromStr;

use jiff::{Span, Zoned};

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

impl Count {
    pub(super) fn reaches(self, place: u32) -> bool {
        match self {
            Self::None => false,
            Self::Limited(count) => place <= count,
            Self::Unlimited => true,
        }
    }

    pub(super) fn limit(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Limited(count) => Some(u64::from(count)),
            Self::Unlimited => None,
        }
    }

    pub(super) fn covers(self, least: Self) -> bool {
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
    pub(super) fn before(&self, time: &Zoned) -> Option<Zoned> {
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
    pub(super) fn of(self, time: &Zoned) -> (i16, i16, i32) {
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
