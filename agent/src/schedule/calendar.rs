//! Days and times of day, and what becomes of them when the clock is moved.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use storepool::clock::Timestamp;

/// From one 29th of February to the next it takes eight years where a century begins; beyond that a rule never comes.
const DAYS_LOOKED_AT: usize = 9 * 366;

/// Times of day on certain days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    /// The days.
    pub(super) days: Days,
    /// Minutes of the day, sorted, each once.
    pub(super) minutes: Vec<u16>,
    /// Every hour is meant, so that a doubled hour has it twice.
    pub(super) hourly: bool,
}

/// Which days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Days {
    /// Every day.
    All,
    /// Bits of weekdays, Sunday first.
    Weekdays(u8),
    /// This day of each month; 31 is no day of April.
    MonthDay(i8),
    /// The last day of each month.
    LastDay,
    /// The first to fourth such weekday of the month, or with -1 the last.
    Nth(i8, Weekday),
    /// As cron has it.
    Cron {
        /// Bits of days of the month.
        days: u32,
        /// Bits of months.
        months: u16,
        /// Bits of weekdays.
        weekdays: u8,
        /// Both days and weekdays are restricted: then one of them is enough.
        either: bool,
    },
}

impl Days {
    fn take(&self, date: Date) -> bool {
        let weekday = 1_u8 << date.weekday().to_sunday_zero_offset();
        match self {
            Self::All => true,
            Self::Weekdays(bits) => bits & weekday != 0,
            Self::MonthDay(day) => date.day() == *day,
            Self::LastDay => date.day() == date.days_in_month(),
            Self::Nth(nth, day) => {
                date.nth_weekday_of_month(*nth, *day).is_ok_and(|chosen| chosen == date)
            }
            Self::Cron { days, months, weekdays, either } => {
                let by_day = days >> date.day() & 1 != 0;
                let by_weekday = weekdays & weekday != 0;
                let by_month = months >> date.month() & 1 != 0;
                by_month && if *either { by_day || by_weekday } else { by_day && by_weekday }
            }
        }
    }
}

impl Calendar {
    /// Returns the first moment after `after` in `zone`.
    pub(super) fn next_run(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let after = jiff::Timestamp::from_nanosecond(i128::from(after.0)).ok()?;
        // A skipped hour may carry yesterday's times over midnight.
        let mut date = after.to_zoned(zone.clone()).date().yesterday().ok()?;
        for _ in 0..DAYS_LOOKED_AT {
            if self.days.take(date) {
                let moments =
                    self.minutes.iter().flat_map(|minute| self.moments(date, *minute, zone));
                if let Some(next) = moments.flatten().filter(|moment| *moment > after).min() {
                    return i64::try_from(next.as_nanosecond()).ok().map(Timestamp);
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    // When the clock of the zone shows this minute of this day: usually once.
    fn moments(&self, date: Date, minute: u16, zone: &TimeZone) -> [Option<jiff::Timestamp>; 2] {
        let Ok(time) = Time::new((minute / 60) as i8, (minute % 60) as i8, 0, 0) else {
            return [None, None];
        };
        let local = DateTime::from_parts(date, time);
        let ambiguous = zone.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => [offset.to_timestamp(local).ok(), None],
            AmbiguousOffset::Gap { before, .. } => {
                // Taken with the old offset, it comes after the change: the last one up to then is the change itself.
                let late = before.to_timestamp(local).ok();
                let change = late.and_then(|late| {
                    let just_after = late.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
                    zone.preceding(just_after).next().map(|transition| transition.timestamp())
                });
                [change.or(late), None]
            }
            AmbiguousOffset::Fold { before, after } => [
                before.to_timestamp(local).ok(),
                if self.hourly { after.to_timestamp(local).ok() } else { None },
            ],
        }
    }
}
