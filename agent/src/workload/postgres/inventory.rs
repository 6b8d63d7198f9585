//! The server's own list of what it sent (`backup_manifest`), and the comparison with what arrived.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crc_fast::{CrcAlgorithm, Digest};
use serde::Deserialize;

use super::archive::{Malformed, Member, MemberKind, Visitor};
use super::base::BadPage;
use super::lsn::Lsn;
use super::pages::{PageCheck, is_of_many_pages};

/// Most damaged pages named one by one; more are counted.
const NAMED_PAGES: usize = 1000;

/// What arrived: length and CRC-32C of each file, and pages that are damaged.
pub(super) struct Arrived {
    files: HashMap<PathBuf, (u64, u32)>,
    below: PathBuf,
    open: Option<OpenFile>,
    // `None`: the cluster has no page checksums.
    judged_from: Option<Lsn>,
    bad_pages: Vec<BadPage>,
    bad_page_count: u64,
}

struct OpenFile {
    path: PathBuf,
    is_of_many_pages: bool,
    size: u64,
    sum: Digest,
    pages: Option<PageCheck>,
}

impl Arrived {
    /// Creates an empty list. Pages older than `judged_from` are checked.
    pub(super) fn new(judged_from: Option<Lsn>) -> Self {
        Self {
            files: HashMap::new(),
            below: PathBuf::new(),
            open: None,
            judged_from,
            bad_pages: Vec::new(),
            bad_page_count: 0,
        }
    }

    /// Says where in the data directory the members of the next archive lie.
    pub(super) fn enter(&mut self, below: PathBuf) {
        self.below = below;
    }

    /// Returns whether the member that is open is a large file of pages.
    pub(super) fn is_of_many_pages(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_of_many_pages)
    }

    /// Notes that the server met a damaged page which we did not see ourselves.
    pub(super) fn doubt(&mut self) {
        self.bad_page_count = self.bad_page_count.max(1);
    }

    /// Takes back what was found: the server read those pages again and found them sound.
    pub(super) fn clear(&mut self) {
        self.bad_pages.clear();
        self.bad_page_count = 0;
    }

    /// Returns the damaged pages that are named, and how many there are.
    pub(super) fn bad_pages(&self) -> (&[BadPage], u64) {
        (&self.bad_pages, self.bad_page_count)
    }

    /// Compares with the server's list. Files that it does not list (WAL, the list itself) are not judged.
    ///
    /// # Errors
    /// What differs first, for people.
    pub(super) fn compare(&self, list: &[u8]) -> Result<(), String> {
        let list: List = serde_json::from_slice(list)
            .map_err(|error| format!("its list cannot be understood: {error}"))?;
        for file in &list.files {
            let path = file.path()?;
            let shown = path.display();
            let Some((size, sum)) = self.files.get(&path) else {
                return Err(format!("{shown} did not arrive"));
            };
            if *size != file.size {
                return Err(format!("{shown} has {size} bytes instead of {}", file.size));
            }
            let Some(algorithm) = &file.algorithm else { continue };
            let expected = file.sum.as_deref().and_then(crc_of_hex);
            if algorithm != "CRC32C" || expected != Some(*sum) {
                return Err(format!("{shown} has another checksum"));
            }
        }
        Ok(())
    }
}

impl Visitor for Arrived {
    type Failure = Malformed;

    fn begin(&mut self, member: &Member) -> Result<(), Malformed> {
        if member.kind != MemberKind::File {
            return Ok(());
        }
        let path = self.below.join(&member.path);
        let pages = self.judged_from.and_then(|start| PageCheck::of(&path, start));
        let is_of_many_pages = is_of_many_pages(&path, member.size);
        let sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        self.open = Some(OpenFile { path, is_of_many_pages, size: 0, sum, pages });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        if let Some(open) = &mut self.open {
            open.size += bytes.len() as u64;
            open.sum.update(bytes);
            if let Some(pages) = &mut open.pages {
                pages.push(bytes);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        let Some(open) = self.open.take() else { return Ok(()) };
        for block in open.pages.map(PageCheck::finish).unwrap_or_default() {
            self.bad_page_count += 1;
            if self.bad_pages.len() < NAMED_PAGES {
                self.bad_pages.push(BadPage { file: open.path.clone(), block });
            }
        }
        self.files.insert(open.path, (open.size, open.sum.finalize() as u32));
        Ok(())
    }
}

#[derive(Deserialize)]
struct List {
    #[serde(rename = "Files")]
    files: Vec<ListedFile>,
}

#[derive(Deserialize)]
struct ListedFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    sum: Option<String>,
}

impl ListedFile {
    fn path(&self) -> Result<PathBuf, String> {
        use std::os::unix::ffi::OsStringExt;
        match (&self.path, &self.encoded) {
            (Some(path), _) => Ok(Path::new(path).to_path_buf()),
            (None, Some(encoded)) => bytes_of_hex(encoded)
                .map(|bytes| std::ffi::OsString::from_vec(bytes).into())
                .ok_or_else(|| "its list has a path that is none".to_string()),
            (None, None) => Err("its list has a file without a path".to_string()),
        }
    }
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

// PostgreSQL prints the four bytes as they lie in memory.
fn crc_of_hex(text: &str) -> Option<u32> {
    bytes_of_hex(text)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::archive::Archive;
    use super::super::archive::tests::member;
    use super::super::pages::MANY_PAGES;
    use super::*;

    fn list(path: &str, size: usize, sum: u32) -> String {
        let sum: String = sum.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            r#"{{"Files":[{{"Path":"{path}","Size":{size},"Checksum-Algorithm":"CRC32C","Checksum":"{sum}"}}]}}"#
        )
    }

    #[test]
    fn what_arrives_is_compared_with_what_was_sent() {
        // The check value of CRC-32C: of these nine digits it is this number.
        let (content, sum) = (b"123456789", 0xe306_9283);
        let mut arrived = Arrived::new(None);
        arrived.enter("pg_tblspc/16400".into());
        Archive::new().push(&member("PG_15/5/1", content), &mut arrived).unwrap();
        let path = "pg_tblspc/16400/PG_15/5/1";

        assert_eq!(arrived.compare(list(path, 9, sum).as_bytes()), Ok(()));
        let wrong = arrived.compare(list(path, 10, sum).as_bytes()).unwrap_err();
        assert!(wrong.contains("9 bytes instead of 10"), "{wrong}");
        let wrong = arrived.compare(list(path, 9, sum ^ 1).as_bytes()).unwrap_err();
        assert!(wrong.contains("another checksum"), "{wrong}");
        let wrong = arrived.compare(list("base/1", 9, sum).as_bytes()).unwrap_err();
        assert!(wrong.contains("did not arrive"), "{wrong}");
        assert!(arrived.compare(b"{").is_err());
    }

    #[test]
    fn only_large_files_of_pages_are_cut_as_pages() {
        let many = vec![0; MANY_PAGES as usize];
        let is_of_many = |path: &str, content: &[u8]| {
            let mut arrived = Arrived::new(None);
            // All but its last block, so that it is still open.
            let bytes = member(path, content);
            Archive::new().push(&bytes[..bytes.len() - 512], &mut arrived).unwrap();
            arrived.is_of_many_pages()
        };

        assert!(is_of_many("base/5/16384", &many));
        assert!(!is_of_many("base/5/16384", &many[8192..]));
        assert!(!is_of_many("pg_wal/000000010000000000000001", &many));
    }
}
