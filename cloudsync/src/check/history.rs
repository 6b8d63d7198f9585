//! What a check speaks of: the newest state that anybody knows, what somebody who has nothing sees of it, and whether its history is whole.

use std::collections::HashSet;

use storepool::id::PointId;

use super::CheckReport;
use crate::crypto::container::{self, object_limit};
use crate::error::{Error, Result, StoreFault};
use crate::layout::{
    COMMITS_PER_BLOCK, Generation, ObjectHash, ObjectKind, ObjectName, commit_block_prefix,
};
use crate::vault::chain::Realm;
use crate::vault::snapshot::Snapshot;

/// The state that a check speaks of, and how much of it can be seen.
pub(super) struct View {
    pub(super) state: Snapshot,
    /// Points that somebody who has nothing does not find, or not where they are by now.
    pub(super) hidden: HashSet<PointId>,
    // Where such a somebody begins to load; commits up to there are history.
    begins: Generation,
}

impl View {
    /// Loads the newest state, with the help of what this installation remembers; adds the damage that stops others.
    pub(super) async fn load(
        realm: &Realm,
        known: Option<Snapshot>,
        report: &mut CheckReport,
    ) -> Result<Self> {
        match (realm.load_readable().await, known) {
            (Ok((state, None)), _) => Ok(Self::of_readable(state)),
            (Ok((state, Some(damage))), known) => {
                report.add("commit", damage_object(realm, &damage), None, &damage);
                match known.filter(|known| known.generation() > state.generation()) {
                    Some(known) => Self::of_known(realm, known, Some(&state)).await,
                    None => Ok(Self::of_readable(state)),
                }
            }
            (Err(damage), Some(known)) if damage.is_damage() => {
                report.add("commit", damage_object(realm, &damage), None, &damage);
                Self::of_known(realm, known, None).await
            }
            (Err(error), _) => Err(error),
        }
    }

    // What this installation has seen, where it goes further than what can be read.
    async fn of_known(realm: &Realm, known: Snapshot, readable: Option<&Snapshot>) -> Result<Self> {
        let state = match realm.load(Some(known.clone())).await {
            Ok(newest) => newest,
            Err(error) if error.is_damage() => known,
            Err(error) => return Err(error),
        };
        let hidden = hidden_points(&state, readable);
        Ok(Self { state, begins: readable.map_or(Generation(0), Snapshot::checkpoint), hidden })
    }

    fn of_readable(state: Snapshot) -> Self {
        Self { begins: state.checkpoint(), state, hidden: HashSet::new() }
    }

    /// Proves that every commit is there, and that from the newest checkpoint on, or with `all` from the first one on, it is what it should be. One that
    /// came before the checkpoint and is lost is no damage: whatever it said is in there.
    pub(super) async fn check_chain(
        &self,
        realm: &Realm,
        all: bool,
        report: &mut CheckReport,
    ) -> Result<()> {
        if let Some(damage) = realm.newest_checkpoint_damage().await? {
            report.add("checkpoint", damage_object(realm, &damage), None, &damage);
        }
        let last = self.state.generation();
        let mut listed = HashSet::new();
        for block in 0..=last.0 / COMMITS_PER_BLOCK {
            let first = Generation(block * COMMITS_PER_BLOCK);
            let found = realm.store().list(&commit_block_prefix(realm.id(), first)).await?;
            listed.extend(found.into_iter().filter_map(|meta| meta.name.generation()));
        }
        let told = report.damages.len();
        let mut before: Option<ObjectHash> = None;
        for generation in (1..=last.0).map(Generation) {
            let previous = before.take();
            // A list may be old: only a read proves that a commit is missing.
            if !all && listed.contains(&generation) {
                continue;
            }
            let name = ObjectName::commit(realm.id(), generation);
            let already = |report: &CheckReport| {
                report.damages[..told].iter().any(|damage| damage.object == name.as_str())
            };
            let body = match realm.store().get(&name, object_limit(ObjectKind::Commit)).await {
                Ok(body) => body.bytes,
                Err(error) if matches!(error.fault, StoreFault::NotFound | StoreFault::Corrupt) => {
                    if generation <= self.begins {
                        report.commits_needless += 1;
                    } else if !already(report) {
                        report.add("commit", &name, None, error);
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            report.commits_read += 1;
            report.bytes_read += body.len() as u64;
            let reason = match container::open(realm.keys(), ObjectKind::Commit, &body) {
                Err(_) if generation <= self.begins => {
                    report.commits_needless += 1;
                    continue;
                }
                Err(reason) => reason.to_string(),
                Ok(opened) => {
                    let link = opened.header.link();
                    let follows = link.is_some_and(|link| {
                        link.generation == generation
                            && previous.is_none_or(|previous| link.previous == previous)
                    });
                    before = Some(ObjectHash::of(&body));
                    if follows {
                        continue;
                    }
                    "it does not follow the commit before".to_string()
                }
            };
            if !already(report) {
                report.add("commit", &name, None, reason);
            }
        }
        Ok(())
    }
}

// The points of a state that cannot be relied on as long as only an earlier state can be read: those that it does not know, and those that needed
// something then which has been given up since.
fn hidden_points(state: &Snapshot, readable: Option<&Snapshot>) -> HashSet<PointId> {
    let is_reliable = |point: PointId| {
        let Some(seen) = readable else { return false };
        let forgotten = seen.forgotten().get(&point).map(|(_, record)| record);
        let record = seen.points().get(&point).or(forgotten);
        record.is_some_and(|record| record.needs.iter().all(|it| is_there(state, seen, it)))
    };
    let points = state.points_and_forgotten().map(|point| point.id);
    points.filter(|point| !is_reliable(*point)).collect()
}

// What an index says can be read from the packs.
fn is_there(state: &Snapshot, seen: &Snapshot, ordinal: u64) -> bool {
    let is_index =
        seen.object(ordinal).is_some_and(|object| object.record.kind == ObjectKind::Index);
    is_index || state.object(ordinal).is_some_and(|object| object.condemned.is_none())
}

fn damage_object(realm: &Realm, damage: &Error) -> String {
    match damage {
        Error::Damaged { object, .. } => object.clone(),
        Error::ChainBroken { generation, .. } => {
            ObjectName::commit(realm.id(), *generation).to_string()
        }
        other => other.to_string(),
    }
}
