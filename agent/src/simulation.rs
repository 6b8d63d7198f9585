//! Two years of a group under a clock that is moved by hand: both changes of the clock each year, a machine that is off for days, a disk that is
//! full for days. What is left in the end must be exactly what the policy demands, and every point of it sound.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Zoned;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use storepool::check::{CheckOptions, check};
use storepool::clock::{Clock, Timestamp};
use storepool::entropy::SystemEntropy;
use storepool::monitor::SilentMonitor;
use storepool::pool::{Pool, World};
use storepool::prune::{PruneOptions, prune};

use crate::config::{Config, Upkeep};
use crate::error::Cause;
use crate::job::backup::{BackupChoices, back_up};
use crate::job::forget::forget;
use crate::job::{Task, Workshop};
use crate::journal::{JobId, Journal};
use crate::place::{Place, Surroundings};
use crate::scheduler::Scheduler;

/// A clock that stands still until it is moved.
struct MovedClock(AtomicI64);

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

fn at(text: &str) -> Timestamp {
    let moment: jiff::Timestamp = text.parse().unwrap();
    Timestamp(i64::try_from(moment.as_nanosecond()).unwrap())
}

fn berlin(time: Timestamp) -> Zoned {
    let moment = jiff::Timestamp::from_nanosecond(i128::from(time.0)).unwrap();
    moment.to_zoned(TimeZone::get("Europe/Berlin").unwrap())
}

struct Server {
    place: Place,
    config: Config,
    clock: Arc<MovedClock>,
    journal: Journal,
    source: std::path::PathBuf,
    runs: Vec<Timestamp>,
    failures: u32,
}

impl Server {
    fn new(folder: &Path) -> Self {
        let source = folder.join("source");
        fs::create_dir_all(&source).unwrap();
        let text = format!(
            "[pool]\npaths = [\"pool\"]\nreserve = 0\n\
             [group.web]\nsources = [{{ files = [\"{}\"] }}]\nschedule = \"daily 02:30\"\ntimezone = \"Europe/Berlin\"\n\
             retention = {{ last = 3, daily = 7, weekly = 4, monthly = 6, yearly = 2 }}\n\
             [maintenance]\nforget = \"daily 04:00\"\nprune = \"weekly Sun 05:00\"\ncheck = \"never\"\ntimezone = \"Europe/Berlin\"\n",
            source.display()
        );
        let config = Config::parse(&folder.join("home/keepwell.toml"), &text).unwrap();
        let home = folder.join("home");
        let place = Place::choose(Some(&home), None, &Surroundings::default()).unwrap();
        let journal = Journal::open(&place.state(), "a test".to_string(), &SystemEntropy).unwrap();
        let clock = Arc::new(MovedClock(AtomicI64::new(0)));
        Self { place, config, clock, journal, source, runs: Vec::new(), failures: 0 }
    }

    fn world(&self) -> World {
        World { clock: self.clock.clone(), ..World::system() }
    }

    fn open(&self, full: bool) -> Arc<Pool> {
        let mut options = self.config.pool.options("a test".to_string());
        if full {
            options.reserve = storepool::space::Reserve::Bytes(u64::MAX);
        }
        Arc::new(Pool::open(&self.config.pool.paths, options, self.world()).unwrap())
    }

    fn run(&mut self, task: &Task, full: bool) {
        let now = self.clock.now();
        let pool = self.open(full);
        let workshop = Workshop {
            place: &self.place,
            config: &self.config,
            pool: &pool,
            journal: &self.journal,
            holder: "a test".to_string(),
        };
        match task {
            Task::Backup(name) => {
                fs::write(self.source.join("changing"), format!("{}", now.0)).unwrap();
                let group = &self.config.groups[name];
                let choices = BackupChoices::default();
                let report = back_up(&workshop, group, JobId(1), &choices, &SilentMonitor).unwrap();
                match &report.sources[0].result {
                    Ok(_) => self.runs.push(now),
                    Err(Cause::Pool(storepool::Error::NoSpace { .. })) if full => {
                        self.failures += 1
                    }
                    Err(error) => panic!("{}: {}", berlin(now), error.chain()),
                }
            }
            Task::Pool(Upkeep::Forget) => drop(forget(&workshop, false).unwrap()),
            Task::Pool(Upkeep::Prune) => {
                let options =
                    PruneOptions { dry_run: false, max_unused_percent: 10.0, repack_all: false };
                prune(&pool, &options, &SilentMonitor).unwrap();
            }
            other => panic!("{other} was not configured"),
        }
    }
}

