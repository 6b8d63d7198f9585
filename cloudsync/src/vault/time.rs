//! The vault's own time, by which alone anything is deleted: what its clock says now, and what it stamped on commits.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use storepool::clock::Timestamp;
use storepool::entropy::random_bytes;

use crate::error::Result;
use crate::layout::{Generation, ObjectName};
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Realm, Surroundings};
use crate::vault::commit::CommitKind;

/// How far the clocks of agent and vault may be apart before one of them is taken for wrong. An hour is a mistake in a
/// time zone; against a day at least, which is the shortest that is waited, it does no harm.
pub const CLOCKS_APART_MOST: Duration = Duration::from_secs(3600);
/// Commits after one that cannot be read that are asked for the time instead.
const LATER_MOST: usize = 16;

/// What the clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// The vault's, if it tells.
    pub vault: Option<Timestamp>,
    /// This machine's.
    pub agent: Timestamp,
    /// The newest time that was seen from the vault before.
    pub seen: Option<Timestamp>,
}

/// Why no clock can be relied on, so that nothing is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockDoubt {
    /// The store does not tell its time.
    Unknown,
    /// The vault's clock shows less than before.
    WentBack {
        /// What it shows.
        now: Timestamp,
        /// What it showed.
        seen: Timestamp,
    },
    /// The vault's clock and this machine's do not agree.
    Apart {
        /// What the vault's shows.
        vault: Timestamp,
        /// What this machine's shows.
        agent: Timestamp,
    },
}

impl fmt::Display for ClockDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = crate::vault::plain::rfc3339;
        match self {
            Self::Unknown => f.write_str("the vault does not tell its time"),
            Self::WentBack { now, seen } => {
                write!(f, "the vault's clock went back from {} to {}", shown(*seen), shown(*now))
            }
            Self::Apart { vault, agent } => write!(
                f,
                "the vault's clock says {}, this machine's {}",
                shown(*vault),
                shown(*agent)
            ),
        }
    }
}

impl Clocks {
    /// Returns the vault's time if nothing speaks against it.
    pub fn trusted(&self) -> Result<Timestamp, ClockDoubt> {
        let vault = self.vault.ok_or(ClockDoubt::Unknown)?;
        if let Some(seen) = self.seen.filter(|seen| minus(*seen, vault) > CLOCKS_APART_MOST) {
            return Err(ClockDoubt::WentBack { now: vault, seen });
        }
        let apart = minus(vault, self.agent).max(minus(self.agent, vault));
        match apart <= CLOCKS_APART_MOST {
            true => Ok(vault),
            false => Err(ClockDoubt::Apart { vault, agent: self.agent }),
        }
    }

    /// Returns the best guess of the time, for decisions that delete nothing.
    pub fn guess(&self) -> Timestamp {
        self.vault.unwrap_or(self.agent)
    }
}

/// Returns by how much `later` comes after `earlier`; zero if it does not.
pub fn minus(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::from_nanos(later.0.saturating_sub(earlier.0).max(0).unsigned_abs())
}

/// Returns the moment this long after another.
pub fn plus(moment: Timestamp, duration: Duration) -> Timestamp {
    let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    Timestamp(moment.0.saturating_add(nanos))
}

/// Asks the vault for its time, by an object that is made and deleted again. Three requests at most.
pub async fn read_clocks(
    realm: &Realm,
    anchor: &Anchor,
    around: &Surroundings<'_>,
) -> Result<Clocks> {
    let store = realm.store();
    let name = ObjectName::probe(random_bytes(around.entropy));
    let receipt = store.put_new(&name, Bytes::from_static(b"time")).await?;
    let vault = match receipt.server_time {
        Some(time) => Some(time),
        None => store.head(&name).await?.modified,
    };
    if let Err(error) = store.delete(&name).await {
        tracing::debug!(%error, "an object of a few bytes is left in the vault");
    }
    Ok(Clocks { vault, agent: around.clock.now(), seen: anchor.vault_time() })
}

/// When a commit was made, by the vault's time, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The time that the vault stamped on it; nothing if it stamps none.
    pub time: Option<Timestamp>,
    /// Why it was made.
    pub kind: CommitKind,
}

/// The stamps of commits, read once each.
pub type Stamps = BTreeMap<Generation, Stamp>;

/// Reads the stamps of commits. A stamp is no earlier than what its commit says of the vault's time before it, so
/// that objects whose times were set back delete nothing early. A commit that was lost or damaged counts as made when the next one was; if none can
/// be read, it has no stamp, and what depends on it waits.
pub async fn read_stamps(
    realm: &Realm,
    generations: impl Iterator<Item = Generation>,
) -> Result<Stamps> {
    let mut stamps = Stamps::new();
    for generation in generations {
        if stamps.contains_key(&generation) {
            continue;
        }
        let stamp = match read_stamp(realm, generation).await? {
            Some(stamp) => Some(stamp),
            None => stamp_after(realm, generation).await?,
        };
        stamps.extend(stamp.map(|stamp| (generation, stamp)));
    }
    Ok(stamps)
}

// The stamp of a commit; nothing if the commit cannot be read any more.
async fn read_stamp(realm: &Realm, generation: Generation) -> Result<Option<Stamp>> {
    let (commit, modified) = match realm.commit(generation).await {
        Ok(found) => found,
        Err(error) if error.is_gap() => return Ok(None),
        Err(error) => return Err(error),
    };
    let time = modified.map(|modified| match commit.vault_time {
        Some(before) => modified.max(before),
        None => modified,
    });
    Ok(Some(Stamp { time, kind: commit.kind }))
}

// A commit that is lost was made before the ones after it. Why it was made is not known, so it counts as what is waited for longest.
async fn stamp_after(realm: &Realm, generation: Generation) -> Result<Option<Stamp>> {
    let mut later = generation;
    for _ in 0..LATER_MOST {
        later = later.next();
        if let Some(stamp) = read_stamp(realm, later).await? {
            return Ok(Some(Stamp { kind: CommitKind::Repack, ..stamp }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn a_clock_is_trusted_only_when_nothing_speaks_against_it() {
        let clocks = |vault: Option<i64>, agent: i64, seen: Option<i64>| Clocks {
            vault: vault.map(|hours| Timestamp(hours * HOUR)),
            agent: Timestamp(agent * HOUR),
            seen: seen.map(|hours| Timestamp(hours * HOUR)),
        };

        assert_eq!(clocks(Some(100), 101, Some(90)).trusted(), Ok(Timestamp(100 * HOUR)));
        assert_eq!(clocks(None, 100, None).trusted(), Err(ClockDoubt::Unknown));
        let back = clocks(Some(100), 100, Some(102)).trusted();
        assert!(matches!(back, Err(ClockDoubt::WentBack { .. })), "{back:?}");
        for agent in [97, 103, 100_000, -100_000] {
            let apart = clocks(Some(100), agent, Some(90)).trusted();
            assert!(matches!(apart, Err(ClockDoubt::Apart { .. })), "{apart:?}");
        }
    }
}
