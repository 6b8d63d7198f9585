//! Whom damage affects: the points, and the first paths of each, that need a broken chunk.
//!
//! Runs only when something is broken. Directories found whole once are not walked again for other points.

use std::collections::HashSet;

use crate::chunks::{PoolChunks, PoolReader};
use crate::entry::EntryPath;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkKind, PointId, TreeId};
use crate::manifest::Manifest;
use crate::monitor::Monitor;
use crate::pool::Session;
use crate::tree::{ChunkFetch, Content, DEPTH_LIMIT, Entry, Extents, Node, TreeCursor, read_list};

/// Most paths that are listed of one point; the count goes on.
pub(super) const PATHS_LISTED: usize = 20;

/// A point that cannot be restored completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffectedPoint {
    /// The point.
    pub point: PointId,
    /// The first files and directories that cannot be restored, or not completely, in the order of the walk.
    pub paths: Vec<EntryPath>,
    /// How many there are. A directory that cannot be read counts as one.
    pub path_count: u64,
}

struct Walk<'a> {
    session: &'a Session,
    reader: PoolReader<'a>,
    broken: HashSet<ChunkId>,
    // Whether `broken` is only a part of what is broken, so that every chunk is looked for.
    uncounted: bool,
    // First 8 bytes of the trees and lists below which nothing is broken.
    whole: HashSet<i64>,
    monitor: &'a dyn Monitor,
}

/// Returns which of `points` need a broken chunk, and where.
pub(crate) fn find(
    session: &Session,
    points: &[PointId],
    broken: HashSet<ChunkId>,
    uncounted: bool,
    monitor: &dyn Monitor,
) -> Result<Vec<AffectedPoint>> {
    let mut walk = Walk {
        session,
        reader: PoolChunks::new(session).pool_reader()?,
        broken,
        uncounted,
        whole: HashSet::new(),
        monitor,
    };
    let mut affected = Vec::new();
    for point in points {
        let found = walk.point(*point)?;
        if found.path_count > 0 {
            affected.push(found);
        }
    }
    Ok(affected)
}

// A directory on the way: what is left of it and whether something in or below it is broken.
struct Open<'a> {
    tree: TreeId,
    path: EntryPath,
    cursor: TreeCursor<'a>,
    harmed: bool,
}

impl AffectedPoint {
    fn add(&mut self, path: EntryPath) {
        self.path_count += 1;
        if self.paths.len() < PATHS_LISTED {
            self.paths.push(path);
        }
    }
}

impl Walk<'_> {
    fn point(&mut self, point: PointId) -> Result<AffectedPoint> {
        let mut affected = AffectedPoint { point, paths: Vec::new(), path_count: 0 };
        let Some(root) = self.root(point)? else {
            affected.add(EntryPath::root());
            return Ok(affected);
        };
        let session = self.session;
        // Its own reader: the cursors hold it while this walk changes what it knows.
        let nodes = PoolChunks::new(session).pool_reader()?;
        let mut open = vec![Open {
            tree: root,
            path: EntryPath::root(),
            cursor: TreeCursor::new(&nodes, root),
            harmed: false,
        }];
        loop {
            let depth = open.len();
            let Some(directory) = open.last_mut() else { return Ok(affected) };
            if self.monitor.cancelled() {
                return Err(Error::Interrupted);
            }
            let harm = match directory.cursor.next() {
                None => {
                    let closed = open.pop().expect("it was just looked at");
                    if !closed.harmed {
                        self.whole.insert(closed.tree.prefix());
                    } else if let Some(parent) = open.last_mut() {
                        parent.harmed = true;
                    }
                    continue;
                }
                Some(Ok(Entry { name, node: Node::Directory { tree, .. }, .. })) => {
                    if !self.whole.contains(&tree.prefix()) && depth < DEPTH_LIMIT {
                        let path = directory.path.join(&name);
                        let cursor = TreeCursor::new(&nodes, tree);
                        open.push(Open { tree, path, cursor, harmed: false });
                    }
                    continue;
                }
                Some(Ok(entry)) if self.is_harmed(&entry)? => directory.path.join(&entry.name),
                Some(Ok(_)) => continue,
                // A part of the directory is missing.
                Some(Err(error)) if error.is_damage() => directory.path.clone(),
                Some(Err(error)) => return Err(error),
            };
            directory.harmed = true;
            affected.add(harm);
        }
    }

    fn root(&self, point: PointId) -> Result<Option<TreeId>> {
        if let Ok(manifest) = self.session.pool().manifest(point) {
            return Ok(Some(manifest.root));
        }
        match self.reader.fetch(point.into(), ChunkKind::Manifest) {
            Ok(bytes) => Ok(Manifest::decode(&bytes).ok().map(|manifest| manifest.root)),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_harmed(&mut self, entry: &Entry) -> Result<bool> {
        match &entry.node {
            Node::File { content: Content::Inline(extents), .. } => self.are_harmed(extents),
            Node::File { content: Content::Listed(lists), .. } => {
                for list in lists {
                    if self.whole.contains(&list.id.prefix()) {
                        continue;
                    }
                    match read_list(&self.reader, *list) {
                        Ok(extents) if self.are_harmed(&extents)? => return Ok(true),
                        Ok(_) => {
                            self.whole.insert(list.id.prefix());
                        }
                        Err(error) if error.is_damage() => return Ok(true),
                        Err(error) => return Err(error),
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn are_harmed(&self, extents: &Extents) -> Result<bool> {
        for chunk in &extents.chunks {
            let harmed = self.broken.contains(&chunk.id)
                || (self.uncounted && self.reader.find(chunk.id)?.is_none());
            if harmed {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
