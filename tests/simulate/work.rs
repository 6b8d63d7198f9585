//! What a process does: one operation of pool or vault, as the program would call it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cloudsync::forget::{forget, undelete};
use cloudsync::heal::{VaultHealer, heal};
use cloudsync::prune::PruneOptions as VaultPruneOptions;
use cloudsync::store::ObjectStore;
use cloudsync::sync::{SyncOptions, SyncSource, sync};
use cloudsync::vault::chain::{Realm, Surroundings};
use cloudsync::vault::snapshot::Snapshot;
use cloudsync::writing::Writing;
use storepool::backup::{BackupOptions, backup};
use storepool::check::{CheckOptions, check};
use storepool::clock::Clock;
use storepool::id::PointId;
use storepool::monitor::SilentMonitor;
use storepool::prune::{PruneOptions, prune};
use storepool::repair::{RepairOptions, repair_from};

use crate::host::{COSTS, Host, options, passphrase, runtime};
use crate::machine::Process;
use crate::network::Line;
use crate::tree::Source;

/// An operation with everything picked.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Backup {
        source: usize,
        tree: Source,
        force: bool,
    },
    Forget(Vec<PointId>),
    Prune {
        all: bool,
    },
    Sync,
    VaultForget(PointId),
    Undelete(PointId),
    VaultPrune {
        with_pool: bool,
        all: bool,
    },
    Check,
    VaultCheck,
    Heal,
    /// The passphrase is replaced.
    Rekey,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A point was made.
    Point(PointId),
    /// Points were copied.
    Copied(Vec<PointId>),
    /// Something was proved or disproved.
    Checked(Findings),
    /// It was done.
    Done,
    /// It failed.
    Failed(String),
    /// The process died.
    Died,
}

/// What a check says.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) sound: bool,
    /// The points that it calls hurt.
    pub(crate) affected: BTreeSet<PointId>,
    /// The points of which it speaks at all.
    pub(crate) spoken_of: BTreeSet<PointId>,
    pub(crate) detail: String,
}

impl Outcome {
    fn of<T>(result: storepool::Result<T>, done: impl FnOnce(T) -> Self) -> Self {
        match result {
            Ok(value) => done(value),
            Err(error) => Self::Failed(chain(&error)),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(&format!(": {deeper}"));
        cause = deeper.source();
    }
    text
}

/// Does it.
pub(crate) fn perform(host: &Host, work: &Work, process: &Process, line: &Arc<Line>) -> Outcome {
    let outcome = match work {
        Work::Backup { source, tree, force } => {
            let made = host.open(process).and_then(|pool| {
                let options = BackupOptions {
                    host: "web1".into(),
                    group: String::new(),
                    source: format!("source{source}"),
                    tags: Vec::new(),
                    set: None,
                    program: "simulation".into(),
                    dry_run: false,
                    threads: 1,
                    force: *force,
                };
                backup(&pool, tree, &options, &SilentMonitor)
            });
            Outcome::of(made, |report| Outcome::Point(report.point.expect("no dry run")))
        }
        Work::Forget(points) => {
            let done = host.open(process).and_then(|pool| pool.forget(points));
            Outcome::of(done, |()| Outcome::Done)
        }
        Work::Prune { all } => {
            let max_unused_percent = if *all { 0.0 } else { 10.0 };
            let options = PruneOptions { dry_run: false, max_unused_percent, repack_all: *all };
            let pruned = host.open(process).and_then(|pool| prune(&pool, &options, &SilentMonitor));
            Outcome::of(pruned, |_| Outcome::Done)
        }
        Work::Check => {
            let options = CheckOptions { read_data: Some(100.0) };
            let checked =
                host.open(process).and_then(|pool| check(&pool, &options, &SilentMonitor));
            Outcome::of(checked, |report| {
                Outcome::Checked(Findings {
                    sound: report.is_sound(),
                    affected: report.affected_points.iter().map(|point| point.point).collect(),
                    spoken_of: BTreeSet::new(),
                    detail: format!("{:?}", report.damages),
                })
            })
        }
        _ => online(host, work, process, line),
    };
    match host.machine.has_died(process.pid()) {
        true => Outcome::Died,
        false => outcome,
    }
}

// Drives an operation of the vault until it ends or its process dies.
fn online(host: &Host, work: &Work, process: &Process, line: &Arc<Line>) -> Outcome {
    let runtime = runtime();
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            done = with_vault(host, work, process, line.clone()) => match done {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Failed(chain(&error)),
            },
            () = line.silence() => Outcome::Died,
        }
    });
    line.release();
    outcome
}

