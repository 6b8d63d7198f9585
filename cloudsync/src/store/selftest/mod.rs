//! The examination of a vault's place before points are trusted to it: does the store keep what a vault rests on, alone and with many who
//! ask at once; whose clock does it go by; will a rule of its owner eat what is put there; how fast is it?
//!
//! What is tried of one object is [`probe`]'s; here is what takes several. What each check means is in `docs/storage.md`.

mod lifecycle;
mod speed;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use storepool::clock::{Clock, Timestamp};
use storepool::entropy::{Entropy, random_bytes};
use storepool::selftest::{Depth, Examination, Purpose, look};

use crate::error::{Error, Result, StoreFault};
use crate::layout::PROBES;
use crate::store::address::{Opening, VaultAddress};
use crate::store::cloud::CloudStore;
use crate::store::meaning::clock_words;
use crate::store::probe::{ProbeReport, probe};
use crate::store::selftest::trace::Trace;
use crate::store::{ObjectMeta, ObjectStore};

/// Creators of one name at the same moment, and how often when there is time.
const CREATORS: usize = 8;
const RACES: usize = 5;
/// A race in which the store was too busy to let anybody in is run again so often.
const RACE_TRIES: usize = 3;
/// Objects that are put, listed, deleted and listed.
const LISTED: usize = 12;
/// Beyond this a clock is worth mending: some minutes later logins are refused.
const CLOCK_WARNING: u64 = 60;
/// Beyond this what is counted in days goes wrong by parts of days.
const CLOCK_WEAK: u64 = 10 * 60;
/// Test objects that are older belong to nobody who still runs.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);
const SMALL_BYTES: u64 = 64;

/// Examines the store at an address, in the place of a vault there. What it puts it deletes again, and what killed examinations left.
///
/// # Errors
/// Whatever the store reports that is no broken promise: that it cannot be reached, the login, the rights.
pub async fn examine(
    address: &VaultAddress,
    opening: &Opening,
    entropy: &dyn Entropy,
    depth: Depth,
) -> Result<Examination> {
    let clock = &*opening.clock;
    match address {
        VaultAddress::Directory(path) => {
            let path = path.clone();
            let store = address.open(opening)?;
            let place = tokio::task::spawn_blocking(move || look(&path, Purpose::Vault)).await;
            let mut found = place.unwrap_or_default();
            found.append(examine_store(store.as_ref(), clock, entropy, depth).await?);
            Ok(found)
        }
        VaultAddress::Bucket(bucket) => {
            let store = Arc::new(CloudStore::open(bucket, opening)?);
            let mut found = examine_store(store.as_ref(), clock, entropy, depth).await?;
            lifecycle::examine(&store, bucket, entropy, &mut found).await?;
            Ok(found)
        }
    }
}

