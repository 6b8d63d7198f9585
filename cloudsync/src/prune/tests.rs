//! The life of points in a vault: forgotten, restored, gone; what is freed and when; whatever call fails, whatever the
//! clocks do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use storepool::clock::Timestamp;
use storepool::id::PointId;

use super::{PruneOptions, SETTLING, Tally};
use crate::error::{Error, StoreFault};
use crate::forget::{ForgetPlan, UNDELETE_PERIOD, forget};
use crate::layout::ObjectKind;
use crate::notes::ON_DEMAND;
use crate::retention::{Count, POINTS_PER_SOURCE, POINTS_WARNING, RetentionPolicy};
use crate::store::ObjectStore;
use crate::testing::server::{DAY, Files, Server, files, joined};
use crate::testing::{Fault, FaultyStore, MemoryStore};
use crate::vault::commit::{Changes, CommitKind, PointRecord};
use crate::vault::snapshot::Snapshot;
use crate::vault::time::{ClockDoubt, read_clocks};

const HOUR: Duration = Duration::from_secs(3600);

fn all() -> PruneOptions {
    PruneOptions { repack_all: true, max_unused_percent: 0.0, ..PruneOptions::default() }
}

fn live(snapshot: &Snapshot) -> usize {
    snapshot.objects().values().filter(|object| object.condemned.is_none()).count()
}

fn content_objects(memory: &MemoryStore) -> usize {
    let names = memory.names();
    names
        .iter()
        .filter(|name| ["/p/", "/t/", "/i/", "/m/"].iter().any(|it| name.contains(it)))
        .count()
}

struct Life {
    server: Server,
    one: (PointId, Files),
    two: (PointId, Files),
    three: (PointId, Files),
}

