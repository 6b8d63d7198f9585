//! From the numbers of a point to the numbers of this machine, by name.

use std::collections::{BTreeMap, HashMap};

use crate::entry::Metadata;
use crate::filetree::OwnerNames;
use crate::manifest::Owners;
use crate::target::attributes::Attributes;

/// Numbers of owners that are others here; all not listed stay what they were.
#[derive(Debug, Default)]
pub(super) struct OwnerMap {
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
}

impl OwnerMap {
    /// Maps the point's names to the numbers that `local` gives them. Root stays root.
    pub(super) fn new(point: &Owners, local: &OwnerNames) -> Self {
        Self {
            users: map(&point.users, |name| local.user(name)),
            groups: map(&point.groups, |name| local.group(name)),
        }
    }

    /// Returns the attributes that an entry of this metadata gets here.
    pub(super) fn attributes(&self, metadata: &Metadata) -> Attributes {
        let uid = self.users.get(&metadata.uid).copied().unwrap_or(metadata.uid);
        let gid = self.groups.get(&metadata.gid).copied().unwrap_or(metadata.gid);
        Attributes::new(metadata, uid, gid)
    }
}

fn map(names: &BTreeMap<u32, Vec<u8>>, local: impl Fn(&[u8]) -> Option<u32>) -> HashMap<u32, u32> {
    names
        .iter()
        .filter(|(id, _)| **id != 0)
        .filter_map(|(id, name)| Some((*id, local(name)?)))
        .filter(|(id, here)| id != here)
        .collect()
}
