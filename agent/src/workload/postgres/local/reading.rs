//! The reading of a base: archive after archive, each in an order of its own, then the list.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use storepool::clock::{Clock, SystemClock};
use storepool::source::Texture;

use super::super::archive::{END, Member, MemberKind};
use super::super::base::{BadPage, BaseDetail, Ended};
use super::super::error::PostgresError;
use super::super::lsn::{Segment, WalFile};
use super::super::pages::{PageJudge, is_of_many_pages};
use super::super::wal_tree::SegmentHead;
use super::cluster::{Cluster, Space, WAL};
use super::content::Content;
use super::control::{CONTROL, Control};
use super::folder::Folder;
use super::list::List;
use super::selection::{Choice, choose};
use super::session::{Session, Stopped};

type Result<T> = std::result::Result<T, PostgresError>;

/// Folder of marks for the archiver.
const MARKS: &str = "archive_status";
/// Most damaged pages named one by one; more are counted.
const NAMED_PAGES: usize = 1000;
/// Mode of files that the server would have made.
const FILE_MODE: u32 = 0o600;

/// A base on its way.
pub(super) struct Reading {
    session: Session,
    cluster: Cluster,
    spaces: Vec<Space>,
    detail: BaseDetail,
    list: Option<List>,
    bad_pages: Vec<BadPage>,
    bad_page_count: u64,
    // Of the files of the point: which one is read; and what comes in it, the last first.
    number: Option<usize>,
    coming: Vec<Coming>,
    // What is handed over before anything else is read.
    bytes: Vec<u8>,
    given: usize,
    open: Option<Open>,
    has_stopped: bool,
}

enum Coming {
    Folder(PathBuf),
    EmptyFolder(PathBuf),
    WalFolder,
    File(PathBuf),
    Control,
    Stop,
    Segments(RangeInclusive<u64>),
    History(PathBuf),
    Mark(String),
    End,
}

struct Open {
    member: Member,
    content: Content,
    origin: Origin,
}

// Where the content of a member comes from.
enum Origin {
    Data,
    // By its name there, and its inode.
    Wal(PathBuf, u64),
}

impl Reading {
    /// Creates the reading of a base that has begun. `spaces` are in the order of the archives of `detail`.
    pub(super) fn new(
        session: Session,
        cluster: Cluster,
        spaces: Vec<Space>,
        detail: BaseDetail,
    ) -> Self {
        let list = List::new(session.settings.version, cluster.system_identifier);
        Self {
            session,
            cluster,
            spaces,
            detail,
            list: Some(list),
            bad_pages: Vec::new(),
            bad_page_count: 0,
            number: None,
            coming: Vec::new(),
            bytes: Vec::new(),
            given: 0,
            open: None,
            has_stopped: false,
        }
    }

    /// Returns what the point says of the base.
    pub(super) fn detail(&self) -> &BaseDetail {
        &self.detail
    }

