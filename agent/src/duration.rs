//! Lengths of time as people write them: `90s`, `10m`, `2h`, `1d`.

use std::time::Duration;

/// Reads a duration such as `90s`, `10m`, `2h` or `1d`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
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

/// Returns the shortest text that [`parse`] reads back, in whole seconds.
pub(crate) fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => "0s".to_string(),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_strictly_and_written_back() {
        for (words, seconds) in [("90s", 90), ("2h", 7200), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(parse(words), Ok(Duration::from_secs(seconds)));
            assert_eq!(text(Duration::from_secs(seconds)), words);
        }
        for words in ["", "h", "5", "-1s", "1.5h", "1 h", "9999999999999999999d", "5µ"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
