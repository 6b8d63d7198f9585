//! Schedules as people write them: `15m`, `daily 02:00`, `weekly Sun 03:00`, `monthly last Fri 04:00`, or five fields of cron.

use std::time::Duration;

use jiff::civil::Weekday;

use super::Rule;
use super::calendar::{Calendar, Days};

/// What is said about a text that is no schedule.
const EXPECTED: &str = "expected a schedule such as \"15m\", \"daily 02:00\", \"weekly Sun 03:00\", \
                        \"monthly last Fri 04:00\", or five fields of cron";
/// Shortest and longest interval. Below, a run would be due before the last has ended; a day and more are said with a time of day.
const INTERVALS: std::ops::RangeInclusive<u64> = 10..=86_400;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [(&str, &str); 7] = [
    ("sun", "sunday"),
    ("mon", "monday"),
    ("tue", "tuesday"),
    ("wed", "wednesday"),
    ("thu", "thursday"),
    ("fri", "friday"),
    ("sat", "saturday"),
];

/// Reads a schedule.
pub(super) fn rule(text: &str) -> Result<Rule, String> {
    let lower = text.trim().to_ascii_lowercase();
    if let Ok(interval) = crate::duration::parse(&lower) {
        return every(interval);
    }
    // "08:00, 14:00" and "Mon, Wed" are lists, however they are spaced.
    let joined = lower.replace(", ", ",");
    let words: Vec<&str> = joined.split_ascii_whitespace().collect();
    let calendar = match words.as_slice() {
        ["@hourly"] => hourly("00"),
        ["hourly"] => hourly("00"),
        ["hourly", minute] => hourly(minute.trim_start_matches(':')),
        ["@daily"] | ["@midnight"] => at(Days::All, None),
        ["@weekly"] => at(Days::Weekdays(1), None),
        ["@monthly"] => at(Days::MonthDay(1), None),
        ["daily", rest @ ..] => at(Days::All, times(rest)?),
        ["weekly", days, rest @ ..] => at(Days::Weekdays(weekdays(days)?), times(rest)?),
        ["monthly", "last", rest @ ..] => match rest.split_first() {
            Some((day, rest)) if weekday(day).is_some() => {
                at(Days::Nth(-1, named(day)?), times(rest)?)
            }
            _ => at(Days::LastDay, times(rest)?),
        },
        ["monthly", nth @ ("1st" | "2nd" | "3rd" | "4th"), rest @ ..]
            if rest.first().is_some_and(|day| weekday(day).is_some()) =>
        {
            let number = nth.as_bytes()[0] - b'0';
            at(Days::Nth(number as i8, named(rest[0])?), times(&rest[1..])?)
        }
        ["monthly", day, rest @ ..] => {
            let digits = day.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
            let day = digits.parse().ok().filter(|day| (1..=31).contains(day));
            let day =
                day.ok_or_else(|| format!("\"{text}\": a month has days 1 to 31, or \"last\""))?;
            at(Days::MonthDay(day), times(rest)?)
        }
        [minute, hour, day, month, weekday] => cron(minute, hour, day, month, weekday),
        _ => return Err(EXPECTED.to_string()),
    };
    calendar.map(Rule::Calendar)
}

fn every(interval: Duration) -> Result<Rule, String> {
    let seconds = interval.as_secs();
    match INTERVALS.contains(&seconds) {
        true => Ok(Rule::Every(seconds)),
        false => Err(
            "an interval is 10s to 24h; for longer ones say \"daily\", \"weekly\" or \"monthly\" \
                      and a time"
                .to_string(),
        ),
    }
}

fn at(days: Days, minutes: Option<Vec<u16>>) -> Result<Calendar, String> {
    // Without a time the day begins it.
    Ok(Calendar { days, minutes: minutes.unwrap_or_else(|| vec![0]), hourly: false })
}

fn hourly(minute: &str) -> Result<Calendar, String> {
    let minute = minute.parse::<u16>().ok().filter(|minute| *minute < 60);
    let minute =
        minute.ok_or_else(|| "an hour has minutes 00 to 59: \"hourly :15\"".to_string())?;
    let minutes = (0..24).map(|hour| hour * 60 + minute).collect();
    Ok(Calendar { days: Days::All, minutes, hourly: true })
}

