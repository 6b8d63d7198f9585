//! What check promises, on small real pools ruined on purpose.

use std::path::{Path, PathBuf};

use super::*;
use crate::monitor::SilentMonitor;
use crate::testing::fixture::{
    create_pool, files, make_point, open_pool, pack_files, read_point, test_world,
};

const ALL: CheckOptions = CheckOptions { read_data: Some(100.0) };
const STRUCTURE: CheckOptions = CheckOptions { read_data: None };

fn flip(path: &Path, index: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[index] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

fn data_packs(pool: &Pool) -> Vec<PathBuf> {
    let rows = pool.index().packs().unwrap();
    let data = rows.iter().filter(|row| row.kind == crate::pack::PackKind::Data);
    data.map(|row| pool.pack_file(row).unwrap()).collect()
}

#[test]
fn a_sound_pool_is_found_sound_and_everything_was_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 2, test_world());
    make_point(&pool, &files("a", 10, 1500)).unwrap();
    make_point(&pool, &files("b", 10, 1500)).unwrap();

    let report = check(&pool, &ALL, &SilentMonitor).unwrap();

    assert!(report.is_sound(), "{report:?}");
    let packs = pack_files(&paths).len() as u64;
    assert_eq!((report.packs_checked, report.packs_read), (packs, packs));
    assert_eq!((report.points_checked, report.chunks_needed), (2, 20 + 4 + 2));
    let raw: u64 = pool.index().packs().unwrap().iter().map(|row| row.raw_length).sum();
    assert_eq!(report.bytes_verified, raw);
}

#[test]
fn a_wrong_byte_of_content_is_seen_when_data_is_read_and_names_the_file() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let first = make_point(&pool, &files("a", 1, 1500)).unwrap();
    make_point(&pool, &files("b", 1, 1500)).unwrap();
    flip(&data_packs(&pool)[0], 700);

    let structure = check(&pool, &STRUCTURE, &SilentMonitor).unwrap();
    let report = check(&pool, &ALL, &SilentMonitor).unwrap();

    assert!(structure.is_sound());
    assert!(report.damages.iter().any(|damage| damage.what == DamagedObject::Pack));
    let [affected] = report.affected_points.as_slice() else { panic!("{report:?}") };
    assert_eq!((affected.point, affected.path_count), (first, 1));
    assert_eq!(affected.paths[0].to_string(), "a/0");
    assert!(pool.index().is_suspect().unwrap(), "the next backup looks twice");
}

#[test]
fn a_missing_directory_names_exactly_the_points_that_need_it() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 2, test_world());
    let mut points = Vec::new();
    for index in 0..8 {
        points.push(make_point(&pool, &files(&format!("p{index}"), 3, 1500)).unwrap());
    }
    let away = home.path().join("away");
    drop(pool);
    std::fs::rename(&paths[1], &away).unwrap();
    let pool = open_pool(&paths, test_world()).unwrap();

    let report = check(&pool, &ALL, &SilentMonitor).unwrap();

    let affected: Vec<_> = report.affected_points.iter().map(|affected| affected.point).collect();
    for point in &points {
        assert_eq!(read_point(&pool, *point).is_err(), affected.contains(point));
    }
    assert!(report.damages.iter().any(|damage| damage.what == DamagedObject::Directory
        && damage.id == paths[1].display().to_string()));
    drop(pool);
    std::fs::rename(&away, &paths[1]).unwrap();
    let pool = open_pool(&paths, test_world()).unwrap();
    let report = check(&pool, &ALL, &SilentMonitor).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!(!pool.index().is_suspect().unwrap());
}

#[test]
fn a_chunk_with_a_sound_copy_elsewhere_affects_no_point() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    let content = files("a", 1, 1500);
    let point = make_point(&pool, &content).unwrap();
    let session = pool.begin_session().unwrap();
    let writer =
        crate::writer::PoolWriter::new(&session, crate::writer::SpacePolicy::UseReserve).unwrap();
    let mut chunks = writer.chunk_writer().unwrap();
    let bytes = &content["a/0"];
    let kind = crate::id::ChunkKind::Data;
    chunks.put_again(ChunkId::of(kind, bytes), kind, bytes).unwrap();
    chunks.finish().unwrap();
    writer.flush().unwrap();
    drop(writer);
    flip(&data_packs(&pool)[0], 700);

    let report = check(&pool, &ALL, &SilentMonitor).unwrap();

    assert!(!report.is_sound());
    assert!(report.affected_points.is_empty(), "{report:?}");
    assert_eq!(read_point(&pool, point).unwrap(), content);
}

