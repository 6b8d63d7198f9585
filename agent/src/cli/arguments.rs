//! Values of arguments that several commands share.

use std::time::Duration;

use jiff::Unit;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use storepool::clock::Timestamp;
use storepool::space::parse_size;

use crate::config::is_parameter;
pub(crate) use crate::duration::parse as duration;

/// Reads a size such as `100M`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "expected a size such as 512K, 100M or 2G".to_string())
}

/// Reads a parameter of a service, `NAME=VALUE`.
pub(crate) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    match is_parameter(name) {
        true => Ok((name.to_string(), value.to_string())),
        false => Err("the name of a parameter has 1 to 63 of a-z, 0-9 and _".to_string()),
    }
}

/// Reads a share such as `5%`, `5` or `unlimited`, in percent.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    if text == "unlimited" {
        return Ok(100.0);
    }
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    number
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "expected a share from 0% to 100%".to_string())
}

/// A moment to come: a date, a moment, or a duration from now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Until {
    /// The end of a day in the local zone.
    EndOf(Date),
    /// A moment.
    At(jiff::Timestamp),
    /// So long from now.
    For(Duration),
}

/// Reads `2030-12-31`, `2030-12-31T18:00` (local), a moment with a zone, or `30d`.
pub(crate) fn until(text: &str) -> Result<Until, String> {
    if let Ok(moment) = text.parse() {
        return Ok(Until::At(moment));
    }
    if text.len() == "2030-12-31".len()
        && let Ok(date) = text.parse::<Date>()
    {
        return Ok(Until::EndOf(date));
    }
    if let Ok(time) = text.parse::<DateTime>() {
        let moment = time.to_zoned(TimeZone::system()).map_err(|error| error.to_string())?;
        return Ok(Until::At(moment.timestamp()));
    }
    duration(text)
        .map(Until::For)
        .map_err(|_| "expected a date such as 2030-12-31 or a duration such as 30d".to_string())
}

impl Until {
    /// Returns the moment, which must come after `now`.
    pub(crate) fn after(&self, now: Timestamp) -> Result<Timestamp, String> {
        let nanos = match self {
            Self::EndOf(date) => {
                let end = date
                    .tomorrow()
                    .and_then(|next| next.to_zoned(TimeZone::system()))
                    .and_then(|end| end.round(Unit::Second));
                end.map_err(|error| error.to_string())?.timestamp().as_nanosecond()
            }
            Self::At(moment) => moment.as_nanosecond(),
            Self::For(duration) => i128::from(now.0) + duration.as_nanos() as i128,
        };
        let moment = i64::try_from(nanos).map_err(|_| "that is too far away".to_string())?;
        if moment <= now.0 {
            return Err("a pin must end in the future".to_string());
        }
        Ok(Timestamp(moment))
    }
}

/// Reads a tag: words that can be listed with commas.
pub(crate) fn tag(text: &str) -> Result<String, String> {
    let forbidden = |character: char| character == ',' || character.is_control();
    if text.trim().is_empty() || text.len() > 255 || text.contains(forbidden) {
        return Err("a tag has 1 to 255 characters and no comma".to_string());
    }
    Ok(text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_pin_is_a_date_a_moment_or_a_duration() {
        let now = Timestamp(1_700_000_000_000_000_000);

        assert_eq!(until("1d").unwrap().after(now), Ok(Timestamp(now.0 + 86_400_000_000_000)));
        assert_eq!(
            until("2023-12-01T00:00:00Z").unwrap().after(now),
            Ok(Timestamp(1_701_388_800_000_000_000))
        );
        assert!(until("2030-12-31").unwrap().after(now).is_ok());
        assert!(until("2030-12-31T18:00").unwrap().after(now).is_ok());
        assert!(until("2020-12-31").unwrap().after(now).is_err());
        assert!(until("tomorrow").is_err());
    }

    #[test]
    fn tags_are_read_strictly() {
        assert_eq!(tag(" weekly "), Ok("weekly".to_string()));
        for text in ["", " ", "a,b", "a\nb"] {
            assert!(tag(text).is_err(), "{text}");
        }
    }
}
