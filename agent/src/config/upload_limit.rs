//! `upload_limit` of a vault: a size per second, or a table of hours.

use cloudsync::store::bandwidth::{Calendar, Rate};
use storepool::space::parse_size;
use toml_edit::Item;

const DEFAULT: &str = "default";
const EXPECTED: &str = "expected \"off\", a size per second such as \"20M\", or a table such as { default = \"off\", \"Mon-Fri 08:00-18:00\" = \"20M\" }";

/// Reads the value of `upload_limit`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(item: &Item) -> Result<Calendar, String> {
    if let Some(value) = item.as_value().filter(|value| !value.is_inline_table()) {
        return limit(value.as_str(), value.as_integer()).map(Calendar::always);
    }
    let table = item.as_table_like().ok_or(EXPECTED)?;
    let read = |item: &Item| limit(item.as_str(), item.as_integer());
    let default = table.get(DEFAULT).map(read).transpose()?.flatten();
    let hours = table.iter().filter(|(name, _)| *name != DEFAULT);
    hours.into_iter().try_fold(Calendar::always(default), |calendar, (hours, item)| {
        calendar.with(hours.parse()?, read(item)?)
    })
}

fn limit(text: Option<&str>, bytes: Option<i64>) -> Result<Option<Rate>, String> {
    if text == Some("off") {
        return Ok(None);
    }
    let bytes = match (text, bytes) {
        (Some(text), _) => parse_size(text.trim_end_matches("/s")),
        (None, bytes) => bytes.and_then(|bytes| u64::try_from(bytes).ok()),
    };
    // Zero is refused: whoever wants no uploads at all takes the schedule away.
    bytes.and_then(Rate::new).map(Some).ok_or_else(|| EXPECTED.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloudsync::store::bandwidth::WeekMinute;
    use toml_edit::DocumentMut;

    fn parse(text: &str) -> Result<Calendar, String> {
        let document: DocumentMut = format!("upload_limit = {text}").parse().unwrap();
        read(&document["upload_limit"])
    }

    fn at(weekday: u8, hour: u16) -> WeekMinute {
        WeekMinute { weekday, minute: hour * 60 }
    }

    #[test]
    fn a_limit_is_a_size_or_a_table_of_hours() {
        assert_eq!(parse("\"off\"").unwrap(), Calendar::default());
        for size in ["\"20M\"", "\"20 MiB/s\"", "20971520"] {
            assert_eq!(parse(size).unwrap(), Calendar::always(Rate::new(20 << 20)), "{size}");
        }
        let table = parse("{ default = \"off\", \"Mon-Fri 08:00-18:00\" = \"20M\" }").unwrap();
        assert_eq!(table.limit_at(at(0, 9)), Rate::new(20 << 20));
        assert_eq!(table.limit_at(at(5, 9)), None);
        let inverse = parse("{ default = \"1M\", \"22:00-06:00\" = \"off\" }").unwrap();
        assert_eq!(inverse.limit_at(at(0, 9)), Rate::new(1 << 20));
        assert_eq!(inverse.limit_at(at(0, 23)), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, part) in [
            ("\"fast\"", "a size per second"),
            ("0", "a size per second"),
            ("-1", "a size per second"),
            ("true", "a size per second"),
            ("[1]", "a size per second"),
            ("{ \"Mon-Fri\" = \"20M\" }", "is not like"),
            ("{ \"08:00-18:00\" = \"x\" }", "a size per second"),
            ("{ \"Mon 08:00-18:00\" = 1, \"08:00-09:00\" = 2 }", "has two limits"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
