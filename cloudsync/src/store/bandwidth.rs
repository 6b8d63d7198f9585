//! How fast to upload: a limit that depends on the hour of the week, and the bucket of tokens that keeps it.
//!
//! The calendar is pure: it is asked with a local time and knows nothing of zones. The limiter is shared by
//! all uploads of a process and may be given another calendar at any moment; what is under way follows within
//! a second.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storepool::clock::{Clock, Timestamp};

const MINUTES_PER_DAY: u16 = 24 * 60;
const MINUTES_PER_WEEK: usize = 7 * MINUTES_PER_DAY as usize;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
// A piece takes about an eighth of a second, so that a new limit is in force at once and no server loses patience.
const PIECES_PER_SECOND: u64 = 8;
const PIECE_BYTES: std::ops::RangeInclusive<usize> = 512..=(256 << 10);
// What may be sent at once after a quiet time.
const BURST: Duration = Duration::from_millis(250);

/// Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// Returns the rate; `None` for zero, which would be no rate but a stop.
    pub fn new(bytes_per_second: u64) -> Option<Self> {
        NonZeroU64::new(bytes_per_second).map(Self)
    }

    /// Returns the bytes per second.
    pub fn bytes_per_second(self) -> u64 {
        self.0.get()
    }
}

/// A moment of a local week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeekMinute {
    /// Days since Monday, 0 to 6.
    pub weekday: u8,
    /// Minutes since midnight by the clock on the wall, 0 to 1,439.
    pub minute: u16,
}

impl WeekMinute {
    fn index(self) -> usize {
        let index = usize::from(self.weekday) * usize::from(MINUTES_PER_DAY);
        (index + usize::from(self.minute)) % MINUTES_PER_WEEK
    }
}

/// Some hours of some days: `Mon-Fri 08:00-18:00`, `Sat,Sun 00:00-24:00`, `22:00-06:00`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    days: [bool; 7],
    from: u16,
    // After `from`, up to the end of the next day: hours may pass midnight.
    to: u16,
}

impl Hours {
    // Minutes of the week; those of hours that begin late on Sunday go on on Monday.
    fn minutes(&self) -> impl Iterator<Item = usize> + '_ {
        let begins = (0..7).filter(|day| self.days[*day]);
        begins.flat_map(|day| {
            let midnight = day * usize::from(MINUTES_PER_DAY);
            (self.from..self.to)
                .map(move |minute| (midnight + usize::from(minute)) % MINUTES_PER_WEEK)
        })
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.days.iter().all(|day| *day) {
            let days = DAYS.iter().zip(self.days).filter(|(_, is)| *is).map(|(name, _)| *name);
            write!(f, "{} ", days.collect::<Vec<_>>().join(","))?;
        }
        // Midnight at the end of a day is 24:00; past it, the hours are those of the next day.
        let to = match self.to {
            ..=MINUTES_PER_DAY => self.to,
            later => later - MINUTES_PER_DAY,
        };
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, to / 60, to % 60)
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" is not like \"Mon-Fri 08:00-18:00\", \"Sat,Sun 00:00-24:00\" or \"22:00-06:00\""
            )
        };
        let mut words = text.split_whitespace();
        let (days, hours) = match (words.next(), words.next(), words.next()) {
            (Some(hours), None, None) => ([true; 7], hours),
            (Some(names), Some(hours), None) => (days(names).ok_or_else(wrong)?, hours),
            _ => return Err(wrong()),
        };
        let (from, to) = hours.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (time(from).ok_or_else(wrong)?, time(to).ok_or_else(wrong)?);
        if from == to || from == MINUTES_PER_DAY {
            return Err(wrong());
        }
        let to = if to < from { to + MINUTES_PER_DAY } else { to };
        Ok(Self { days, from, to })
    }
}

fn days(names: &str) -> Option<[bool; 7]> {
    let number = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in names.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        // Sat-Mon goes over the end of the week.
        let length = (last + 7 - first) % 7;
        for day in first..=first + length {
            days[day % 7] = true;
        }
    }
    Some(days)
}

fn time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= MINUTES_PER_DAY).then_some(time)
}

/// What limit holds when. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    default: Option<Rate>,
    hours: Vec<(Hours, Option<Rate>)>,
}

impl Calendar {
    /// Returns a calendar of one limit for all times.
    pub fn always(limit: Option<Rate>) -> Self {
        Self { default: limit, hours: Vec::new() }
    }

    /// Adds hours with a limit of their own.
    ///
    /// # Errors
    /// When a minute of them has one already: nobody could say which was meant.
    pub fn with(mut self, hours: Hours, limit: Option<Rate>) -> Result<Self, String> {
        let taken =
            |minute| self.hours.iter().any(|(other, _)| other.minutes().any(|own| own == minute));
        if let Some(minute) = hours.minutes().find(|minute| taken(*minute)) {
            let (day, minute) =
                (minute / usize::from(MINUTES_PER_DAY), minute % usize::from(MINUTES_PER_DAY));
            return Err(format!(
                "{} {:02}:{:02} has two limits",
                DAYS[day],
                minute / 60,
                minute % 60
            ));
        }
        self.hours.push((hours, limit));
        Ok(self)
    }

