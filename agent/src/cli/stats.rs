//! `keepwell stats`: sizes and real ratios.

use clap::Args;
use serde::Serialize;
use storepool::stats::{PointStats, PoolStats, StatsOptions, stats};

use crate::assembly::Assembly;
use crate::console::Console;
use crate::console::table::{Align, Table};
use crate::console::units::{count, size};
use crate::error::{Attempt, Error, Outcome};

/// Show sizes and the real ratios of deduplication and compression
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  keepwell stats
  keepwell stats --per-point       what each point needs alone: what forgetting it would free")]
pub(super) struct Stats {
    /// Show each point too; takes longer
    #[arg(long)]
    per_point: bool,
}

#[derive(Serialize)]
struct Document {
    points: u64,
    files: u64,
    point_bytes: u64,
    packs: u64,
    stored_bytes: u64,
    chunks: u64,
    raw_bytes: u64,
    needed_chunks: u64,
    needed_raw_bytes: u64,
    needed_stored_bytes: u64,
    unused_bytes: u64,
    missing_chunks: u64,
    compression_ratio: f64,
    deduplication_ratio: f64,
    total_ratio: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    per_point: Vec<PointDocument>,
}

#[derive(Serialize)]
struct PointDocument {
    point: String,
    bytes: u64,
    needed_chunks: u64,
    needed_stored_bytes: u64,
    alone_chunks: u64,
    alone_stored_bytes: u64,
}

impl Stats {
    pub(super) fn run(self, assembly: &Assembly) -> Result<Outcome, Error> {
        let pool = assembly.open_pool()?;
        let options = StatsOptions { per_point: self.per_point };
        let progress = assembly.console.brief_progress("chunks");
        let result = stats(&pool, &options, &progress);
        progress.finish();
        let stats = result.attempt(|| "measure the pool".to_string())?;
        tell(&assembly.console, &stats);
        if stats.missing_chunks > 0 {
            let missing = count(stats.missing_chunks);
            assembly.console.warn(format!("{missing} chunks are missing; run \"keepwell check\""));
            return Ok(Outcome::Damage);
        }
        Ok(Outcome::Done)
    }
}

fn tell(console: &Console, stats: &PoolStats) {
    let rounded = |ratio: f64| (ratio * 1000.0).round() / 1000.0;
    let point = |point: &PointStats| PointDocument {
        point: point.point.to_string(),
        bytes: point.bytes,
        needed_chunks: point.needed.chunks,
        needed_stored_bytes: point.needed.stored_bytes,
        alone_chunks: point.alone.chunks,
        alone_stored_bytes: point.alone.stored_bytes,
    };
    console.document(&Document {
        points: stats.points,
        files: stats.files,
        point_bytes: stats.point_bytes,
        packs: stats.packs,
        stored_bytes: stats.stored_bytes,
        chunks: stats.chunks,
        raw_bytes: stats.raw_bytes,
        needed_chunks: stats.needed_chunks,
        needed_raw_bytes: stats.needed_raw_bytes,
        needed_stored_bytes: stats.needed_stored_bytes,
        unused_bytes: stats.unused_bytes(),
        missing_chunks: stats.missing_chunks,
        compression_ratio: rounded(stats.compression_ratio()),
        deduplication_ratio: rounded(stats.deduplication_ratio()),
        total_ratio: rounded(stats.total_ratio()),
        per_point: stats.per_point.iter().map(point).collect(),
    });
    let lines = [
        ("points", format!("{} with {} files", count(stats.points), count(stats.files))),
        ("restored, all of them", size(stats.point_bytes)),
        (
            "different chunks",
            format!("{} with {}", count(stats.needed_chunks), size(stats.needed_raw_bytes)),
        ),
        ("packs", format!("{} with {}", count(stats.packs), size(stats.stored_bytes))),
        ("unused, for prune", size(stats.unused_bytes())),
        ("deduplication", format!("{:.2}", stats.deduplication_ratio())),
        ("compression", format!("{:.2}", stats.compression_ratio())),
        ("together", format!("{:.2}", stats.total_ratio())),
    ];
    for (name, value) in lines {
        console.say(format!("{name:<24}{value}"));
    }
    if stats.per_point.is_empty() {
        return;
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("Size", Align::Right),
        ("In the pool", Align::Right),
        ("Alone", Align::Right),
    ]);
    for point in &stats.per_point {
        table.row(vec![
            point.point.short(),
            size(point.bytes),
            size(point.needed.stored_bytes),
            size(point.alone.stored_bytes),
        ]);
    }
    console.say("");
    table.lines().iter().for_each(|line| console.say(line));
}
