//! The list of all files of a base, in the form that the server itself writes (`backup_manifest`,
//! <https://www.postgresql.org/docs/current/backup-manifest-format.html>), so that `pg_verifybackup` understands it.

use std::path::Path;

use ring::digest::{SHA256, digest};
use storepool::clock::Timestamp;
use storepool::id::hex;

use super::super::lsn::Lsn;
use crate::console::units::to_jiff;

/// The first version whose lists name the cluster.
const NAMES_THE_CLUSTER: u32 = 170_000;

/// A list that grows.
pub(super) struct List {
    text: String,
    has_files: bool,
}

impl List {
    /// Begins the list of a cluster with this `system_identifier`, whose server has this version (`server_version_num`).
    pub(super) fn new(server_version: u32, system_identifier: u64) -> Self {
        let head = match server_version >= NAMES_THE_CLUSTER {
            true => format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n"
            ),
            false => "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n".to_string(),
        };
        Self { text: head + "\"Files\": [", has_files: false }
    }

    /// Adds a file: its path in the data directory, length, seconds since 1970 of its last change, and CRC-32C.
    pub(super) fn add(&mut self, path: &Path, size: u64, modified: i64, sum: u32) {
        let separator = if self.has_files { ",\n" } else { "\n" };
        self.has_files = true;
        let path = match path.to_str() {
            Some(text) => format!("\"Path\": {}", serde_json::Value::from(text)),
            None => {
                let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
                format!("\"Encoded-Path\": \"{}\"", hex(bytes))
            }
        };
        let modified = to_jiff(Timestamp(modified.saturating_mul(1_000_000_000)));
        let modified = modified.strftime("%Y-%m-%d %H:%M:%S GMT");
        // PostgreSQL prints the four bytes as they lie in memory.
        let sum = hex(&sum.to_le_bytes());
        let file = format!(
            "{separator}{{ {path}, \"Size\": {size}, \"Last-Modified\": \"{modified}\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{sum}\" }}"
        );
        self.text.push_str(&file);
    }

    /// Ends it with the WAL that a base needs.
    pub(super) fn finish(mut self, timeline: u32, start: Lsn, end: Lsn) -> String {
        let range = format!(
            "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}\n],\n"
        );
        self.text.push_str(&range);
        let sum = hex(digest(&SHA256, self.text.as_bytes()).as_ref());
        self.text.push_str(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_the_server_writes_it() {
        let mut list = List::new(150_018, 7);
        list.add(Path::new("base/5/16384"), 8192, 1_900_000_000, 0xe306_9283);
        list.add(Path::new("own/\"quoted\""), 0, 0, 0);
        let text = list.finish(1, Lsn(0x300_0028), Lsn(0x300_0100));

        let (body, last) = text.split_at(text.find("\"Manifest-Checksum\"").unwrap());
        assert_eq!(
            body,
            "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\
             \"Files\": [\n\
             { \"Path\": \"base/5/16384\", \"Size\": 8192, \"Last-Modified\": \"2030-03-17 17:46:40 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" },\n\
             { \"Path\": \"own/\\\"quoted\\\"\", \"Size\": 0, \"Last-Modified\": \"1970-01-01 00:00:00 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n\
             ],\n\
             \"WAL-Ranges\": [\n\
             { \"Timeline\": 1, \"Start-LSN\": \"0/3000028\", \"End-LSN\": \"0/3000100\" }\n\
             ],\n"
        );
        let sum = hex(digest(&SHA256, body.as_bytes()).as_ref());
        assert_eq!(last, format!("\"Manifest-Checksum\": \"{sum}\"}}\n"));
        let newer = List::new(170_000, 7).finish(1, Lsn(1), Lsn(2));
        let newer: serde_json::Value = serde_json::from_str(&newer).unwrap();
        assert_eq!(newer["PostgreSQL-Backup-Manifest-Version"], 2);
        assert_eq!(newer["System-Identifier"], 7);
    }
}
