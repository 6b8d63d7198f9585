//! `[maintenance]`: what keeps a pool small and proven, by itself, at its own times.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::ConfigError;
use super::reader::Section;
use crate::schedule::Schedule;

/// `[maintenance]`. Everything runs unless it is switched off: a pool whose maintenance silently never ran is the commonest way to lose one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MaintenanceConfig {
    /// Points leave the pool as the retention of their group says.
    pub(crate) forget: Routine,
    /// The space of forgotten points is given back.
    pub(crate) prune: Routine,
    /// Everything is proven to be readable.
    pub(crate) check: Routine,
    /// Share of the data that each check reads, in percent.
    pub(crate) check_read_percent: u8,
    /// The zone of times and days.
    pub(crate) zone: TimeZone,
}

/// One kind of maintenance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Routine {
    /// When; `None`: only by hand.
    pub(crate) schedule: Option<Schedule>,
    /// If it has not succeeded for so long there is an alert.
    pub(crate) alert_after: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);

impl MaintenanceConfig {
    /// Reads the section, if there is one.
    pub(super) fn read(section: Option<Section<'_>>) -> Result<Self, ConfigError> {
        let task = |key: &str, alert: &str, usual: &str, days: u32| {
            let Some(section) = &section else {
                return Ok(Routine { schedule: usual.parse().ok(), alert_after: DAY * days });
            };
            let schedule = match section.text(key, "a schedule such as \"daily 02:00\"")? {
                None => usual.parse().ok(),
                Some("never") => None,
                Some(_) => section.parsed(key, "a schedule such as \"daily 02:00\"")?,
            };
            let alert_after = section.duration(alert, DAY..=DAY * 3650)?.unwrap_or(DAY * days);
            Ok(Routine { schedule, alert_after })
        };
        if let Some(section) = &section {
            section.only_known(&[
                "forget",
                "prune",
                "check",
                "check_read",
                "timezone",
                "forget_alert_after",
                "prune_alert_after",
                "check_alert_after",
            ])?;
        }
        let read = match &section {
            Some(section) => section.value("check_read", |value| {
                let percent = value.as_str().and_then(|text| text.strip_suffix('%')?.parse().ok());
                percent
                    .filter(|percent| *percent <= 100)
                    .ok_or_else(|| "expected a share such as \"5%\"".to_string())
            })?,
            None => None,
        };
        let zone = match &section {
            Some(section) => section.zone("timezone")?,
            None => None,
        };
        Ok(Self {
            forget: task("forget", "forget_alert_after", "daily 04:30", 7)?,
            prune: task("prune", "prune_alert_after", "weekly Sun 05:00", 30)?,
            check: task("check", "check_alert_after", "weekly Sat 05:00", 30)?,
            // Twenty weeks, and every byte was read.
            check_read_percent: read.unwrap_or(5),
            zone: zone.unwrap_or_else(TimeZone::system),
        })
    }
}