#[test]
fn rows_that_are_missing_or_point_nowhere_are_told() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    make_point(&pool, &files("a", 5, 1500)).unwrap();
    drop(pool);
    let index = rusqlite::Connection::open(paths[0].join("pool.db")).unwrap();
    index.execute("DELETE FROM chunk WHERE place % 3 = 0", []).unwrap();
    index.execute("INSERT INTO chunk VALUES (7, 999 * 1048576)", []).unwrap();
    drop(index);
    let pool = open_pool(&paths, test_world()).unwrap();

    let report = check(&pool, &STRUCTURE, &SilentMonitor).unwrap();

    assert!(report.damages.iter().any(|damage| damage.what == DamagedObject::Index));
    // The chunks themselves are found in their packs.
    assert_eq!(report.affected_points, []);
    assert_eq!(report.stale_rows, 1);
    drop(pool);
    let pool = open_pool(&paths, test_world()).unwrap();
    assert!(check(&pool, &STRUCTURE, &SilentMonitor).unwrap().is_sound());
}

#[test]
fn an_index_that_was_deleted_cut_or_is_old_does_no_harm() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let first = files("a", 5, 1500);
    let second = files("b", 5, 1500);
    let mut points = vec![(make_point(&pool, &first).unwrap(), first)];
    drop(pool);
    let index = paths[0].join("pool.db");
    let old = std::fs::read(&index).unwrap();
    let pool = open_pool(&paths, test_world()).unwrap();
    points.push((make_point(&pool, &second).unwrap(), second));
    drop(pool);
    let whole = std::fs::read(&index).unwrap();

    let mut ruins = vec![None, Some(old)];
    ruins.extend((0..whole.len()).step_by(4096 / 3).map(|length| Some(whole[..length].to_vec())));
    ruins.extend((0..whole.len()).step_by(509).map(|index| {
        let mut bytes = whole.clone();
        bytes[index] ^= 0x40;
        Some(bytes)
    }));
    for (number, ruin) in ruins.into_iter().enumerate() {
        match ruin {
            Some(bytes) => std::fs::write(&index, bytes).unwrap(),
            None => std::fs::remove_file(&index).unwrap(),
        }
        // A flipped byte may hide until check reads the whole file; then repair makes the index anew.
        let pool = open_pool(&paths, test_world());
        let found = pool.and_then(|pool| check(&pool, &ALL, &SilentMonitor));
        if !found.as_ref().is_ok_and(CheckReport::is_sound) {
            let rebuild =
                crate::repair::RepairOptions { rebuild_index: true, ..Default::default() };
            let options = crate::testing::fixture::small_packs();
            crate::repair::repair(&paths, options, test_world(), &rebuild, &SilentMonitor).unwrap();
        }
        let pool = open_pool(&paths, test_world()).unwrap();
        let report = check(&pool, &ALL, &SilentMonitor).unwrap();
        assert!(report.is_sound(), "ruin {number}: {report:?}");
        for (point, content) in &points {
            assert_eq!(&read_point(&pool, *point).unwrap(), content, "ruin {number}");
        }
    }
}

#[test]
fn a_point_file_that_nobody_can_read_is_reported_even_if_the_index_never_knew_it() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    let point = make_point(&pool, &files("a", 2, 100)).unwrap();
    drop(pool);
    flip(&paths[0].join("points").join(format!("{point}.point")), 50);
    std::fs::remove_file(paths[0].join("pool.db")).unwrap();
    let pool = open_pool(&paths, test_world()).unwrap();

    let report = check(&pool, &STRUCTURE, &SilentMonitor).unwrap();

    let damage = report.damages.iter().find(|damage| damage.what == DamagedObject::Point);
    assert_eq!(damage.unwrap().id, point.to_string());
}

#[test]
fn a_pack_cut_or_lengthened_or_under_the_name_of_another_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let (paths, pool) = create_pool(home.path(), 1, test_world());
    make_point(&pool, &files("a", 2, 100)).unwrap();
    let packs = pack_files(&paths);
    let whole: Vec<_> = packs.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut ruins: Vec<_> =
        (0..whole[0].len()).step_by(7).map(|length| whole[0][..length].to_vec()).collect();
    ruins.push([whole[0].as_slice(), &[0]].concat());
    ruins.push(whole[1].clone());
    drop(pool);

    for ruin in ruins {
        std::fs::write(&packs[0], &ruin).unwrap();

        let pool = open_pool(&paths, test_world()).unwrap();
        let report = check(&pool, &STRUCTURE, &SilentMonitor).unwrap();

        assert!(!report.is_sound(), "{} bytes", ruin.len());
        assert_eq!(report.affected_points.len(), 1);
    }
}

#[test]
fn shares_of_different_days_cover_every_pack() {
    let home = tempfile::tempdir().unwrap();
    let (_, pool) = create_pool(home.path(), 1, test_world());
    for index in 0..20 {
        make_point(&pool, &files(&format!("p{index}"), 1, 100)).unwrap();
    }
    let packs = pool.index().packs().unwrap();

    let mut seen = HashSet::new();
    for day in 0..4 {
        let now = crate::clock::Timestamp(day * 24 * 60 * 60 * 1_000_000_000);
        let share = data::choose(&packs, 25.0, now);
        assert!(share.len() < packs.len());
        seen.extend(share.into_iter().map(|row| row.no));
    }

    assert_eq!(seen.len(), packs.len());
}
