//! A file of a running cluster, as it goes into an archive: exactly as long as it was when it was opened.
//!
//! A page may be written while it is read. Then it is read again, as the server does for its own bases: a page that was changed since the backup began
//! comes back from the WAL, whatever was read of it, and one that was not must have a right checksum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, Digest};
use storepool::source::Texture;

use super::super::pages::{PAGE, PageJudge};

/// How often a page whose checksum is wrong is read.
const LOOKS: u32 = 5;
/// How long whoever writes it is given: he holds it for microseconds, unless he was put to sleep.
const PAUSE: Duration = Duration::from_millis(10);
/// A file with so many wrong pages is damaged; its others are not waited for.
const PATIENCE: usize = 100;

/// An open file.
pub(super) struct Content {
    file: File,
    at: u64,
    size: u64,
    texture: Texture,
    judge: Option<PageJudge>,
    wrong: Vec<u32>,
    sum: Digest,
    // A page for which there was no room, and how much of it was given.
    page: Vec<u8>,
    given: usize,
}

/// What a file was, when all of it was read.
pub(super) struct Whole {
    /// CRC-32C.
    pub(super) sum: u32,
    /// Pages whose checksum is wrong.
    pub(super) wrong: Vec<u32>,
}

impl Content {
    /// Reads `size` bytes of a file; what is missing, since it became shorter, is zeros: recovery does to it what made it shorter.
    pub(super) fn new(file: File, size: u64, texture: Texture, judge: Option<PageJudge>) -> Self {
        let sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        Self {
            file,
            at: 0,
            size,
            texture,
            judge,
            wrong: Vec::new(),
            sum,
            page: Vec::new(),
            given: 0,
        }
    }

    /// Reads what comes next. No byte is the end.
    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<(usize, Texture)> {
        if self.given == self.page.len() {
            let length = self.next_length(room.len());
            if length <= room.len() {
                self.take(&mut room[..length])?;
                return Ok((length, self.texture));
            }
            let mut page = std::mem::take(&mut self.page);
            page.resize(length, 0);
            let taken = self.take(&mut page);
            (self.page, self.given) = (page, 0);
            taken?;
        }
        let length = room.len().min(self.page.len() - self.given);
        room[..length].copy_from_slice(&self.page[self.given..self.given + length]);
        self.given += length;
        Ok((length, self.texture))
    }

    /// Ends the reading, after [`Content::read`] gave no more.
    pub(super) fn finish(self) -> Whole {
        Whole { sum: self.sum.finalize() as u32, wrong: self.wrong }
    }

    // Whole pages, where they are to be judged; half a page at the end was being added, and recovery completes it.
    fn next_length(&self, room: usize) -> usize {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let length = room.min(left);
        if self.judge.is_none() || left < PAGE {
            return length;
        }
        (length - length % PAGE).max(PAGE)
    }

    fn take(&mut self, room: &mut [u8]) -> io::Result<()> {
        fill(&self.file, room, self.at)?;
        if let Some(judge) = &self.judge {
            for (number, page) in room.chunks_exact_mut(PAGE).enumerate() {
                let place = self.at + (number * PAGE) as u64;
                let block = (place / PAGE as u64) as u32;
                if judge.is_sound(page, block) {
                    continue;
                }
                let pause = if self.wrong.len() < PATIENCE { PAUSE } else { Duration::ZERO };
                if !read_again(&self.file, judge, page, place, pause)? {
                    self.wrong.push(judge.number(block));
                }
            }
        }
        self.sum.update(room);
        self.at += room.len() as u64;
        Ok(())
    }
}

// Returns whether it is sound now.
fn read_again(
    file: &File,
    judge: &PageJudge,
    page: &mut [u8],
    place: u64,
    pause: Duration,
) -> io::Result<bool> {
    for _ in 1..LOOKS {
        sleep(pause);
        fill(file, page, place)?;
        if judge.is_sound(page, (place / PAGE as u64) as u32) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn fill(file: &File, room: &mut [u8], mut at: u64) -> io::Result<()> {
    let mut rest = room;
    while !rest.is_empty() {
        match file.read_at(rest, at) {
            Ok(0) => {
                rest.fill(0);
                break;
            }
            Ok(read) => {
                rest = &mut rest[read..];
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::super::lsn::Lsn;
    use super::super::super::pages::tests::page;
    use super::*;

    const RELATION: &str = "base/5/16384";

    fn content(path: &Path, size: u64) -> Content {
        let judge = PageJudge::of(Path::new(RELATION), Lsn(100));
        Content::new(File::open(path).unwrap(), size, Texture::Pages, judge)
    }

    fn read(mut content: Content, room: usize) -> (Vec<u8>, Whole) {
        let (mut all, mut room) = (Vec::new(), vec![0; room]);
        loop {
            let (length, texture) = content.read(&mut room).unwrap();
            assert_eq!(texture, Texture::Pages);
            if length == 0 {
                return (all, content.finish());
            }
            all.extend_from_slice(&room[..length]);
        }
    }

    fn sum(bytes: &[u8]) -> u32 {
        crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
    }

    #[test]
    fn a_file_is_the_same_however_much_room_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("16384");
        let mut bytes: Vec<u8> = (0..5).flat_map(|block| page(10, block)).collect();
        bytes.extend([7; 1000]);
        bytes[3 * PAGE + 500] ^= 1;
        fs::write(&path, &bytes).unwrap();

        for room in [1, 1000, PAGE - 1, PAGE, 2 * PAGE + 5, 1 << 20] {
            let (all, whole) = read(content(&path, bytes.len() as u64), room);
            assert!(all == bytes, "{room}");
            assert_eq!((whole.sum, whole.wrong), (sum(&bytes), vec![3]), "{room}");
        }
    }

    #[test]
    fn what_was_cut_off_meanwhile_is_zeros_and_what_was_added_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("16384");
        let bytes: Vec<u8> = (0..3).flat_map(|block| page(10, block)).collect();
        fs::write(&path, &bytes).unwrap();

        let (longer, whole) = read(content(&path, 5 * PAGE as u64), 1 << 20);
        assert!(
            longer[..bytes.len()] == bytes && longer[bytes.len()..].iter().all(|byte| *byte == 0)
        );
        assert_eq!((longer.len(), whole.sum, whole.wrong), (5 * PAGE, sum(&longer), vec![]));
        let (shorter, whole) = read(content(&path, 2 * PAGE as u64), 1 << 20);
        assert!(shorter == bytes[..2 * PAGE] && whole.sum == sum(&shorter));
    }

    /// Half of a page was written when it was read: it is taken as it is when the rest was written too.
    #[test]
    fn a_page_that_is_being_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("16384");
        let whole_page = page(10, 0);
        let mut torn = whole_page.clone();
        torn[PAGE / 2..].fill(0);
        fs::write(&path, &torn).unwrap();
        let content = content(&path, PAGE as u64);

        let (all, whole) = std::thread::scope(|scope| {
            scope.spawn(|| {
                sleep(PAUSE / 2);
                let file = File::options().write(true).open(&path).unwrap();
                file.write_all_at(&whole_page, 0).unwrap();
            });
            read(content, PAGE)
        });

        assert!(all == whole_page);
        assert_eq!((whole.sum, whole.wrong), (sum(&whole_page), vec![]));
    }
}