    /// Returns the limit outside of all hours that have one of their own.
    pub fn usual(&self) -> Option<Rate> {
        self.default
    }

    /// Returns the hours with limits of their own.
    pub fn hours(&self) -> impl Iterator<Item = (&Hours, Option<Rate>)> {
        self.hours.iter().map(|(hours, limit)| (hours, *limit))
    }

    /// Returns the limit at a moment.
    pub fn limit_at(&self, moment: WeekMinute) -> Option<Rate> {
        let index = moment.index();
        let own =
            self.hours.iter().find(|(hours, _)| hours.minutes().any(|minute| minute == index));
        own.map_or(self.default, |(_, limit)| *limit)
    }
}

/// Says which moment of the local week a time is.
pub type LocalWeek = Arc<dyn Fn(Timestamp) -> WeekMinute + Send + Sync>;

/// Lets bytes pass at the rate that the calendar says, shared by everything that uploads.
pub struct UploadLimiter {
    clock: Arc<dyn Clock>,
    local: LocalWeek,
    state: Mutex<State>,
}

struct State {
    calendar: Calendar,
    // The minute that `limit` was looked up for.
    minute: Option<i64>,
    limit: Option<Rate>,
    // Below zero is what was let pass on credit; whoever took it waits.
    tokens: f64,
    refilled: Duration,
}

impl UploadLimiter {
    /// Creates a limiter. `local` knows the time zone.
    pub fn new(calendar: Calendar, clock: Arc<dyn Clock>, local: LocalWeek) -> Self {
        let refilled = clock.monotonic();
        let state = State { calendar, minute: None, limit: None, tokens: 0.0, refilled };
        Self { clock, local, state: Mutex::new(state) }
    }

    /// Puts another calendar in force, for what is under way as well.
    pub fn set(&self, calendar: Calendar) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.calendar != calendar {
            state.calendar = calendar;
            state.minute = None;
            // Nobody waits for a debt that was made under another limit.
            state.tokens = state.tokens.max(0.0);
        }
    }

    /// Returns how many bytes to take at once, so that a change of the limit is followed soon.
    pub(super) fn piece(&self) -> usize {
        let limit = self.current().limit;
        let piece = limit.map(|limit| limit.bytes_per_second() / PIECES_PER_SECOND);
        let piece = piece.and_then(|piece| usize::try_from(piece).ok());
        piece.unwrap_or(*PIECE_BYTES.end()).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end())
    }

    /// Takes bytes and returns how long to wait before they are sent.
    pub(super) fn take(&self, bytes: usize) -> Duration {
        let now = self.clock.monotonic();
        let mut state = self.current();
        let Some(limit) = state.limit else { return Duration::ZERO };
        let rate = limit.bytes_per_second() as f64;
        let passed = now.saturating_sub(state.refilled).as_secs_f64();
        state.refilled = now;
        state.tokens = (state.tokens + passed * rate).min(rate * BURST.as_secs_f64());
        state.tokens -= bytes as f64;
        Duration::try_from_secs_f64(-state.tokens / rate).unwrap_or(Duration::ZERO)
    }

    /// Waits until so many bytes may be sent.
    pub(super) async fn wait_for(&self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let piece = self.piece().min(left);
            let pause = self.take(piece);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            left -= piece;
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, State> {
        let now = self.clock.now();
        let minute = now.seconds().div_euclid(60);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.minute != Some(minute) {
            let limit = state.calendar.limit_at((self.local)(now));
            if state.limit != limit {
                state.limit = limit;
                state.tokens = state.tokens.max(0.0);
                state.refilled = self.clock.monotonic();
            }
            state.minute = Some(minute);
        }
        state
    }
}

