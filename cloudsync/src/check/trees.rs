//! Walking through points of the vault: every tree is read, and every chunk that it names is looked up.

use std::collections::HashSet;
use std::sync::Arc;

use storepool::chunks::ChunkSource;
use storepool::id::{PointId, TreeId};
use storepool::monitor::{Event, Monitor};
use storepool::tree::{ChunkFetch, Content, DEPTH_LIMIT, Extents, Node, TreeCursor, read_list};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::recovery::{VaultChunks, manifest_of};
use crate::vault::Ordinals;
use crate::vault::chain::Realm;
use crate::vault::snapshot::Snapshot;

/// Returns the points that name something that is in none of their packs, or that cannot be read, and what it is.
pub(super) async fn walk(
    realm: &Realm,
    state: &Snapshot,
    monitor: Arc<dyn Monitor>,
    runtime: Handle,
) -> Result<Vec<(PointId, String)>> {
    let mut holes = Vec::new();
    let mut roots = Vec::new();
    let mut needs = Ordinals::default();
    for point in state.points().values() {
        for ordinal in point.needs.iter() {
            needs.insert(ordinal);
        }
        match manifest_of(realm, state, point, runtime.clone()).await {
            Ok(manifest) => roots.push((point.id, manifest.root)),
            Err(error) if error.is_gap() => holes.push((point.id, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    monitor.event(Event::Expected { items: roots.len() as u64, bytes: 0 });
    let chunks = VaultChunks::open(realm, state, &needs, runtime).await?;
    let work = move || -> Result<Vec<(PointId, String)>> {
        let reader = chunks.reader()?;
        let fetch: &dyn ChunkFetch = &*reader;
        let mut walk = Walk { chunks: &chunks, fetch, whole: HashSet::new() };
        for (point, root) in roots {
            if monitor.cancelled() {
                return Err(storepool::Error::Interrupted.into());
            }
            if let Some(hole) = walk.hole(root)? {
                holes.push((point, hole));
            }
            monitor.event(Event::Done { items: 1, bytes: 0 });
        }
        Ok(holes)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted { stage: "walking through points" })?
}

struct Walk<'a> {
    chunks: &'a VaultChunks,
    fetch: &'a dyn ChunkFetch,
    // First 8 bytes of the trees and lists below which everything is there.
    whole: HashSet<i64>,
}

impl Walk<'_> {
    // The first thing that is missing below this tree.
    fn hole(&mut self, root: TreeId) -> storepool::Result<Option<String>> {
        if self.whole.contains(&root.prefix()) {
            return Ok(None);
        }
        let mut open = vec![(root, TreeCursor::new(self.fetch, root))];
        while let Some((tree, cursor)) = open.last_mut() {
            let entry = match cursor.next() {
                None => {
                    self.whole.insert(tree.prefix());
                    open.pop();
                    continue;
                }
                Some(Ok(entry)) => entry,
                Some(Err(error)) if error.is_damage() => return Ok(Some(error.to_string())),
                Some(Err(error)) => return Err(error),
            };
            match entry.node {
                Node::Directory { tree, .. } if !self.whole.contains(&tree.prefix()) => {
                    if open.len() >= DEPTH_LIMIT {
                        return Ok(Some("directories are nested too deeply".to_string()));
                    }
                    open.push((tree, TreeCursor::new(self.fetch, tree)));
                }
                Node::File { content: Content::Inline(extents), .. } => {
                    if let Some(hole) = self.hole_in(&extents) {
                        return Ok(Some(hole));
                    }
                }
                Node::File { content: Content::Listed(lists), .. } => {
                    for list in lists {
                        if self.whole.contains(&list.id.prefix()) {
                            continue;
                        }
                        let hole = match read_list(self.fetch, list) {
                            Ok(extents) => self.hole_in(&extents),
                            Err(error) if error.is_damage() => Some(error.to_string()),
                            Err(error) => return Err(error),
                        };
                        if hole.is_some() {
                            return Ok(hole);
                        }
                        self.whole.insert(list.id.prefix());
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn hole_in(&self, extents: &Extents) -> Option<String> {
        let missing = extents.chunks.iter().find(|chunk| !self.chunks.has(chunk.id))?;
        Some(format!("chunk {} is in none of its packs", missing.id.short()))
    }
}
