//! Places in the WAL: LSN, timeline, and the names of the files they lie in.

use std::fmt;
use std::str::FromStr;

/// A place in the WAL, in bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Lsn(pub(crate) u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let half = |text: &str| match text.len() {
            1..=8 => u64::from_str_radix(text, 16).ok(),
            _ => None,
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| format!("\"{text}\" is no LSN such as 0/3000148"))
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of a WAL segment: timeline and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Segment {
    /// Timeline.
    pub(crate) timeline: u32,
    /// Upper half of the number.
    pub(crate) log: u32,
    /// Lower half of the number, of which only so many are used that a log has 4 GiB.
    pub(crate) place: u32,
}

impl Segment {
    /// Returns a segment by its number in the whole WAL.
    pub(crate) fn numbered(timeline: u32, number: u64, segment_bytes: u64) -> Self {
        let per_log = (1 << 32) / segment_bytes;
        Self { timeline, log: (number / per_log) as u32, place: (number % per_log) as u32 }
    }

    /// Returns its number in the whole WAL.
    pub(crate) fn number(self, segment_bytes: u64) -> u64 {
        let per_log = (1 << 32) / segment_bytes;
        u64::from(self.log) * per_log + u64::from(self.place)
    }

    /// Returns the LSN of its first byte.
    pub(crate) fn begin(self, segment_bytes: u64) -> Lsn {
        Lsn(self.number(segment_bytes) * segment_bytes)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.place)
    }
}

/// A file that PostgreSQL archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WalFile {
    /// How a timeline came to be.
    History(u32),
    /// A whole segment.
    Segment(Segment),
    /// The last, unfinished segment of a timeline that was left.
    Partial(Segment),
    /// What says where a base backup began.
    Label(Segment),
}

impl WalFile {
    /// Recognises a name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if let Some(timeline) = name.strip_suffix(".history") {
            return hex(timeline).map(Self::History);
        }
        let segment = Segment {
            timeline: hex(name.get(..8)?)?,
            log: hex(name.get(8..16)?)?,
            place: hex(name.get(16..24)?)?,
        };
        match &name[24..] {
            "" => Some(Self::Segment(segment)),
            ".partial" => Some(Self::Partial(segment)),
            rest => {
                let offset = rest.strip_prefix('.')?.strip_suffix(".backup")?;
                hex(offset).map(|_| Self::Label(segment))
            }
        }
    }

    /// Returns the segment it belongs to.
    pub(crate) fn segment(self) -> Option<Segment> {
        match self {
            Self::History(_) => None,
            Self::Segment(segment) | Self::Partial(segment) | Self::Label(segment) => Some(segment),
        }
    }

    /// Returns the folder of the pool's tree it is kept in: a few hundred segments share one, so that a push writes only that one anew.
    pub(crate) fn folder(self) -> String {
        match self.segment() {
            None => "history".to_string(),
            Some(segment) => format!("{:08X}{:08X}", segment.timeline, segment.log),
        }
    }
}

fn hex(text: &str) -> Option<u32> {
    let upper = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    let valid = text.len() == 8 && text.bytes().all(upper);
    valid.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIXTEEN: u64 = 16 << 20;

    #[test]
    fn places_and_names_belong_together() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
        let segment = Segment::numbered(3, lsn.0 / SIXTEEN, SIXTEEN);
        assert_eq!(segment.to_string(), "0000000300000016000000B3");
        assert_eq!(segment.begin(SIXTEEN).to_string(), "16/B3000000");
        let next = Segment::numbered(3, segment.number(SIXTEEN) + 0x4d, SIXTEEN);
        assert_eq!(next.to_string(), "000000030000001700000000");

        for wrong in ["", "/", "1", "1/", "x/1", "1/123456789"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_archived_files_are_recognised() {
        let segment = Segment { timeline: 1, log: 0, place: 0xa };
        for (name, file) in [
            ("00000001000000000000000A", WalFile::Segment(segment)),
            ("00000001000000000000000A.partial", WalFile::Partial(segment)),
            ("00000001000000000000000A.00000028.backup", WalFile::Label(segment)),
            ("00000002.history", WalFile::History(2)),
        ] {
            assert_eq!(WalFile::parse(name), Some(file), "{name}");
        }
        for other in
            ["", "x", "00000001000000000000000a", "00000001.partial", "../00000002.history"]
        {
            assert_eq!(WalFile::parse(other), None, "{other}");
        }
    }
}
