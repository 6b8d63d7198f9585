//! `keepwell discover`: what on this machine could be protected and is not.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::arguments;
use crate::assembly::Assembly;
use crate::console::table::{Align, Table};
use crate::console::units::size;
use crate::error::{Attempt, Error, Outcome};
use crate::workload::discovery::{Discovered, Protection, Search, discover};

/// Show what on this machine could be protected and is not
///
/// Databases are known by the sockets they listen on, SQLite files are looked for where you say, folders are measured where people keep what is theirs and
/// on every disk beside that of the system. Nothing is changed.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell discover
  keepwell discover --sqlite /srv --sqlite /home
  keepwell discover --folder /srv --least 100M      the folders in /srv that hold at least 100 MB
  keepwell discover --all                           what is protected, too")]
pub(super) struct Discover {
    /// Look for SQLite databases in DIR
    #[arg(long, value_name = "DIR")]
    sqlite: Vec<PathBuf>,
    /// Look at the folders in DIR instead of the usual places
    #[arg(long, value_name = "DIR")]
    folder: Vec<PathBuf>,
    /// Leave out folders that hold less
    #[arg(long, value_name = "SIZE", value_parser = arguments::size, default_value = "10M")]
    least: u64,
    /// Show what is protected, too
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Document {
    found: Vec<Item>,
    not_protected: usize,
}

#[derive(Serialize)]
struct Item {
    kind: &'static str,
    place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    protection: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

impl Discover {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let config = assembly.config()?;
        let absolute = |paths: &[PathBuf]| -> Vec<PathBuf> {
            paths.iter().map(|path| std::path::absolute(path).unwrap_or(path.clone())).collect()
        };
        let (sqlite, folders) = (absolute(&self.sqlite), absolute(&self.folder));
        let mut never = config.pool.paths.clone();
        never.push(assembly.place.state());
        let search =
            Search { sqlite: &sqlite, folders: &folders, least: self.least, never: &never };
        let found = discover(&config, &search).attempt(|| "look around".to_string())?;
        let protected = |one: &Discovered| matches!(one.protection, Protection::By(_));
        let not_protected = found.iter().filter(|one| !protected(one)).count();
        let shown = found.into_iter().filter(|one| self.all || !protected(one));
        let document = Document { found: shown.map(item).collect(), not_protected };
        assembly.console.document(&document);
        tell(assembly, &document);
        Ok(Outcome::Done)
    }
}

fn item(found: Discovered) -> Item {
    let (protection, group) = match found.protection {
        Protection::Not => ("none", None),
        Protection::Partly(group) => ("partly", Some(group)),
        Protection::Perhaps(group) => ("perhaps", Some(group)),
        Protection::By(group) => ("protected", Some(group)),
    };
    Item {
        kind: found.kind,
        place: found.place.display().to_string(),
        bytes: found.bytes,
        protection,
        group,
    }
}

fn tell(assembly: &Assembly, document: &Document) {
    let console = &assembly.console;
    if document.found.is_empty() {
        console.note("everything that was found is protected");
        return;
    }
    let mut table = Table::new(&[
        ("Kind", Align::Left),
        ("Where", Align::Left),
        ("Size", Align::Right),
        ("Protected", Align::Left),
    ]);
    for item in &document.found {
        let by = match (&item.group, item.protection) {
            (Some(group), "protected") => format!("by {group}"),
            (Some(group), word) => format!("{word}, by {group}"),
            (None, _) => "no".to_string(),
        };
        let bytes = item.bytes.map(size).unwrap_or_default();
        table.row(vec![item.kind.to_string(), item.place.clone(), bytes, by]);
    }
    table.lines().iter().for_each(|line| console.say(line));
}
