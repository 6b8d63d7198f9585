//! The tar archives of a base backup, taken apart while they pass: to verify them when they are stored, to unpack them when they are restored.
//!
//! PostgreSQL writes plain ustar headers, with sizes beyond 8 GiB in base 256. Pushed into, not pulled from: see docs/decisions/0035.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Headers and content come in whole blocks.
pub(super) const BLOCK: usize = 512;
/// An archive ends with two empty blocks.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its path below the root of the archive; never leads out of it.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) kind: MemberKind,
    /// Bytes of content.
    pub(super) size: u64,
    /// Permission bits.
    pub(super) mode: u32,
    /// Numeric owner.
    pub(super) uid: u32,
    /// Numeric group.
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified: u64,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link: of a tablespace or of a WAL folder elsewhere; restored clusters get their own.
    Symlink,
}

impl Member {
    /// Returns its header, as PostgreSQL writes it.
    ///
    /// # Errors
    /// Its path is too long for the format.
    pub(super) fn header(&self) -> Result<[u8; BLOCK], Malformed> {
        let (kind, slash) = match self.kind {
            MemberKind::File => (b'0', &b""[..]),
            MemberKind::Directory => (b'5', &b"/"[..]),
            MemberKind::Symlink => (b'2', &b""[..]),
        };
        let path = [self.path.as_os_str().as_bytes(), slash].concat();
        let (prefix, name) = split_path(&path)
            .ok_or_else(|| Malformed(format!("{} is too long", self.path.display())))?;
        let mut header = [0; BLOCK];
        header[..name.len()].copy_from_slice(name);
        header[345..345 + prefix.len()].copy_from_slice(prefix);
        write_number(&mut header[100..108], u64::from(self.mode));
        write_number(&mut header[108..116], u64::from(self.uid));
        write_number(&mut header[116..124], u64::from(self.gid));
        write_number(&mut header[124..136], self.size);
        write_number(&mut header[136..148], self.modified);
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum = header_sum(&header);
        write_number(&mut header[148..156], sum);
        Ok(header)
    }

    /// Returns how many bytes fill its content up to whole blocks.
    pub(super) fn padding(&self) -> usize {
        (BLOCK - (self.size % BLOCK as u64) as usize) % BLOCK
    }
}

/// What looks at the members.
pub(super) trait Visitor {
    /// Why it cannot go on.
    type Failure: From<Malformed>;

    /// A member begins.
    fn begin(&mut self, member: &Member) -> Result<(), Self::Failure>;

    /// A piece of its content.
    fn content(&mut self, bytes: &[u8]) -> Result<(), Self::Failure>;

    /// It was there to its last byte.
    fn end(&mut self) -> Result<(), Self::Failure>;
}

/// An archive that does not follow the format.
#[derive(Debug, thiserror::Error)]
#[error("the archive is malformed: {0}")]
pub(super) struct Malformed(pub(super) String);

/// Takes an archive apart.
pub(super) struct Archive {
    header: Vec<u8>,
    state: State,
}

enum State {
    Header,
    Content { left: u64, padding: usize },
    Padding(usize),
    Trailer,
}

impl Archive {
    /// Creates the reader of one archive.
    pub(super) fn new() -> Self {
        Self { header: Vec::with_capacity(BLOCK), state: State::Header }
    }

