//! A root made of several paths: their absolute paths, and nothing else, below one directory.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::entry::EntryPath;
use crate::filetree::directory::TreeDirectory;
use crate::filetree::filter::Filter;
use crate::filetree::open_path;
use crate::source::{
    Listing, SourceDetail, SourceDirectory, SourceEntry, SourceError, SourceFile, SourceKind,
    SourceStat,
};

/// A real directory of which only some children belong to the source.
pub(crate) struct VirtualDirectory {
    real: TreeDirectory,
    // Children by name; `Whole` ones belong to the source with all they hold.
    children: BTreeMap<Vec<u8>, Child>,
    path: PathBuf,
    filter: Arc<Filter>,
}

enum Child {
    Whole,
    Part(Vec<PathBuf>),
}

type Root = (SourceStat, Arc<dyn SourceDirectory>);

impl VirtualDirectory {
    /// Returns the root directory of the machine with only `paths` in it.
    pub(crate) fn root(paths: &[PathBuf], filter: Arc<Filter>) -> Result<Root, SourceError> {
        let rests: Vec<_> =
            paths.iter().map(|path| path.strip_prefix("/").unwrap_or(path).to_path_buf()).collect();
        Self::at(Path::new("/"), &rests, filter)
    }

    /// Returns the directory `parent` with only the entry `name` in it.
    pub(crate) fn single(
        parent: &Path,
        name: &[u8],
        filter: Arc<Filter>,
    ) -> Result<Root, SourceError> {
        let rest = PathBuf::from(std::ffi::OsStr::from_bytes(name));
        Self::at(parent, &[rest], filter)
    }

    fn at(path: &Path, rests: &[PathBuf], filter: Arc<Filter>) -> Result<Root, SourceError> {
        let (stat, fd) = open_path(path)?;
        let entry_path = EntryPath::parse(path.as_os_str().as_bytes()).unwrap_or_default();
        let real = TreeDirectory::new(fd, entry_path, stat.device, filter.clone());
        let mut children: BTreeMap<Vec<u8>, Child> = BTreeMap::new();
        for rest in rests {
            let mut components = rest.components();
            let Some(Component::Normal(name)) = components.next() else { continue };
            let below = components.as_path();
            let child =
                children.entry(name.as_bytes().to_vec()).or_insert_with(|| Child::Part(Vec::new()));
            if below.as_os_str().is_empty() {
                *child = Child::Whole;
            } else if let Child::Part(parts) = child {
                parts.push(below.to_path_buf());
            }
        }
        let directory = Self { real, children, path: path.to_path_buf(), filter };
        Ok((stat, Arc::new(directory)))
    }
}

impl SourceDirectory for VirtualDirectory {
    fn list(&self) -> Result<Listing, SourceError> {
        let mut listing = Listing::default();
        for name in self.children.keys() {
            match self.real.examine(name) {
                Ok(entry) => listing.entries.extend(entry),
                Err(error) => listing.problems.push((name.as_slice().into(), error)),
            }
        }
        Ok(listing)
    }

    fn directory(&self, entry: &SourceEntry) -> Result<Arc<dyn SourceDirectory>, SourceError> {
        let path = self.path.join(std::ffi::OsStr::from_bytes(&entry.name));
        match self.children.get(&*entry.name) {
            Some(Child::Part(rests)) => Ok(Self::at(&path, rests, self.filter.clone())?.1),
            _ => {
                // Patterns and file-system limits count from each path that was given.
                let (stat, fd) = open_path(&path)?;
                if stat.kind != SourceKind::Directory {
                    return Err(SourceError::io("open", &std::io::ErrorKind::NotADirectory.into()));
                }
                let directory =
                    TreeDirectory::new(fd, EntryPath::root(), stat.device, self.filter.clone());
                Ok(Arc::new(directory))
            }
        }
    }

    fn file(&self, entry: &SourceEntry) -> Result<Box<dyn SourceFile>, SourceError> {
        self.real.file(entry)
    }

    fn detail(&self, entry: &SourceEntry) -> Result<SourceDetail, SourceError> {
        self.real.detail(entry)
    }

    fn own_detail(&self) -> Result<SourceDetail, SourceError> {
        self.real.own_detail()
    }
}
