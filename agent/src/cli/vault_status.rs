//! `keepwell vault status`: what of this server is in a vault, whether it can be reached, and what its owner allows.

use clap::Args;
use cloudsync::contact::Contact;
use cloudsync::standing::Policy;
use serde::Serialize;
use storepool::clock::{Clock, SystemClock};

use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::{count, counted, local, rfc3339, size};
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::standing::StandingDocument;
use crate::subscription::{is_silence, remembered};
use crate::vaults::{self, Engine, OwnVault, VaultFiles};

/// Show what of this server is in a vault, and how things stand with it
#[derive(Args, Debug)]
pub(super) struct Status {
    /// Which vault of the configuration
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Serialize)]
struct Stand {
    name: String,
    vault: String,
    url: String,
    label: String,
    generation: u64,
    witness: String,
    points: u64,
    forgotten: u64,
    points_waiting: u64,
    newest: Option<String>,
    objects: u64,
    bytes: u64,
    bytes_condemned: u64,
    key: String,
    #[serde(flatten)]
    standing: StandingDocument,
}

impl Status {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let (name, vault) = vaults::choose(&config, self.name.as_deref())?;
        let attempt = || format!("look into the vault \"{name}\"");
        let engine = Engine::start()?;
        let console = &assembly.console;
        let mut own = match OwnVault::open(assembly, &engine, name, vault) {
            Ok(own) => own,
            Err(cause) => {
                // What is remembered is worth telling just when the vault does not answer.
                if matches!(&cause, Cause::Vault(error) if is_silence(error))
                    && let Some((contact, credentials)) = remembered(&assembly.place, name, vault)
                {
                    console.say(format!("vault    {name} at {}", credentials.address));
                    tell_standing(console, &contact, vault.policy);
                }
                return Err(cause).attempt(attempt);
            }
        };
        let pool = assembly.open_configured(&config)?;
        let snapshot = own.state(&engine).attempt(attempt)?;
        let points = own.wanted(&engine, pool.points().attempt(attempt)?).attempt(attempt)?;
        let waiting = points.iter().filter(|point| {
            !snapshot.points().contains_key(&point.id)
                && !snapshot.forgotten().contains_key(&point.id)
        });
        let newest = snapshot.points().values().map(|point| point.started).max();
        let live = || snapshot.objects().values().filter(|object| object.condemned.is_none());
        let condemned = snapshot.objects().values().filter(|it| it.condemned.is_some());
        let stand = Stand {
            name: own.name.clone(),
            vault: own.vault.id().to_string(),
            url: own.vault.store().address().to_string(),
            label: snapshot.label().map(ToString::to_string).unwrap_or_default(),
            generation: snapshot.generation().0,
            witness: snapshot.witness(own.realm.keys()).to_string(),
            points: snapshot.points().len() as u64,
            forgotten: snapshot.forgotten().len() as u64,
            points_waiting: waiting.count() as u64,
            newest: newest.map(rfc3339),
            objects: live().count() as u64,
            bytes: live().map(|object| object.record.size).sum(),
            bytes_condemned: condemned.map(|object| object.record.size).sum(),
            key: VaultFiles::of(&assembly.place, name).key_keeping().to_string(),
            standing: StandingDocument::of(&own.contact, own.policy, engine.clock().now()),
        };
        console.document(&stand);
        console.say(format!("vault    {} at {}, as \"{}\"", stand.name, stand.url, stand.label));
        console.say(format!(
            "points   {} here, {} waiting to be copied",
            count(stand.points),
            count(stand.points_waiting)
        ));
        if stand.forgotten > 0 {
            console.say(format!(
                "         {} that \"keepwell undelete\" brings back",
                counted(stand.forgotten, "forgotten point")
            ));
        }
        if let Some(newest) = newest {
            console.say(format!("newest   {}", local(newest)));
        }
        console.say(format!(
            "size     {} in {}",
            size(stand.bytes),
            counted(stand.objects, "object")
        ));
        console.say(format!("key      {}", stand.key));
        tell_standing(console, &own.contact, own.policy);
        console.say(format!("witness  {}", stand.witness));
        Ok(Outcome::Done)
    }
}

fn tell_standing(console: &Console, contact: &Contact, policy: Policy) {
    let now = SystemClock::new().now();
    let standing = contact.standing(policy, now);
    let reached = contact.proved().map_or_else(|| "never".to_string(), local);
    let days = contact.lost_for(now).map(|lost| lost.as_secs() / 86_400);
    console.say(match days {
        None => format!("reached  {reached}"),
        Some(days) => format!("reached  {reached}, out of reach for {days} days"),
    });
    console.say(match contact.state() {
        None => format!("state    {}", standing.subscription),
        Some(state) if state.note.is_empty() => {
            format!("state    {} since {}", state.subscription, local(state.since))
        }
        Some(state) => {
            format!("state    {} since {}: {}", state.subscription, local(state.since), state.note)
        }
    });
    let verdicts = [
        ("backup to vault", standing.vault_backup),
        ("to disk", standing.disk_backup),
        ("restore from vault", standing.vault_restore),
        ("from disk", standing.disk_restore),
    ];
    let verdicts: Vec<_> =
        verdicts.iter().map(|(what, verdict)| format!("{what} {}", verdict.word())).collect();
    console.say(format!("allowed  {} ({})", verdicts.join(", "), policy.word()));
    if let Some(way_out) = standing.way_out() {
        console.say(format!("         for more, {way_out}"));
    }
}
