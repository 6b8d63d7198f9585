//! `keepwell alerts`: what is wrong, since when, and who knows.

use clap::{Args, Subcommand};
use serde::Serialize;
use storepool::clock::{Clock, SystemClock};

use crate::accounts;
use crate::assembly::Assembly;
use crate::console::table::{Align, Table};
use crate::console::units::{local, rfc3339};
use crate::error::{Attempt, Error, Outcome};
use crate::journal::{Alert, Journal};
use crate::record::open_journal;

/// List alerts, and say that you know of one
///
/// An alert ends by itself when what it is about is over. One that was acknowledged is not told again until it becomes worse.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell alerts
  keepwell alerts --all
  keepwell alerts ack 3")]
pub(super) struct Alerts {
    #[command(subcommand)]
    command: Option<Command>,
    /// Those that are over, too
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ack(Ack),
}

/// Say that you know of an alert
#[derive(Args, Debug)]
struct Ack {
    /// Its number
    #[arg(value_name = "ALERT")]
    alert: i64,
}

/// An alert for programs.
#[derive(Debug, Serialize)]
pub(crate) struct AlertDocument {
    pub(crate) id: i64,
    pub(crate) key: String,
    pub(crate) level: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) first_seen: String,
    pub(crate) last_seen: String,
    pub(crate) count: u32,
    pub(crate) active: bool,
    pub(crate) resolved: Option<String>,
    pub(crate) acknowledged: Option<String>,
    pub(crate) acknowledged_by: Option<String>,
}

impl AlertDocument {
    /// Returns an alert as programs see it.
    pub(crate) fn of(alert: &Alert) -> Self {
        Self {
            id: alert.id,
            key: alert.key.clone(),
            level: alert.level.word(),
            message: alert.message.clone(),
            hint: alert.hint.clone(),
            first_seen: rfc3339(alert.first_seen),
            last_seen: rfc3339(alert.last_seen),
            count: alert.count,
            active: alert.resolved.is_none(),
            resolved: alert.resolved.map(rfc3339),
            acknowledged: alert.acknowledged.map(rfc3339),
            acknowledged_by: alert.acknowledged_by.clone(),
        }
    }
}

/// How many alerts of the past are listed.
const LISTED: u32 = 200;

impl Alerts {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        assembly.config()?;
        let journal = open_journal(assembly).attempt(|| "look at the alerts".to_string())?;
        match self.command {
            Some(Command::Ack(ack)) => ack.run(assembly, &journal),
            None => list(assembly, &journal, self.all),
        }
    }
}

fn list(assembly: &Assembly, journal: &Journal, all: bool) -> Result<Outcome, Error> {
    let alerts = match all {
        true => journal.alerts(LISTED),
        false => journal.active_alerts(),
    };
    let alerts = alerts.attempt(|| "list the alerts".to_string())?;
    let documents: Vec<_> = alerts.iter().map(AlertDocument::of).collect();
    assembly.console.document(&serde_json::json!({ "alerts": documents }));
    if alerts.is_empty() {
        assembly.console.note("no alerts");
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&[
        ("Alert", Align::Right),
        ("Level", Align::Left),
        ("Since", Align::Left),
        ("Times", Align::Right),
        ("", Align::Left),
        ("What", Align::Left),
    ]);
    for alert in &alerts {
        let state = match (alert.resolved, &alert.acknowledged_by) {
            (Some(at), _) => format!("over since {}", local(at)),
            (None, Some(by)) => format!("known to {by}"),
            (None, None) => String::new(),
        };
        table.row(vec![
            alert.id.to_string(),
            alert.level.word().to_string(),
            local(alert.first_seen),
            alert.count.to_string(),
            state,
            alert.message.clone(),
        ]);
    }
    table.lines().iter().for_each(|line| assembly.console.say(line));
    for alert in alerts.iter().filter(|alert| alert.resolved.is_none()) {
        if let Some(hint) = &alert.hint {
            assembly.console.note(format!("{}: {hint}", alert.id));
        }
    }
    Ok(Outcome::Done)
}

impl Ack {
    fn run(self, assembly: &Assembly, journal: &Journal) -> Result<Outcome, Error> {
        let uid = rustix::process::getuid().as_raw();
        let by = accounts::user_by_number(uid).map_or_else(|| uid.to_string(), |user| user.name);
        let known = journal
            .acknowledge(self.alert, &by, SystemClock::new().now())
            .attempt(|| format!("acknowledge alert {}", self.alert))?;
        if !known {
            return Err(Error::usage(format!("there is no active alert {}", self.alert)));
        }
        assembly
            .console
            .document(&serde_json::json!({ "alert": self.alert, "acknowledged_by": by }));
        assembly.console.note(format!("alert {} is known to {by}", self.alert));
        Ok(Outcome::Done)
    }
}
