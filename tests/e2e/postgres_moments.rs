//! Point in time: a cluster comes back to any moment between two commits, as somebody saw it who was there.

use std::sync::Mutex;

use crate::harness::Keepwell;
use crate::home::announce;
use crate::postgres_wal::{archiving, numbers, read_by, switch, text};
use crate::servers::Postgres;
use crate::tree::Random;

/// Commits of each half, with a base before each.
const COMMITS: u64 = 30;
/// Moments that are restored from the pool, and some of them from the vault too.
const FROM_POOL: usize = 20;
const FROM_VAULT: usize = 3;
/// Restores at the same time; most of the time each waits for its server.
const AT_ONCE: usize = 3;

/// A moment and the number of rows that were committed by then.
#[derive(Clone, Debug)]
struct Moment {
    at: String,
    rows: u64,
}

/// Commits one row after the other beside pgbench, and notes for each: the place just before its commit, and place and time just after.
fn commit_and_note(postgres: &Postgres, first: u64) -> Vec<Moment> {
    let last = first + COMMITS - 1;
    let writer = format!(
        "do $$ begin for n in {first}..{last} loop
           insert into kept values (n);
           raise notice '% %', n - 1, pg_current_wal_insert_lsn();
           commit;
           raise notice '% %', n, pg_current_wal_insert_lsn();
           raise notice '% %', n, to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"');
           perform pg_sleep(0.005);
         end loop; end $$"
    );
    let notices = postgres.notices("postgres", &writer);
    let moment = |notice: &String| {
        let (rows, at) = notice.split_once(' ').expect("two words");
        Moment { at: at.to_string(), rows: rows.parse().expect("a number") }
    };
    notices.iter().map(moment).collect()
}

fn rows_at(keepwell: &Keepwell, moment: &Moment, more: &[&str]) -> String {
    let room = Postgres::room_in_memory();
    let order = ["restore", "latest:db", "--to", text(room.data()), "--at", &moment.at];
    keepwell.ok([&order[..], more].concat());
    numbers(&room.started(&[]))
}

#[test]
fn twenty_random_moments_come_back_as_they_were_seen() {
    let (mut random, seed) = Random::fresh();
    announce(&format!("KEEPWELL_E2E_SEED={seed}"));
    let (keepwell, postgres) = archiving();
    keepwell.register_vault();
    postgres.sql("postgres", "create table kept (n int)");
    postgres.run("pgbench", &["-i", "-q", "-s", "1", "postgres"]);
    let mut moments = Vec::new();
    for half in 0..2 {
        // Each of the two ways to a base once.
        read_by(&keepwell, ["files", "server"][half as usize]);
        keepwell.ok(["backup", "db"]);
        let bench = postgres.bench();
        moments.extend(commit_and_note(&postgres, half * COMMITS + 1));
        drop(bench);
    }
    switch(&postgres);
    keepwell.ok(["sync", "db"]);

    let chosen: Vec<(Moment, bool)> = (0..FROM_POOL)
        .map(|number| {
            let moment = moments[random.below(moments.len() as u64) as usize].clone();
            (moment, number % (FROM_POOL / FROM_VAULT) == 0)
        })
        .collect();
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (keepwell, wrong) = (&keepwell, &wrong);
        for part in chosen.chunks(FROM_POOL.div_ceil(AT_ONCE)) {
            scope.spawn(move || {
                for (moment, from_vault) in part {
                    let ways: &[&[&str]] =
                        if *from_vault { &[&[], &["--from", "vault"]] } else { &[&[]] };
                    for way in ways {
                        let found = rows_at(keepwell, moment, way);
                        let expected: Vec<String> =
                            (1..=moment.rows).map(|row| row.to_string()).collect();
                        if found != expected.join(" ") {
                            wrong.lock().expect("no panic").push((moment, found));
                        }
                    }
                }
            });
        }
    });

    assert_eq!(moments.len() as u64, 2 * COMMITS * 3);
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
}