fn times(words: &[&str]) -> Result<Option<Vec<u16>>, String> {
    match words {
        [] => Ok(None),
        [list] => {
            let mut minutes = list.split(',').map(time).collect::<Result<Vec<_>, _>>()?;
            minutes.sort_unstable();
            minutes.dedup();
            Ok(Some(minutes))
        }
        _ => Err(EXPECTED.to_string()),
    }
}

fn time(text: &str) -> Result<u16, String> {
    let wrong = || format!("\"{text}\" is no time of day such as 02:00");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str, below: u16| {
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|number| plain && *number < below)
    };
    let (hour, minute) = (number(hour, 24), number(minute, 60).filter(|_| minute.len() == 2));
    Ok(hour.ok_or_else(wrong)? * 60 + minute.ok_or_else(wrong)?)
}

fn weekday(word: &str) -> Option<u32> {
    let place = WEEKDAYS.iter().position(|(short, long)| word == *short || word == *long);
    place.map(|place| place as u32)
}

fn named(word: &str) -> Result<Weekday, String> {
    let number = weekday(word).ok_or_else(|| format!("\"{word}\" is no day of the week"))?;
    Weekday::from_sunday_zero_offset(number as i8).map_err(|error| error.to_string())
}

/// Reads `sun`, `mon-fri` or `mon,wed`.
fn weekdays(text: &str) -> Result<u8, String> {
    let mut bits = 0;
    for part in text.split(',') {
        let wrong = || format!("\"{part}\" is no day of the week such as Sun or Mon-Fri");
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (weekday(first).ok_or_else(wrong)?, weekday(last).ok_or_else(wrong)?);
        let mut day = first;
        loop {
            bits |= 1 << day;
            if day == last {
                break;
            }
            // From Friday on to Monday the week begins again.
            day = (day + 1) % 7;
        }
    }
    Ok(bits)
}

fn cron(minute: &str, hour: &str, day: &str, month: &str, week: &str) -> Result<Calendar, String> {
    let minutes = field(minute, "minute", 0, 59, |_| None)?;
    let hours = field(hour, "hour", 0, 23, |_| None)?;
    let days = field(day, "day", 1, 31, |_| None)?;
    let months = field(month, "month", 1, 12, |word| {
        MONTHS.iter().position(|name| *name == word).map(|place| place as u64 + 1)
    })?;
    let week_bits = field(week, "weekday", 0, 7, |word| weekday(word).map(u64::from))?;
    // 7 is Sunday too.
    let week_bits = week_bits & 0x7f | week_bits >> 7;
    let bits = |set: u64, most: u16| (0..most).filter(move |number| set >> number & 1 != 0);
    let minutes =
        bits(hours, 24).flat_map(|hour| bits(minutes, 60).map(move |minute| hour * 60 + minute));
    Ok(Calendar {
        days: Days::Cron {
            days: days as u32,
            months: months as u16,
            weekdays: week_bits as u8,
            either: !day.starts_with('*') && !week.starts_with('*'),
        },
        minutes: minutes.collect(),
        hourly: hour == "*",
    })
}

/// Reads one field of cron into bits: `*`, `*/5`, `1-5`, `10-40/10`, `mon`, and lists of these.
fn field(
    text: &str,
    name: &str,
    least: u64,
    most: u64,
    word: impl Fn(&str) -> Option<u64>,
) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split(',') {
        let wrong = || match text.contains([':', '"'])
            || word(part).is_none() && !part.contains(|c: char| c.is_ascii_digit() || c == '*')
        {
            true => EXPECTED.to_string(),
            false => format!("\"{part}\" is no {name} of cron ({least} to {most})"),
        };
        let number = |text: &str| {
            let number = word(text).or_else(|| text.parse().ok());
            number.filter(|number| (least..=most).contains(number)).ok_or_else(wrong)
        };
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, step.parse().ok().filter(|step| *step > 0).ok_or_else(wrong)?)
            }
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((first, last)) => (number(first)?, number(last)?),
            // "5/15" goes on to the end.
            None if part.contains('/') => (number(range)?, most),
            None => (number(range)?, number(range)?),
        };
        if first > last {
            return Err(wrong());
        }
        for number in (first..=last).step_by(step) {
            bits |= 1 << number;
        }
    }
    Ok(bits)
}
