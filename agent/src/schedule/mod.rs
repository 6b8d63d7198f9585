//! When something is due: pure functions from a text of the configuration and a moment to the next moment.
//!
//! Times of day belong to a zone. Where the clock is put forward, what falls into the skipped hour runs at the minute after it; where it is put back,
//! what falls into the doubled hour runs the first time only. Intervals, and schedules that mean every hour, know no days: they go on through both.

mod calendar;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use storepool::clock::Timestamp;

use calendar::Calendar;

const NANOS: i64 = 1_000_000_000;

/// When something is to be done, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    text: String,
    rule: Rule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// At every multiple of so many seconds since 1970, so that a restart of the program moves nothing.
    Every(u64),
    /// At times of day of certain days.
    Calendar(Calendar),
}

impl Schedule {
    /// Returns the first moment after `after` at which it is due, in `zone`. `None` beyond the years the time library knows.
    pub(crate) fn next_run(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(seconds) => {
                let period = i64::try_from(*seconds).ok()?.checked_mul(NANOS)?;
                (after.0.div_euclid(period) + 1).checked_mul(period).map(Timestamp)
            }
            Rule::Calendar(calendar) => calendar.next_run(after, zone),
        }
    }

    /// Returns the longest time between two runs in the two years after `from`: what tells a late run from a usual one.
    pub(crate) fn longest_gap(&self, from: Timestamp, zone: &TimeZone) -> Duration {
        // Of a schedule that runs often, a few weeks say all; of a yearly one two runs do.
        const LOOKED_AT: usize = 400;
        const HORIZON: i64 = 2 * 366 * 86_400 * NANOS;
        if let Rule::Every(seconds) = self.rule {
            return Duration::from_secs(seconds);
        }
        let mut longest = 0;
        let mut last = None;
        let mut moment = from;
        for _ in 0..LOOKED_AT {
            let Some(next) = self.next_run(moment, zone) else { break };
            longest = last.map_or(longest, |last: Timestamp| longest.max(next.0 - last.0));
            if next.0 - from.0 > HORIZON && longest > 0 {
                break;
            }
            last = Some(next);
            moment = next;
        }
        Duration::from_nanos(longest.unsigned_abs())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = parse::rule(text)?;
        let schedule = Self { text: text.trim().to_string(), rule };
        // The 30th of February.
        match schedule.next_run(Timestamp(0), &TimeZone::UTC) {
            Some(_) => Ok(schedule),
            None => Err(format!("\"{text}\" never comes")),
        }
    }
}
