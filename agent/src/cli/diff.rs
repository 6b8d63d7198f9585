//! `keepwell diff`: what changed between two points.

use std::cmp::Ordering;

use clap::Args;
use serde::Serialize;
use storepool::Result as PoolResult;
use storepool::entry::{EntryPath, Metadata};
use storepool::tree::{ChunkFetch, Entry, Node, TreeCursor};

use super::entry::{file_size, kind_word, path_hex, path_text};
use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::size;
use crate::contents::{Descend, locate, walk};
use crate::error::{Attempt, Error, Outcome};
use crate::origin::OriginArgs;
use crate::selection::Selection;

/// Show what changed between two points
///
/// One line for each entry: + added, - removed, M content changed, T became another kind of entry, U only metadata changed (with --metadata). Folders
/// that are equal in both points are not read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell diff 7f3a9c12 latest
  keepwell diff 7f3a9c12:etc latest:etc --metadata")]
pub(super) struct Diff {
    /// The earlier one
    #[arg(value_name = "POINT[:PATH]")]
    before: String,
    /// The later one
    #[arg(value_name = "POINT[:PATH]")]
    after: String,
    /// Show entries too of which only owner, mode, time or attributes changed
    #[arg(long)]
    metadata: bool,
    #[command(flatten)]
    origin: OriginArgs,
}

/// How an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added,
    Removed,
    Content,
    Kind,
    Metadata,
}

impl Change {
    fn sign(self) -> &'static str {
        match self {
            Self::Added => "+",
            Self::Removed => "-",
            Self::Content => "M",
            Self::Kind => "T",
            Self::Metadata => "U",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Content => "content",
            Self::Kind => "kind",
            Self::Metadata => "metadata",
        }
    }
}

#[derive(Serialize)]
struct Head {
    before: String,
    after: String,
}

#[derive(Serialize)]
struct Line {
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_after: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Totals {
    added: u64,
    removed: u64,
    changed: u64,
    metadata_changed: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

#[derive(Serialize)]
struct Tail {
    totals: Totals,
}

impl Diff {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let origin = self.origin.open(assembly)?;
        let attempt = || format!("compare {} with {}", self.before, self.after);
        let (before, of_before) = origin.select(&self.before).attempt(attempt)?;
        let (after, of_after) = origin.select(&self.after).attempt(attempt)?;
        let chunks = origin.chunks([before.point.id, after.point.id]).attempt(attempt)?;
        let reader = chunks.reader().attempt(attempt)?;
        let find = |selection: &Selection, manifest| -> PoolResult<(String, EntryPath, Entry)> {
            let (path, entry) = locate(&*reader, manifest, selection)?;
            Ok((selection.name(), path, entry))
        };
        let before = find(&before, &of_before).attempt(attempt)?;
        let after = find(&after, &of_after).attempt(attempt)?;

        let console = &assembly.console;
        let mut totals = Totals::default();
        let mut listing = console.listing("changes", &Head { before: before.0, after: after.0 });
        let mut see =
            |change: Change, path: &EntryPath, before: Option<&Entry>, after: Option<&Entry>| {
                totals.count(change, before, after);
                if change == Change::Metadata && !self.metadata {
                    return;
                }
                let Some(either) = after.or(before) else { return };
                let slash = if matches!(either.node, Node::Directory { .. }) { "/" } else { "" };
                console.say(format!("{} {path}{slash}", change.sign()));
                listing.item(&Line {
                    change: change.word(),
                    path: path_text(path),
                    path_hex: path_hex(path),
                    kind: kind_word(&either.node),
                    size_before: before.and_then(|entry| file_size(&entry.node)),
                    size_after: after.and_then(|entry| file_size(&entry.node)),
                });
            };
        let root = EntryPath::root();
        let mut comparison = Comparison { fetch: &*reader, console, see: &mut see };
        let compared = match (&before.2.node, &after.2.node) {
            (Node::Directory { .. }, Node::Directory { .. }) => {
                comparison.directories(&root, &before.2, &after.2)
            }
            _ => comparison.pair(&after.1, &before.2, &after.2),
        };
        match compared.attempt(attempt) {
            Ok(()) => listing.finish(&Tail { totals }),
            Err(error) => {
                listing.abort(&error);
                return Err(error);
            }
        }
        tell_totals(console, &totals);
        Ok(Outcome::Done)
    }
}

impl Totals {
    fn count(&mut self, change: Change, before: Option<&Entry>, after: Option<&Entry>) {
        *match change {
            Change::Added => &mut self.added,
            Change::Removed => &mut self.removed,
            Change::Content | Change::Kind => &mut self.changed,
            Change::Metadata => &mut self.metadata_changed,
        } += 1;
        if change != Change::Metadata {
            let bytes = |entry: Option<&Entry>| entry.and_then(|entry| file_size(&entry.node));
            self.bytes_removed += bytes(before).unwrap_or(0);
            self.bytes_added += bytes(after).unwrap_or(0);
        }
    }
}

fn tell_totals(console: &Console, totals: &Totals) {
    console.note(format!(
        "{} added, {} removed, {} changed, {} with new metadata only; {} more, {} less",
        totals.added,
        totals.removed,
        totals.changed,
        totals.metadata_changed,
        size(totals.bytes_added),
        size(totals.bytes_removed),
    ));
}

type See<'a> = dyn FnMut(Change, &EntryPath, Option<&Entry>, Option<&Entry>) + 'a;

struct Comparison<'a, 'b> {
    fetch: &'a dyn ChunkFetch,
    console: &'a Console,
    see: &'a mut See<'b>,
}

/// Two directories of one name, walked side by side.
struct Pair<'a> {
    path: EntryPath,
    before: std::iter::Peekable<TreeCursor<'a>>,
    after: std::iter::Peekable<TreeCursor<'a>>,
}

