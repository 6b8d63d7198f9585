//! `[maintenance]` and `[vault.NAME.maintenance]`: what keeps a pool or a vault small and proven, by itself, at its own times.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::ConfigError;
use super::reader::Section;
use crate::schedule::Schedule;

/// What a store of points needs now and then, the pool as well as a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Upkeep {
    /// Points go that no retention keeps.
    Forget,
    /// The space that no point needs is given back.
    Prune,
    /// Everything is proven.
    Check,
}

impl Upkeep {
    /// All of them, in the order in which they make sense.
    pub(crate) const ALL: [Self; 3] = [Self::Forget, Self::Prune, Self::Check];

    /// Returns the name of its command.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Forget => "forget",
            Self::Prune => "prune",
            Self::Check => "check",
        }
    }

    /// Returns the one that is called this.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|upkeep| upkeep.word() == word)
    }
}

/// One of these sections. Everything runs unless it is switched off: a pool whose maintenance silently never ran is the commonest way to lose one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MaintenanceConfig {
    /// Points go as the retention of their group, or of the vault, says.
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

/// What a section does not say.
pub(super) struct Usual {
    forget: &'static str,
    prune: &'static str,
    check: &'static str,
    check_read_percent: u8,
}

/// Of the pool. Twenty weeks, and every byte was read.
pub(super) const OF_A_POOL: Usual = Usual {
    forget: "daily 04:30",
    prune: "weekly Sun 05:00",
    check: "weekly Sat 05:00",
    check_read_percent: 5,
};
/// Of a vault, after the pool's. Reading costs money at most providers, so how much of it is for its owner to say.
pub(super) const OF_A_VAULT: Usual = Usual {
    forget: "daily 05:30",
    prune: "weekly Sun 06:00",
    check: "weekly Sat 06:00",
    check_read_percent: 0,
};

impl MaintenanceConfig {
    /// Returns how one kind of it is done.
    pub(crate) fn routine(&self, upkeep: Upkeep) -> &Routine {
        match upkeep {
            Upkeep::Forget => &self.forget,
            Upkeep::Prune => &self.prune,
            Upkeep::Check => &self.check,
        }
    }

    /// Reads the section, if there is one; what it does not say is as `usual`.
    pub(super) fn read(section: Option<Section<'_>>, usual: &Usual) -> Result<Self, ConfigError> {
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
            forget: task("forget", "forget_alert_after", usual.forget, 7)?,
            prune: task("prune", "prune_alert_after", usual.prune, 30)?,
            check: task("check", "check_alert_after", usual.check, 30)?,
            check_read_percent: read.unwrap_or(usual.check_read_percent),
            zone: zone.unwrap_or_else(TimeZone::system),
        })
    }
}