impl fmt::Debug for UploadLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("UploadLimiter")
            .field("calendar", &state.calendar)
            .field("limit", &state.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn rate(bytes_per_second: u64) -> Option<Rate> {
        Rate::new(bytes_per_second)
    }

    fn at(weekday: u8, hour: u16, minute: u16) -> WeekMinute {
        WeekMinute { weekday, minute: hour * 60 + minute }
    }

    fn calendar(hours: &[(&str, Option<Rate>)]) -> Result<Calendar, String> {
        hours.iter().try_fold(Calendar::default(), |calendar, (hours, limit)| {
            calendar.with(hours.parse()?, *limit)
        })
    }

    // Moves only when told to.
    #[derive(Default)]
    struct HandClock {
        millis: AtomicU64,
    }

    impl HandClock {
        fn pass(&self, millis: u64) {
            self.millis.fetch_add(millis, Ordering::Relaxed);
        }
    }

    impl Clock for HandClock {
        // Monday, the fifth of January 2026, from 07:59 on.
        fn now(&self) -> Timestamp {
            Timestamp((1_767_571_140_000 + self.millis.load(Ordering::Relaxed) as i64) * 1_000_000)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.millis.load(Ordering::Relaxed))
        }
    }

    // Midnight of that Monday in UTC is minute 0 here.
    fn monday() -> LocalWeek {
        Arc::new(|now: Timestamp| {
            let minutes = (now.seconds() - 1_767_571_140 + 7 * 3600 + 59 * 60) / 60;
            WeekMinute { weekday: (minutes / 1440) as u8, minute: (minutes % 1440) as u16 }
        })
    }

    #[test]
    fn hours_begin_at_their_first_minute_and_end_before_their_last() {
        let calendar = calendar(&[("Mon-Fri 08:00-18:00", rate(20))]).expect("a calendar");

        assert_eq!(calendar.limit_at(at(0, 7, 59)), None);
        assert_eq!(calendar.limit_at(at(0, 8, 0)), rate(20));
        assert_eq!(calendar.limit_at(at(4, 17, 59)), rate(20));
        assert_eq!(calendar.limit_at(at(4, 18, 0)), None);
        assert_eq!(calendar.limit_at(at(5, 12, 0)), None);
    }

    #[test]
    fn hours_may_pass_midnight_and_the_end_of_the_week() {
        let calendar = calendar(&[("Sun 22:00-06:00", rate(1)), ("Fri,Sat 23:30-24:00", rate(2))])
            .expect("sound");

        assert_eq!(calendar.limit_at(at(6, 22, 0)), rate(1));
        assert_eq!(calendar.limit_at(at(0, 5, 59)), rate(1));
        assert_eq!(calendar.limit_at(at(0, 6, 0)), None);
        assert_eq!(calendar.limit_at(at(0, 22, 0)), None);
        assert_eq!(calendar.limit_at(at(5, 23, 59)), rate(2));
        assert_eq!(calendar.limit_at(at(6, 0, 0)), None);
    }

    #[test]
    fn days_may_be_a_list_a_range_or_a_range_over_sunday() {
        let every = calendar(&[("12:00-13:00", rate(1))]).expect("sound");
        let over = calendar(&[("sat-mon 12:00-13:00", rate(1))]).expect("sound");

        let noon = |calendar: &Calendar| -> Vec<bool> {
            (0..7).map(|day| calendar.limit_at(at(day, 12, 0)).is_some()).collect()
        };
        assert_eq!(noon(&every), [true; 7]);
        assert_eq!(noon(&over), [true, false, false, false, false, true, true]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for wrong in [
            "",
            "08:00",
            "8:00-18:00",
            "08:00-08:00",
            "24:00-08:00",
            "08:60-09:00",
            "25:00-26:00",
            "Mon-Fry 08:00-18:00",
            "Mon 08:00-18:00 x",
            "Mo 08:00-18:00",
            "08:00-24:01",
            "-",
        ] {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
        let twice = calendar(&[("Mon-Fri 08:00-18:00", rate(1)), ("Wed 17:00-20:00", rate(2))]);
        assert_eq!(twice.expect_err("refused"), "Wed 17:00 has two limits");
    }

    #[test]
    fn bytes_pass_at_the_rate_whoever_sends_them() {
        let clock = Arc::new(HandClock::default());
        let limiter = UploadLimiter::new(Calendar::always(rate(1000)), clock.clone(), monday());

        let first = limiter.take(500);
        let second = limiter.take(500);
        clock.pass(1000);
        let third = limiter.take(500);

        assert_eq!(first, Duration::from_millis(500));
        assert_eq!(second, Duration::from_millis(1000));
        assert_eq!(third, Duration::from_millis(500));
        // After a quiet hour no more than a quarter of a second's worth goes at once.
        clock.pass(3_600_000);
        assert_eq!(limiter.take(1000), Duration::from_millis(750));
    }

    #[test]
    fn the_limit_follows_the_hour_and_a_new_calendar_at_once() {
        let clock = Arc::new(HandClock::default());
        let working = calendar(&[("Mon-Fri 08:00-18:00", rate(1000))]).expect("sound");
        let limiter = UploadLimiter::new(working, clock.clone(), monday());

        assert_eq!(limiter.take(1 << 30), Duration::ZERO);
        clock.pass(60_000);
        let at_eight = limiter.take(1000);
        limiter.set(Calendar::always(rate(4000)));
        let faster = limiter.take(1000);
        limiter.set(Calendar::default());

        assert_eq!(at_eight, Duration::from_secs(1));
        assert_eq!(faster, Duration::from_millis(250));
        assert_eq!(limiter.take(1 << 30), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_waits_for_its_turn() {
        struct Paused(tokio::time::Instant);
        impl Clock for Paused {
            fn now(&self) -> Timestamp {
                Timestamp(1_767_571_140_000_000_000)
            }
            fn monotonic(&self) -> Duration {
                self.0.elapsed()
            }
        }
        let start = tokio::time::Instant::now();
        let clock = Arc::new(Paused(start));
        let limiter = UploadLimiter::new(Calendar::always(rate(1 << 20)), clock, monday());

        limiter.wait_for(10 << 20).await;

        let took = start.elapsed().as_secs_f64();
        assert!((9.5..=10.5).contains(&took), "{took}");
    }
}