async fn with_vault(
    host: &Host,
    work: &Work,
    process: &Process,
    store: Arc<dyn ObjectStore>,
) -> cloudsync::Result<Outcome> {
    let realm = host.realm(store).await?;
    let ledger = Arc::new(host.ledger(&realm)?);
    let mut anchor = host.anchor(&realm)?;
    let around = Surroundings { clock: &*host.clock, entropy: process };
    let monitor = Arc::new(SilentMonitor);
    let mut writing =
        Writing { realm: &realm, anchor: &mut anchor, ledger: &ledger, around: &around };
    match work {
        Work::Sync => {
            let pool = host.open(process)?;
            let session = Arc::new(pool.begin_session()?);
            let points = pool.points()?;
            let source = SyncSource { session, points, configuration: None };
            let options = SyncOptions { pack_length: 8 << 10, uploads: 1 };
            let report =
                sync(&realm, &mut anchor, &ledger, source, &options, &around, monitor).await?;
            Ok(Outcome::Copied(report.copied))
        }
        Work::VaultForget(point) => {
            let mut snapshot = writing.begin().await?;
            forget(&mut writing, &mut snapshot, &BTreeSet::from([*point]), &[]).await?;
            Ok(Outcome::Done)
        }
        Work::Undelete(point) => {
            let mut snapshot = writing.begin().await?;
            undelete(&mut writing, &mut snapshot, &BTreeSet::from([*point])).await?;
            Ok(Outcome::Done)
        }
        Work::VaultPrune { with_pool, all } => {
            let session = match with_pool {
                true => Some(Arc::new(host.open(process)?.begin_session()?)),
                false => None,
            };
            let options = VaultPruneOptions {
                max_unused_percent: if *all { 0.0 } else { 10.0 },
                repack_all: *all,
                pack_length: 8 << 10,
                ..VaultPruneOptions::default()
            };
            cloudsync::prune::prune(&mut writing, session, false, &options, monitor).await?;
            Ok(Outcome::Done)
        }
        Work::VaultCheck => {
            let known = ledger.snapshot(realm.keys())?;
            let options = cloudsync::check::CheckOptions { read_data: Some(100.0) };
            let now = host.clock.now();
            let (report, state) =
                cloudsync::check::check(&realm, known, &options, now, monitor).await?;
            Ok(Outcome::Checked(Findings {
                sound: report.is_sound(),
                affected: report.affected_points.iter().copied().collect(),
                spoken_of: state.points_and_forgotten().map(|point| point.id).collect(),
                detail: format!("{:?}", report.damages),
            }))
        }
        Work::Heal => {
            // As the program does: of a vault whose history has a hole the pool gets what can be seen, and the rest once the hole is mended.
            let whole = match realm.load_readable().await {
                Ok((snapshot, damage)) => {
                    repair_pool(host, process, &realm, snapshot).await?;
                    damage.is_none()
                }
                Err(error) if error.is_damage() => false,
                Err(error) => return Err(error),
            };
            let session = Arc::new(host.open(process)?.begin_session()?);
            let options = cloudsync::check::CheckOptions { read_data: Some(100.0) };
            heal(&mut writing, session, &options, monitor).await?;
            if !whole {
                repair_pool(host, process, &realm, realm.load(None).await?).await?;
            }
            Ok(Outcome::Done)
        }
        Work::Rekey => {
            let mut snapshot = writing.begin().await?;
            let slot = cloudsync::keys::slots(&snapshot).remove(0);
            let (passphrase, costs) = (passphrase(), COSTS);
            cloudsync::keys::change(&mut writing, &mut snapshot, &slot.name, &passphrase, costs)
                .await?;
            Ok(Outcome::Done)
        }
        _ => unreachable!("work of the pool needs no vault"),
    }
}

// Lets the pool take from the vault what it lost.
async fn repair_pool(
    host: &Host,
    process: &Process,
    realm: &Realm,
    snapshot: Snapshot,
) -> cloudsync::Result<()> {
    let healer = VaultHealer::new(realm.clone(), snapshot, tokio::runtime::Handle::current());
    let (roots, world) = (host.roots.clone(), host.world(process));
    let repair = move || {
        let repair = RepairOptions::default();
        repair_from(&roots, options(), world, &repair, &healer, &SilentMonitor)
    };
    tokio::task::spawn_blocking(repair).await.expect("a repair does not panic")?;
    Ok(())
}
