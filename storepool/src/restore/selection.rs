//! Which entries of a point are wanted.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::entry::EntryPath;
use crate::restore::RestoreOptions;

/// What a restore is of: its patterns, compiled, and its list.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    only: Option<&'a BTreeSet<EntryPath>>,
    include: Option<Gitignore>,
    exclude: Option<Gitignore>,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It is restored.
    Wanted,
    /// A directory that is not wanted itself, but something below it may be.
    Passage,
    /// It is left out, with everything below.
    LeftOut,
}

impl<'a> Selection<'a> {
    /// Compiles the patterns; the error names the one that is wrong.
    pub(super) fn new(options: &'a RestoreOptions) -> Result<Self, String> {
        let (include, exclude) = (compile(&options.include)?, compile(&options.exclude)?);
        Ok(Self { only: options.only.as_ref(), include, exclude })
    }

    /// Returns whether nothing is left out.
    pub(super) fn is_everything(&self) -> bool {
        self.include.is_none() && self.exclude.is_none() && self.only.is_none()
    }

    /// Decides on an entry; `parent` is the decision on its directory.
    pub(super) fn choose(&self, path: &EntryPath, is_directory: bool, parent: Choice) -> Choice {
        if self.is_everything() {
            return Choice::Wanted;
        }
        if !is_directory && self.only.is_some_and(|only| !only.contains(path)) {
            return Choice::LeftOut;
        }
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        if let Some(exclude) = &self.exclude
            && exclude.matched(path, is_directory).is_ignore()
        {
            return Choice::LeftOut;
        }
        let Some(include) = &self.include else { return Choice::Wanted };
        let matched = include.matched(path, is_directory);
        if matched.is_ignore() || parent == Choice::Wanted && !matched.is_whitelist() {
            Choice::Wanted
        } else if is_directory {
            Choice::Passage
        } else {
            Choice::LeftOut
        }
    }

    /// Returns the decision on the root of the point.
    pub(super) fn root(&self) -> Choice {
        if self.include.is_none() { Choice::Wanted } else { Choice::Passage }
    }
}

fn compile(patterns: &[String]) -> Result<Option<Gitignore>, String> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|error| error.to_string())?;
    }
    builder.build().map(Some).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_below_an_included_directory_is_wanted_and_an_excluded_one_is_not_entered() {
        let options = RestoreOptions {
            include: vec!["etc/".to_string()],
            exclude: vec!["*.bak".to_string(), "cache".to_string()],
            ..RestoreOptions::default()
        };
        let selection = Selection::new(&options).unwrap();

        let etc = selection.choose(&path("etc"), true, selection.root());

        assert_eq!(etc, Choice::Wanted);
        assert_eq!(selection.choose(&path("etc/passwd"), false, etc), Choice::Wanted);
        assert_eq!(selection.choose(&path("etc/passwd.bak"), false, etc), Choice::LeftOut);
        assert_eq!(selection.choose(&path("etc/cache"), true, etc), Choice::LeftOut);
        assert_eq!(selection.choose(&path("var"), true, selection.root()), Choice::Passage);
        assert_eq!(selection.choose(&path("motd"), false, selection.root()), Choice::LeftOut);
    }

    #[test]
    fn of_a_list_only_its_entries_and_all_directories_are_wanted() {
        let only = Some([path("etc/passwd")].into());
        let options = RestoreOptions { only, ..RestoreOptions::default() };
        let selection = Selection::new(&options).unwrap();

        assert_eq!(selection.root(), Choice::Wanted);
        let etc = selection.choose(&path("etc"), true, selection.root());
        assert_eq!(etc, Choice::Wanted);
        assert_eq!(selection.choose(&path("etc/passwd"), false, etc), Choice::Wanted);
        assert_eq!(selection.choose(&path("etc/shadow"), false, etc), Choice::LeftOut);
    }
}
