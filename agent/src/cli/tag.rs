//! `keepwell tag`: words attached to points.

use clap::{ArgGroup, Args};
use serde::Serialize;
use storepool::catalog::choose;

use super::arguments;
use crate::assembly::Assembly;
use crate::error::{Attempt, Error, Outcome};

/// Attach words to points, or take them away
///
/// Tags belong to a point's notes and can change; the point itself never does.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("change").args(["add", "remove", "set"]).multiple(true).required(true),
    after_help = "\
Examples:
  keepwell tag latest --add before-upgrade
  keepwell tag 7f3a9c12 5b01d2ee --remove weekly"
)]
pub(super) struct Tag {
    /// Which points
    #[arg(value_name = "POINT", required = true)]
    points: Vec<String>,
    /// Attach a tag
    #[arg(long, value_name = "TAG", value_parser = arguments::tag, value_delimiter = ',')]
    add: Vec<String>,
    /// Take a tag away
    #[arg(long, value_name = "TAG", value_parser = arguments::tag, value_delimiter = ',')]
    remove: Vec<String>,
    /// Replace all tags by this one
    #[arg(
        long, value_name = "TAG", value_parser = arguments::tag, value_delimiter = ',',
        conflicts_with_all = ["add", "remove"]
    )]
    set: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    points: Vec<Tagged>,
}

#[derive(Serialize)]
struct Tagged {
    id: String,
    tags: Vec<String>,
    changed: bool,
}

impl Tag {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let pool = assembly.open_pool()?;
        let all = pool.points().attempt(|| "list the points".to_string())?;
        let chosen: Result<Vec<_>, _> = self.points.iter().map(|name| choose(&all, name)).collect();
        let chosen = chosen.attempt(|| "tag".to_string())?;
        let mut report = Report { points: Vec::new() };
        for point in chosen {
            let mut notes = point.notes.clone();
            if !self.set.is_empty() {
                notes.tags.clone_from(&self.set);
            }
            notes.tags.extend(self.add.iter().cloned());
            notes.tags.retain(|tag| !self.remove.contains(tag));
            notes.tags.sort();
            notes.tags.dedup();
            let changed = notes != point.notes;
            if changed {
                let attempt = || format!("tag point {}", point.id.short());
                pool.set_notes(point.id, &notes).attempt(attempt)?;
            }
            let words =
                if notes.tags.is_empty() { "no tags".into() } else { notes.tags.join(", ") };
            let unchanged = if changed { "" } else { " (as before)" };
            assembly.console.note(format!("{}: {words}{unchanged}", point.id.short()));
            let id = point.id.to_string();
            report.points.push(Tagged { id, tags: notes.tags, changed });
        }
        assembly.console.document(&report);
        Ok(Outcome::Done)
    }
}
