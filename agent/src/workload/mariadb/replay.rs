//! The script that is laid beside restored binary logs or a dump: only a running server can take them, and whoever starts it knows how it is reached.

use super::MariadbDetail;
use super::dumps::TOGETHER;
use super::programs::Flavour;
use super::recovery::Target;
use crate::console::units::to_jiff;

/// What is to be loaded.
pub(super) struct Replay<'a> {
    /// The point that has the copy or the dump.
    pub(super) detail: &'a MariadbDetail,
    /// Binary logs in the script's own folder, oldest first.
    pub(super) logs: &'a [&'a str],
    /// How far.
    pub(super) target: Target,
}

impl Replay<'_> {
    /// Returns the text of the script. Run once with the options that reach a server, it brings that to the target or fails.
    pub(super) fn script(&self) -> String {
        match self.detail.physical {
            true => self.after_copy(),
            false => self.with_dump(),
        }
    }

    fn after_copy(&self) -> String {
        let (client, _) = self.programs();
        format!(
            "#!/bin/sh\n\
             # Replays what was committed after the copy. Start the restored server first, reachable by you alone, then run this\n\
             # with the options that {client} needs to reach it, such as --socket=/run/restored.sock. Run it once.\n\
             set -eu\n\
             cd \"$(dirname \"$0\")\"\n\
             : > replay.sql\n\
             {}\
             {client} \"$@\" --binary-mode < replay.sql\n\
             rm replay.sql\n\
             echo replayed\n",
            self.unpacked()
        )
    }

    fn with_dump(&self) -> String {
        let (client, _) = self.programs();
        format!(
            "#!/bin/sh\n\
             # Loads the dump of all databases and replays what was committed after it. Start an empty server of the same series first,\n\
             # reachable by you alone and without its event scheduler, then run this with the options that {client} needs to reach it, such as\n\
             # --socket=/run/restored.sock. Run it once. Afterwards the accounts and passwords of the server that was backed up are in force.\n\
             set -eu\n\
             cd \"$(dirname \"$0\")\"\n\
             {client} \"$@\" < {TOGETHER}\n\
             # The accounts came with the dump: what is replayed may change them.\n\
             echo 'FLUSH PRIVILEGES;' > replay.sql\n\
             {}\
             {client} \"$@\" --binary-mode < replay.sql\n\
             rm replay.sql\n\
             echo loaded\n",
            self.unpacked()
        )
    }

    // The command that makes statements of the logs, if there are any.
    fn unpacked(&self) -> String {
        let (Some(position), false) = (&self.detail.position, self.logs.is_empty()) else {
            return String::new();
        };
        let until = match self.target {
            Target::Time(time) => {
                let moment = to_jiff(time).strftime("%Y-%m-%d %H:%M:%S").to_string();
                format!(" --stop-datetime='{moment}'")
            }
            Target::Base | Target::Latest => String::new(),
        };
        let ((_, reader), place, logs) = (self.programs(), position.offset, self.logs.join(" "));
        format!(
            "# Times are meant in UTC.\n\
             TZ=UTC {reader} --start-position={place}{until} {logs} >> replay.sql\n"
        )
    }

    // What talks to the server, and what reads its logs.
    fn programs(&self) -> (&'static str, &'static str) {
        match Flavour::of(&self.detail.version) {
            Flavour::Mariadb => ("mariadb", "mariadb-binlog --no-defaults"),
            // Another server has had none of these transactions: it counts them anew. MariaDB's program under this name, whose statements MySQL would
            // not take, does not know the option.
            Flavour::Mysql => ("mysql", "mysqlbinlog --no-defaults --skip-gtids"),
        }
    }
}

#[cfg(test)]
mod tests {
    use storepool::clock::Timestamp;

    use super::*;
    use crate::workload::mariadb::LogPosition;

    fn script(version: &str, physical: bool, logs: &[&str], target: Target) -> String {
        let detail = MariadbDetail {
            version: version.to_string(),
            physical,
            together: !physical,
            position: Some(LogPosition { file: "bin.000002".to_string(), offset: 342 }),
            ..MariadbDetail::default()
        };
        Replay { detail: &detail, logs, target }.script()
    }

    #[test]
    fn the_script_names_place_and_time() {
        let time = Target::Time(Timestamp(1_701_388_800_000_000_000));

        let copy = script("10.11.6-MariaDB", true, &["bin.000002", "bin.000003"], time);

        let expected = "TZ=UTC mariadb-binlog --no-defaults --start-position=342 --stop-datetime='2023-12-01 00:00:00' \
                        bin.000002 bin.000003 >> replay.sql\nmariadb \"$@\" --binary-mode < replay.sql\n";
        assert!(copy.contains(expected), "{copy}");
        assert!(!copy.contains("databases.sql"), "{copy}");
    }

    #[test]
    fn a_dump_is_loaded_before_the_logs_by_programs_of_its_server() {
        let text = script("5.6.24-log", false, &["bin.000002"], Target::Latest);
        let places = [
            "\nmysql \"$@\" < databases.sql\n",
            "FLUSH PRIVILEGES",
            "mysqlbinlog --no-defaults --skip-gtids --start-position=342",
        ];
        let places = places.map(|words| text.find(words).expect(words));
        assert!(places.is_sorted(), "{text}");

        let base = script("5.6.24-log", false, &[], Target::Base);
        assert!(base.contains("FLUSH PRIVILEGES") && !base.contains("mysqlbinlog"), "{base}");
    }
}
