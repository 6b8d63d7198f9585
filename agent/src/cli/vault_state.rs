//! `keepwell vault set-state`: what the vault's owner allows its servers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cloudsync::standing::Subscription;
use cloudsync::vault::credentials::Credentials;
use cloudsync::vault::owner::OwnerKey;
use serde::Serialize;

use crate::assembly::Assembly;
use crate::console::units::rfc3339;
use crate::error::{Attempt, Error, Outcome};
use crate::vaults::Engine;

/// Set a vault active, expired or deprovisioned
///
/// For the owner of the vault, with the owner file that "vault create" wrote. Servers learn it at their next contact. While a vault is expired they
/// copy nothing there; while it is deprovisioned they restore nothing from there either. Servers with policy = "strict" stop their local backups, too,
/// and forget their points in a deprovisioned vault, which can be undone for some days; all others go on protecting locally.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell vault set-state expired --credentials main.vault --owner-key main.owner --note 'invoice 17'
  keepwell vault set-state active --credentials main.vault --owner-key main.owner")]
pub(super) struct SetState {
    /// The state
    #[arg(value_enum, value_name = "STATE")]
    state: StateWord,
    /// The credentials file of the vault
    #[arg(long, value_name = "FILE")]
    credentials: PathBuf,
    /// The owner file of the vault
    #[arg(long, value_name = "FILE")]
    owner_key: PathBuf,
    /// Why, for the people at the servers
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StateWord {
    /// Everything is allowed
    Active,
    /// Nothing new is copied
    Expired,
    /// The vault is given up
    Deprovisioned,
}

impl From<StateWord> for Subscription {
    fn from(word: StateWord) -> Self {
        match word {
            StateWord::Active => Self::Active,
            StateWord::Expired => Self::Expired,
            StateWord::Deprovisioned => Self::Deprovisioned,
        }
    }
}

#[derive(Serialize)]
struct Report {
    vault: String,
    name: String,
    state: &'static str,
    revision: u64,
    since: String,
    note: String,
}

impl SetState {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let attempt = || "set the state of the vault".to_string();
        let credentials = Credentials::load(&self.credentials).attempt(attempt)?;
        let owner = OwnerKey::load(&self.owner_key).attempt(attempt)?;
        let engine = Engine::start()?;
        let vault = engine.open(&credentials).attempt(attempt)?;
        let now = engine.around().clock.now();
        let set = vault.set_subscription(&owner, self.state.into(), &self.note, now);
        let state = engine.run(set).attempt(attempt)?;
        assembly.console.document(&Report {
            vault: credentials.vault.to_string(),
            name: credentials.name.clone(),
            state: state.subscription.word(),
            revision: state.revision,
            since: rfc3339(state.since),
            note: state.note.clone(),
        });
        assembly.console.note(format!(
            "the vault \"{}\" is {} now; its servers learn it at their next contact",
            credentials.name, state.subscription
        ));
        Ok(Outcome::Done)
    }
}
