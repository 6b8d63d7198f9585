//! The configuration file: TOML in, validated types out, with file and line in every complaint.
//!
//! Nothing is guessed: an unknown key and a value out of range stop the program before it touches anything. Each section has a room of its own;
//! [`reader`] holds what they share, [`edit`] changes the file and keeps its comments.

mod edit;
mod pool;
mod reader;
mod vault;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml_edit::Document;

pub(crate) use edit::{new_file, with_pool_path, with_vault, write};
pub(crate) use pool::PoolConfig;
pub(crate) use vault::{VaultConfig, is_vault_name};

use crate::error::{Attempt, Cause, Error};
use reader::{Reader, Section};

/// What the configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// The file.
    pub(crate) path: PathBuf,
    /// `[pool]`.
    pub(crate) pool: PoolConfig,
    /// `[vault.NAME]`.
    pub(crate) vaults: BTreeMap<String, VaultConfig>,
}

/// Something in the configuration file that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    path: PathBuf,
    line: usize,
    message: String,
    nearest: Option<String>,
    known: Vec<&'static str>,
}

impl ConfigError {
    /// Returns the valid word that was most likely meant.
    pub(crate) fn nearest(&self) -> Option<&str> {
        self.nearest.as_deref()
    }

    /// Returns a sentence with all valid words, if there are any to choose from.
    pub(crate) fn known(&self) -> Option<String> {
        (!self.known.is_empty()).then(|| format!("valid here: {}", self.known.join(", ")))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let cause = Cause::NoConfiguration { path: path.to_path_buf() };
                return Err(Error { attempt: String::new(), cause });
            }
            Err(cause) => {
                let cause = Cause::Io { action: "read", path: path.to_path_buf(), cause };
                return Err(Error { attempt: "use the configuration".to_string(), cause });
            }
        };
        Self::parse(path, &text).attempt(|| "use the configuration".to_string())
    }

    /// Reads the text of the file at `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let reader = Reader { path, text };
        let document = Document::parse(text)
            .map_err(|error| reader.error(error.span(), error.message().to_string()))?;
        let root = Section::root(&reader, document.as_table());
        root.only_known(&["pool", "vault"])?;
        let Some(pool) = root.section("pool", "[pool]")? else {
            return Err(reader.error(None, "there is no [pool]".to_string()));
        };
        let pool = PoolConfig::read(&pool)?;
        let mut vaults = BTreeMap::new();
        for (name, section) in root.named_sections("vault", "[vault.main]")? {
            vaults.insert(name.to_string(), VaultConfig::read(name, &section)?);
        }
        Ok(Self { path: path.to_path_buf(), pool, vaults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/keepwell/keepwell.toml"), text)
    }

    #[test]
    fn each_mistake_is_told_with_file_line_and_the_nearest_key() {
        let cases = [
            ("", "1: there is no [pool]", None),
            ("[pool]\n", "1: [pool] has no paths", None),
            ("[pol]\npaths = []", "1: unknown key \"pol\"", Some("pool")),
            (
                "[pool]\npaths = [\"p\"]\n\nresevre = \"5%\"",
                "4: unknown key \"resevre\" in [pool]",
                Some("reserve"),
            ),
            ("[pool]\nwhatever = 1", "2: unknown key \"whatever\" in [pool]", None),
            (
                "[pool]\npaths = []",
                "2: pool.paths: expected a list of directories such as [\"/var/lib/keepwell/pool\"]",
                None,
            ),
            (
                "[pool]\npaths = [\n \"a\",\n 7]",
                "4: pool.paths: expected a list of directories such as [\"/var/lib/keepwell/pool\"]",
                None,
            ),
            (
                "[pool]\npaths = [\"a\", \"a\"]",
                "2: pool.paths: /etc/keepwell/a stands there twice",
                None,
            ),
            (
                "[pool]\npaths = [\"a\"]\nreserve = \"80%\"",
                "3: pool.reserve: \"80%\" is neither a percentage such as \"5%\" nor a size such as \"20G\"",
                None,
            ),
            (
                "[pool]\npaths = [\"a\"]\nreserve = true",
                "3: pool.reserve: expected a percentage such as \"5%\" or a size such as \"20G\"",
                None,
            ),
            (
                "[pool]\npaths = [\"a\"]\ncompression = 20",
                "3: pool.compression: expected a zstd level from -7 to 19",
                None,
            ),
            (
                "[pool]\npaths = [\"a\"]\npack_size = \"1T\"",
                "3: pool.pack_size: expected a size from \"1M\" to \"128M\"",
                None,
            ),
            (
                "[pool]\npaths = [\"a\"]\n[pool.reserve]\nx = 1",
                "3: pool.reserve: expected a value, found a table",
                None,
            ),
            ("pool = 3", "1: pool must be a table: [pool]", None),
        ];
        for (text, message, near) in cases {
            let error = parse(text).expect_err(text);

            assert_eq!(error.to_string(), format!("/etc/keepwell/keepwell.toml:{message}"));
            assert_eq!(error.nearest(), near, "{text}");
        }
    }

    #[test]
    fn broken_toml_is_told_with_its_line() {
        let error = parse("[pool]\npaths = [\"a\"\n\nreserve = 5").unwrap_err();

        assert!(error.to_string().starts_with("/etc/keepwell/keepwell.toml:4: "), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}
