//! A server with something worth protecting, registered with a vault in a bucket, and what is kept for the day when it is gone.

use std::path::{Path, PathBuf};

use crate::home::{Finished, Home};
use crate::servers::Place;

/// A machine whose vault is in a bucket.
pub(crate) struct Protected {
    /// The machine.
    pub(crate) machine: Home,
    /// What is backed up.
    pub(crate) source: PathBuf,
    kept: Kept,
}

/// All that is needed to recover: kept somewhere else.
pub(crate) struct Kept {
    /// The credentials file.
    pub(crate) credentials: PathBuf,
    /// The file with the passphrase.
    pub(crate) passphrase: PathBuf,
}

impl Protected {
    /// Makes a vault at `place` and registers a machine with it; its source is an empty folder.
    pub(crate) fn by(place: &Place) -> Self {
        let machine = Home::in_memory();
        let source = machine.directory("source");
        let kept = machine.directory("kept");
        let kept =
            Kept { credentials: kept.join("main.vault"), passphrase: kept.join("passphrase") };
        create(&machine, place, &kept.credentials).expect_code(0);
        register(&machine, &kept, "web1").expect_code(0);
        Self { machine, source, kept }
    }

    /// Returns what is kept elsewhere.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Makes a point of the source.
    pub(crate) fn back_up(&self) -> String {
        self.machine.backup(&self.source, &[])
    }

    /// Loses pool, state and configuration.
    pub(crate) fn lose_everything(&self) {
        std::fs::remove_dir_all(self.machine.path()).expect("the home can be removed");
    }
}

impl Kept {
    /// Runs `recover` on a machine that has nothing else.
    pub(crate) fn recover(&self, machine: &Home, rest: &[&str]) -> Finished {
        let mut arguments = vec!["recover", "--credentials", text(&self.credentials)];
        arguments.extend(["--passphrase-file", text(&self.passphrase)]);
        arguments.extend(rest);
        machine.run(arguments)
    }
}

/// Makes a vault at `place`.
pub(crate) fn create(owner: &Home, place: &Place, credentials: &Path) -> Finished {
    let keys = owner.directory("keys");
    let access = place.arguments(&keys);
    let mut arguments = vec!["vault", "create", &place.url, "--credentials", text(credentials)];
    arguments.extend(access.iter().map(String::as_str));
    owner.run(arguments)
}

/// Registers a machine; its passphrase is made.
pub(crate) fn register(machine: &Home, kept: &Kept, label: &str) -> Finished {
    let arguments = ["vault", "register", "--credentials", text(&kept.credentials)];
    let passphrase = ["--generate-passphrase", text(&kept.passphrase), "--label", label];
    machine.run(arguments.into_iter().chain(passphrase))
}

/// Returns a path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}
