use super::*;
use crate::restore::Conflict;

fn patterns(include: &[&str], exclude: &[&str]) -> RestoreOptions {
    let all = |patterns: &[&str]| patterns.iter().map(|pattern| pattern.to_string()).collect();
    RestoreOptions { include: all(include), exclude: all(exclude), ..threads(1) }
}

fn tree() -> Point {
    let mut point = Point::new();
    for path in ["etc/passwd", "etc/ssh/config", "etc/ssh/key.bak", "var/log/a", "var/log/b.bak"] {
        point.add_file(path, path.as_bytes());
    }
    point.add("empty", directory());
    point
}

#[test]
fn a_directory_is_restored_without_those_above_it() {
    let places = places();

    let report = tree().restore_path("etc/ssh", &places.target, &threads(1)).unwrap();

    assert_eq!(names(&places.target), ["config", "key.bak"]);
    assert_eq!((report.files, report.directories), (2, 1));
}

#[test]
fn a_single_entry_is_restored_under_its_name() {
    let places = places();

    let report = tree().restore_path("etc/ssh/config", &places.target, &threads(1)).unwrap();

    assert_eq!(names(&places.target), ["config"]);
    assert_eq!((report.files, report.directories), (1, 0));
    let there = std::fs::read_to_string(places.target.join("config")).unwrap();
    assert_eq!(there, "etc/ssh/config");
}

#[test]
fn a_path_that_is_not_there_leaves_no_target_behind() {
    let places = places();

    let error = tree().restore_path("etc/nothing", &places.target, &threads(1)).unwrap_err();

    assert!(matches!(error, Error::PathNotFound { .. }), "{error}");
    assert!(!places.target.exists());
}

#[test]
fn patterns_choose_and_make_only_the_directories_that_are_needed() {
    let places = places();

    let options = patterns(&["ssh", "/var/log/b.bak"], &["key.*"]);
    let report = tree().restore(&places.target, &options).unwrap();

    assert_eq!(
        names(&places.target),
        ["etc", "etc/ssh", "etc/ssh/config", "var", "var/log", "var/log/b.bak"]
    );
    assert_eq!(report.problem_count, 0);
}

#[test]
fn a_wrong_pattern_is_told_before_anything_is_made() {
    let places = places();

    let error = tree().restore(&places.target, &patterns(&["a{b"], &[])).unwrap_err();

    assert!(matches!(error, Error::Target { .. }), "{error}");
    assert!(!places.target.exists());
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let places = places();
    let dry_run = |conflict| RestoreOptions { dry_run: true, conflict, ..threads(1) };

    let report = tree().restore(&places.target, &dry_run(Conflict::Fail)).unwrap();

    assert!(!places.target.exists());
    assert_eq!((report.files, report.directories, report.skipped), (5, 6, 0));

    std::fs::create_dir_all(places.target.join("etc")).unwrap();
    std::fs::write(places.target.join("etc/passwd"), "mine").unwrap();
    let report = tree().restore(&places.target, &dry_run(Conflict::Skip)).unwrap();

    assert_eq!((report.files, report.skipped), (4, 1));
    assert_eq!(names(&places.target), ["etc", "etc/passwd"]);
}
