//! The catalog: the recovery points there are, as their point files say, ready to be listed and chosen.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::entry::display_bytes;
use crate::error::{Error, Result};
use crate::id::{ChunkId, PointId, TreeId};
use crate::index::{PackNo, pardon_rows};
use crate::manifest::Manifest;
use crate::sqlite::Database;

/// Keeps a point whatever the retention says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Why, for people.
    pub reason: String,
    /// Nanoseconds since 1970 UTC when the pin ends; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// The record of a proof that the point can be restored, with the seal of whoever made it. The pool keeps both and understands neither.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What was found, in words of its maker.
    pub record: String,
    /// What tells its maker that nobody changed it.
    pub seal: String,
}

/// What people have attached to a point; changeable, unlike the point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Tags, sorted.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Pins.
    #[serde(default)]
    pub pins: Vec<Pin>,
    /// Records of restore drills.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<Proof>,
}

/// A recovery point as the catalog lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub id: PointId,
    /// When its run began.
    pub started: Timestamp,
    /// When everything had been read.
    pub finished: Timestamp,
    /// Label of the server.
    pub host: String,
    /// Protection group; empty for none.
    pub group: String,
    /// Data source.
    pub source: String,
    /// Kind of workload.
    pub workload: String,
    /// What was backed up, for people.
    pub paths: Vec<String>,
    /// Its root directory.
    pub root: TreeId,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes its run added to packs.
    pub bytes_stored: u64,
    /// Problems of single entries.
    pub problem_count: u64,
    /// Tags and pins.
    pub notes: Notes,
}

impl Point {
    /// Returns the catalog's view of a manifest.
    pub fn of(id: PointId, manifest: &Manifest, notes: Notes) -> Self {
        Self {
            id,
            started: manifest.started,
            finished: manifest.finished,
            host: manifest.host.clone(),
            group: manifest.group.clone(),
            source: manifest.source.clone(),
            workload: manifest.workload.clone(),
            paths: manifest.paths.iter().map(|path| display_bytes(path)).collect(),
            root: manifest.root,
            files: manifest.totals.files,
            bytes: manifest.totals.bytes,
            bytes_stored: manifest.totals.bytes_stored,
            problem_count: manifest.problem_count,
            notes,
        }
    }

    /// Returns whether it is no state of a source but the log that leads from one state to later ones: nobody means it by `latest`.
    pub fn is_log(&self) -> bool {
        self.workload.ends_with("-wal")
    }
}

/// The catalog of a pool.
#[derive(Clone, Debug)]
pub struct Catalog {
    database: Arc<Database>,
}

impl Catalog {
    /// Creates the catalog over an open database.
    pub fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// Returns all points, oldest first.
    pub fn points(&self) -> Result<Vec<Point>> {
        self.database.read(|tx| {
            tx.prepare(
                "SELECT id, started, finished, host, group_name, source, workload, paths, root, files, \
                 bytes, bytes_stored, problem_count, notes FROM point ORDER BY started, id",
            )?
            .query_map([], point_row)?
            .collect()
        })
    }

    /// Enters a point and, in the same transaction, takes the packs that its run relied on back among the needed ones.
    pub fn add(&self, point: &Point, relied_on: &[PackNo]) -> Result<()> {
        let paths = to_json(&point.paths);
        let notes = to_json(&point.notes);
        self.database.write(|tx| {
            pardon_rows(tx, relied_on)?;
            tx.execute(
                "INSERT OR REPLACE INTO point VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    &point.id.0[..],
                    point.started.0,
                    point.finished.0,
                    point.host,
                    point.group,
                    point.source,
                    point.workload,
                    paths,
                    &point.root.0[..],
                    point.files as i64,
                    point.bytes as i64,
                    point.bytes_stored as i64,
                    point.problem_count as i64,
                    notes,
                ],
            )?;
            Ok(())
        })
    }

    /// Removes points.
    pub fn remove(&self, points: &[PointId]) -> Result<()> {
        self.database.write(|tx| {
            for point in points {
                tx.execute("DELETE FROM point WHERE id = ?", [&point.0[..]])?;
            }
            Ok(())
        })
    }

    /// Replaces the notes of a point.
    pub fn set_notes(&self, point: PointId, notes: &Notes) -> Result<()> {
        let notes = to_json(notes);
        self.database.write(|tx| {
            tx.execute("UPDATE point SET notes = ?2 WHERE id = ?1", params![&point.0[..], notes])?;
            Ok(())
        })
    }

    /// Returns whether the catalog lists the point.
    pub fn contains(&self, point: PointId) -> Result<bool> {
        self.database.read(|tx| {
            tx.query_row("SELECT 1 FROM point WHERE id = ?", [&point.0[..]], |_| Ok(()))
                .optional()
                .map(|row| row.is_some())
        })
    }

    /// Returns the newest point of a series.
    pub fn newest(&self, group: &str, source: &str) -> Result<Option<PointId>> {
        self.database.read(|tx| {
            tx.query_row(
                "SELECT id FROM point WHERE group_name = ? AND source = ? ORDER BY started DESC LIMIT 1",
                [group, source],
                |row| row.get(0).map(PointId),
            )
            .optional()
        })
    }
}

/// Chooses the point that a person means: `latest`, `latest:GROUP`, or the beginning of an id (4 digits or more).
pub fn choose<'a>(points: &'a [Point], name: &str) -> Result<&'a Point> {
    let not_found = || Error::PointNotFound { name: name.to_string() };
    if name == "latest" {
        let states = points.iter().filter(|point| !point.is_log());
        return states.max_by_key(|point| point.started).ok_or_else(not_found);
    }
    if let Some(series) = name.strip_prefix("latest:") {
        return points
            .iter()
            .filter(|point| {
                point.group == series || (point.group.is_empty() && point.source == series)
            })
            .filter(|point| !point.is_log())
            .max_by_key(|point| point.started)
            .ok_or_else(not_found);
    }
    if name.len() < 4 {
        return Err(not_found());
    }
    let matches: Vec<_> =
        points.iter().filter(|point| point.id.to_string().starts_with(name)).collect();
    match matches.as_slice() {
        [] => Err(not_found()),
        [point] => Ok(point),
        several => Err(Error::PointAmbiguous { name: name.to_string(), count: several.len() }),
    }
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("text and numbers always have a JSON form")
}

fn from_json<T: for<'a> Deserialize<'a>>(
    row: &rusqlite::Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

fn point_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Point> {
    Ok(Point {
        id: PointId(row.get(0)?),
        started: Timestamp(row.get(1)?),
        finished: Timestamp(row.get(2)?),
        host: row.get(3)?,
        group: row.get(4)?,
        source: row.get(5)?,
        workload: row.get(6)?,
        paths: from_json(row, 7)?,
        root: ChunkId(row.get(8)?),
        files: row.get(9)?,
        bytes: row.get(10)?,
        bytes_stored: row.get(11)?,
        problem_count: row.get(12)?,
        notes: from_json(row, 13)?,
    })
}