// Three points: the second shares half of the first's files, the third half of the second's.
async fn life() -> Life {
    let server = Server::new().await;
    let (a, b, c, d) = (files(1, 4, 9000), files(2, 4, 9000), files(3, 4, 9000), files(4, 4, 9000));
    let mut points = Vec::new();
    for tree in [joined(&[&a, &b]), joined(&[&b, &c]), joined(&[&c, &d])] {
        points.push((server.back_up("tree", &tree), tree));
        server.sync(server.memory.clone()).await.expect("synced");
        server.pass(HOUR);
    }
    let mut points = points.into_iter();
    let mut next = || points.next().expect("three points");
    let (one, two, three) = (next(), next(), next());
    Life { server, one, two, three }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_point_is_restorable_for_its_period_then_gone_then_its_space_is_free() {
    let Life { server, one, two, three } = life().await;
    let memory = || server.memory.clone();
    server.forget(memory(), &[one.0]).await.expect("forgotten");
    let objects = content_objects(&server.memory);

    // Just forgotten: nothing is condemned.
    let first = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!((first.condemned, first.deleted), (Tally::default(), Tally::default()));
    server.pass(UNDELETE_PERIOD - 2 * HOUR);
    server.prune(memory(), true, all()).await.expect("pruned");
    server.undelete(memory(), &[one.0]).await.expect("restored");
    assert_eq!(server.restored(one.0).await, one.1);
    assert_eq!(content_objects(&server.memory), objects);

    // Forgotten again; the period begins anew.
    server.forget(memory(), &[one.0]).await.expect("forgotten");
    server.pass(3 * HOUR);
    let early = server.prune(memory(), true, all()).await.expect("pruned");
    assert!(early.points_gone.is_empty());
    server.pass(UNDELETE_PERIOD);
    let late = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(late.points_gone, [one.0]);
    assert!(late.condemned.objects > 0 && late.deleted.objects == 0, "{late:?}");
    let refused = server.undelete(memory(), &[one.0]).await.expect_err("gone");
    assert!(matches!(refused, Error::NoSuchPoint { .. }), "{refused}");
    // Copies of poor packs came, nothing has gone.
    assert!(content_objects(&server.memory) >= objects);

    // Not by the same run and not before the settling time.
    server.pass(SETTLING - HOUR);
    let waiting = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(waiting.deleted, Tally::default());
    server.pass(2 * HOUR);
    let freed = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(freed.deleted.objects, late.condemned.objects, "{freed:?}");
    for (point, files) in [&two, &three] {
        assert_eq!(server.restored(*point).await, *files);
    }
    server.pass(UNDELETE_PERIOD);
    server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(content_objects(&server.memory), live(&server.state().await));
    let nothing = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!((nothing.condemned, nothing.deleted), (Tally::default(), Tally::default()));
    server.pool.forget(&[one.0]).expect("forgotten");
    assert_eq!(server.sync(memory()).await.expect("synced").copied, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poor_packs_are_copied_from_the_pool_without_a_download_or_from_the_vault_without_the_pool()
{
    for use_pool in [true, false] {
        let server = Server::new().await;
        let memory = || server.memory.clone();
        // One pack holds files of both points, so half of it becomes idle.
        let (a, b) = (files(1, 8, 1500), files(2, 8, 1500));
        let both = joined(&[&a, &b]);
        let one = server.back_up("tree", &both);
        server.sync(memory()).await.expect("synced");
        let two = server.back_up("tree", &b);
        server.sync(memory()).await.expect("synced");
        server.forget(memory(), &[one]).await.expect("forgotten");
        server.pass(UNDELETE_PERIOD + HOUR);
        server.memory.take_requests();

        let report = server.prune(memory(), use_pool, all()).await.expect("pruned");

        assert!(report.repacked.objects > 0, "{report:?}");
        assert!(report.packs_written > 0 && report.bytes_unused == Some(0), "{report:?}");
        match use_pool {
            true => assert_eq!(report.chunks_from_vault, 0, "{report:?}"),
            false => assert_eq!(report.chunks_from_pool, 0, "{report:?}"),
        }
        assert_eq!(server.restored(two).await, b);
        // The originals wait for the whole period, in case a copy is bad.
        server.pass(UNDELETE_PERIOD - HOUR);
        let waiting = server.prune(memory(), use_pool, all()).await.expect("pruned");
        assert_eq!(waiting.waiting.objects, report.repacked.objects + 1, "{waiting:?}");
        server.pass(2 * HOUR);
        server.prune(memory(), use_pool, all()).await.expect("pruned");
        assert_eq!(content_objects(&server.memory), live(&server.state().await));
        assert_eq!(server.restored(two).await, b);
        server.pool.forget(&[one]).expect("forgotten");
        assert_eq!(server.sync(memory()).await.expect("synced").copied, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_call_fails_every_point_that_should_exist_restores_and_the_next_run_completes() {
    let Life { server, one, two, three } = life().await;
    let start = server.memory.copy();
    let memories = server.memories();
    let faults = [
        Fault::Refuse(StoreFault::Timeout),
        Fault::Refuse(StoreFault::Unreachable),
        Fault::LoseReply,
        Fault::LandLate,
        Fault::CutRead(7),
        Fault::StaleList(9),
        Fault::Pretend,
    ];
    // Each round costs a quarter of a second: by default every third call, another third for each fault.
    let stride = std::env::var("KEEPWELL_TEST_STRIDE").ok().and_then(|text| text.parse().ok());
    let stride = stride.unwrap_or(3u64);
    for (first, fault) in (0u64..).zip(faults) {
        let mut call = first % stride;
        let mut ended = false;
        while !ended {
            // Everything as it was, but for the clocks, which only go on.
            server.memory.become_like(&start);
            server.remember(&memories);
            let faulty = Arc::new(FaultyStore::new(server.memory.clone(), [(call, fault)]));
            let name = format!("{fault:?} at {call}");

            let _ = server.forget(faulty.clone(), &[one.0]).await;
            let _ = server.prune(faulty.clone(), true, all()).await;
            server.pass(UNDELETE_PERIOD + HOUR);
            let gone = server.prune(faulty.clone(), true, all()).await;
            server.pass(UNDELETE_PERIOD + HOUR);
            let _ = server.prune(faulty.clone(), true, all()).await;
            ended = faulty.calls() <= call;

            let state = server.state().await;
            assert!(!ended || (gone.is_ok() && !state.points().contains_key(&one.0)), "{name}");
            for (point, files) in [&two, &three] {
                assert!(state.points().contains_key(point), "{name}");
                assert_eq!(server.restored(*point).await, *files, "{name}");
            }
            if state.points().contains_key(&one.0) {
                assert_eq!(server.restored(one.0).await, one.1, "{name}");
            }
            // The next runs end what was begun, and leave nothing behind.
            server.forget(server.memory.clone(), &[one.0]).await.expect(&name);
            for _ in 0..3 {
                server.pass(UNDELETE_PERIOD + HOUR);
                server.prune(server.memory.clone(), true, all()).await.expect(&name);
            }
            assert_eq!(content_objects(&server.memory), live(&server.state().await), "{name}");
            for (point, files) in [&two, &three] {
                assert_eq!(server.restored(*point).await, *files, "{name}");
            }
            call += stride;
        }
        assert!(call > 30, "{fault:?}: only {call} calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_clock_that_jumps_frees_anything() {
    let Life { server, one, two, three } = life().await;
    let memory = || server.memory.clone();
    server.forget(memory(), &[one.0]).await.expect("forgotten");
    let objects = content_objects(&server.memory);

    // The agent's clock alone.
    server.jump(400);
    let far = server.prune(memory(), true, all()).await.expect("pruned");
    assert!(matches!(far.clock_doubt, Some(ClockDoubt::Apart { .. })), "{far:?}");
    assert!(far.points_gone.is_empty() && far.condemned.objects == 0);
    server.jump(-800);
    let past = server.prune(memory(), true, all()).await.expect("pruned");
    assert!(past.clock_doubt.is_some() && past.condemned.objects == 0);
    server.jump(400);
    // The vault's alone.
    server.memory.advance(UNDELETE_PERIOD * 3);
    let vault = server.prune(memory(), true, all()).await.expect("pruned");
    assert!(matches!(vault.clock_doubt, Some(ClockDoubt::Apart { .. })), "{vault:?}");
    assert_eq!(content_objects(&server.memory), objects);
    server.undelete(memory(), &[one.0]).await.expect("restored");

    for (point, files) in [&one, &two, &three] {
        assert_eq!(server.restored(*point).await, *files);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_interrupted_sync_left_is_kept_for_a_while_and_for_the_points_that_wait() {
    let server = Server::new().await;
    let memory = || server.memory.clone();
    let tree = files(1, 6, 9000);
    server.back_up("tree", &files(9, 1, 100));
    server.sync(memory()).await.expect("synced");
    let point = server.back_up("tree", &tree);
    let known = server.memories();
    let start = server.memory.copy();
    let rehearsal = Arc::new(FaultyStore::new(memory(), []));
    server.sync(rehearsal.clone()).await.expect("synced");
    server.memory.become_like(&start);
    server.remember(&known);
    let refuse = Fault::Refuse(StoreFault::PermissionDenied);
    let faulty = Arc::new(FaultyStore::new(memory(), [(rehearsal.calls() - 2, refuse)]));
    server.sync(faulty).await.expect_err("interrupted");
    let packs = content_objects(&server.memory) - live(&server.state().await);
    assert!(packs > 2);

    let young = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(young.orphans, Tally::default());
    server.pass(UNDELETE_PERIOD + HOUR);
    // This installation knows them and will use them.
    let session = Arc::new(server.pool.begin_session().expect("a session"));
    let kept = server
        .write(memory(), async |writing| {
            let monitor = Arc::new(storepool::monitor::SilentMonitor);
            super::prune(writing, Some(session), true, &all(), monitor).await
        })
        .await
        .expect("pruned");
    assert!(kept.orphans.objects < packs as u64, "{kept:?}");
    let report = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(report.orphans.objects + kept.orphans.objects, packs as u64);
    assert_eq!(server.memory.take_requests().delete, 3, "only those of the clock");

    // Their names are used up: the same bytes are put under new ones, and a late delete hits nothing.
    let copied = server.sync(memory()).await.expect("synced").copied;
    assert_eq!(copied, [point]);
    server.pass(SETTLING + HOUR);
    let swept = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(swept.deleted.objects, packs as u64);
    assert_eq!(server.restored(point).await, tree);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_was_dropped_swapped_or_rewound_is_noticed_and_harms_nothing_else() {
    let Life { server, one, two, three } = life().await;
    let memory = || server.memory.clone();
    let realm = server.realm(memory()).await.expect("opened");
    // A data pack that the third point needs and the second does not.
    let own_pack = |state: &Snapshot| {
        let others = &state.points()[&two.0].needs;
        let needs = state.points()[&three.0].needs.iter();
        let mut packs = needs.filter(|ordinal| !others.contains(*ordinal)).filter_map(|ordinal| {
            state.object(ordinal).filter(|object| object.record.kind == ObjectKind::Data)
        });
        packs.next().expect("there").record.name(realm.id())
    };
    let whole = server.memory.copy();
    server.forget(memory(), &[one.0]).await.expect("forgotten");
    let state = server.state().await;
    let data = own_pack(&state);

    server.memory.lose(data.as_str());
    let dropped = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(dropped.missing, std::slice::from_ref(&data));
    server.memory.tamper(data.as_str(), vec![0; 100]);
    let swapped = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(swapped.missing, [data]);
    assert_eq!(server.restored(two.0).await, two.1);

    // Without trees nothing is known of what is needed, so no pack is copied.
    let trees: Vec<_> = server.memory.names().into_iter().filter(|it| it.contains("/t/")).collect();
    trees.iter().for_each(|name| server.memory.tamper(name, vec![1; 50]));
    let blind = server.prune(memory(), false, all()).await.expect("pruned");
    assert_eq!((blind.bytes_unused, blind.repacked), (None, Tally::default()));

    server.memory.become_like(&whole);
    let rewound = server.prune(memory(), true, all()).await.expect_err("noticed");
    assert!(matches!(rewound, Error::Rewound { .. }), "{rewound}");
    assert_eq!(server.memory.take_requests().delete % 3, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_of_another_machine_that_was_overtaken_by_a_prune_commits_nothing_false() {
    let Life { server, one, two, three } = life().await;
    let memory = || server.memory.clone();
    // A copy of this machine, taken now.
    let twin = server.memories();
    server.forget(memory(), &[one.0]).await.expect("forgotten");
    server.pass(UNDELETE_PERIOD + HOUR);
    server.prune(memory(), true, all()).await.expect("pruned");
    let own = server.memories();
    server.pool.forget(&[one.0]).expect("forgotten");
    let again = server.back_up("tree", &joined(&[&one.1, &two.1]));

    server.remember(&twin);
    let fenced = server.sync(memory()).await.expect_err("fenced off");

    assert!(matches!(fenced, Error::Twin { .. }), "{fenced}");
    let pruned = server.prune(memory(), true, all()).await.expect_err("fenced off");
    assert!(matches!(pruned, Error::Twin { .. }), "{pruned}");
    server.remember(&own);
    assert_eq!(server.sync(memory()).await.expect("synced").copied, [again]);
    for (point, files) in [&two, &three] {
        assert_eq!(server.restored(*point).await, *files);
    }
    assert_eq!(server.restored(again).await, joined(&[&one.1, &two.1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_that_does_not_let_its_servers_delete_is_pruned_but_for_that() {
    let server = Server::with_memory(MemoryStore::without_delete()).await;
    let memory = || server.memory.clone();
    let one = server.back_up("tree", &files(1, 4, 9000));
    let two = server.back_up("tree", &files(2, 4, 9000));
    server.sync(memory()).await.expect("synced");
    server.forget(memory(), &[one]).await.expect("forgotten");
    server.pass(UNDELETE_PERIOD + HOUR);
    let condemned = server.prune(memory(), true, all()).await.expect("pruned");
    assert!(condemned.condemned.objects > 0);
    server.pass(UNDELETE_PERIOD + HOUR);

    let report = server.prune(memory(), true, all()).await.expect("pruned");

    assert!(report.may_not_delete && report.deleted == Tally::default(), "{report:?}");
    assert_eq!(server.restored(two).await, files(2, 4, 9000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_tells_and_changes_nothing() {
    let Life { server, one, .. } = life().await;
    let memory = || server.memory.clone();
    server.forget(memory(), &[one.0]).await.expect("forgotten");
    server.pass(UNDELETE_PERIOD + HOUR);
    let before = (server.memory.names(), server.state().await);

    let dry = PruneOptions { dry_run: true, ..all() };
    let report = server.prune(memory(), true, dry).await.expect("looked");

    assert_eq!(report.points_gone, [one.0]);
    assert!(report.condemned.objects > 0);
    assert_eq!((server.memory.names(), server.state().await), before);
    let real = server.prune(memory(), true, all()).await.expect("pruned");
    assert_eq!(real.condemned, report.condemned);
    assert_eq!(real.repacked, report.repacked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_with_all_the_points_there_can_be_takes_no_more_and_loses_none() {
    let server = Server::new().await;
    let memory = || server.memory.clone();
    let first = server.back_up("tree", &files(1, 1, 100));
    server.sync(memory()).await.expect("synced");
    let pattern = server.state().await.points()[&first].clone();
    // All the others share the first one's objects.
    let many: Vec<PointRecord> = (1..POINTS_PER_SOURCE as u64)
        .map(|number| {
            let mut id = [7; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            let started = Timestamp(pattern.started.0 - number as i64 * 60_000_000_000);
            PointRecord { id: PointId(id), started, ..pattern.clone() }
        })
        .collect();
    let ids: Vec<PointId> = many.iter().map(|point| point.id).collect();
    let add = Changes { points_added: many, ..Changes::default() };
    server
        .write(memory(), async |writing| {
            let mut snapshot = writing.begin().await?;
            let mut add = Some(add);
            writing.commit(&mut snapshot, CommitKind::Sync, |_| Ok(add.take())).await
        })
        .await
        .expect("added");
    server.pass(HOUR);
    let next = server.back_up("tree", &files(2, 1, 100));
    let other = server.back_up("other", &files(3, 1, 100));

    let full = server.sync(memory()).await.expect("synced");

    assert_eq!(
        (full.refused.as_slice(), full.copied.as_slice()),
        ([next].as_slice(), [other].as_slice())
    );
    assert_eq!(full.fullest[0].points, POINTS_PER_SOURCE);
    assert!(server.state().await.points().contains_key(&first));
    server.forget(memory(), &ids[..499]).await.expect("forgotten");
    let room = server.sync(memory()).await.expect("synced");
    assert_eq!((room.refused.len(), room.copied.as_slice()), (0, [next].as_slice()));
    assert_eq!(room.fullest[0].points, POINTS_WARNING + 2);
    // Forgotten points count again when they come back.
    let refused = server.undelete(memory(), &ids[..499]).await.expect_err("too many");
    assert!(matches!(refused, Error::TooManyPoints { .. }), "{refused}");
    server.undelete(memory(), &ids[..498]).await.expect("as many as there can be");
    let last = server.forget(memory(), &[other]).await.expect_err("refused");
    assert!(matches!(last, Error::LastPoint { .. }), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_and_tags_of_the_pool_hold_in_the_vault_whatever_a_clock_says() {
    let server = Server::new().await;
    let memory = || server.memory.clone();
    let mut points = Vec::new();
    for number in 0..5 {
        points.push(server.back_up("tree", &files(number, 1, 100)));
        server.pass(HOUR);
    }
    let until = |days: u32| Timestamp(server.memory.now().0 + (DAY * days).as_nanos() as i64);
    server.annotate(points[0], &[("law", None)], &[]);
    server.annotate(points[1], &[(ON_DEMAND, Some(until(30)))], &[]);
    server.sync(memory()).await.expect("synced");
    // Attached when the point was in the vault already.
    server.annotate(points[2], &[], &["audit"]);
    let policy = RetentionPolicy {
        last: Count::Limited(1),
        tags: vec!["audit".into()],
        ..RetentionPolicy::default()
    };
    let plan = async |server: &Server| {
        let pool = server.pool.points().expect("listed");
        server
            .write(server.memory.clone(), async |writing| {
                let snapshot = writing.begin().await?;
                let clocks = read_clocks(writing.realm, writing.anchor, writing.around).await?;
                Ok(ForgetPlan::new(&snapshot, &pool, &policy, &TimeZone::UTC, &clocks))
            })
            .await
            .expect("planned")
    };

    let first = plan(&server).await;
    assert_eq!(first.removed().collect::<Vec<_>>(), [points[3]]);
    assert_eq!(first.notes.len(), 1);
    // Neither clock alone ends a pin, or makes anything go that stayed.
    server.jump(400);
    assert_eq!(plan(&server).await.removed().collect::<Vec<_>>(), [points[3]]);
    server.jump(-800);
    assert_eq!(plan(&server).await.removed().collect::<Vec<_>>(), [points[3]]);
    server.jump(400);

    // The notes travel with the next commit, and hold when the pool is lost.
    server
        .write(memory(), async |writing| {
            let mut snapshot = writing.begin().await?;
            forget(writing, &mut snapshot, &BTreeSet::new(), &first.notes).await
        })
        .await
        .expect("noted");
    server.pool.forget(&points).expect("forgotten");
    assert_eq!(plan(&server).await.removed().collect::<Vec<_>>(), [points[3]]);
    server.pass(DAY * 31);
    let later = plan(&server).await;
    assert_eq!(later.removed().collect::<BTreeSet<_>>(), BTreeSet::from([points[1], points[3]]));
    assert_eq!(later.notes, []);
}

// A model of a server's vault: what there should be, and what could still be restored.
#[derive(Default)]
struct Model {
    live: BTreeMap<PointId, Files>,
    forgotten: BTreeMap<PointId, (Files, Duration)>,
    now: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_end_as_the_model_says() {
    // More with KEEPWELL_TEST_SEEDS=200; each takes some two seconds.
    let seeds = std::env::var("KEEPWELL_TEST_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(4u64) {
        let server = Server::new().await;
        let mut model = Model::default();
        let mut draw = {
            let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
            move |below: u64| {
                let mut bytes = [0; 8];
                stream.fill(&mut bytes);
                u64::from_le_bytes(bytes) % below
            }
        };
        let mut skew = 0;
        for step in 0..30u64 {
            let name = format!("seed {seed}, step {step}");
            // One call in four rounds is disturbed.
            let faults = [Fault::Refuse(StoreFault::Timeout), Fault::LoseReply, Fault::LandLate];
            let fault = (draw(4) == 0).then(|| (draw(40), faults[draw(3) as usize]));
            let faulty = Arc::new(FaultyStore::new(server.memory.clone(), fault));
            let store: Arc<dyn ObjectStore> = faulty.clone();
            let pick = |map: Vec<PointId>, draw: &mut dyn FnMut(u64) -> u64| {
                (!map.is_empty()).then(|| map[draw(map.len() as u64) as usize])
            };
            match draw(8) {
                0 | 1 => {
                    let tree = joined(&[&files(draw(5), 3, 4000), &files(draw(5), 3, 4000)]);
                    let point = server.back_up("tree", &tree);
                    server.pass(Duration::from_secs(1));
                    let _ = server.sync(store).await;
                    model.live.insert(point, tree);
                }
                2 | 3 => {
                    let point = pick(model.live.keys().copied().collect(), &mut draw);
                    if let Some(point) = point.filter(|_| model.live.len() > 1) {
                        let _ = server.forget(store, &[point]).await;
                        // In the pool it is gone too, so that it does not come back by a sync.
                        server.pool.forget(&[point]).expect("forgotten");
                    }
                }
                4 => {
                    let point = pick(model.forgotten.keys().copied().collect(), &mut draw);
                    if let Some(point) = point {
                        let _ = server.undelete(store, &[point]).await;
                    }
                }
                5 | 6 => {
                    let _ = server.prune(store, draw(2) == 0, all()).await;
                }
                _ => {
                    server.jump(-skew);
                    skew = [0, 0, 0, 400, -400][draw(5) as usize];
                    server.jump(skew);
                    let days = draw(20) as u32;
                    server.pass(DAY * days);
                    model.now += DAY * days;
                }
            }
            // Whatever the disturbed call did, the vault decides which of the allowed outcomes it was.
            let state = server.state().await;
            settle(&mut model, &state, &server, &name).await;
        }
    }
}

// Compares the vault with the model, and takes over what a disturbed call left open.
async fn settle(model: &mut Model, state: &Snapshot, server: &Server, name: &str) {
    let pool: Vec<_> = server.pool.points().expect("listed").iter().map(|it| it.id).collect();
    for (point, files) in std::mem::take(&mut model.live) {
        match state.points().contains_key(&point) {
            true => {
                model.live.insert(point, files);
            }
            false if state.forgotten().contains_key(&point) => {
                model.forgotten.insert(point, (files, model.now));
            }
            // Never copied: it is in the pool, and the next sync brings it; or forgotten there before.
            false if pool.contains(&point) => {
                model.live.insert(point, files);
            }
            false => assert!(!pool.contains(&point), "{name}: {point} is lost"),
        }
    }
    for (point, (files, since)) in std::mem::take(&mut model.forgotten) {
        if state.points().contains_key(&point) {
            model.live.insert(point, files);
        } else if state.forgotten().contains_key(&point) {
            model.forgotten.insert(point, (files, since));
        } else {
            assert!(model.now - since >= UNDELETE_PERIOD - DAY, "{name}: {point} went too early");
        }
    }
    for point in state.points().keys() {
        let files = model.live.get(point).unwrap_or_else(|| panic!("{name}: {point} came back"));
        assert_eq!(server.restored(*point).await, *files, "{name}");
    }
    for point in state.forgotten().keys() {
        assert_eq!(server.restored(*point).await, model.forgotten[point].0, "{name}");
    }
}