    /// Reads what comes next of the file with this number.
    pub(super) fn read(&mut self, number: usize, room: &mut [u8]) -> Result<(usize, Texture)> {
        if self.number != Some(number) {
            self.enter(number)?;
        }
        loop {
            if self.given < self.bytes.len() {
                let length = room.len().min(self.bytes.len() - self.given);
                room[..length].copy_from_slice(&self.bytes[self.given..self.given + length]);
                self.given += length;
                return Ok((length, Texture::Plain));
            }
            if let Some(open) = &mut self.open {
                let read = open.content.read(room);
                let (length, texture) = read.map_err(|cause| cannot_read(&open.member, cause))?;
                if length > 0 {
                    return Ok((length, texture));
                }
                self.close()?;
                continue;
            }
            match self.coming.pop() {
                Some(next) => self.take(next)?,
                None => return Ok((0, Texture::Plain)),
            }
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Not everything was read.
    pub(super) fn finish(&mut self) -> Result<Ended> {
        let is_over = self.coming.is_empty() && self.given == self.bytes.len();
        if !is_over || !self.has_stopped || self.number != Some(self.detail.archives.len()) {
            return Err(self.no_base("not all of its archives were read".to_string()));
        }
        Ok(Ended {
            detail: self.detail.clone(),
            bad_pages: std::mem::take(&mut self.bad_pages),
            bad_page_count: self.bad_page_count,
        })
    }

    /// Returns the error for what makes no base.
    pub(super) fn no_base(&self, what: String) -> PostgresError {
        PostgresError::NoBase { server: self.session.server().to_string(), what }
    }

    fn enter(&mut self, number: usize) -> Result<()> {
        let is_next = number == self.number.map_or(0, |number| number + 1);
        let is_over = self.coming.is_empty() && self.open.is_none();
        if !is_next || !is_over || self.given < self.bytes.len() {
            return Err(self.no_base("its archives were not read in their order".to_string()));
        }
        self.number = Some(number);
        if number < self.spaces.len() {
            let version = self.cluster.space_folder().to_path_buf();
            self.coming = vec![Coming::End, Coming::Folder(version)];
        } else if number == self.spaces.len() {
            // The control file comes last: it must not know of less than the files before it.
            self.coming = vec![Coming::Stop, Coming::Control, Coming::Folder(PathBuf::new())];
        } else {
            let list = self
                .list
                .take()
                .map(|list| list.finish(self.detail.timeline, self.detail.start, self.detail.end));
            self.give(list.unwrap_or_default().into_bytes());
        }
        Ok(())
    }

    fn take(&mut self, next: Coming) -> Result<()> {
        match next {
            Coming::Folder(path) => self.folder(&path),
            Coming::EmptyFolder(path) => self.empty_folder(&path),
            Coming::WalFolder => self.wal_folder(),
            Coming::File(path) => self.file(path),
            Coming::Control => self.control(),
            Coming::Stop => self.stop(),
            Coming::Segments(numbers) => self.segments(numbers),
            Coming::History(name) => self.history(&name),
            Coming::Mark(name) => self.made_here(&format!("{WAL}/{MARKS}/{name}.done"), b""),
            Coming::End => {
                self.give(END.to_vec());
                Ok(())
            }
        }
    }

    // The folder that the archive is of.
    fn root(&self) -> &Folder {
        let space = self.number.and_then(|number| self.spaces.get(number));
        space.map_or(&self.cluster.data, |space| &space.folder)
    }

    // What is in it comes before what comes after it. One that is gone belonged to what was dropped, which the WAL tells.
    fn folder(&mut self, path: &Path) -> Result<()> {
        let place = self.root().path().join(path);
        if self.spaces.iter().any(|space| space.tablespace.location == place) {
            // A tablespace inside the data directory, against all advice: it has an archive of its own.
            return self.empty_folder(path);
        }
        let found = match self.root().list(path) {
            Err(error) if is_gone(&error) && !path.as_os_str().is_empty() => return Ok(()),
            found => found.map_err(|cause| self.cannot("list", path, cause))?,
        };
        if !path.as_os_str().is_empty() {
            self.empty_folder(path)?;
        }
        for (name, choice) in choose(path, found).into_iter().rev() {
            let path = path.join(name);
            self.coming.push(match choice {
                Choice::Read => Coming::File(path),
                Choice::Enter => Coming::Folder(path),
                Choice::Empty => Coming::EmptyFolder(path),
                Choice::Wal => Coming::WalFolder,
            });
        }
        Ok(())
    }

    fn empty_folder(&mut self, path: &Path) -> Result<()> {
        match self.root().look(path) {
            Err(error) if is_gone(&error) => Ok(()),
            Err(cause) => Err(self.cannot("examine", path, cause)),
            Ok(stat) => self.head(&member(path.to_path_buf(), MemberKind::Directory, &stat)),
        }
    }

    // A folder here, also where it is a link to another disk there.
    fn wal_folder(&mut self) -> Result<()> {
        let stat = self.cluster.wal.look(Path::new(""));
        let stat = stat.map_err(|cause| self.cannot("examine", Path::new(WAL), cause))?;
        for path in [PathBuf::from(WAL), Path::new(WAL).join(MARKS)] {
            self.head(&member(path, MemberKind::Directory, &stat))?;
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf) -> Result<()> {
        let file = match self.root().file(&path) {
            Err(error) if is_gone(&error) => return Ok(()),
            file => file.map_err(|cause| self.cannot("open", &path, cause))?,
        };
        let stat = rustix::fs::fstat(&file);
        let stat = stat.map_err(|cause| self.cannot("examine", &path, cause.into()))?;
        let member = member(path, MemberKind::File, &stat);
        let texture = match is_of_many_pages(&member.path, member.size) {
            true => Texture::Pages,
            false => Texture::Plain,
        };
        let judged_from = self.session.settings.judged_from(self.session.start);
        let judge = judged_from.and_then(|start| PageJudge::of(&member.path, start));
        self.head(&member)?;
        let content = Content::new(file, member.size, texture, judge);
        self.open = Some(Open { member, content, origin: Origin::Data });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(Open { member, content, origin }) = self.open.take() else { return Ok(()) };
        let whole = content.finish();
        let path = self.listed_path(&member.path);
        for block in whole.wrong {
            self.bad_page_count += 1;
            if self.bad_pages.len() < NAMED_PAGES {
                self.bad_pages.push(BadPage { file: path.clone(), block });
            }
        }
        match origin {
            Origin::Data => self.add_to_list(&path, &member, whole.sum),
            // Not listed, as the server does not.
            Origin::Wal(name, inode) => self.must_be_in_place(&name, inode)?,
        }
        self.give(vec![0; member.padding()]);
        Ok(())
    }

    fn control(&mut self) -> Result<()> {
        let control = Control::read(&self.cluster.data);
        let control = control.map_err(|cause| self.cannot("read", Path::new(CONTROL), cause))?;
        if control.system_identifier() != self.cluster.system_identifier {
            return Err(self.no_base("its files became another cluster's".to_string()));
        }
        self.made_here(CONTROL, &control.bytes)
    }

    fn stop(&mut self) -> Result<()> {
        let Stopped { end, label, map } = self.session.stop()?;
        if end <= self.detail.start {
            return Err(self.no_base("it ended before it began".to_string()));
        }
        self.has_stopped = true;
        self.detail.end = end;
        let own: BTreeSet<&str> =
            self.spaces.iter().map(|space| space.tablespace.oid.as_str()).collect();
        if mapped(&map) != own {
            let what = "tablespaces were made or dropped while it began; the next one has them";
            return Err(self.no_base(what.to_string()));
        }
        self.made_here("backup_label", label.as_bytes())?;
        if !map.is_empty() {
            self.made_here("tablespace_map", map.as_bytes())?;
        }
        self.coming = self.wal()?;
        Ok(())
    }

    // The WAL from the beginning to the end, how its timelines came to be, and marks that say that none of it is for an archive.
    fn wal(&self) -> Result<Vec<Coming>> {
        let size = self.detail.wal_segment_bytes;
        // The last byte before the end, as the server reckons.
        let numbers = self.detail.start.0 / size..=(self.detail.end.0 - 1) / size;
        let mut coming = vec![Coming::End];
        let found = self.cluster.wal.list(Path::new(""));
        let found = found.map_err(|cause| self.cannot("list", Path::new(WAL), cause))?;
        for one in found.into_iter().rev() {
            let Some(name) = one.name.to_str() else { continue };
            let is_history = matches!(WalFile::parse(name), Some(WalFile::History(_)));
            if is_history && one.kind == FileType::RegularFile {
                coming.push(Coming::Mark(name.to_string()));
                coming.push(Coming::History(PathBuf::from(name)));
            }
        }
        coming.push(Coming::Segments(numbers));
        Ok(coming)
    }

    fn segments(&mut self, mut numbers: RangeInclusive<u64>) -> Result<()> {
        let Some(number) = numbers.next() else { return Ok(()) };
        let size = self.detail.wal_segment_bytes;
        let segment = Segment::numbered(self.detail.timeline, number, size);
        self.coming.push(Coming::Segments(numbers));
        self.coming.push(Coming::Mark(segment.to_string()));
        let name = PathBuf::from(segment.to_string());
        let path = self.cluster.wal.path().join(&name);
        let file = self.cluster.wal.file(&name);
        let file = file.map_err(PostgresError::file("open", &path))?;
        let head = SegmentHead::of(&file, &path, segment)?;
        if head.system_identifier != self.cluster.system_identifier {
            return Err(self.no_base(format!("segment {segment} is another cluster's")));
        }
        self.log(&name, file)
    }

    fn history(&mut self, name: &Path) -> Result<()> {
        let file = self.cluster.wal.file(name);
        let path = self.cluster.wal.path().join(name);
        let file = file.map_err(PostgresError::file("open", &path))?;
        self.log(name, file)
    }

    fn log(&mut self, name: &Path, file: std::fs::File) -> Result<()> {
        let path = Path::new(WAL).join(name);
        let stat = rustix::fs::fstat(&file);
        let stat = stat.map_err(|cause| self.cannot("examine", &path, cause.into()))?;
        let member = member(path, MemberKind::File, &stat);
        self.head(&member)?;
        let content = Content::new(file, member.size, Texture::Plain, None);
        let origin = Origin::Wal(name.to_path_buf(), stat.st_ino);
        self.open = Some(Open { member, content, origin });
        Ok(())
    }

    // A segment that is no longer kept gets another name, and then other content: the slot keeps it, unless the administrator has set a limit for slots.
    fn must_be_in_place(&self, name: &Path, inode: u64) -> Result<()> {
        match self.cluster.wal.look(name) {
            Ok(stat) if stat.st_ino == inode => Ok(()),
            _ => Err(self.no_base(format!("{} was removed while it was read", name.display()))),
        }
    }

    // A file whose content is there already, with the owner of the data directory.
    fn made_here(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let stat = self.cluster.data.look(Path::new(""));
        let stat = stat.map_err(|cause| self.cannot("examine", Path::new(""), cause))?;
        let now = SystemClock::new().now().0.div_euclid(1_000_000_000);
        let member = Member {
            size: content.len() as u64,
            mode: FILE_MODE,
            modified: u64::try_from(now).unwrap_or(0),
            ..member(name.into(), MemberKind::File, &stat)
        };
        self.head(&member)?;
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len() + member.padding(), 0);
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, content) as u32;
        self.add_to_list(Path::new(name), &member, sum);
        Ok(())
    }

    fn add_to_list(&mut self, path: &Path, member: &Member, sum: u32) {
        if let Some(list) = &mut self.list {
            list.add(path, member.size, i64::try_from(member.modified).unwrap_or(0), sum);
        }
    }

    fn head(&mut self, member: &Member) -> Result<()> {
        let header = member.header().map_err(|error| self.no_base(error.to_string()))?;
        self.give(header.to_vec());
        Ok(())
    }

    // After what was not handed over yet.
    fn give(&mut self, bytes: Vec<u8>) {
        if self.given == self.bytes.len() {
            (self.bytes, self.given) = (bytes, 0);
        } else {
            self.bytes.extend(bytes);
        }
    }

    // As the data directory knows it.
    fn listed_path(&self, path: &Path) -> PathBuf {
        match self.number.and_then(|number| self.spaces.get(number)) {
            Some(space) => Path::new("pg_tblspc").join(&space.tablespace.oid).join(path),
            None => path.to_path_buf(),
        }
    }

    fn cannot(&self, action: &'static str, path: &Path, cause: io::Error) -> PostgresError {
        PostgresError::file(action, &self.root().path().join(path))(cause)
    }
}

fn cannot_read(member: &Member, cause: io::Error) -> PostgresError {
    PostgresError::file("read", &member.path)(cause)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn member(path: PathBuf, kind: MemberKind, stat: &Stat) -> Member {
    Member {
        path,
        kind,
        size: if kind == MemberKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: u64::try_from(stat.st_mtime).unwrap_or(0),
    }
}

// The numbers in a map of tablespaces: one at the beginning of each line; a line of a place goes on after a backslash.
fn mapped(map: &str) -> BTreeSet<&str> {
    let mut numbers = BTreeSet::new();
    let mut goes_on = false;
    for line in map.split('\n').filter(|line| !line.is_empty()) {
        if !goes_on {
            numbers.extend(line.split(' ').next());
        }
        goes_on = line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_tablespaces_names_each_once_whatever_its_place_is_called() {
        let map = "16400 /srv/fast\n16401 /srv/with\\\n16499 a line\n16402 /srv/back\\\\\n";

        assert_eq!(mapped(map), BTreeSet::from(["16400", "16401", "16402"]));
        assert_eq!(mapped(""), BTreeSet::new());
    }
}
