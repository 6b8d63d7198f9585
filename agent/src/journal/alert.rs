//! Alerts: what is wrong, since when, how often, and who knows.

use rusqlite::{OptionalExtension, Row, params};
use storepool::clock::Timestamp;

use super::{Journal, moment};
use crate::config::AlertLevel;
use crate::error::Cause;

/// Something that is wrong, as it is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AlertDraft {
    /// What it is about, such as `backup-failed web`: what is noticed again under the same key is the same alert.
    pub(crate) key: String,
    /// How bad it is.
    pub(crate) level: AlertLevel,
    /// What is wrong.
    pub(crate) message: String,
    /// What helps.
    pub(crate) hint: Option<String>,
}

/// An alert as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    pub(crate) id: i64,
    pub(crate) key: String,
    pub(crate) level: AlertLevel,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) first_seen: Timestamp,
    pub(crate) last_seen: Timestamp,
    /// How often it was noticed.
    pub(crate) count: u32,
    /// When it was over.
    pub(crate) resolved: Option<Timestamp>,
    pub(crate) acknowledged: Option<Timestamp>,
    pub(crate) acknowledged_by: Option<String>,
    /// When it was told the last time.
    pub(crate) told: Option<Timestamp>,
    /// Whether its end was told.
    pub(crate) end_told: bool,
}

/// What became of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// It is new, or worse than before.
    New,
    /// It was known.
    Again,
}

const COLUMNS: &str = "id, key, level, message, hint, first_seen, last_seen, count, resolved, \
                       acknowledged, acknowledged_by, told, end_told";

impl Journal {
    /// Enters an alert, or counts it once more if there is one of its key. One that became worse is told again, whoever acknowledged it.
    pub(crate) fn raise(&self, draft: &AlertDraft, now: Timestamp) -> Result<Raised, Cause> {
        Ok(self.database.write(|tx| {
            let known: Option<(i64, String)> = tx
                .query_row(
                    "SELECT id, level FROM alert WHERE key = ? AND resolved IS NULL",
                    [&draft.key],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            let Some((id, level)) = known else {
                tx.execute(
                    "INSERT INTO alert (key, level, message, hint, first_seen, last_seen, count) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1)",
                    params![draft.key, draft.level.word(), draft.message, draft.hint, now.0],
                )?;
                return Ok(Raised::New);
            };
            tx.execute(
                "UPDATE alert SET level = ?2, message = ?3, hint = ?4, last_seen = ?5, \
                 count = count + 1 WHERE id = ?1",
                params![id, draft.level.word(), draft.message, draft.hint, now.0],
            )?;
            if AlertLevel::of_word(&level).is_some_and(|level| level >= draft.level) {
                return Ok(Raised::Again);
            }
            tx.execute(
                "UPDATE alert SET told = NULL, acknowledged = NULL, acknowledged_by = NULL \
                 WHERE id = ?",
                [id],
            )?;
            Ok(Raised::New)
        })?)
    }

    /// Says that what the alert of this key is about is over. Returns whether there was one.
    pub(crate) fn resolve(&self, key: &str, now: Timestamp) -> Result<bool, Cause> {
        // Looked for first, since nearly always there is none, and every write wakes the disk.
        if !self.is_active(key)? {
            return Ok(false);
        }
        let changed = self.database.write(|tx| {
            tx.execute(
                "UPDATE alert SET resolved = ?2 WHERE key = ?1 AND resolved IS NULL",
                params![key, now.0],
            )
        })?;
        Ok(changed > 0)
    }

    /// Returns whether there is an active alert of this key.
    pub(crate) fn is_active(&self, key: &str) -> Result<bool, Cause> {
        Ok(self
            .database
            .read(|tx| {
                tx.query_row(
                    "SELECT 1 FROM alert WHERE key = ? AND resolved IS NULL",
                    [key],
                    |_| Ok(()),
                )
                .optional()
            })?
            .is_some())
    }

    /// Says that somebody knows of an active alert. Returns whether there is one of this number.
    pub(crate) fn acknowledge(&self, id: i64, by: &str, now: Timestamp) -> Result<bool, Cause> {
        let changed = self.database.write(|tx| {
            tx.execute(
                "UPDATE alert SET acknowledged = ?2, acknowledged_by = ?3 \
                 WHERE id = ?1 AND resolved IS NULL",
                params![id, now.0, by],
            )
        })?;
        Ok(changed > 0)
    }

    /// Returns the alerts that are not over, the worst and oldest first.
    pub(crate) fn active_alerts(&self) -> Result<Vec<Alert>, Cause> {
        let mut alerts = self.alerts_where("resolved IS NULL", 10_000)?;
        alerts.sort_by_key(|alert| (std::cmp::Reverse(alert.level), alert.first_seen));
        Ok(alerts)
    }

    /// Returns the newest alerts, over or not, the newest first.
    pub(crate) fn alerts(&self, most: u32) -> Result<Vec<Alert>, Cause> {
        self.alerts_where("1", most)
    }

    /// Returns the alerts that nobody was told of yet, was not told of since `repeat`, or whose end was not told; the oldest first.
    pub(crate) fn untold_alerts(&self, repeat: Timestamp) -> Result<Vec<Alert>, Cause> {
        let condition = format!(
            "resolved IS NULL AND acknowledged IS NULL AND (told IS NULL OR told <= {}) \
             OR resolved IS NOT NULL AND told IS NOT NULL AND end_told = 0",
            repeat.0
        );
        let mut alerts = self.alerts_where(&condition, 1000)?;
        alerts.reverse();
        Ok(alerts)
    }

    /// Says that these alerts were told as they are now.
    pub(crate) fn told(&self, alerts: &[Alert], now: Timestamp) -> Result<(), Cause> {
        self.database.write(|tx| {
            for alert in alerts {
                tx.execute(
                    "UPDATE alert SET told = ?2, end_told = ?3 WHERE id = ?1",
                    params![alert.id, now.0, alert.resolved.is_some()],
                )?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn alerts_where(&self, condition: &str, most: u32) -> Result<Vec<Alert>, Cause> {
        Ok(self.database.read(|tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM alert WHERE {condition} ORDER BY id DESC LIMIT {most}"
            );
            tx.prepare(&sql)?.query_map([], alert_row)?.collect()
        })?)
    }
}

fn alert_row(row: &Row<'_>) -> rusqlite::Result<Alert> {
    let level: String = row.get(2)?;
    Ok(Alert {
        id: row.get(0)?,
        key: row.get(1)?,
        level: AlertLevel::of_word(&level).unwrap_or(AlertLevel::Critical),
        message: row.get(3)?,
        hint: row.get(4)?,
        first_seen: moment(row.get(5)?),
        last_seen: moment(row.get(6)?),
        count: row.get(7)?,
        resolved: row.get::<_, Option<i64>>(8)?.map(moment),
        acknowledged: row.get::<_, Option<i64>>(9)?.map(moment),
        acknowledged_by: row.get(10)?,
        told: row.get::<_, Option<i64>>(11)?.map(moment),
        end_told: row.get(12)?,
    })
}
