//! Tables of schedules, both changes of the clock, and what holds for all schedules.

use proptest::prelude::*;

use super::*;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn moment(text: &str) -> Timestamp {
    let moment: jiff::Timestamp = text.parse().unwrap();
    Timestamp(i64::try_from(moment.as_nanosecond()).unwrap())
}

/// The next runs after a moment, in the zone's own time.
fn runs(schedule: &str, place: &str, after: &str, count: usize) -> Vec<String> {
    let schedule: Schedule = schedule.parse().unwrap_or_else(|error| panic!("{schedule}: {error}"));
    let zone = zone(place);
    let mut now = moment(after);
    let mut found = Vec::new();
    for _ in 0..count {
        now = schedule.next_run(now, &zone).unwrap();
        let local = jiff::Timestamp::from_nanosecond(i128::from(now.0)).unwrap();
        found.push(local.to_zoned(zone.clone()).strftime("%m-%d %H:%M %Z").to_string());
    }
    found
}

#[test]
fn schedules_run_when_their_words_say() {
    let after = "2026-11-20T23:59:59Z"; // a Friday, 00:59:59 on Saturday in Berlin
    for (schedule, expected) in [
        ("15m", ["11-21 01:00 CET", "11-21 01:15 CET", "11-21 01:30 CET"]),
        ("6h", ["11-21 01:00 CET", "11-21 07:00 CET", "11-21 13:00 CET"]),
        ("hourly", ["11-21 01:00 CET", "11-21 02:00 CET", "11-21 03:00 CET"]),
        ("hourly :20", ["11-21 01:20 CET", "11-21 02:20 CET", "11-21 03:20 CET"]),
        ("daily 02:00", ["11-21 02:00 CET", "11-22 02:00 CET", "11-23 02:00 CET"]),
        ("daily 14:00, 02:00", ["11-21 02:00 CET", "11-21 14:00 CET", "11-22 02:00 CET"]),
        ("daily", ["11-22 00:00 CET", "11-23 00:00 CET", "11-24 00:00 CET"]),
        ("weekly Sun 03:00", ["11-22 03:00 CET", "11-29 03:00 CET", "12-06 03:00 CET"]),
        ("weekly Mon-Fri 03:00", ["11-23 03:00 CET", "11-24 03:00 CET", "11-25 03:00 CET"]),
        ("weekly Fri-Mon 03:00", ["11-21 03:00 CET", "11-22 03:00 CET", "11-23 03:00 CET"]),
        ("weekly mon, sat 03:00", ["11-21 03:00 CET", "11-23 03:00 CET", "11-28 03:00 CET"]),
        ("monthly last Fri", ["11-27 00:00 CET", "12-25 00:00 CET", "01-29 00:00 CET"]),
        ("monthly 2nd Tue 04:30", ["12-08 04:30 CET", "01-12 04:30 CET", "02-09 04:30 CET"]),
        ("monthly 31 05:00", ["12-31 05:00 CET", "01-31 05:00 CET", "03-31 05:00 CEST"]),
        ("monthly 1st 05:00", ["12-01 05:00 CET", "01-01 05:00 CET", "02-01 05:00 CET"]),
        ("monthly last 05:00", ["11-30 05:00 CET", "12-31 05:00 CET", "01-31 05:00 CET"]),
        ("*/20 8-9 * * *", ["11-21 08:00 CET", "11-21 08:20 CET", "11-21 08:40 CET"]),
        ("0 4 * * mon-fri", ["11-23 04:00 CET", "11-24 04:00 CET", "11-25 04:00 CET"]),
        ("0 4 13 * 5", ["11-27 04:00 CET", "12-04 04:00 CET", "12-11 04:00 CET"]),
        ("30 1 1 jan,jul *", ["01-01 01:30 CET", "07-01 01:30 CEST", "01-01 01:30 CET"]),
        ("0 0 * * 7", ["11-22 00:00 CET", "11-29 00:00 CET", "12-06 00:00 CET"]),
        ("@weekly", ["11-22 00:00 CET", "11-29 00:00 CET", "12-06 00:00 CET"]),
    ] {
        assert_eq!(runs(schedule, "Europe/Berlin", after, 3), expected, "{schedule}");
    }
}

#[test]
fn a_skipped_hour_runs_at_the_minute_after_it() {
    let after = "2026-03-28T12:00:00Z";
    for (schedule, expected) in [
        ("daily 02:00", ["03-29 03:00 CEST", "03-30 02:00 CEST"]),
        ("daily 02:30", ["03-29 03:00 CEST", "03-30 02:30 CEST"]),
        // Both fall onto the same minute: one run.
        ("daily 02:10,02:50", ["03-29 03:00 CEST", "03-30 02:10 CEST"]),
        ("daily 03:00", ["03-29 03:00 CEST", "03-30 03:00 CEST"]),
        ("weekly Sun 02:59", ["03-29 03:00 CEST", "04-05 02:59 CEST"]),
    ] {
        assert_eq!(runs(schedule, "Europe/Berlin", after, 2), expected, "{schedule}");
    }
    // At midnight, and by half an hour.
    assert_eq!(
        runs("daily 00:30", "America/Asuncion", "2023-09-30T12:00:00Z", 2),
        ["10-01 01:00 -03", "10-02 00:30 -03"]
    );
    assert_eq!(
        runs("daily 02:10", "Australia/Lord_Howe", "2026-10-03T06:00:00Z", 2),
        ["10-04 02:30 +11", "10-05 02:10 +11"]
    );
    // A day that never was.
    assert_eq!(
        runs("daily 12:00", "Pacific/Apia", "2011-12-29T23:00:00Z", 2),
        ["12-31 00:00 +14", "12-31 12:00 +14"]
    );
}

