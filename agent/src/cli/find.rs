//! `keepwell find`: in which points a file is.

use std::collections::HashSet;

use clap::Args;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Serialize;
use storepool::catalog::{Point, choose};
use storepool::entry::EntryPath;
use storepool::id::TreeId;
use storepool::manifest::Manifest;
use storepool::tree::{ChunkFetch, Entry, Node, TreeCursor};

use super::entry::{EntryDocument, long_line};
use super::points::Filter;
use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::units::local;
use crate::error::{Attempt, Error, Outcome};
use crate::origin::{Origin, OriginArgs};

/// Most directories remembered as holding nothing that matches; each costs 32 bytes.
const BARREN_MOST: usize = 1_000_000;

/// Find files in all points
///
/// A pattern without a slash is compared with names, one with a slash with whole paths. In patterns * is anything but a slash, ** anything at all.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell find passwd
  keepwell find '*.docx' --point latest
  keepwell find -l 'srv/**/index.html'")]
pub(super) struct Find {
    /// What to look for
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Only in these points
    #[arg(long, short = 's', alias = "snapshot", value_name = "POINT")]
    point: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Without regard to upper and lower case
    #[arg(long, short)]
    ignore_case: bool,
    /// Show mode, owner, size and time too
    #[arg(long, short)]
    long: bool,
    #[command(flatten)]
    origin: OriginArgs,
}

#[derive(Serialize)]
struct Match {
    point: String,
    #[serde(flatten)]
    entry: EntryDocument,
}

struct Patterns {
    names: GlobSet,
    paths: GlobSet,
}

impl Patterns {
    fn new(patterns: &[String], ignore_case: bool) -> Result<Self, Error> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            // Paths are compared without their first slash, as they are printed.
            let whole = pattern.contains('/');
            let glob = GlobBuilder::new(pattern.trim_start_matches('/'))
                .case_insensitive(ignore_case)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| Error::usage(error.to_string()))?;
            if whole {
                paths.add(glob);
            } else {
                names.add(glob);
            }
        }
        let build = |builder: GlobSetBuilder| {
            builder.build().map_err(|error| Error::usage(error.to_string()))
        };
        Ok(Self { names: build(names)?, paths: build(paths)? })
    }

    fn match_entry(&self, path: &EntryPath, name: &[u8]) -> bool {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        self.names.is_match(OsStr::from_bytes(name))
            || self.paths.is_match(OsStr::from_bytes(path.as_bytes()))
    }
}

struct Search<'a> {
    patterns: &'a Patterns,
    fetch: &'a dyn ChunkFetch,
    // Directories in which no name matches, at any depth; most points share most of their directories.
    barren: HashSet<TreeId>,
}

struct Level<'a> {
    path: EntryPath,
    tree: TreeId,
    cursor: TreeCursor<'a>,
    matches: bool,
}

impl Search<'_> {
    fn search(
        &mut self,
        manifest: &Manifest,
        see: &mut dyn FnMut(&EntryPath, &Entry) -> bool,
    ) -> storepool::Result<()> {
        let level = |path: EntryPath, tree| Level {
            path,
            tree,
            cursor: TreeCursor::new(self.fetch, tree),
            matches: false,
        };
        let by_path = !self.patterns.paths.is_empty();
        let mut open = vec![level(EntryPath::root(), manifest.root)];
        while let Some(top) = open.last_mut() {
            let Some(entry) = top.cursor.next().transpose()? else {
                let done = open.pop().expect("there is a last one");
                match open.last_mut() {
                    Some(above) if done.matches => above.matches = true,
                    _ => {}
                }
                if !done.matches && !by_path && self.barren.len() < BARREN_MOST {
                    self.barren.insert(done.tree);
                }
                continue;
            };
            let path = top.path.join(&entry.name);
            if self.patterns.match_entry(&path, &entry.name) {
                top.matches = true;
                if !see(&path, &entry) {
                    return Ok(());
                }
            }
            if let Node::Directory { tree, .. } = entry.node
                && !self.barren.contains(&tree)
            {
                if open.len() >= storepool::tree::DEPTH_LIMIT {
                    let object = format!("\"{path}\"");
                    let reason = "directories are nested too deeply";
                    return Err(storepool::Error::damaged(object, reason));
                }
                open.push(level(path, tree));
            }
        }
        Ok(())
    }
}

impl Find {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let patterns = Patterns::new(&self.patterns, self.ignore_case)?;
        let search = || "search".to_string();
        let origin = self.origin.open(assembly)?;
        let chosen = self.chosen(&origin)?;
        let chunks = origin.chunks(chosen.iter().map(|point| point.id)).attempt(search)?;
        let reader = chunks.reader().attempt(search)?;
        let console = &assembly.console;
        let mut search = Search { patterns: &patterns, fetch: &*reader, barren: HashSet::new() };
        let mut listing = console.listing("matches", &serde_json::json!({}));
        for point in chosen {
            let attempt = || format!("search point {}", point.id.short());
            let searched = origin.manifest(point.id).and_then(|manifest| {
                let mut first = true;
                search.search(&manifest, &mut |path, entry| {
                    if std::mem::take(&mut first) {
                        tell_point(console, point, listing.items() > 0);
                    }
                    let document = EntryDocument::of(path, entry, &manifest.owners);
                    listing.item(&Match { point: point.id.to_string(), entry: document });
                    console.say(match self.long {
                        true => long_line(path, entry, &manifest.owners),
                        false => path.to_string(),
                    });
                    !console.is_gone()
                })?;
                Ok(())
            });
            if let Err(error) = searched.attempt(attempt) {
                listing.abort(&error);
                return Err(error);
            }
            if console.is_gone() {
                break;
            }
        }
        if listing.items() == 0 {
            console.note("nothing found");
        }
        listing.finish(&());
        Ok(Outcome::Done)
    }

    // The newest first: that is the one most people want.
    fn chosen<'a>(&self, origin: &'a Origin) -> Result<Vec<&'a Point>, Error> {
        let all = origin.points();
        let unfound = |error| origin.unfound(error);
        let mut chosen: Vec<&Point> = if self.point.is_empty() {
            all.iter().rev().collect()
        } else {
            let named = self.point.iter().map(|name| choose(all, name).map_err(unfound));
            named.collect::<Result<_, _>>().attempt(|| "search".to_string())?
        };
        chosen.retain(|point| self.filter.takes(point));
        Ok(chosen)
    }
}

fn tell_point(console: &Console, point: &Point, further: bool) {
    if further {
        console.note("");
    }
    console.note(format!(
        "point {} of {}, {}:",
        point.id.short(),
        point.source,
        local(point.started)
    ));
}
