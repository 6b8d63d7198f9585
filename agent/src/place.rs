//! Where the configuration, the pool and the state of this installation are.

use std::env;
use std::path::{Path, PathBuf};

/// The places of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The configuration file.
    pub(crate) configuration: PathBuf,
    /// Where `init` makes the pool if nothing else is asked for.
    pub(crate) pool: PathBuf,
    /// Everything below one directory, chosen with `--home`.
    pub(crate) home: Option<PathBuf>,
}

/// What decides the places besides the command line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// Whether this process is root.
    pub(crate) root: bool,
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub(crate) config_home: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub(crate) data_home: Option<PathBuf>,
}

impl Surroundings {
    /// Returns what the process was started with.
    pub(crate) fn of_process() -> Self {
        // The XDG specification: relative paths are to be ignored.
        let absolute =
            |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            root: rustix::process::geteuid().is_root(),
            home: absolute("HOME"),
            config_home: absolute("XDG_CONFIG_HOME"),
            data_home: absolute("XDG_DATA_HOME"),
        }
    }
}

impl Place {
    /// Returns the places for the given `--home` and `--config`; `None` if there is no home folder to fall back to.
    pub(crate) fn choose(
        home: Option<&Path>,
        configuration: Option<&Path>,
        surroundings: &Surroundings,
    ) -> Option<Self> {
        let mut place = match home {
            Some(home) => Self {
                configuration: home.join("keepwell.toml"),
                pool: home.join("pool"),
                home: Some(home.to_path_buf()),
            },
            None if surroundings.root => Self {
                configuration: PathBuf::from("/etc/keepwell/keepwell.toml"),
                pool: PathBuf::from("/var/lib/keepwell/pool"),
                home: None,
            },
            None => {
                let below = |set: &Option<PathBuf>, usual: &str| {
                    set.clone().or_else(|| Some(surroundings.home.as_ref()?.join(usual)))
                };
                Self {
                    configuration: below(&surroundings.config_home, ".config")?
                        .join("keepwell/keepwell.toml"),
                    pool: below(&surroundings.data_home, ".local/share")?.join("keepwell/pool"),
                    home: None,
                }
            }
        };
        if let Some(configuration) = configuration {
            place.configuration = configuration.to_path_buf();
        }
        Some(place)
    }
}

impl Place {
    /// Returns where systemd puts the credential `name` of this service, if it runs as one that has any.
    pub(crate) fn credential(&self, name: &str) -> Option<PathBuf> {
        let folder = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)?;
        folder.is_absolute().then(|| folder.join(name))
    }

    /// Returns the folder of what this installation remembers besides the pool: keys, anchors and ledgers of vaults.
    pub(crate) fn state(&self) -> PathBuf {
        self.pool.with_file_name("state")
    }

    /// Returns the copy of the configuration that the daemon has in force: its jobs read this one, so that a slip in the file stops none of them.
    pub(crate) fn in_force(&self) -> PathBuf {
        self.state().join("configuration-in-force.toml")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_user_has_a_place() {
        let user = Surroundings { home: Some("/home/eva".into()), ..Surroundings::default() };
        let root = Surroundings { root: true, ..user.clone() };
        let moved = Surroundings { config_home: Some("/c".into()), ..user.clone() };
        let at = |home: Option<&str>, config: Option<&str>, surroundings: &Surroundings| {
            let place = Place::choose(home.map(Path::new), config.map(Path::new), surroundings);
            place.map(|place| format!("{} {}", place.configuration.display(), place.pool.display()))
        };

        for (found, expected) in [
            (at(None, None, &root), "/etc/keepwell/keepwell.toml /var/lib/keepwell/pool"),
            (
                at(None, None, &user),
                "/home/eva/.config/keepwell/keepwell.toml /home/eva/.local/share/keepwell/pool",
            ),
            (
                at(None, None, &moved),
                "/c/keepwell/keepwell.toml /home/eva/.local/share/keepwell/pool",
            ),
            (at(Some("/t"), None, &root), "/t/keepwell.toml /t/pool"),
            (at(Some("/t"), Some("/x.toml"), &user), "/x.toml /t/pool"),
        ] {
            assert_eq!(found.as_deref(), Some(expected));
        }
        assert_eq!(at(None, None, &Surroundings::default()), None);
    }
}
