//! Names of numeric owners, from the machine's own files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use crate::manifest::Owners;

/// Longest `/etc/passwd` or `/etc/group` that is read.
const FILE_LIMIT: u64 = 16 << 20;

/// The users and groups of this machine as `/etc/passwd` and `/etc/group` list them. Directory services are not asked: a backup may
/// not hang on the network, and numbers are always kept beside the names.
#[derive(Clone, Debug, Default)]
pub struct OwnerNames {
    users: BTreeMap<u32, Vec<u8>>,
    groups: BTreeMap<u32, Vec<u8>>,
}

impl OwnerNames {
    /// Reads both files; what cannot be read counts as empty.
    pub fn load() -> Self {
        Self { users: read_names("/etc/passwd"), groups: read_names("/etc/group") }
    }

    /// Returns the names of these users and groups, as far as they are known.
    pub fn select(&self, users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Owners {
        let pick = |names: &BTreeMap<u32, Vec<u8>>, ids: &BTreeSet<u32>| {
            ids.iter().filter_map(|id| Some((*id, names.get(id)?.clone()))).collect()
        };
        Owners { users: pick(&self.users, users), groups: pick(&self.groups, groups) }
    }

    /// Returns the number of the user with this name.
    pub fn user(&self, name: &[u8]) -> Option<u32> {
        find(&self.users, name)
    }

    /// Returns the number of the group with this name.
    pub fn group(&self, name: &[u8]) -> Option<u32> {
        find(&self.groups, name)
    }
}

fn find(names: &BTreeMap<u32, Vec<u8>>, name: &[u8]) -> Option<u32> {
    names.iter().find(|(_, known)| known.as_slice() == name).map(|(id, _)| *id)
}

fn read_names(path: &str) -> BTreeMap<u32, Vec<u8>> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut bytes));
    if read.is_err() {
        return BTreeMap::new();
    }
    let mut names = BTreeMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        if let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next())
            && let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok())
        {
            names.entry(id).or_insert_with(|| name.to_vec());
        }
    }
    names
}
