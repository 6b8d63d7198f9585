//! Checksums of PostgreSQL's pages, computed while a file passes.
//!
//! A page whose LSN is not older than the beginning of the backup may have been torn while the server read it; recovery writes it anew from the WAL,
//! so it is not judged (as in the server's own check, `src/backend/backup/basebackup.c`). The algorithm is that of `src/include/storage/checksum_impl.h`.

use std::path::Path;

use storepool::chunker::PAGES_LENGTH;

use super::lsn::Lsn;

/// The only page size we judge; other builds are rare.
pub(super) const PAGE: usize = 8192;
/// Bytes of a file whose pages are cut as such; many small files together make better chunks.
pub(super) const MANY_PAGES: u64 = 4 * PAGES_LENGTH as u64;
/// Pages of one file of a relation; a larger relation has several.
const PAGES_OF_SEGMENT: u32 = (1 << 30) / PAGE as u32;
const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const BASES: [u32; LANES] = [
    0x5b1f_36e9,
    0xb852_5960,
    0x02ab_50aa,
    0x1de6_6d2a,
    0x79ff_467a,
    0x9bb9_f8a3,
    0x217e_7cd2,
    0x83e1_3d2c,
    0xf8d4_474f,
    0xe39e_b970,
    0x42c6_ae16,
    0x9932_16fa,
    0x7b09_3b5d,
    0x98da_ff3c,
    0xf718_902a,
    0x0b1c_9cdb,
    0xe58f_764b,
    0x1876_36bc,
    0x5d7b_3bb1,
    0xe73d_e7de,
    0x92be_c979,
    0xcca6_c0b2,
    0x304a_0979,
    0x85aa_43d4,
    0x7831_25bb,
    0x6ca8_eaa2,
    0xe407_eac6,
    0x4b5c_fc3e,
    0x9fbf_8c76,
    0x15ca_20be,
    0xf2ca_9fd3,
    0x959b_d756,
];

/// Judges the pages of one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageJudge {
    start: Lsn,
    first: u32,
}

impl PageJudge {
    /// Returns the judge of a file, if it is one of pages. `start` is where the backup began.
    pub(super) fn of(path: &Path, start: Lsn) -> Option<Self> {
        let first = segment_of(path)?.checked_mul(PAGES_OF_SEGMENT)?;
        Some(Self { start, first })
    }

    /// Returns whether a page, by its number in the file, has the right checksum, or need not have it: it is empty, or comes back from the WAL.
    pub(super) fn is_sound(&self, page: &[u8], block: u32) -> bool {
        let word = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        let half = |at: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|i| page[at + i])));
        let is_new = word(14) == 0;
        let lsn = Lsn(half(0) << 32 | half(4));
        is_new || lsn >= self.start || checksum(page, self.number(block)) == word(8)
    }

    /// Returns the number in the relation of a page by its number in the file.
    pub(super) fn number(&self, block: u32) -> u32 {
        self.first.wrapping_add(block)
    }
}

/// Judges the pages of one file while it passes.
pub(super) struct PageCheck {
    judge: PageJudge,
    block: u32,
    page: Vec<u8>,
    wrong: Vec<u32>,
}

impl PageCheck {
    /// Returns the check of a file, if it is one of pages. `start` is where the backup began.
    pub(super) fn of(path: &Path, start: Lsn) -> Option<Self> {
        let judge = PageJudge::of(path, start)?;
        Some(Self { judge, block: 0, page: Vec::with_capacity(PAGE), wrong: Vec::new() })
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.page.is_empty() && bytes.len() >= PAGE {
                let (page, rest) = bytes.split_at(PAGE);
                self.judge(page);
                bytes = rest;
                continue;
            }
            let taken = bytes.len().min(PAGE - self.page.len());
            self.page.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.page.len() == PAGE {
                let page = std::mem::take(&mut self.page);
                self.judge(&page);
                self.page = page;
                self.page.clear();
            }
        }
    }

    /// Returns the numbers of the pages whose checksum is wrong. Half a page at the end was being added; recovery completes it.
    pub(super) fn finish(self) -> Vec<u32> {
        self.wrong
    }

    fn judge(&mut self, page: &[u8]) {
        let block = self.block;
        self.block = self.block.wrapping_add(1);
        if !self.judge.is_sound(page, block) {
            self.wrong.push(self.judge.number(block));
        }
    }
}

