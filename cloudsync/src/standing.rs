//! What is allowed, from connectivity, subscription and policy: one pure table (PRODUCT, "Connectivity x subscription").

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the vault may be out of reach before that counts.
pub const PATIENCE: Duration = Duration::from_secs(15 * 24 * 3600);
/// On which days of lost connectivity there is a warning.
pub const WARNING_DAYS: [u32; 4] = [1, 7, 12, 14];

/// What the vault's owner has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Subscription {
    /// Everything is allowed.
    #[default]
    Active = 0,
    /// Nothing new is protected.
    Expired = 1,
    /// The vault is given up.
    Deprovisioned = 2,
}

impl Subscription {
    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Deprovisioned => "deprovisioned",
        }
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Subscription {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Active, Self::Expired, Self::Deprovisioned]
            .into_iter()
            .find(|state| state.word() == text)
            .ok_or_else(|| "expected active, expired or deprovisioned".to_string())
    }
}

/// How the state of the vault reaches into local work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Local backups and restores never depend on the vault, and nothing is deleted because of its state.
    #[default]
    KeepLocal,
    /// The table to the letter.
    Strict,
}

impl Policy {
    /// Returns its name in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::KeepLocal => "keep-local",
            Self::Strict => "strict",
        }
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "keep-local" => Ok(Self::KeepLocal),
            "strict" => Ok(Self::Strict),
            _ => Err("expected \"keep-local\" or \"strict\"".to_string()),
        }
    }
}

/// Whether the vault can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// The last attempt succeeded.
    Connected,
    /// Out of reach for so long, which is not yet too long: nothing is forbidden by that, vault jobs wait.
    Waiting(Duration),
    /// Out of reach for longer than [`PATIENCE`].
    Lost(Duration),
}

impl Connectivity {
    /// Returns what it means that the vault has been out of reach for so long; `None`: it is not.
    pub fn after(lost: Option<Duration>) -> Self {
        match lost {
            None => Self::Connected,
            Some(lost) if lost <= PATIENCE => Self::Waiting(lost),
            Some(lost) => Self::Lost(lost),
        }
    }

    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Waiting(_) => "waiting",
            Self::Lost(_) => "lost",
        }
    }

    /// Returns the last day of warning that was reached.
    pub fn warning_day(self) -> Option<u32> {
        let (Self::Waiting(lost) | Self::Lost(lost)) = self else { return None };
        WARNING_DAYS.into_iter().rfind(|day| lost >= DAY * *day)
    }
}

/// Whether something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may, as soon as the vault can be reached.
    Waits,
    /// It may not.
    Stopped,
}

impl Verdict {
    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Waits => "waits",
            Self::Stopped => "stopped",
        }
    }
}

/// The row of the table that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the vault can be reached.
    pub connectivity: Connectivity,
    /// What its owner has set, as far as this server knows.
    pub subscription: Subscription,
    /// How that reaches into local work.
    pub policy: Policy,
    /// Copying points to the vault.
    pub vault_backup: Verdict,
    /// Making points in the pool.
    pub disk_backup: Verdict,
    /// Getting points back from the vault.
    pub vault_restore: Verdict,
    /// Getting points back from the pool.
    pub disk_restore: Verdict,
    /// Whether the points in the vault are to be forgotten (restorable for a while, like all forgotten points).
    pub forget_vault_points: bool,
}

/// Decides what is allowed.
pub fn standing(
    connectivity: Connectivity,
    subscription: Subscription,
    policy: Policy,
) -> Standing {
    use Verdict::{Allowed, Stopped, Waits};
    let lost = matches!(connectivity, Connectivity::Lost(_));
    // A server that pulls its own cable does not get back what the owner has taken, so the last known subscription
    // counts while the vault is out of reach.
    let (backup, restore) = match subscription {
        Subscription::Active if !lost => (Allowed, Allowed),
        Subscription::Active | Subscription::Expired => (Stopped, Allowed),
        Subscription::Deprovisioned => (Stopped, Stopped),
    };
    let waits = |verdict| match (verdict, connectivity) {
        (Allowed, Connectivity::Waiting(_)) => Waits,
        (verdict, _) => verdict,
    };
    let local = |verdict| match policy {
        Policy::KeepLocal => Allowed,
        Policy::Strict => verdict,
    };
    Standing {
        connectivity,
        subscription,
        policy,
        vault_backup: waits(backup),
        disk_backup: local(backup),
        vault_restore: waits(restore),
        disk_restore: local(restore),
        forget_vault_points: policy == Policy::Strict
            && subscription == Subscription::Deprovisioned,
    }
}