/// Examines a store, as far as that is the same for all kinds.
///
/// # Errors
/// As [`examine`].
pub async fn examine_store(
    store: &dyn ObjectStore,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    depth: Depth,
) -> Result<Examination> {
    let mut found = Examination::default();
    let report = match probe(store, entropy).await {
        Ok(report) => report,
        Err(Error::CreateNotExclusive { .. }) => {
            let advice = "choose another store: two servers would overwrite each other's commits";
            found.unfit(
                "create-only",
                "it overwrites an existing object instead of refusing",
                advice,
            );
            return Ok(found);
        }
        Err(Error::StoreUnsound { reason, .. }) => {
            found.unfit("read-back", reason, "choose another store");
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    found.good("read-back", "an object is read, in part too, and listed as it was put, at once");
    let mut trace = Trace::new(store);
    // What was put is deleted whatever comes of it.
    let tried = try_all(&mut trace, &report, clock, entropy, depth, &mut found).await;
    let deleted = trace.delete_all().await;
    tried?;
    match report.can_delete {
        true => deleted?,
        false => found.cannot_see("how fast it is, and many requests at once: these keys cannot delete what would be put for it"),
    }
    Ok(found)
}

async fn try_all(
    trace: &mut Trace<'_>,
    report: &ProbeReport,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    depth: Depth,
    found: &mut Examination,
) -> Result<()> {
    judge_clock(report.server_time, clock.now(), found);
    if !report.can_delete {
        let seen = "of two creators the second is refused";
        found.good("create-only", seen);
        found.note(
            "delete",
            "these keys cannot delete",
            "safer, for an intruder cannot either; pruning is then done elsewhere, with the owner's keys",
        );
        return Ok(());
    }
    let races = match depth {
        Depth::Quick => 1,
        Depth::Full => RACES,
    };
    create_only(trace, entropy, races, found).await?;
    list(trace, entropy, found).await?;
    remove_leftovers(trace, report.server_time).await?;
    if depth == Depth::Full {
        speed::examine(trace, clock, entropy, found).await?;
    }
    Ok(())
}

fn judge_clock(server: Option<Timestamp>, now: Timestamp, found: &mut Examination) {
    const CHECK: &str = "clock";
    let Some(server) = server else {
        return found.cannot_see("its clock: it does not tell its time");
    };
    let ahead = now.seconds() - server.seconds();
    let advice = "set this machine's clock; a time service keeps it right";
    match ahead.unsigned_abs() {
        seconds if seconds <= CLOCK_WARNING => found.good(CHECK, clock_words(ahead)),
        seconds if seconds <= CLOCK_WEAK => found.note(CHECK, clock_words(ahead), advice),
        _ => found.weak(CHECK, clock_words(ahead), advice),
    }
}

async fn create_only(
    trace: &mut Trace<'_>,
    entropy: &dyn Entropy,
    races: usize,
    found: &mut Examination,
) -> Result<()> {
    const CHECK: &str = "create-only";
    let advice = "choose another store: of two servers that commit at once one would be lost";
    for _ in 0..races {
        match race(trace, entropy).await? {
            Race::OneWon => {}
            Race::NobodyWon => {
                let seen = format!("of {CREATORS} creators of one object none succeeded");
                found.weak(CHECK, seen, "try again when the store is less busy");
                return Ok(());
            }
            Race::SeveralWon(count) => {
                let seen = format!("of {CREATORS} creators of one object {count} succeeded");
                found.unfit(CHECK, seen, advice);
                return Ok(());
            }
            Race::LoserChangedIt => {
                let seen = "a creator that was refused has changed the object";
                found.unfit(CHECK, seen, advice);
                return Ok(());
            }
        }
    }
    found.good(CHECK, format!("of {CREATORS} creators at once exactly one succeeds"));
    Ok(())
}

/// How it ended that several created one object.
enum Race {
    OneWon,
    NobodyWon,
    SeveralWon(usize),
    LoserChangedIt,
}

async fn race(trace: &mut Trace<'_>, entropy: &dyn Entropy) -> Result<Race> {
    let store = trace.store();
    for _ in 0..RACE_TRIES {
        let name = trace.name(entropy);
        let bodies: Vec<Bytes> = (0..CREATORS)
            .map(|_| Bytes::copy_from_slice(&random_bytes::<{ SMALL_BYTES as usize }>(entropy)))
            .collect();
        let puts = bodies.iter().map(|body| store.put_new(&name, body.clone()));
        let mut winners = Vec::new();
        for (outcome, body) in join_all(puts).await.into_iter().zip(&bodies) {
            match outcome {
                Ok(_) => winners.push(body),
                Err(error) => match error.fault {
                    // Two at the same moment: neither is refused for good.
                    StoreFault::AlreadyExists | StoreFault::Busy { .. } => {}
                    _ => return Err(error.into()),
                },
            }
        }
        match winners.as_slice() {
            [] => {}
            [winner] => {
                let kept = store.get(&name, SMALL_BYTES).await?.bytes == **winner;
                return Ok(if kept { Race::OneWon } else { Race::LoserChangedIt });
            }
            several => return Ok(Race::SeveralWon(several.len())),
        }
    }
    Ok(Race::NobodyWon)
}

async fn list(trace: &mut Trace<'_>, entropy: &dyn Entropy, found: &mut Examination) -> Result<()> {
    const CHECK: &str = "list";
    let store = trace.store();
    let names: Vec<_> = (0..LISTED).map(|_| trace.name(entropy)).collect();
    let puts = names.iter().map(|name| store.put_new(name, Bytes::from_static(b"listed")));
    for put in join_all(puts).await {
        put?;
    }
    let shown = |listed: &[ObjectMeta]| {
        names.iter().filter(|name| listed.iter().any(|meta| meta.name == **name)).count()
    };
    let after_put = shown(&store.list(PROBES).await?);
    for deleted in join_all(names.iter().map(|name| store.delete(name))).await {
        deleted?;
    }
    let after_delete = shown(&store.list(PROBES).await?);
    if after_put < LISTED {
        found.unfit(
            CHECK,
            format!("of {LISTED} objects that were just put {after_put} are listed"),
            "choose another store: its lists overlook objects",
        );
    } else if after_delete > 0 {
        found.note(
            CHECK,
            format!("{after_delete} deleted objects are listed for a while"),
            "nothing rests on it: a list is a hint here, never a proof",
        );
    } else {
        found.good(CHECK, "what is put is listed at once, what is deleted is not any more");
    }
    Ok(())
}

// By the store's own clock on both sides.
async fn remove_leftovers(trace: &mut Trace<'_>, now: Option<Timestamp>) -> Result<()> {
    let Some(now) = now else { return Ok(()) };
    let limit = now.minus(LEFTOVER_AGE);
    for old in trace.store().list(PROBES).await? {
        if old.modified.is_some_and(|modified| modified < limit) {
            trace.store().delete(&old.name).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