    /// Takes the next bytes, in pieces of any length.
    pub(super) fn push<V: Visitor>(
        &mut self,
        mut bytes: &[u8],
        visitor: &mut V,
    ) -> Result<(), V::Failure> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header => {
                    let taken = bytes.len().min(BLOCK - self.header.len());
                    self.header.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    if self.header.len() == BLOCK {
                        self.begin(visitor)?;
                        self.header.clear();
                    }
                }
                State::Content { left, padding } => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    visitor.content(&bytes[..taken])?;
                    bytes = &bytes[taken..];
                    *left -= taken as u64;
                    if *left == 0 {
                        let padding = *padding;
                        visitor.end()?;
                        self.state = State::after(padding);
                    }
                }
                State::Padding(left) => {
                    let taken = bytes.len().min(*left);
                    bytes = &bytes[taken..];
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::Trailer => {
                    if bytes.iter().any(|byte| *byte != 0) {
                        return Err(Malformed("something follows its end".to_string()).into());
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Returns how many bytes follow at most until another part of the archive begins: a header, the content of a member, what fills it up.
    pub(super) fn until_next_part(&self) -> usize {
        match &self.state {
            State::Header => BLOCK - self.header.len(),
            State::Content { left, .. } => usize::try_from(*left).unwrap_or(usize::MAX),
            State::Padding(left) => *left,
            State::Trailer => usize::MAX,
        }
    }

    /// Returns whether the next byte is content of a member.
    pub(super) fn is_in_content(&self) -> bool {
        matches!(self.state, State::Content { .. })
    }

    /// Says that there is no more.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        match self.state {
            State::Header if self.header.is_empty() => Ok(()),
            State::Trailer => Ok(()),
            _ => Err(Malformed("it ends in the middle".to_string())),
        }
    }

    fn begin<V: Visitor>(&mut self, visitor: &mut V) -> Result<(), V::Failure> {
        if self.header.iter().all(|byte| *byte == 0) {
            self.state = State::Trailer;
            return Ok(());
        }
        let member = parse(&self.header)?;
        visitor.begin(&member)?;
        if member.size == 0 {
            visitor.end()?;
            return Ok(());
        }
        self.state = State::Content { left: member.size, padding: member.padding() };
        Ok(())
    }
}

impl State {
    fn after(padding: usize) -> Self {
        if padding == 0 { Self::Header } else { Self::Padding(padding) }
    }
}

fn parse(header: &[u8]) -> Result<Member, Malformed> {
    let wrong = |what: &str| Malformed(format!("a header has {what}"));
    if number(&header[148..156]) != Some(header_sum(header)) {
        return Err(wrong("a wrong checksum"));
    }
    let field = |start: usize, length: usize| {
        number(&header[start..start + length]).ok_or_else(|| wrong("a number that is none"))
    };
    let (kind, has_content) = match header[156] {
        b'0' | 0 => (MemberKind::File, true),
        b'5' => (MemberKind::Directory, false),
        b'2' => (MemberKind::Symlink, false),
        other => return Err(wrong(&format!("the unknown kind {other}"))),
    };
    let name = text(&header[..100]);
    let prefix = if &header[257..262] == b"ustar" { text(&header[345..500]) } else { &[] };
    let mut path = prefix.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    Ok(Member {
        path: inner_path(&path).ok_or_else(|| wrong("a path that leads out of the archive"))?,
        kind,
        size: if has_content { field(124, 12)? } else { 0 },
        mode: (field(100, 8)? & 0o7777) as u32,
        uid: field(108, 8)? as u32,
        gid: field(116, 8)? as u32,
        modified: field(136, 12)?,
    })
}

// Of all bytes; its own place counts as blanks.
fn header_sum(header: &[u8]) -> u64 {
    let others = header[..148].iter().chain(&header[156..]);
    others.map(|byte| u64::from(*byte)).sum::<u64>() + 8 * u64::from(b' ')
}

// Octal digits and a zero, or base 256 where they do not suffice.
fn write_number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value < 1 << (3 * digits) {
        field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
        return;
    }
    let bytes = value.to_be_bytes();
    let length = bytes.len().min(digits);
    let place = field.len() - length;
    field[place..].copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] = 0x80;
}

// What does not fit into the field of the name goes before a slash into that of the prefix.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    if path.len() <= NAME {
        return Some((&[], path));
    }
    let from = path.len() - NAME - 1;
    let slash = (from..path.len() - 1).find(|at| path[*at] == b'/')?;
    (slash <= PREFIX).then(|| (&path[..slash], &path[slash + 1..]))
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

