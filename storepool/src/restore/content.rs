//! Looking up one path of a point and reading one file, without a target.

use std::io::Write;
use std::path::Path;

use crate::chunks::{ChunkReader, ChunkSource, Placement};
use crate::entry::EntryPath;
use crate::error::{Error, Result};
use crate::id::ChunkKind;
use crate::manifest::Manifest;
use crate::restore::layout::{Layout, Stretch};
use crate::tree::{ChunkFetch, Content, Entry, Extents, Node, find_entry, read_list};

/// Stretches located ahead, so that a frame is decoded once for all neighbours in it.
const STRETCHES_AHEAD: usize = 256;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Returns the entry at `path` of a point; for the root, the manifest's own.
///
/// # Errors
/// [`Error::PathNotFound`]; [`Error::ChunkMissing`] and other damage of the trees on the way.
pub fn find_path(fetch: &dyn ChunkFetch, manifest: &Manifest, path: &EntryPath) -> Result<Entry> {
    let not_found = || Error::PathNotFound { path: path.to_string(), point: manifest.point_id() };
    let mut entry = manifest.root_entry.clone();
    let mut tree = Some(manifest.root);
    for name in path.components() {
        entry = find_entry(fetch, tree.ok_or_else(not_found)?, name)?.ok_or_else(not_found)?;
        tree = match entry.node {
            Node::Directory { tree, .. } => Some(tree),
            _ => None,
        };
    }
    Ok(entry)
}

/// Writes the content of the regular file at `path` to `out`, holes as zeros, every chunk verified. Returns its length in bytes.
///
/// # Errors
/// [`Error::PathNotFound`]; [`Error::NotAFile`]; damage; [`Error::Io`] if `out` fails. What was written before an error is sound but not all.
pub fn read_file(
    source: &dyn ChunkSource,
    manifest: &Manifest,
    path: &EntryPath,
    out: &mut dyn Write,
) -> Result<u64> {
    let mut reader = source.reader()?;
    let entry = find_path(&*reader, manifest, path)?;
    let Node::File { size, content } = entry.node else {
        return Err(Error::NotAFile { path: path.to_string() });
    };
    match content {
        Content::None => write_zeros(out, size)?,
        Content::Inline(extents) => write_extents(&mut *reader, &extents, size, out)?,
        Content::Listed(lists) => {
            for list in lists {
                let extents = read_list(&*reader, list)?;
                write_extents(&mut *reader, &extents, list.span, out)?;
            }
        }
    }
    out.flush().map_err(Error::io("write", Path::new("output")))?;
    Ok(size)
}

struct Part {
    stretch: Stretch,
    // `None`: not where it should be; asked for by name.
    placement: Option<Placement>,
}

fn write_extents(
    reader: &mut dyn ChunkReader,
    extents: &Extents,
    span: u64,
    out: &mut dyn Write,
) -> Result<()> {
    let stretches: Vec<_> = Layout::new(extents, 0, span).collect();
    for window in stretches.chunks(STRETCHES_AHEAD) {
        let mut parts = Vec::with_capacity(window.len());
        for stretch in window {
            let placement = match stretch {
                Stretch::Hole { .. } => None,
                Stretch::Data { chunk, .. } => place(reader, extents, *chunk)?,
            };
            parts.push(Part { stretch: *stretch, placement });
        }
        let frame_of = |part: &Part| part.placement.map(|place| (place.pack, place.frame));
        for group in parts.chunk_by(|one, other| frame_of(one) == frame_of(other)) {
            write_group(reader, extents, group, out)?;
        }
    }
    Ok(())
}

fn place(
    reader: &mut dyn ChunkReader,
    extents: &Extents,
    chunk: usize,
) -> Result<Option<Placement>> {
    let wanted = &extents.chunks[chunk];
    match reader.locate(wanted.id) {
        Ok(placement) => Ok(Some(placement).filter(|found| found.length == wanted.length)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

// All parts of a group lie in one frame, or have no placement.
fn write_group(
    reader: &mut dyn ChunkReader,
    extents: &Extents,
    group: &[Part],
    out: &mut dyn Write,
) -> Result<()> {
    let mut done = 0;
    if let Some(first) = group[0].placement {
        match reader.read_frame(first.pack, first.frame) {
            Ok(frame) => {
                for part in group {
                    let Stretch::Data { chunk, chunk_offset, length, .. } = part.stretch else {
                        break;
                    };
                    let placement = part.placement.as_ref().expect("a group shares its frame");
                    let Some(bytes) = frame.chunk(placement, &extents.chunks[chunk].id) else {
                        break;
                    };
                    write_all(out, &bytes[chunk_offset as usize..][..length as usize])?;
                    done += 1;
                }
            }
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    // What the frame could not give: other copies are tried.
    for part in &group[done..] {
        match part.stretch {
            Stretch::Hole { length, .. } => write_zeros(out, length)?,
            Stretch::Data { chunk, chunk_offset, length, .. } => {
                let wanted = &extents.chunks[chunk];
                let bytes = reader.fetch(wanted.id, ChunkKind::Data)?;
                if bytes.len() != wanted.length as usize {
                    return Err(Error::damaged(
                        format!("chunk {}", wanted.id.short()),
                        "has another length than its file says",
                    ));
                }
                write_all(out, &bytes[chunk_offset as usize..][..length as usize])?;
            }
        }
    }
    Ok(())
}

fn write_zeros(out: &mut dyn Write, mut length: u64) -> Result<()> {
    while length > 0 {
        let part = length.min(ZEROS.len() as u64);
        write_all(out, &ZEROS[..part as usize])?;
        length -= part;
    }
    Ok(())
}

fn write_all(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(Error::io("write", Path::new("output")))
}
