//! Restored tables read through: every line must be an entity.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::entity::Entity;
use super::{SUFFIX, TablesDetail};
use crate::workload::WorkloadError;

/// An entity has at most a mebibyte; as text it takes a few times that.
const LINE_MOST: u64 = 16 << 20;

/// Reads the tables of a point that were restored to a folder; returns how many tables and how many entities there are.
///
/// # Errors
/// A file cannot be read, or a line of it is no entity.
pub(crate) fn count_restored(detail: &str, restored: &Path) -> Result<(u64, u64), WorkloadError> {
    let detail: Option<TablesDetail> = serde_json::from_str(detail).ok();
    let (mut tables, mut entities) = (0, 0);
    for table in detail.map(|detail| detail.tables).unwrap_or_default() {
        // A name in a point leads nowhere else.
        let is_plain = table.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let path = restored.join(format!("{table}{SUFFIX}"));
        if is_plain && path.is_file() {
            tables += 1;
            entities += count(&table, &path)?;
        }
    }
    Ok((tables, entities))
}

fn count(table: &str, path: &Path) -> Result<u64, WorkloadError> {
    let failed = |cause: std::io::Error| {
        WorkloadError::failed(format!("the restored table {table} cannot be read")).because(cause)
    };
    let mut lines = BufReader::new(File::open(path).map_err(failed)?);
    let mut line = Vec::new();
    let mut entities = 0;
    loop {
        line.clear();
        let length = lines.by_ref().take(LINE_MOST).read_until(b'\n', &mut line).map_err(failed)?;
        if length == 0 {
            return Ok(entities);
        }
        serde_json::from_slice::<Entity>(&line).map_err(|cause| {
            let message = format!("line {} of table {table} is no entity", entities + 1);
            WorkloadError::failed(message).because(cause)
        })?;
        entities += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_counted_and_what_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let detail = r#"{"format":1,"account":"a","tables":["One","Missing","../One"]}"#;
        let line = r#"{"PartitionKey":"a","RowKey":"b","properties":{"Age":["Edm.Int32",7]}}"#;
        let file = folder.path().join("One.jsonl");
        std::fs::write(&file, format!("{line}\n{line}\n")).unwrap();

        assert_eq!(count_restored(detail, folder.path()).unwrap(), (1, 2));

        std::fs::write(&file, format!("{line}\n{}\n", &line[..30])).unwrap();
        let error = count_restored(detail, folder.path()).unwrap_err();
        assert_eq!(error.message, "line 2 of table One is no entity");
    }
}