#[test]
fn a_doubled_hour_runs_once() {
    let after = "2026-10-24T12:00:00Z";
    for (schedule, expected) in [
        ("daily 02:00", ["10-25 02:00 CEST", "10-26 02:00 CET"]),
        ("daily 02:30", ["10-25 02:30 CEST", "10-26 02:30 CET"]),
        ("daily 03:00", ["10-25 03:00 CET", "10-26 03:00 CET"]),
        ("30 2 * * *", ["10-25 02:30 CEST", "10-26 02:30 CET"]),
    ] {
        assert_eq!(runs(schedule, "Europe/Berlin", after, 2), expected, "{schedule}");
    }
}

#[test]
fn what_means_every_hour_goes_on_through_both_changes() {
    let autumn = "2026-10-24T23:30:00Z";
    let hours = ["10-25 02:00 CEST", "10-25 02:00 CET", "10-25 03:00 CET"];
    for schedule in ["1h", "hourly", "0 * * * *"] {
        assert_eq!(runs(schedule, "Europe/Berlin", autumn, 3), hours, "{schedule}");
    }
    let spring = "2026-03-29T00:30:00Z";
    for schedule in ["1h", "hourly", "0 * * * *"] {
        assert_eq!(
            runs(schedule, "Europe/Berlin", spring, 2),
            ["03-29 03:00 CEST", "03-29 04:00 CEST"],
            "{schedule}"
        );
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_an_example() {
    for (text, told) in [
        ("", "expected a schedule"),
        ("sometimes", "expected a schedule"),
        ("5s", "an interval is"),
        ("7d", "an interval is"),
        ("daily 24:00", "no time of day"),
        ("daily 2:0", "no time of day"),
        ("daily 02:00 03:00", "expected a schedule"),
        ("weekly 02:00", "no day of the week"),
        ("weekly Frei 02:00", "no day of the week"),
        ("monthly 32", "days 1 to 31"),
        ("monthly 5th Fri", "no time of day"),
        ("0 0 30 2 *", "never comes"),
        ("60 * * * *", "no minute of cron"),
        ("* 9-8 * * *", "no hour of cron"),
        ("*/0 * * * *", "no minute of cron"),
        ("* * * 13 *", "no month of cron"),
        ("run it every single day", "expected a schedule"),
    ] {
        let error = Schedule::from_str(text).expect_err(text);
        assert!(error.contains(told), "{text}: {error}");
    }
}

#[test]
fn the_longest_gap_tells_how_late_is_late() {
    let from = moment("2026-01-01T00:00:00Z");
    let hours = |schedule: &str| {
        let schedule: Schedule = schedule.parse().unwrap();
        schedule.longest_gap(from, &zone("Europe/Berlin")).as_secs() / 3600
    };

    assert_eq!(hours("15m"), 0);
    assert_eq!(hours("daily 02:30"), 25);
    assert_eq!(hours("weekly Mon-Fri 03:00"), 73);
    assert_eq!(hours("monthly last Fri"), 35 * 24 + 1);
}

fn any_schedule() -> impl Strategy<Value = Schedule> {
    let time = (0..24_u32, 0..60_u32).prop_map(|(hour, minute)| format!("{hour:02}:{minute:02}"));
    let text = prop_oneof![
        (10..86_400_u64).prop_map(|seconds| format!("{seconds}s")),
        (0..60_u32).prop_map(|minute| format!("hourly :{minute:02}")),
        time.clone().prop_map(|time| format!("daily {time}")),
        (0..7_usize, time.clone()).prop_map(|(day, time)| format!(
            "weekly {} {time}",
            ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][day]
        )),
        (1..32_u32, time.clone()).prop_map(|(day, time)| format!("monthly {day} {time}")),
        time.prop_map(|time| format!("monthly last Fri {time}")),
        (0..60_u32, 0..24_u32, 1..29_u32).prop_map(|(m, h, d)| format!("{m} {h} */{d} * *")),
    ];
    text.prop_map(|text| text.parse().unwrap())
}

fn any_zone() -> impl Strategy<Value = TimeZone> {
    const NAMES: [&str; 8] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "America/Asuncion",
        "Africa/Casablanca",
    ];
    proptest::sample::select(&NAMES[..]).prop_map(zone)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is between two runs leads to the second: a scheduler that looks at any time misses none and makes none twice.
    #[test]
    fn from_anywhere_between_two_runs_the_next_is_the_same(
        schedule in any_schedule(),
        zone in any_zone(),
        start in 1_200_000_000_i64..2_000_000_000,
        share in 0.0..1.0_f64,
    ) {
        let start = Timestamp(start * NANOS);
        let first = schedule.next_run(start, &zone).unwrap();
        let second = schedule.next_run(first, &zone).unwrap();

        prop_assert!(start < first && first < second);
        let between = Timestamp(first.0 + ((second.0 - first.0 - 1) as f64 * share) as i64);
        prop_assert_eq!(schedule.next_run(between, &zone), Some(second));
        prop_assert!(first.0 % NANOS == 0);
    }
}
