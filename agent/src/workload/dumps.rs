//! Dumps of single databases, as points of servers hold and describe them.

use serde::{Deserialize, Serialize};

/// A dump of one database.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct DumpDetail {
    /// The database.
    pub(crate) database: String,
    /// File of the point.
    pub(crate) file: String,
}

impl DumpDetail {
    /// Returns the dump of a database in a file of its own: what is no plain character is written as `%` and two digits, and `suffix` follows.
    pub(super) fn of(database: String, suffix: &str) -> Self {
        let mut file = String::from("database-");
        for byte in database.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    file.push(char::from(byte));
                }
                other => file.push_str(&format!("%{other:02X}")),
            }
        }
        file.push_str(suffix);
        Self { database, file }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of MariaDB a database `a` and another one `a.dump` went to the same file.
    #[test]
    fn no_two_databases_share_a_file() {
        let files: Vec<String> = ["app", "a/b c", "a%2Fb c", "a", "a.dump", "a.sql"]
            .map(|database| DumpDetail::of(database.to_string(), ".sql").file)
            .into();

        let expected = [
            "database-app.sql",
            "database-a%2Fb%20c.sql",
            "database-a%252Fb%20c.sql",
            "database-a.sql",
            "database-a.dump.sql",
            "database-a.sql.sql",
        ];
        assert_eq!(files, expected);
    }
}
