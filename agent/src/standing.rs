//! The row of the table "connectivity x subscription" that is in force for a vault, as people and programs are told it: what it allows, since when,
//! and what would change it. Read from what this installation remembers; no vault is asked.

use std::time::Duration;

use cloudsync::contact::Contact;
use cloudsync::standing::{Connectivity, PATIENCE, Policy, Standing, Verdict};
use schemars::JsonSchema;
use serde::Serialize;
use storepool::clock::Timestamp;

use crate::config::Config;
use crate::console::units::{local, rfc3339};
use crate::place::Place;
use crate::subscription::{reason, remembered};

/// How things stand with a vault.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct StandingDocument {
    /// `connected`, `waiting` (out of reach, not yet for too long) or `lost`.
    pub(crate) connectivity: &'static str,
    /// When it was reached the last time.
    pub(crate) last_reached: Option<String>,
    /// How long it has been out of reach.
    pub(crate) out_of_reach_seconds: Option<u64>,
    /// `active`, `expired` or `deprovisioned`.
    pub(crate) subscription: &'static str,
    /// Since when.
    pub(crate) subscription_since: Option<String>,
    /// What its owner said about it.
    pub(crate) subscription_note: Option<String>,
    /// `keep-local` or `strict`.
    pub(crate) policy: &'static str,
    /// `allowed`, `waits` or `stopped`.
    pub(crate) backup_to_vault: &'static str,
    /// The same for points in the pool.
    pub(crate) backup_to_disk: &'static str,
    /// The same for getting points back from the vault.
    pub(crate) restore_from_vault: &'static str,
    /// The same for getting points back from the pool.
    pub(crate) restore_from_disk: &'static str,
    /// Since when this row is in force; `null`: since the beginning.
    pub(crate) since: Option<String>,
    /// What would let everything go on that is stopped.
    pub(crate) way_out: Option<&'static str>,
}

impl StandingDocument {
    /// Returns how things stand at `now`.
    pub(crate) fn of(contact: &Contact, policy: Policy, now: Timestamp) -> Self {
        let standing = contact.standing(policy, now);
        let state = contact.state();
        Self {
            connectivity: standing.connectivity.word(),
            last_reached: contact.proved().map(rfc3339),
            out_of_reach_seconds: contact.lost_for(now).map(|lost| lost.as_secs()),
            subscription: standing.subscription.word(),
            subscription_since: state.map(|state| rfc3339(state.since)),
            subscription_note: state.map(|state| state.note.clone()),
            policy: standing.policy.word(),
            backup_to_vault: standing.vault_backup.word(),
            backup_to_disk: standing.disk_backup.word(),
            restore_from_vault: standing.vault_restore.word(),
            restore_from_disk: standing.disk_restore.word(),
            since: since(contact, &standing).map(rfc3339),
            way_out: standing.way_out(),
        }
    }
}

// The row began with whatever came later: the state that the owner set, or the present connectivity.
fn since(contact: &Contact, standing: &Standing) -> Option<Timestamp> {
    let subscription = contact.state().map(|state| state.since);
    let connectivity = match standing.connectivity {
        Connectivity::Connected => None,
        Connectivity::Waiting(_) => contact.proved(),
        Connectivity::Lost(_) => contact
            .proved()
            .map(|proved| Timestamp(proved.0.saturating_add(PATIENCE.as_nanos() as i64))),
    };
    subscription.max(connectivity)
}

/// A vault of the configuration and how things stand with it.
#[derive(Clone, Debug)]
pub(crate) struct VaultStanding {
    /// Its name in the configuration.
    pub(crate) vault: String,
    /// What is remembered of the contact with it.
    pub(crate) contact: Contact,
    /// The row that is in force.
    pub(crate) standing: Standing,
}

/// Returns how things stand with the vaults that this installation is registered with.
pub(crate) fn of_all(config: &Config, place: &Place, now: Timestamp) -> Vec<VaultStanding> {
    let known = config.vaults.iter().filter_map(|(name, vault)| {
        let (contact, _) = remembered(place, name, vault)?;
        let standing = contact.standing(vault.policy, now);
        Some(VaultStanding { vault: name.clone(), contact, standing })
    });
    known.collect()
}

impl VaultStanding {
    /// Returns what is stopped, in words; nothing if nothing is.
    pub(crate) fn stopped(&self) -> Option<String> {
        let standing = &self.standing;
        let parts = [
            (standing.disk_backup, "backing up"),
            (standing.vault_backup, "copying to the vault"),
            (standing.disk_restore, "restoring"),
            (standing.vault_restore, "restoring from the vault"),
        ];
        let stopped = parts.iter().filter(|(verdict, _)| *verdict == Verdict::Stopped);
        let stopped: Vec<_> = stopped.map(|(_, what)| *what).collect();
        if stopped.is_empty() {
            return None;
        }
        let verb = if stopped.len() == 1 { "is" } else { "are" };
        Some(format!(
            "{} {verb} stopped by the vault \"{}\": {}",
            stopped.join(", "),
            self.vault,
            reason(standing)
        ))
    }

    /// Returns how long it has been out of reach, and the day of warning that this has reached.
    pub(crate) fn silence(&self) -> Option<(u32, Duration)> {
        let (Connectivity::Waiting(lost) | Connectivity::Lost(lost)) = self.standing.connectivity
        else {
            return None;
        };
        Some((self.standing.connectivity.warning_day()?, lost))
    }

    /// Returns the row in force in one sentence, with since when and what would change it.
    pub(crate) fn explain(&self) -> String {
        let standing = &self.standing;
        let since = since(&self.contact, standing);
        let since = since.map_or_else(|| "the beginning".to_string(), local);
        let row = format!(
            "{}, {} ({}) since {since}: backup to vault {}, to disk {}; restore from vault {}, from disk {}",
            standing.connectivity.word(),
            standing.subscription,
            standing.policy.word(),
            standing.vault_backup.word(),
            standing.disk_backup.word(),
            standing.vault_restore.word(),
            standing.disk_restore.word(),
        );
        let change = standing
            .way_out()
            .map_or_else(|| self.what_would_stop_it(), |way_out| format!("for more, {way_out}"));
        format!("{row}; {change}")
    }

    fn what_would_stop_it(&self) -> String {
        let what = match self.standing.policy {
            Policy::KeepLocal => "copies to the vault",
            Policy::Strict => "all backups",
        };
        format!(
            "{what} would stop if its owner set it expired, or after {} days out of reach",
            PATIENCE.as_secs() / 86_400
        )
    }
}
