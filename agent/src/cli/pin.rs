//! `keepwell pin`: points that no retention removes.

use clap::Args;
use serde::Serialize;
use storepool::catalog::{Pin as PointPin, choose};
use storepool::clock::Timestamp;

use super::arguments;
use crate::assembly::Assembly;
use crate::console::units::{local, rfc3339};
use crate::error::{Attempt, Error, Outcome};

/// Keep points whatever the retention says
///
/// A pinned point is never forgotten, neither by a policy nor by name, until the pin ends or is taken away.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell pin latest --reason 'before the upgrade'
  keepwell pin 7f3a9c12 --reason audit --until 2030-12-31
  keepwell pin 7f3a9c12 --remove")]
pub(super) struct Pin {
    /// Which points
    #[arg(value_name = "POINT", required = true)]
    points: Vec<String>,
    /// Why, for those who come later
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    reason: String,
    /// Until the end of this day, or for this long
    #[arg(long, value_name = "DATE|DURATION", value_parser = arguments::until)]
    until: Option<arguments::Until>,
    /// Take all pins of the points away
    #[arg(long, conflicts_with_all = ["reason", "until"])]
    remove: bool,
}

#[derive(Serialize)]
struct Report {
    points: Vec<Pinned>,
}

#[derive(Serialize)]
struct Pinned {
    id: String,
    pinned: bool,
    reason: Option<String>,
    until: Option<String>,
}

impl Pin {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let pool = assembly.open_pool()?;
        let all = pool.points().attempt(|| "list the points".to_string())?;
        let chosen: Result<Vec<_>, _> = self.points.iter().map(|name| choose(&all, name)).collect();
        let chosen = chosen.attempt(|| "pin".to_string())?;
        let now = pool.world().clock.now();
        let until = self.until.map(|until| until.after(now)).transpose().map_err(Error::usage)?;
        let mut report = Report { points: Vec::new() };
        for point in chosen {
            let mut notes = point.notes.clone();
            // One pin a reason; those that have ended are tidied up.
            notes.pins.retain(|pin| {
                !self.remove && pin.reason != self.reason && pin.until.is_none_or(|end| end > now.0)
            });
            if !self.remove {
                let until = until.map(|until| until.0);
                notes.pins.push(PointPin { reason: self.reason.clone(), until });
            }
            let attempt = || format!("pin point {}", point.id.short());
            pool.set_notes(point.id, &notes).attempt(attempt)?;
            let short = point.id.short();
            assembly.console.note(match (self.remove, until) {
                (true, _) => format!("{short}: not pinned any more"),
                (false, None) => format!("{short}: pinned ({})", self.reason),
                (false, Some(end)) => {
                    format!("{short}: pinned until {} ({})", local(end), self.reason)
                }
            });
            report.points.push(Pinned {
                id: point.id.to_string(),
                pinned: !self.remove,
                reason: (!self.remove).then(|| self.reason.clone()),
                until: until.map(rfc3339),
            });
        }
        assembly.console.document(&report);
        Ok(Outcome::Done)
    }
}

/// Returns why a point is pinned at the moment `now`, if it is.
pub(super) fn pinned(pins: &[PointPin], now: Timestamp) -> Option<String> {
    let holds = |pin: &&PointPin| pin.until.is_none_or(|end| end > now.0);
    pins.iter().find(holds).map(|pin| pin.reason.clone())
}
