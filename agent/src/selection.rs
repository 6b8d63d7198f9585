//! What a person means by `POINT` and `POINT:PATH`.

use storepool::Error;
use storepool::catalog::{Point, choose};
use storepool::entry::EntryPath;

/// A point and a place in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selection {
    /// The point.
    pub(crate) point: Point,
    /// The path as it was typed, if one was.
    path: Option<String>,
}

/// Finds `POINT` or `POINT:PATH` among `points`. Names of groups, sources and files may hold colons; the longest name of a point wins.
pub(crate) fn select(points: &[Point], text: &str) -> Result<Selection, Error> {
    let whole = match choose(points, text) {
        Ok(point) => return Ok(Selection { point: point.clone(), path: None }),
        Err(error @ Error::PointAmbiguous { .. }) => return Err(error),
        Err(error) => error,
    };
    let mut first = None;
    for (colon, _) in text.rmatch_indices(':') {
        let (name, path) = (&text[..colon], &text[colon + 1..]);
        match choose(points, name) {
            Ok(point) => {
                return Ok(Selection { point: point.clone(), path: Some(path.to_string()) });
            }
            Err(error) => first = Some(error),
        }
    }
    Err(first.unwrap_or(whole))
}

impl Selection {
    /// Returns the paths inside the point that may be meant, the most likely first. An absolute path of the source is one too: where `/srv` was backed
    /// up, `/srv/www` means `www`.
    pub(crate) fn paths(&self) -> Result<Vec<EntryPath>, Error> {
        let Some(typed) = &self.path else { return Ok(vec![EntryPath::root()]) };
        let not_there = || Error::PathNotFound { path: typed.clone(), point: self.point.id };
        let bytes = unescape(typed);
        let parse = |bytes: &[u8]| EntryPath::parse(bytes).ok_or_else(not_there);
        let mut paths = vec![parse(&bytes)?];
        for source in &self.point.paths {
            let source = unescape(source);
            let below = bytes.strip_prefix(source.as_slice());
            if let Some(rest) = below.filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
                && self.point.paths.len() == 1
            {
                paths.push(parse(rest)?);
            }
        }
        Ok(paths)
    }

    /// Returns how the selection is named to people: `7f3a9c12` or `7f3a9c12:etc`.
    pub(crate) fn name(&self) -> String {
        match &self.path {
            None => self.point.id.short(),
            Some(path) => format!("{}:{path}", self.point.id.short()),
        }
    }
}

/// Turns `\xNN`, as paths are printed, back into the byte it stands for.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = rest.strip_prefix(b"\\x").and_then(|rest| rest.get(..2));
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use storepool::catalog::Notes;
    use storepool::clock::Timestamp;
    use storepool::id::{ChunkId, PointId};

    fn point(number: u8, group: &str, source: &str) -> Point {
        Point {
            id: PointId([number; 32]),
            started: Timestamp(i64::from(number)),
            finished: Timestamp(i64::from(number)),
            host: "web1".into(),
            group: group.into(),
            source: source.into(),
            workload: "files".into(),
            paths: vec![source.into()],
            root: ChunkId([0; 32]),
            files: 1,
            bytes: 1,
            bytes_stored: 1,
            problem_count: 0,
            notes: Notes::default(),
        }
    }

    #[test]
    fn points_and_paths_are_told_apart() {
        let points =
            [point(0x11, "web", "/srv"), point(0x22, "", "/etc"), point(0x33, "a:b", "/x")];
        let meant = |text: &str| {
            select(&points, text).map(|selection| {
                let paths = selection.paths().unwrap();
                let paths: Vec<_> = paths.iter().map(ToString::to_string).collect();
                format!("{} {}", selection.point.id.short(), paths.join("|"))
            })
        };

        for (text, expected) in [
            ("1111", "11111111 "),
            ("latest", "33333333 "),
            ("latest:web", "11111111 "),
            ("latest:web:www/index.html", "11111111 www/index.html"),
            ("latest:web:/srv/www", "11111111 srv/www|www"),
            ("latest:/etc", "22222222 "),
            ("latest:/etc:/etc/passwd", "22222222 etc/passwd|passwd"),
            ("latest:some/dir", "33333333 some/dir"),
            ("latest:a:b:c", "33333333 c"),
            ("1111:a:b", "11111111 a:b"),
            ("1111:", "11111111 "),
        ] {
            assert_eq!(meant(text).unwrap(), expected, "{text}");
        }
        assert!(matches!(meant("4444:x"), Err(Error::PointNotFound { name }) if name == "4444"));
        assert!(select(&points, "1111:../x").unwrap().paths().is_err());
    }

    #[test]
    fn printed_paths_can_be_typed_back() {
        let name = b"a\xffb\x01\\x";

        assert_eq!(unescape(&storepool::entry::display_bytes(name)), name);
    }
}
