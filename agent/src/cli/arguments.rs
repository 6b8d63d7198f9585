//! Values of arguments that several commands share.

use std::time::Duration;

use storepool::space::parse_size;

/// Reads a size such as `100M`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "expected a size such as 512K, 100M or 2G".to_string())
}

/// Reads a duration such as `90s`, `10m`, `2h` or `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 90s, 10m, 2h or 1d".to_string();
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
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
    fn durations_and_tags_are_read_strictly() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for text in ["", "h", "5", "-1s", "1.5h", "1 h", "9999999999999999999d", "5µ"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(tag(" weekly "), Ok("weekly".to_string()));
        for text in ["", " ", "a,b", "a\nb"] {
            assert!(tag(text).is_err(), "{text}");
        }
    }
}