// Octal digits, or base 256 with the highest bit set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let rest = &field[1..];
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        if field[0] != 0x80 || high.iter().any(|byte| *byte != 0) {
            return None;
        }
        return Some(low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let digits = std::str::from_utf8(text(field)).ok()?.trim();
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn inner_path(bytes: &[u8]) -> Option<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the header of a member, for tests.
    pub(in super::super) fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(b"0000600");
        block[108..115].copy_from_slice(b"0000071");
        block[116..123].copy_from_slice(b"0000072");
        if size < 1 << 33 {
            block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
        block[136..147].copy_from_slice(b"00000000012");
        block[156] = kind;
        block[257..262].copy_from_slice(b"ustar");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    /// Returns a member with its content, padded.
    pub(in super::super) fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(name.as_bytes(), b'0', content.len() as u64);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    #[derive(Default)]
    struct Seen {
        members: Vec<(PathBuf, MemberKind, Vec<u8>)>,
        ended: usize,
    }

    impl Visitor for Seen {
        type Failure = Malformed;

        fn begin(&mut self, member: &Member) -> Result<(), Malformed> {
            self.members.push((member.path.clone(), member.kind, Vec::new()));
            Ok(())
        }

        fn content(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
            self.members.last_mut().unwrap().2.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<(), Malformed> {
            self.ended += 1;
            Ok(())
        }
    }

    #[test]
    fn an_archive_is_the_same_however_it_is_cut_into_pieces() {
        let mut bytes = header(b"global/", b'5', 0);
        bytes.extend(member("global/1262", &[7; 1000]));
        bytes.extend(member("empty", b""));
        bytes.extend(header(b"pg_tblspc/16384", b'2', 0));
        bytes.extend(member("base/5/2619", &[9; 512]));
        bytes.extend([0; 1024]);

        for piece in [1, 7, 512, 4096, bytes.len()] {
            let (mut archive, mut seen) = (Archive::new(), Seen::default());
            for piece in bytes.chunks(piece) {
                archive.push(piece, &mut seen).unwrap();
            }

            archive.finish().unwrap();
            let names: Vec<_> = seen
                .members
                .iter()
                .map(|(path, kind, content)| (path.to_str().unwrap(), *kind, content.len()))
                .collect();
            assert_eq!(
                names,
                [
                    ("global", MemberKind::Directory, 0),
                    ("global/1262", MemberKind::File, 1000),
                    ("empty", MemberKind::File, 0),
                    ("pg_tblspc/16384", MemberKind::Symlink, 0),
                    ("base/5/2619", MemberKind::File, 512),
                ]
            );
            assert_eq!(seen.ended, 5);
        }
    }

    #[test]
    fn what_is_cut_off_or_leads_out_is_refused() {
        let whole = member("base/1/2", &[1; 600]);
        for cut in [1, 511, 513, 1100, 1300] {
            let (mut archive, mut seen) = (Archive::new(), Seen::default());
            archive.push(&whole[..cut], &mut seen).unwrap();
            assert!(archive.finish().is_err(), "{cut}");
        }
        for name in ["../etc/passwd", "/etc/passwd", "base/../../x"] {
            let bytes = member(name, b"x");
            assert!(Archive::new().push(&bytes, &mut Seen::default()).is_err(), "{name}");
        }
        let mut changed = member("base/1/2", b"x");
        changed[0] ^= 1;
        assert!(Archive::new().push(&changed, &mut Seen::default()).is_err());
    }

    #[test]
    fn sizes_beyond_eight_gibibytes_are_understood() {
        let parsed = parse(&header(b"big", b'0', 10 << 30)).unwrap();

        assert_eq!(parsed.size, 10 << 30);
        assert_eq!((parsed.uid, parsed.gid, parsed.mode), (57, 58, 0o600));
    }

    #[test]
    fn a_header_that_is_written_is_read_as_it_was() {
        let member = |path: String, kind, size| Member {
            path: path.into(),
            kind,
            size,
            mode: 0o640,
            uid: 3_000_000,
            gid: 26,
            modified: 1_900_000_000,
        };
        for member in [
            member("base/5/16384".into(), MemberKind::File, 0),
            member("base/5/16384".into(), MemberKind::File, (8 << 30) - 1),
            member("base/5/16384".into(), MemberKind::File, 20 << 30),
            member("pg_wal".into(), MemberKind::Directory, 0),
            member("n".repeat(100), MemberKind::File, 1),
            member(format!("log/{}", "n".repeat(100)), MemberKind::File, 1),
            member(format!("{0}/{0}", "n".repeat(99)), MemberKind::Directory, 0),
        ] {
            let header = member.header().unwrap();

            assert_eq!(parse(&header).unwrap(), member);
        }
        for path in ["n".repeat(101), format!("{0}/{0}", "n".repeat(156))] {
            assert!(member(path, MemberKind::File, 1).header().is_err());
        }
    }
}