/// Returns whether a file of a data directory, of this length, is one of pages that are cut as such.
pub(super) fn is_of_many_pages(path: &Path, size: u64) -> bool {
    size >= MANY_PAGES && segment_of(path).is_some()
}

// Which segment of a relation a file is; `None` for files that are not of pages.
fn segment_of(path: &Path) -> Option<u32> {
    let mut parts = path.iter().map(|part| part.to_str());
    let folders = match parts.next()?? {
        "global" => 0,
        "base" => 1,
        version if version.starts_with("PG_") => 1,
        "pg_tblspc" => 3,
        _ => return None,
    };
    let name = parts.nth(folders)??;
    if parts.next().is_some() {
        return None;
    }
    let (relation, segment) = name.split_once('.').unwrap_or((name, "0"));
    let (number, fork) = relation.split_once('_').unwrap_or((relation, "init"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_pages = is_number(number) && matches!(fork, "init" | "fsm" | "vm");
    is_pages.then(|| segment.parse().ok()).flatten()
}

fn mix(sum: u32, value: u32) -> u32 {
    let both = sum ^ value;
    both.wrapping_mul(PRIME) ^ (both >> 17)
}

fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASES;
    for (row, words) in page.chunks_exact(4 * LANES).enumerate() {
        for (lane, word) in words.chunks_exact(4).enumerate() {
            let mut value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if row == 0 && lane == 2 {
                // The checksum itself counts as zero.
                value &= 0xffff_0000;
            }
            sums[lane] = mix(sums[lane], value);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| *sum = mix(*sum, 0));
    }
    let all = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    (all % 65_535 + 1) as u16
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a page with a right checksum.
    pub(in super::super) fn page(lsn: u64, block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE).map(|at| (at * 31 % 251) as u8).collect();
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        let sum = checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn only_old_pages_with_a_wrong_checksum_are_found() {
        let mut file = page(10, PAGES_OF_SEGMENT);
        file.extend(page(20, PAGES_OF_SEGMENT + 1));
        file.extend(page(100, PAGES_OF_SEGMENT + 2));
        file.extend(vec![0; PAGE]);
        file[PAGE + 4000] ^= 1;
        file[2 * PAGE + 4000] ^= 1;

        for piece in [100, PAGE, file.len()] {
            let mut check = PageCheck::of(Path::new("base/5/16384.1"), Lsn(100)).unwrap();
            file.chunks(piece).for_each(|piece| check.push(piece));
            assert_eq!(check.finish(), [PAGES_OF_SEGMENT + 1]);
        }
    }

    #[test]
    fn files_of_pages_are_known_by_their_names() {
        let is_pages = |path: &str| segment_of(Path::new(path));

        assert_eq!(is_pages("base/5/16384"), Some(0));
        assert_eq!(is_pages("base/5/16384_fsm"), Some(0));
        assert_eq!(is_pages("base/5/16384.12"), Some(12));
        assert_eq!(is_pages("global/1262"), Some(0));
        assert_eq!(is_pages("PG_15_202209061/5/16390_init"), Some(0));
        assert_eq!(is_pages("pg_tblspc/16400/PG_15_202209061/5/16390"), Some(0));
        for other in
            ["global/pg_control", "base/5/pg_filenode.map", "base/5/PG_VERSION", "pg_xact/0000"]
        {
            assert_eq!(is_pages(other), None, "{other}");
        }
    }
}
