//! What the vaults' owners and the connection to them allow, before a command begins: the table of
//! [`cloudsync::standing`], fed from what this installation remembers, and asked anew before anything is refused.

use cloudsync::contact::Contact;
use cloudsync::error::StoreFault;
use cloudsync::standing::{Policy, Standing, Verdict};
use cloudsync::vault::credentials::Credentials;
use storepool::clock::{Clock, SystemClock};

use crate::assembly::Assembly;
use crate::config::{Config, VaultConfig};
use crate::error::{Cause, Error};
use crate::place::Place;
use crate::vaults::{Engine, VaultFiles};

/// What a command is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Copy points to the vault.
    VaultBackup,
    /// Make points in the pool.
    DiskBackup,
    /// Get points back from the pool.
    DiskRestore,
}

impl Work {
    fn noun(self) -> &'static str {
        match self {
            Self::VaultBackup => "copying to the vault",
            Self::DiskBackup => "backing up",
            Self::DiskRestore => "restoring",
        }
    }

    fn verdict(self, standing: &Standing) -> Verdict {
        match self {
            Self::VaultBackup => standing.vault_backup,
            Self::DiskBackup => standing.disk_backup,
            Self::DiskRestore => standing.disk_restore,
        }
    }
}

/// Refuses work that a standing stops.
///
/// # Errors
/// [`Cause::Stopped`].
pub(crate) fn check(vault: &str, standing: &Standing, work: Work) -> Result<(), Cause> {
    if work.verdict(standing) != Verdict::Stopped {
        return Ok(());
    }
    Err(Cause::Stopped {
        work: work.noun(),
        vault: vault.to_string(),
        why: reason(standing),
        way_out: standing.way_out().unwrap_or_default(),
    })
}

/// Returns the row that is in force, in words.
pub(crate) fn reason(standing: &Standing) -> String {
    use cloudsync::standing::Connectivity::{Connected, Lost, Waiting};
    let subscription = match standing.subscription.word() {
        "active" => String::new(),
        word => format!("its owner set it {word}"),
    };
    let connectivity = match standing.connectivity {
        Connected => String::new(),
        Waiting(lost) | Lost(lost) => {
            format!("it has been out of reach for {} days", lost.as_secs() / 86_400)
        }
    };
    let both = [subscription, connectivity];
    let words: Vec<_> = both.iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
    match words.is_empty() {
        true => "nothing is in the way".to_string(),
        false => words.join(" and "),
    }
}

/// Refuses local work that a vault with `policy = "strict"` stops, and warns of vaults that are out of reach. A vault that
/// would stop it is asked once more first. Vaults that keep local work free are not asked anything.
pub(crate) fn allow_local(assembly: &Assembly, config: &Config, work: Work) -> Result<(), Error> {
    let now = SystemClock::new().now();
    for (name, vault) in &config.vaults {
        let Some((mut contact, credentials)) = remembered(&assembly.place, name, vault) else {
            continue;
        };
        warn_if_lost(assembly, name, &contact);
        if vault.policy == Policy::KeepLocal {
            continue;
        }
        if check(name, &contact.standing(vault.policy, now), work).is_ok() {
            continue;
        }
        let engine = Engine::start()?;
        ask(&engine, &mut contact, &credentials);
        check(name, &contact.standing(vault.policy, now), work)
            .map_err(|cause| Error { attempt: String::new(), cause })?;
    }
    Ok(())
}

/// Warns on the days on which a vault's silence is worth it.
pub(crate) fn warn_if_lost(assembly: &Assembly, name: &str, contact: &Contact) {
    let now = SystemClock::new().now();
    let connectivity = contact.standing(Policy::KeepLocal, now).connectivity;
    if connectivity.warning_day().is_none() {
        return;
    }
    let days = contact.lost_for(now).unwrap_or_default().as_secs() / 86_400;
    assembly.console.warn(format!(
        "the vault \"{name}\" has been out of reach for {days} days: the second copy is behind"
    ));
}

/// Returns what is remembered of a vault that this installation is registered with.
pub(crate) fn remembered(
    place: &Place,
    name: &str,
    vault: &VaultConfig,
) -> Option<(Contact, Credentials)> {
    let files = VaultFiles::of(place, name);
    if !files.is_registered() {
        return None;
    }
    let credentials = Credentials::load(&vault.credentials).ok()?;
    Some((Contact::load(&files.contact(), credentials.vault), credentials))
}

// Looks whether the vault can be reached by now, and what its owner says.
fn ask(engine: &Engine, contact: &mut Contact, credentials: &Credentials) {
    let now = engine.around().clock.now();
    match engine.open(credentials) {
        Ok(vault) => {
            contact.reached(now);
            if let Err(error) = engine.run(contact.refresh_now(&vault, now)) {
                tracing::warn!(%error, "the state of the vault cannot be read");
            }
        }
        Err(error) if is_silence(&error) => contact.not_reached(now),
        Err(error) => tracing::warn!(%error, "the vault cannot be opened"),
    }
    if let Err(error) = contact.save() {
        tracing::warn!(%error, "what was learnt of the vault cannot be kept");
    }
}

/// Returns whether an error means that the vault cannot be reached.
pub(crate) fn is_silence(error: &cloudsync::Error) -> bool {
    matches!(
        error.store_fault(),
        Some(StoreFault::Unreachable | StoreFault::Timeout | StoreFault::Busy { .. })
    )
}