impl Standing {
    /// Returns what would let everything that is stopped go on; nothing if nothing is.
    pub fn way_out(&self) -> Option<&'static str> {
        match (self.subscription, self.connectivity) {
            (Subscription::Active, Connectivity::Connected) => None,
            (Subscription::Active, Connectivity::Waiting(_) | Connectivity::Lost(_)) => {
                Some("the vault must be reached again")
            }
            (Subscription::Expired | Subscription::Deprovisioned, Connectivity::Connected) => {
                Some("the vault's owner must set it active again")
            }
            (Subscription::Expired | Subscription::Deprovisioned, _) => Some(
                "the vault's owner must set it active again, and the vault must be reached again",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_in_both_modes() {
        use Subscription::{Active, Deprovisioned, Expired};
        use Verdict::{Allowed, Stopped, Waits};
        let connected = Connectivity::after(None);
        let waiting = Connectivity::after(Some(PATIENCE));
        let lost = Connectivity::after(Some(PATIENCE + Duration::from_nanos(1)));
        // Back up to vault, back up to disk, restore from vault, restore from disk, vault points deleted.
        let table = [
            (connected, Active, [Allowed, Allowed, Allowed, Allowed], false),
            (connected, Expired, [Stopped, Stopped, Allowed, Allowed], false),
            (connected, Deprovisioned, [Stopped, Stopped, Stopped, Stopped], true),
            (waiting, Active, [Waits, Allowed, Waits, Allowed], false),
            (waiting, Expired, [Stopped, Stopped, Waits, Allowed], false),
            (waiting, Deprovisioned, [Stopped, Stopped, Stopped, Stopped], true),
            (lost, Active, [Stopped, Stopped, Allowed, Allowed], false),
            (lost, Expired, [Stopped, Stopped, Allowed, Allowed], false),
            (lost, Deprovisioned, [Stopped, Stopped, Stopped, Stopped], true),
        ];
        for (connectivity, subscription, [vault, disk, from_vault, from_disk], deleted) in table {
            for policy in [Policy::Strict, Policy::KeepLocal] {
                let found = standing(connectivity, subscription, policy);

                let strict = policy == Policy::Strict;
                let name = format!("{connectivity:?} {subscription} {}", policy.word());
                assert_eq!(found.vault_backup, vault, "{name}");
                assert_eq!(found.vault_restore, from_vault, "{name}");
                assert_eq!(found.disk_backup, if strict { disk } else { Allowed }, "{name}");
                assert_eq!(found.disk_restore, if strict { from_disk } else { Allowed }, "{name}");
                assert_eq!(found.forget_vault_points, strict && deleted, "{name}");
                let fine = (connectivity, subscription) == (connected, Active);
                assert_eq!(found.way_out().is_none(), fine, "{name}");
            }
        }
    }

    #[test]
    fn lost_connectivity_is_warned_of_on_four_days() {
        let day = |days: u32, seconds: u64| {
            Connectivity::after(Some(DAY * days + Duration::from_secs(seconds))).warning_day()
        };

        assert_eq!(Connectivity::Connected.warning_day(), None);
        assert_eq!(day(0, 86_399), None);
        assert_eq!((day(1, 0), day(6, 86_399)), (Some(1), Some(1)));
        assert_eq!((day(7, 0), day(12, 0), day(13, 86_399)), (Some(7), Some(12), Some(12)));
        assert_eq!((day(14, 0), day(400, 0)), (Some(14), Some(14)));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for state in [Subscription::Active, Subscription::Expired, Subscription::Deprovisioned] {
            assert_eq!(state.word().parse(), Ok(state));
        }
        for policy in [Policy::Strict, Policy::KeepLocal] {
            assert_eq!(policy.word().parse(), Ok(policy));
        }
        assert!("Active".parse::<Subscription>().is_err() && "keep".parse::<Policy>().is_err());
    }
}
