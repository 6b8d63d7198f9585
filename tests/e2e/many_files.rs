//! Very many small files: quick enough, complete, and in bounded memory.
//!
//! `KEEPWELL_E2E_MANY=1000000` takes the size that docs/benchmarks.md speaks of.

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::home::{Finished, Home, announce, backup_arguments, number_of, setting};
use crate::memory::run_measured;
use crate::tree::Observed;

const MEMORY_LIMIT_KIB: u64 = 300 << 10;
const FILES_OF_A_FOLDER: u64 = 500;

#[test]
fn very_many_files_go_in_and_out_in_bounded_memory() {
    let count = setting("KEEPWELL_E2E_MANY", 100_000);
    let home = Home::in_memory();
    let source = home.directory("source");
    plant_many(&source, count);
    let target = home.beside("target");
    let target_text = target.to_str().expect("temporary names are text");
    let measured = |what: &str, command| {
        let begun = Instant::now();
        let (finished, peak) = run_measured(command);
        let finished: Finished = finished.expect_code(0);
        let seconds = begun.elapsed().as_secs_f64();
        announce(&format!("{count} files: {what} took {seconds:.1} s and {} MiB", peak >> 10));
        assert!(peak > 0 && peak <= MEMORY_LIMIT_KIB, "{what} took {} MiB", peak >> 10);
        finished
    };

    let first = measured("backup", home.command(backup_arguments(&source, &[]))).summary();
    let again =
        measured("unchanged backup", home.command(backup_arguments(&source, &[]))).summary();
    measured("restore", home.command(["restore", "latest", "--to", target_text]));
    measured("check", home.command(["check", "--read-data"]));

    assert_eq!(number_of(&first, "files"), count);
    assert_eq!(
        number_of(&first, "entries_new"),
        number_of(&again, "entries_unchanged") + number_of(&again, "entries_changed")
    );
    assert_eq!(number_of(&again, "chunks_new"), 0, "{again}");
    Observed::of(&source).expect(&Observed::of(&target), "the restored tree differs");
}

fn plant_many(root: &Path, count: u64) {
    for number in 0..count {
        let folder = root.join(format!("{:03}/{:05}", number / 50_000, number / FILES_OF_A_FOLDER));
        if number % FILES_OF_A_FOLDER == 0 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(format!("file-{number:07}")), format!("content of {number}\n"))
            .unwrap();
    }
}
