//! `keepwell alerts`: what is wrong, since when, and who knows.

use std::path::Path;

use clap::{Args, Subcommand};
use storepool::clock::{Clock, SystemClock};

use crate::accounts;
use crate::assembly::Assembly;
use crate::config::{AlertLevel, Config};
use crate::console::table::{Align, Table};
use crate::console::units::{counted, local};
use crate::control::client::Client;
use crate::courier;
use crate::documents::AlertDocument;
use crate::error::{Attempt, Cause, Error, Outcome};
use crate::journal::{Alert, Journal};
use crate::record::open_journal;
use crate::{metrics, status};

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
    Send(Send),
    Test(Test),
}

/// Tell what was not told yet, now; the daemon does this by itself
///
/// Uses every way that the configuration names for alerts, writes the measurements for Prometheus, and gives the sign of life if all is well.
#[derive(Args, Debug)]
struct Send {}

/// Try every configured way with a made-up alert
#[derive(Args, Debug)]
struct Test {}

/// Say that you know of an alert
#[derive(Args, Debug)]
struct Ack {
    /// Its number
    #[arg(value_name = "ALERT")]
    alert: i64,
}

/// How many alerts of the past are listed.
const LISTED: u32 = 200;

impl Alerts {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let journal = open_journal(assembly).attempt(|| "look at the alerts".to_string())?;
        match self.command {
            Some(Command::Ack(ack)) => ack.run(assembly, &journal),
            Some(Command::Send(_)) => send(assembly, &config, &journal),
            Some(Command::Test(_)) => test(assembly, &config),
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

fn send(assembly: &Assembly, config: &Config, journal: &Journal) -> Result<Outcome, Error> {
    let attempt = || "tell the alerts".to_string();
    let alerts_config = &config.alerts;
    let now = SystemClock::new().now();
    let mut outcome = Outcome::Done;
    let alerts = courier::due(alerts_config, journal, now).attempt(attempt)?;
    if !alerts.is_empty() {
        let failures = courier::deliver(alerts_config, &alerts, now, false);
        if failures.is_empty() {
            journal.told(&alerts, now).attempt(attempt)?;
            assembly.console.note(format!("told {}", counted(alerts.len() as u64, "alert")));
        } else {
            outcome = Outcome::Incomplete;
        }
        for failure in failures {
            assembly.console.warn(Cause::from(failure).chain());
        }
    }
    if alerts_config.textfile.is_none() && alerts_config.heartbeat.is_none() {
        return Ok(outcome);
    }
    let daemon = Client::connect(&assembly.place).is_some();
    let state = status::of(config, &assembly.place, journal, now, daemon)?;
    if let Some(path) = &alerts_config.textfile {
        let text = metrics::text(&state, journal).attempt(attempt)?;
        write_textfile(path, &text).attempt(attempt)?;
    }
    // Silence is what tells the other side that something is wrong.
    if state.well
        && let Err(error) = courier::beat(alerts_config)
    {
        assembly.console.warn(Cause::from(error).chain());
        outcome = Outcome::Incomplete;
    }
    Ok(outcome)
}

// Whole or not at all: the collector may read at any moment. It runs as another user.
fn write_textfile(path: &Path, text: &str) -> Result<(), Cause> {
    use std::os::unix::fs::PermissionsExt;
    let io = |action| move |cause| Cause::Io { action, path: path.to_path_buf(), cause };
    // The collector reads only names that end in ".prom".
    let new = path.with_extension("new");
    std::fs::write(&new, text).map_err(io("write"))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644))
        .map_err(io("open up"))?;
    std::fs::rename(&new, path).map_err(io("replace"))
}

fn test(assembly: &Assembly, config: &Config) -> Result<Outcome, Error> {
    let now = SystemClock::new().now();
    let alert = Alert {
        id: 0,
        key: "test".to_string(),
        level: AlertLevel::Information,
        message: "this is only a test: alerts arrive here".to_string(),
        hint: None,
        first_seen: now,
        last_seen: now,
        count: 1,
        resolved: None,
        acknowledged: None,
        acknowledged_by: None,
        told: None,
        end_told: false,
    };
    let ways = [
        ("command", config.alerts.command.is_some()),
        ("webhook", config.alerts.webhook.is_some()),
        ("mail", config.alerts.mail.is_some()),
    ];
    let ways: Vec<_> = ways.iter().filter(|(_, set)| *set).map(|(way, _)| *way).collect();
    if ways.is_empty() {
        return Err(Error::usage("[alerts] names no way: set command, webhook or mail"));
    }
    let failures = courier::deliver(&config.alerts, &[alert], now, true);
    let failures: Vec<_> = failures.into_iter().map(|error| Cause::from(error).chain()).collect();
    assembly.console.document(&serde_json::json!({ "ways": ways, "failures": failures }));
    for failure in &failures {
        assembly.console.warn(failure);
    }
    if failures.is_empty() {
        assembly.console.note(format!("a test was sent by {}", ways.join(", ")));
        return Ok(Outcome::Done);
    }
    Ok(Outcome::NotWell)
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
