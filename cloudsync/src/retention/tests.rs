//! What stays and why, rule by rule.

use super::*;
use proptest::prelude::*;

const HOUR: i64 = 3_600_000_000_000;

fn at(time: &str) -> Timestamp {
    let nanos = time.parse::<jiff::Timestamp>().unwrap().as_nanosecond();
    Timestamp(i64::try_from(nanos).unwrap())
}

fn points(times: &[&str]) -> Vec<Candidate> {
    let point = |time: &&str| Candidate { started: at(time), tags: vec![], pinned: None };
    times.iter().map(point).collect()
}

fn reasons(policy: &RetentionPolicy, points: &[Candidate], zone: &str, now: &str) -> Vec<String> {
    let zone = TimeZone::get(zone).unwrap();
    let plan = policy.plan(points, &zone, at(now));
    (0..points.len())
        .map(|index| {
            let words: Vec<_> = plan.reasons(index).iter().map(ToString::to_string).collect();
            words.join("; ")
        })
        .collect()
}

#[test]
fn each_part_of_a_policy_keeps_what_it_says() {
    let times = [
        "2024-12-30T10:00:00Z",
        "2025-11-01T10:00:00Z",
        "2026-03-01T09:00:00Z",
        "2026-03-01T10:00:00Z",
        "2026-03-07T10:00:00Z",
        "2026-03-08T09:00:00Z",
        "2026-03-08T10:30:00Z",
        "2026-03-08T10:45:00Z",
    ];
    let empty = RetentionPolicy::default;
    let two = Count::Limited(2);
    for (policy, expected) in [
        (empty(), ["", "", "", "", "", "", "", "newest"]),
        (
            RetentionPolicy { last: two, ..empty() },
            ["", "", "", "", "", "", "last 2", "newest; last 1"],
        ),
        (
            RetentionPolicy { hourly: two, ..empty() },
            ["", "", "", "", "", "hourly", "", "newest; hourly"],
        ),
        (
            RetentionPolicy { daily: two, ..empty() },
            ["", "", "", "", "daily", "", "", "newest; daily"],
        ),
        // The 8th of March 2026 is a Sunday and ends the week that began on the 2nd.
        (
            RetentionPolicy { weekly: two, ..empty() },
            ["", "", "", "weekly", "", "", "", "newest; weekly"],
        ),
        (
            RetentionPolicy { monthly: two, ..empty() },
            ["", "monthly", "", "", "", "", "", "newest; monthly"],
        ),
        (
            RetentionPolicy { yearly: two, ..empty() },
            ["", "yearly", "", "", "", "", "", "newest; yearly"],
        ),
        (
            RetentionPolicy { yearly: Count::Unlimited, ..empty() },
            ["yearly", "yearly", "", "", "", "", "", "newest; yearly"],
        ),
        (
            RetentionPolicy { within: Some("1d1h".parse().unwrap()), ..empty() },
            ["", "", "", "", "within 1d1h", "within 1d1h", "within 1d1h", "newest; within 1d1h"],
        ),
        (
            RetentionPolicy { daily: two, weekly: two, ..empty() },
            ["", "", "", "weekly", "daily", "", "", "newest; daily; weekly"],
        ),
    ] {
        let found = reasons(&policy, &points(&times), "UTC", "2026-03-09T00:00:00Z");

        assert_eq!(found, expected, "{policy:?}");
    }
}

#[test]
fn the_oldest_point_stays_while_the_history_is_shorter_than_the_policy() {
    let times = ["2026-03-01T09:00:00Z", "2026-03-01T10:00:00Z", "2026-03-02T10:00:00Z"];
    let policy = RetentionPolicy { daily: Count::Limited(3), ..RetentionPolicy::default() };

    let found = reasons(&policy, &points(&times), "UTC", "2026-03-03T00:00:00Z");

    assert_eq!(found, ["oldest, daily", "daily", "newest; daily"]);
}

