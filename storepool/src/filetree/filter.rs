//! What is left out of a file tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::entry::EntryPath;
use crate::filetree::FileTreeOptions;
use crate::filetree::directory::stat_of;

/// The signature of a cache directory, after <https://bford.info/cachedir/>.
const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Decides which entries belong to the source.
pub(crate) struct Filter {
    patterns: Option<Gitignore>,
    case_insensitive: Option<Gitignore>,
    /// Files whose presence empties a directory: name and first bytes.
    pub(crate) tags: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) larger_than: Option<u64>,
    pub(crate) one_file_system: bool,
    /// Device and inode of directories never entered.
    never: Vec<(u64, u64)>,
}

impl Filter {
    pub(crate) fn new(options: FileTreeOptions) -> Result<Self, String> {
        let mut tags: Vec<_> = options
            .exclude_if_present
            .iter()
            .map(|tag| {
                let (name, header) = tag.split_once(':').unwrap_or((tag, ""));
                (name.as_bytes().to_vec(), header.as_bytes().to_vec())
            })
            .collect();
        if options.exclude_caches {
            tags.push((CACHE_TAG.as_bytes().to_vec(), CACHE_SIGNATURE.to_vec()));
        }
        Ok(Self {
            patterns: compile(&options.exclude, false)?,
            case_insensitive: compile(&options.exclude_case_insensitive, true)?,
            tags,
            larger_than: options.exclude_larger_than,
            one_file_system: options.one_file_system,
            never: options.never.iter().filter_map(|path| identity(path)).collect(),
        })
    }

    /// Returns whether a pattern leaves out the entry at `path`.
    pub(crate) fn excludes(&self, directory: &EntryPath, name: &[u8], is_directory: bool) -> bool {
        if self.patterns.is_none() && self.case_insensitive.is_none() {
            return false;
        }
        let path = directory.join(name);
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        [&self.patterns, &self.case_insensitive]
            .into_iter()
            .flatten()
            .any(|patterns| patterns.matched(path, is_directory).is_ignore())
    }

    /// Returns whether the directory is one that is never entered.
    pub(crate) fn never_enters(&self, device: u64, inode: u64) -> bool {
        self.never.contains(&(device, inode))
    }
}

fn compile(patterns: &[String], case_insensitive: bool) -> Result<Option<Gitignore>, String> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("");
    builder.case_insensitive(case_insensitive).map_err(|error| error.to_string())?;
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|error| error.to_string())?;
    }
    builder.build().map(Some).map_err(|error| error.to_string())
}

// Device and inode as `SourceStat` gives them.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let stat = stat_of(rustix::fs::CWD, path.as_os_str().as_bytes()).ok()?;
    Some((stat.device, stat.inode))
}
