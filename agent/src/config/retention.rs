//! `retention = { ... }` of groups and vaults: how many points of each period stay.

use std::str::FromStr;

use cloudsync::retention::{Count, RetentionPolicy, Within};
use toml_edit::Value;

use super::ConfigError;
use super::reader::Section;

/// The keys of a retention, in the order in which they are shown.
pub(super) const KEYS: [&str; 8] =
    ["last", "hourly", "daily", "weekly", "monthly", "yearly", "within", "tags"];

/// Reads the retention under `key`; `None` if there is none. One that keeps nothing at all cannot be meant.
pub(super) fn read(
    section: &Section<'_>,
    key: &str,
) -> Result<Option<RetentionPolicy>, ConfigError> {
    let Some(table) = section.section(key, "retention = { daily = 7, weekly = 4 }")? else {
        return Ok(None);
    };
    table.only_known(&KEYS)?;
    let number = |key: &str| table.value(key, count).map(Option::unwrap_or_default);
    let policy = RetentionPolicy {
        last: number("last")?,
        hourly: number("hourly")?,
        daily: number("daily")?,
        weekly: number("weekly")?,
        monthly: number("monthly")?,
        yearly: number("yearly")?,
        within: table.value("within", |value| {
            let text =
                value.as_str().ok_or("expected a length of time such as \"30d\" or \"1y6m\"")?;
            Within::from_str(text)
        })?,
        tags: table.texts("tags", "a list of tags such as [\"keep\"]")?.unwrap_or_default(),
    };
    if policy.is_empty() {
        return Err(section.wrong(key, "it keeps nothing: say at least one of last, daily, weekly"));
    }
    Ok(Some(policy))
}

fn count(value: &Value) -> Result<Count, String> {
    let wrong = || "expected a number from 0 on, or \"all\"".to_string();
    match (value.as_integer(), value.as_str()) {
        (Some(0), _) => Ok(Count::None),
        (Some(number), _) => u32::try_from(number).map(Count::Limited).map_err(|_| wrong()),
        (None, Some("all")) => Ok(Count::Unlimited),
        _ => Err(wrong()),
    }
}
