//! The newest results of drills, sealed as they are kept with their points: a point may go long before the next drill.

use rusqlite::params;
use storepool::catalog::Proof;
use storepool::clock::Timestamp;

use super::Journal;
use crate::error::Cause;

/// Of which drills a result is the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrillKey<'a> {
    /// The group.
    pub(crate) group: &'a str,
    /// The source.
    pub(crate) source: &'a str,
    /// The copy.
    pub(crate) copy: &'a str,
    /// What came of it.
    pub(crate) verdict: &'static str,
}

impl Journal {
    /// Remembers the result of a drill instead of the one before; durable on return.
    pub(crate) fn drilled(
        &self,
        key: &DrillKey<'_>,
        proof: &Proof,
        time: Timestamp,
    ) -> Result<(), Cause> {
        self.database.write(|tx| {
            tx.execute(
                "INSERT OR REPLACE INTO drill VALUES (?, ?, ?, ?, ?, ?, ?)",
                params![
                    key.group,
                    key.source,
                    key.copy,
                    key.verdict,
                    time.0,
                    proof.record,
                    proof.seal
                ],
            )
        })?;
        Ok(())
    }

    /// Returns the newest results of the drills of a group.
    pub(crate) fn drills(&self, group: &str) -> Result<Vec<Proof>, Cause> {
        Ok(self.database.read(|tx| {
            tx.prepare("SELECT record, seal FROM drill WHERE group_name = ? ORDER BY drilled")?
                .query_map([group], |row| Ok(Proof { record: row.get(0)?, seal: row.get(1)? }))?
                .collect()
        })?)
    }
}
