//! Walking through what a point holds.

use storepool::Result;
use storepool::entry::EntryPath;
use storepool::manifest::Manifest;
use storepool::restore::find_path;
use storepool::tree::{ChunkFetch, Entry, Node, TreeCursor};

use crate::selection::Selection;

/// Finds what a selection means in its point: the first of its possible paths that exists.
///
/// # Errors
/// [`storepool::Error::PathNotFound`] for the path as it was typed.
pub(crate) fn locate(
    fetch: &dyn ChunkFetch,
    manifest: &Manifest,
    selection: &Selection,
) -> Result<(EntryPath, Entry)> {
    let mut failure = None;
    for path in selection.paths()? {
        match find_path(fetch, manifest, &path) {
            Ok(entry) => return Ok((path, entry)),
            Err(error @ storepool::Error::PathNotFound { .. }) => {
                failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(failure.expect("a selection has at least one path"))
}

/// Walks everything below `directory`, parents before their entries, in order of names. `see` returns whether to go into a directory.
pub(crate) fn walk(
    fetch: &dyn ChunkFetch,
    directory: &EntryPath,
    entry: &Entry,
    see: &mut dyn FnMut(&EntryPath, &Entry) -> Result<Descend>,
) -> Result<()> {
    let Node::Directory { tree, .. } = entry.node else { return Ok(()) };
    // Not recursive: a tree may be nested thousands deep.
    let mut open = vec![(directory.clone(), TreeCursor::new(fetch, tree))];
    while let Some((path, cursor)) = open.last_mut() {
        let Some(entry) = cursor.next().transpose()? else {
            open.pop();
            continue;
        };
        let path = path.join(&entry.name);
        match see(&path, &entry)? {
            Descend::Stop => return Ok(()),
            Descend::Over => {}
            Descend::Into => {
                if let Node::Directory { tree, .. } = entry.node {
                    if open.len() >= storepool::tree::DEPTH_LIMIT {
                        return Err(storepool::Error::damaged(
                            format!("\"{path}\""),
                            "directories are nested too deeply",
                        ));
                    }
                    open.push((path, TreeCursor::new(fetch, tree)));
                }
            }
        }
    }
    Ok(())
}

/// What a walk does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Descend {
    /// Goes into the entry if it is a directory.
    Into,
    /// Goes on with the next entry.
    Over,
    /// Ends.
    Stop,
}