#[test]
fn days_are_those_of_the_zone() {
    let times = ["2026-01-01T04:30:00Z", "2026-01-01T05:30:00Z"];
    let policy = RetentionPolicy { daily: Count::Limited(9), ..RetentionPolicy::default() };

    let utc = reasons(&policy, &points(&times), "UTC", "2026-02-01T00:00:00Z");
    let york = reasons(&policy, &points(&times), "America/New_York", "2026-02-01T00:00:00Z");

    assert_eq!(utc, ["oldest, daily", "newest; daily"]);
    assert_eq!(york, ["daily", "newest; daily"]);
}

#[test]
fn the_doubled_hour_has_two_points_and_the_skipped_one_harms_nothing() {
    let autumn = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T01:40:00Z"];
    let spring = ["2026-03-29T00:59:00Z", "2026-03-29T01:01:00Z"];
    let policy = RetentionPolicy { hourly: Count::Limited(9), ..RetentionPolicy::default() };
    let berlin =
        |times: &[&str]| reasons(&policy, &points(times), "Europe/Berlin", "2027-01-01T00:00:00Z");

    assert_eq!(berlin(&autumn), ["hourly", "", "newest; hourly"]);
    assert_eq!(berlin(&spring), ["hourly", "newest; hourly"]);
}

#[test]
fn a_week_belongs_to_one_year_only() {
    let times = ["2025-12-29T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-05T00:00:00Z"];
    let policy = RetentionPolicy { weekly: Count::Limited(5), ..RetentionPolicy::default() };

    let found = reasons(&policy, &points(&times), "UTC", "2026-02-01T00:00:00Z");

    assert_eq!(found, ["oldest, weekly", "weekly", "newest; weekly"]);
}

#[test]
fn when_backups_stop_nothing_expires() {
    let times = ["2020-01-01T00:00:00Z", "2020-01-05T00:00:00Z", "2020-01-06T00:00:00Z"];
    let policy =
        RetentionPolicy { within: Some("2d".parse().unwrap()), ..RetentionPolicy::default() };

    let soon = reasons(&policy, &points(&times), "UTC", "2020-01-07T00:00:00Z");
    let late = reasons(&policy, &points(&times), "UTC", "2035-01-07T00:00:00Z");

    assert_eq!(soon, late);
    assert_eq!(soon, ["", "within 2d", "newest; within 2d"]);
}

#[test]
fn a_point_from_the_future_displaces_no_other() {
    let times = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2099-01-01T00:00:00Z"];
    let policy = RetentionPolicy {
        last: Count::Limited(1),
        daily: Count::Limited(1),
        within: Some("1h".parse().unwrap()),
        ..RetentionPolicy::default()
    };

    let found = reasons(&policy, &points(&times), "UTC", "2026-01-03T00:00:00Z");
    let before = reasons(&policy, &points(&times), "UTC", "1970-01-01T00:00:00Z");

    assert_eq!(found, ["", "last 1; within 1h; daily", "newest; in the future"]);
    assert!(before.iter().all(|reasons| reasons.ends_with("in the future")));
}

#[test]
fn pins_and_tags_hold_a_point() {
    let mut list = points(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]);
    list.extend(points(&["2026-01-03T00:00:00Z"]));
    list[0].pinned = Some("before the upgrade".to_string());
    list[1].tags = vec!["release".to_string()];
    let policy =
        RetentionPolicy { tags: vec!["release".to_string()], ..RetentionPolicy::default() };

    let found = reasons(&policy, &list, "UTC", "2026-02-01T00:00:00Z");

    assert_eq!(found, ["pinned: before the upgrade", "tag release", "newest"]);
}

#[test]
fn lengths_of_time_are_read_strictly() {
    let within: Within = "1y6m2w14d12h".parse().unwrap();

    assert_eq!(within.to_string(), "1y6m2w14d12h");
    for text in ["", "14", "d", "0d", "14s", "1d1y", "1d1d", "-1d", "1 d", "99999d", "1µ"] {
        assert!(text.parse::<Within>().is_err(), "{text}");
    }
    assert_eq!("all".parse(), Ok(Count::Unlimited));
    assert_eq!("0".parse(), Ok(Count::None));
    assert!("-2".parse::<Count>().is_err());
}

