//! `keepwell ls`: what a point holds.

use clap::Args;
use serde::Serialize;
use storepool::entry::EntryPath;
use storepool::tree::{Entry, Node};

use super::entry::{EntryDocument, long_line};
use crate::assembly::Assembly;
use crate::contents::{Descend, locate, walk};
use crate::error::{Attempt, Error, Outcome};
use crate::origin::OriginArgs;

/// List what a point holds
///
/// Of a whole point everything is listed, of a folder in it only what is directly there. Paths are printed as POINT:PATH takes them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell ls latest
  keepwell ls -l latest:etc
  keepwell ls --json latest | jq -r '.entries[].path'")]
pub(super) struct Ls {
    /// Which point, and which folder of it
    #[arg(value_name = "POINT[:PATH]")]
    point: String,
    /// Show mode, owner, size and time too
    #[arg(long, short)]
    long: bool,
    /// Of a folder, list everything below it
    #[arg(long, short = 'R')]
    recursive: bool,
    #[command(flatten)]
    origin: OriginArgs,
}

#[derive(Serialize)]
struct Head {
    point: String,
    path: String,
}

impl Ls {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let origin = self.origin.open(assembly)?;
        let (selection, manifest) = origin.select(&self.point).attempt(|| "list".to_string())?;
        let attempt = || format!("list {}", selection.name());
        let chunks = origin.chunks([selection.point.id]).attempt(attempt)?;
        let reader = chunks.reader().attempt(attempt)?;
        let (path, entry) = locate(&*reader, &manifest, &selection).attempt(attempt)?;

        let console = &assembly.console;
        let head = Head { point: selection.point.id.to_string(), path: path.to_string() };
        let mut listing = console.listing("entries", &head);
        let deep = self.recursive || path.is_root();
        let mut see = |path: &EntryPath, entry: &Entry| {
            listing.item(&EntryDocument::of(path, entry, &manifest.owners));
            if self.long {
                console.say(long_line(path, entry, &manifest.owners));
            } else {
                console.say(path.to_string());
            }
            Ok(match (console.is_gone(), deep) {
                (true, _) => Descend::Stop,
                (false, true) => Descend::Into,
                (false, false) => Descend::Over,
            })
        };
        let walked = match entry.node {
            Node::Directory { .. } => walk(&*reader, &path, &entry, &mut see),
            _ => see(&path, &entry).map(|_| ()),
        };
        match walked.attempt(attempt) {
            Ok(()) => listing.finish(&()),
            Err(error) => {
                listing.abort(&error);
                return Err(error);
            }
        }
        Ok(Outcome::Done)
    }
}
