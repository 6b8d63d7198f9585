//! What the workers count, and tell the monitor.

use std::collections::{BTreeSet, HashSet};

use crate::backup::push_bounded;
use crate::backup::walk::Worker;
use crate::entry::EntryPath;
use crate::index::PackNo;
use crate::manifest::{Problem, Totals};
use crate::monitor::Event;
use crate::source::{SourceError, SourceKind, SourceStat};
use crate::tree::{Content, Entry, Node};

/// Work is reported to the monitor after so many entries or bytes.
const REPORT_ITEMS: u64 = 256;
const REPORT_BYTES: u64 = 4 << 20;

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) root: Entry,
    pub(crate) totals: Totals,
    pub(crate) entries_new: u64,
    pub(crate) entries_changed: u64,
    pub(crate) entries_unchanged: u64,
    pub(crate) problems: Vec<Problem>,
    pub(crate) problem_count: u64,
    pub(crate) users: BTreeSet<u32>,
    pub(crate) groups: BTreeSet<u32>,
    pub(crate) relied_on: HashSet<PackNo>,
}

pub(super) fn gather(root: Entry, tallies: Vec<Tally>) -> Walked {
    let mut walked = Walked {
        root,
        totals: Totals::default(),
        entries_new: 0,
        entries_changed: 0,
        entries_unchanged: 0,
        problems: Vec::new(),
        problem_count: 0,
        users: BTreeSet::new(),
        groups: BTreeSet::new(),
        relied_on: HashSet::new(),
    };
    for tally in tallies {
        walked.totals.files += tally.totals.files;
        walked.totals.directories += tally.totals.directories;
        walked.totals.others += tally.totals.others;
        walked.totals.bytes += tally.totals.bytes;
        walked.totals.bytes_read += tally.totals.bytes_read;
        walked.entries_new += tally.entries_new;
        walked.entries_changed += tally.entries_changed;
        walked.entries_unchanged += tally.entries_unchanged;
        walked.problem_count += tally.problem_count;
        for problem in tally.problems {
            push_bounded(&mut walked.problems, problem);
        }
        walked.users.extend(tally.users);
        walked.groups.extend(tally.groups);
        walked.relied_on.extend(tally.relied_on);
    }
    walked.problems.sort_by(|one, other| one.path.cmp(&other.path));
    walked
}

/// What one worker has counted.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) totals: Totals,
    pub(super) entries_new: u64,
    pub(super) entries_changed: u64,
    pub(super) entries_unchanged: u64,
    pub(super) problems: Vec<Problem>,
    pub(super) problem_count: u64,
    pub(super) users: BTreeSet<u32>,
    pub(super) groups: BTreeSet<u32>,
    pub(super) last_owner: Option<(u32, u32)>,
    pub(super) relied_on: HashSet<PackNo>,
    pub(super) unreported_items: u64,
    pub(super) unreported_bytes: u64,
}

impl Worker<'_, '_> {
    pub(super) fn problem(&mut self, path: EntryPath, error: &SourceError) {
        let message = error.message.clone();
        self.run.monitor.event(Event::Problem { path: path.clone(), message: message.clone() });
        self.tally.problem_count += 1;
        push_bounded(&mut self.tally.problems, Problem { path, kind: error.kind, message });
    }

    pub(super) fn count_entry(&mut self, stat: &SourceStat, bytes: u64) {
        self.count_owner(stat);
        if stat.kind == SourceKind::File {
            self.tally.totals.files += 1;
            self.tally.totals.bytes += bytes;
        } else {
            self.tally.totals.others += 1;
        }
        self.work_done(1, bytes);
    }

    pub(super) fn count_owner(&mut self, stat: &SourceStat) {
        if self.tally.last_owner != Some((stat.uid, stat.gid)) {
            self.tally.last_owner = Some((stat.uid, stat.gid));
            self.tally.users.insert(stat.uid);
            self.tally.groups.insert(stat.gid);
        }
    }

    pub(super) fn work_done(&mut self, items: u64, bytes: u64) {
        self.tally.unreported_items += items;
        self.tally.unreported_bytes += bytes;
        if self.tally.unreported_items >= REPORT_ITEMS
            || self.tally.unreported_bytes >= REPORT_BYTES
        {
            self.report_work();
        }
    }

    pub(super) fn report_work(&mut self) {
        let items = std::mem::take(&mut self.tally.unreported_items);
        let bytes = std::mem::take(&mut self.tally.unreported_bytes);
        self.run.monitor.event(Event::Done { items, bytes });
    }
}

/// Returns how many bytes of data a file has that is taken over unread: its size without the holes.
pub(super) fn data_bytes(node: &Node, size: u64) -> u64 {
    match node {
        Node::File { content: Content::None, .. } => 0,
        Node::File { content: Content::Inline(extents), .. } => {
            extents.chunks.iter().map(|chunk| u64::from(chunk.length)).sum()
        }
        // The windows' holes are not known without reading their lists.
        Node::File { .. } => size,
        _ => 0,
    }
}