#[test]
fn a_policy_below_the_floor_is_told_with_both_numbers() {
    let floor = RetentionPolicy {
        daily: Count::Limited(7),
        weekly: Count::Limited(4),
        ..RetentionPolicy::default()
    };
    let own = RetentionPolicy {
        daily: Count::Limited(5),
        weekly: Count::Unlimited,
        ..RetentionPolicy::default()
    };

    assert_eq!(own.below(&floor), [(Period::Day, Count::Limited(5), Count::Limited(7))]);
    assert_eq!(floor.points_most(), Some(11));
    assert_eq!(own.points_most(), None);
}

fn counts() -> impl Strategy<Value = Count> {
    prop_oneof![Just(Count::None), (1u32..6).prop_map(Count::Limited), Just(Count::Unlimited)]
}

fn policies() -> impl Strategy<Value = RetentionPolicy> {
    let within = prop_oneof![
        Just(None),
        (0u16..2, 0u16..3, 1u16..40).prop_map(|(years, months, days)| Some(Within {
            years,
            months,
            days,
            ..Within::default()
        }))
    ];
    (counts(), counts(), counts(), counts(), counts(), counts(), within).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within)| RetentionPolicy {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within,
            tags: vec![],
        },
    )
}

fn series() -> impl Strategy<Value = Vec<Candidate>> {
    // Years around changes of the clock, in steps from minutes to months.
    let gaps = prop_oneof![0..HOUR, HOUR..30 * HOUR, 100 * HOUR..2000 * HOUR];
    (prop::collection::vec(gaps, 0..40), 1_600_000_000i64..1_800_000_000).prop_map(
        |(gaps, start)| {
            let mut time = start * 1_000_000_000;
            gaps.into_iter()
                .map(|gap| {
                    time += gap;
                    Candidate { started: Timestamp(time), tags: vec![], pinned: None }
                })
                .collect()
        },
    )
}

fn zones() -> impl Strategy<Value = TimeZone> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/St_Johns",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kathmandu",
    ])
    .prop_map(|name| TimeZone::get(name).expect("the zone is in the library's own table"))
}

fn grown(count: Count) -> Count {
    match count {
        Count::None => Count::Limited(1),
        Count::Limited(count) => Count::Limited(count + 1),
        Count::Unlimited => Count::Unlimited,
    }
}

proptest! {
    #[test]
    fn the_newest_stays_and_a_larger_policy_keeps_no_less(
        policy in policies(),
        points in series(),
        zone in zones(),
        part in 0usize..6,
    ) {
        let now = Timestamp(i64::MAX);
        let plan = policy.plan(&points, &zone, now);
        let mut larger = policy.clone();
        let count = match part {
            0 => &mut larger.last,
            1 => &mut larger.hourly,
            2 => &mut larger.daily,
            3 => &mut larger.weekly,
            4 => &mut larger.monthly,
            _ => &mut larger.yearly,
        };
        *count = grown(*count);

        let kept: HashSet<_> = plan.kept().collect();
        let more: HashSet<_> = larger.plan(&points, &zone, now).kept().collect();

        prop_assert!(kept.is_subset(&more));
        if let Some(newest) = points.len().checked_sub(1) {
            prop_assert!(kept.contains(&newest));
        }
        prop_assert_eq!(kept.len() + plan.removed().count(), points.len());
    }

    #[test]
    fn the_order_in_which_points_are_given_does_not_matter(
        policy in policies(),
        points in series(),
        zone in zones(),
    ) {
        let mut distinct = points;
        distinct.dedup_by_key(|point| point.started);
        let reversed: Vec<_> = distinct.iter().rev().cloned().collect();
        let now = Timestamp(i64::MAX);

        let plan = policy.plan(&distinct, &zone, now);
        let mirrored = policy.plan(&reversed, &zone, now);

        for index in 0..distinct.len() {
            prop_assert_eq!(
                plan.reasons(index),
                mirrored.reasons(distinct.len() - 1 - index)
            );
        }
    }

    #[test]
    fn what_one_run_keeps_the_next_keeps_too(
        policy in policies(),
        points in series(),
        zone in zones(),
    ) {
        let now = Timestamp(i64::MAX);
        let plan = policy.plan(&points, &zone, now);
        let left: Vec<_> = plan.kept().map(|index| points[index].clone()).collect();

        let again = policy.plan(&left, &zone, now);

        prop_assert_eq!(again.removed().count(), 0);
    }
}