impl<'a> Comparison<'a, '_> {
    fn directories(&mut self, path: &EntryPath, before: &Entry, after: &Entry) -> PoolResult<()> {
        let mut open = Vec::new();
        open.extend(self.open(path.clone(), before, after));
        while let Some(pair) = open.last_mut() {
            if self.console.is_gone() {
                return Ok(());
            }
            let Some((one, other)) = pair.next()? else {
                open.pop();
                continue;
            };
            let name = one.as_ref().or(other.as_ref()).map(|entry| entry.name.as_slice());
            let path = pair.path.join(name.unwrap_or_default());
            match (one, other) {
                (Some(entry), None) => self.whole(Change::Removed, &path, &entry)?,
                (None, Some(entry)) => self.whole(Change::Added, &path, &entry)?,
                (Some(before), Some(after)) => {
                    self.pair(&path, &before, &after)?;
                    if open.len() >= storepool::tree::DEPTH_LIMIT {
                        let object = format!("\"{path}\"");
                        let reason = "directories are nested too deeply";
                        return Err(storepool::Error::damaged(object, reason));
                    }
                    open.extend(self.open(path, &before, &after));
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    // Nothing to walk if the directories are equal, or are not directories.
    fn open(&self, path: EntryPath, before: &Entry, after: &Entry) -> Option<Pair<'a>> {
        let (Node::Directory { tree: one, .. }, Node::Directory { tree: other, .. }) =
            (&before.node, &after.node)
        else {
            return None;
        };
        let cursor = |tree| TreeCursor::new(self.fetch, tree).peekable();
        (one != other).then(|| Pair { path, before: cursor(*one), after: cursor(*other) })
    }

    fn pair(&mut self, path: &EntryPath, before: &Entry, after: &Entry) -> PoolResult<()> {
        let change = match (&before.node, &after.node) {
            (Node::Directory { .. }, Node::Directory { .. }) => None,
            (one, other) if kind_word(one) != kind_word(other) => {
                (self.see)(Change::Kind, path, Some(before), Some(after));
                // A directory that became something else is gone with all it held, and the other way round.
                self.below(Change::Removed, path, before)?;
                return self.below(Change::Added, path, after);
            }
            (one, other) => (one != other).then_some(Change::Content),
        };
        let metadata = differs(&before.metadata, &after.metadata).then_some(Change::Metadata);
        if let Some(change) = change.or(metadata) {
            (self.see)(change, path, Some(before), Some(after));
        }
        Ok(())
    }

    fn whole(&mut self, change: Change, path: &EntryPath, entry: &Entry) -> PoolResult<()> {
        self.one(change, path, entry);
        self.below(change, path, entry)
    }

    fn one(&mut self, change: Change, path: &EntryPath, entry: &Entry) {
        match change {
            Change::Added => (self.see)(change, path, None, Some(entry)),
            _ => (self.see)(change, path, Some(entry), None),
        }
    }

    fn below(&mut self, change: Change, path: &EntryPath, entry: &Entry) -> PoolResult<()> {
        let (fetch, console) = (self.fetch, self.console);
        walk(fetch, path, entry, &mut |path, entry| {
            self.one(change, path, entry);
            Ok(if console.is_gone() { Descend::Stop } else { Descend::Into })
        })
    }
}

impl Pair<'_> {
    /// Returns the next entry that one or both have, in order of names; equal ones are passed over.
    fn next(&mut self) -> PoolResult<Option<(Option<Entry>, Option<Entry>)>> {
        loop {
            let order = match (self.before.peek(), self.after.peek()) {
                (None, None) => return Ok(None),
                (Some(Ok(one)), Some(Ok(other))) => one.name.cmp(&other.name),
                (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
                (None, Some(_)) | (_, Some(Err(_))) => Ordering::Greater,
            };
            let one = if order.is_le() { self.before.next().transpose()? } else { None };
            let other = if order.is_ge() { self.after.next().transpose()? } else { None };
            if one != other {
                return Ok(Some((one, other)));
            }
        }
    }
}

// ctime and inode are of the disk, not of the file: a restored tree has others.
fn differs(one: &Metadata, other: &Metadata) -> bool {
    let of_file = |metadata: &Metadata| Metadata {
        ctime: Default::default(),
        inode: 0,
        hard_link_device: None,
        ..metadata.clone()
    };
    of_file(one) != of_file(other)
}