/// What the policy demands, counted in another way than the program does: going back in time, period by period.
fn demanded(runs: &[Timestamp]) -> BTreeSet<Timestamp> {
    let mut kept: BTreeSet<Timestamp> = runs.iter().rev().take(3).copied().collect();
    let mut newest_of = |count: usize, period: &dyn Fn(Date) -> i64| {
        let mut newest: BTreeMap<i64, Timestamp> = BTreeMap::new();
        for run in runs {
            newest.insert(period(berlin(*run).date()), *run);
        }
        kept.extend(newest.values().rev().take(count));
    };
    let days = |date: Date| {
        let span = date.since(jiff::civil::date(1970, 1, 1)).unwrap();
        i64::from(span.get_days())
    };
    newest_of(7, &days);
    // The first of January 1970 was a Thursday; weeks begin on Mondays.
    newest_of(4, &|date| (days(date) + 3).div_euclid(7));
    newest_of(6, &|date| i64::from(date.year()) * 12 + i64::from(date.month()));
    newest_of(2, &|date| i64::from(date.year()));
    kept
}

#[test]
fn after_two_years_exactly_the_points_are_there_that_the_policy_demands() {
    let memory = Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let mut server = Server::new(folder.path());
    let (begin, end) = (at("2025-01-15T12:00:00Z"), at("2026-12-20T12:00:00Z"));
    let off = [
        (at("2025-03-10T00:00:00Z"), at("2025-03-20T15:00:00Z")),
        // Over the change of the clock in autumn, and over a weekend.
        (at("2026-10-24T20:00:00Z"), at("2026-10-26T07:00:00Z")),
    ];
    let full = (at("2025-08-01T00:00:00Z"), at("2025-08-06T12:00:00Z"));
    server.clock.0.store(begin.0, Ordering::Relaxed);
    let options = server.config.pool.options("a test".to_string());
    drop(Pool::create(&server.config.pool.paths, options, server.world()).unwrap());
    let mut scheduler =
        Scheduler::of(&server.config, |_| Ok::<_, std::convert::Infallible>(begin)).unwrap();

    let mut now = begin;
    while let Some(next) = scheduler.next(now).filter(|next| *next <= end) {
        now = next.max(now);
        if let Some((_, on)) = off.iter().find(|(off, on)| (*off..*on).contains(&now)) {
            now = *on;
        }
        server.clock.0.store(now.0, Ordering::Relaxed);
        let is_full = (full.0..full.1).contains(&now);
        for due in scheduler.due(now) {
            scheduler.begun(&due.task, now);
            server.run(&due.task, is_full);
        }
    }
    server.run(&Task::Pool(Upkeep::Forget), false);

    // Every day on which the machine was on and the disk had room has one run, at its time.
    let days: BTreeMap<Date, Vec<Timestamp>> =
        server.runs.iter().fold(BTreeMap::new(), |mut days, run| {
            days.entry(berlin(*run).date()).or_insert_with(Vec::new).push(*run);
            days
        });
    assert!(days.values().all(|runs| runs.len() == 1));
    let time =
        |date: &str| berlin(days[&date.parse::<Date>().unwrap()][0]).strftime("%H:%M").to_string();
    assert_eq!(time("2025-03-29"), "02:30");
    assert_eq!([time("2025-03-30"), time("2026-03-29")], ["03:00", "03:00"], "the skipped hour");
    assert_eq!(time("2025-10-26"), "02:30", "the doubled hour");
    assert_eq!([time("2025-03-20"), time("2026-10-26")], ["16:00", "08:00"], "caught up once");
    let all_days = berlin(end).date().since(berlin(begin).date()).unwrap().get_days();
    // Off: 11 days of which one was caught up, and one day; full: 6 runs.
    assert_eq!((server.failures, days.len() as i32), (6, all_days - 10 - 1 - 6));

    let pool = server.open(false);
    let points: BTreeSet<Timestamp> =
        pool.points().unwrap().iter().map(|point| point.started).collect();
    assert_eq!(points, demanded(&server.runs));
    assert!(points.len() >= 15, "{points:?}");
    let options = CheckOptions { read_data: Some(100.0) };
    let report = check(&pool, &options, &SilentMonitor).unwrap();
    assert!(report.is_sound() && report.affected_points.is_empty());
}
