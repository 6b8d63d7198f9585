//! The configuration file: TOML in, validated types out, with file and line in every complaint.
//!
//! Nothing is guessed: an unknown key and a value out of range stop the program before it touches anything.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use storepool::pool::PoolOptions;
use storepool::space::{Reserve, parse_size};
use toml_edit::{Document, DocumentMut, Item, Table, TableLike, Value};

use crate::error::{Attempt, Cause, Error};
use crate::nearest::nearest;

/// Levels of zstd that are worth their time.
const COMPRESSION: std::ops::RangeInclusive<i64> = -7..=19;
/// Smallest and largest pack: smaller ones are too many files, larger ones take too long to copy in a prune.
const PACK_SIZE: std::ops::RangeInclusive<u64> = (1 << 20)..=(128 << 20);

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

/// `[vault.NAME]`: where the second copy goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VaultConfig {
    /// The credentials file; a relative one is meant from the folder of the configuration.
    pub(crate) credentials: PathBuf,
}

/// `[pool]`: where the pool is and how it is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolConfig {
    /// Its directories; relative ones are meant from the folder of the file.
    pub(crate) paths: Vec<PathBuf>,
    /// Space on each disk that only prune may use.
    pub(crate) reserve: Reserve,
    /// zstd level.
    pub(crate) compression: i32,
    /// Packs are closed at this size in bytes.
    pub(crate) pack_size: u64,
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
        let root = document.as_table();
        reader.only_known(root, "", &["pool", "vault"])?;
        let Some(item) = root.get("pool") else {
            return Err(reader.error(None, "there is no [pool]".to_string()));
        };
        let pool = item
            .as_table_like()
            .ok_or_else(|| reader.error(item.span(), "pool must be a table: [pool]".to_string()))?;
        let pool = reader.pool(pool, item.span())?;
        Ok(Self { path: path.to_path_buf(), pool, vaults: reader.vaults(root.get("vault"))? })
    }
}

impl PoolConfig {
    /// Returns the options to open the pool with, for a process that others see as `holder`.
    pub(crate) fn options(&self, holder: String) -> PoolOptions {
        PoolOptions {
            compression_level: self.compression,
            pack_length: self.pack_size,
            reserve: self.reserve,
            holder,
        }
    }
}

/// Returns the text of a new configuration file for a pool in `paths`.
pub(crate) fn new_file(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|path| path.to_string_lossy().into_owned());
    let paths = Value::from_iter(paths).to_string();
    let defaults = PoolOptions::default();
    format!(
        "\
# Configuration of Keepwell. A misspelt key is an error, never ignored.

[pool]
# One directory per disk; chunks go where most room is. A relative one is meant from the folder of this file.
paths = {paths}

# Space on each disk that only prune may use, so that a full pool can always be cleaned up: \"5%\" (at most 10 GiB) or \"20G\".
# reserve = \"5%\"

# zstd level for new data, -7 (fastest) to 19 (smallest).
# compression = {level}

# Packs are closed at this size, 1M to 128M.
# pack_size = \"{pack}M\"
",
        paths = paths.trim(),
        level = defaults.compression_level,
        pack = defaults.pack_length >> 20,
    )
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn pool(
        &self,
        table: &dyn TableLike,
        span: Option<Range<usize>>,
    ) -> Result<PoolConfig, ConfigError> {
        self.only_known(table, "pool", &["paths", "reserve", "compression", "pack_size"])?;
        let defaults = PoolOptions::default();
        let paths = match table.get("paths") {
            Some(item) => self.paths(item)?,
            None => return Err(self.error(span, "[pool] has no paths".to_string())),
        };
        let reserve =
            self.optional(table, "reserve", defaults.reserve, |value| {
                match (value.as_str(), value.as_integer()) {
                    (Some(text), _) => Reserve::from_str(text),
                    (_, Some(bytes)) if bytes >= 0 => Ok(Reserve::Bytes(bytes.unsigned_abs())),
                    _ => Err("expected a percentage such as \"5%\" or a size such as \"20G\""
                        .to_string()),
                }
            })?;
        let level = i64::from(defaults.compression_level);
        let compression = self.optional(table, "compression", level, |value| {
            value.as_integer().filter(|level| COMPRESSION.contains(level)).ok_or_else(|| {
                format!(
                    "expected a zstd level from {} to {}",
                    COMPRESSION.start(),
                    COMPRESSION.end()
                )
            })
        })?;
        let pack_size = self.optional(table, "pack_size", defaults.pack_length, |value| {
            let size = match value.as_integer() {
                Some(bytes) => u64::try_from(bytes).ok(),
                None => value.as_str().and_then(parse_size),
            };
            size.filter(|size| PACK_SIZE.contains(size))
                .ok_or_else(|| "expected a size from \"1M\" to \"128M\"".to_string())
        })?;
        Ok(PoolConfig { paths, reserve, compression: compression as i32, pack_size })
    }

    fn vaults(&self, item: Option<&Item>) -> Result<BTreeMap<String, VaultConfig>, ConfigError> {
        let Some(item) = item else { return Ok(BTreeMap::new()) };
        let not_a_table = |span| self.error(span, "vault must be tables: [vault.main]".to_string());
        let vaults = item.as_table_like().ok_or_else(|| not_a_table(item.span()))?;
        let mut found = BTreeMap::new();
        for (name, item) in vaults.iter() {
            let vault = item.as_table_like().ok_or_else(|| not_a_table(item.span()))?;
            if !is_vault_name(name) {
                let expected = "a name of a vault has 1 to 63 of a-z, 0-9, - and _";
                return Err(self.error(item.span(), expected.to_string()));
            }
            self.only_known(vault, &format!("vault.{name}"), &["credentials"])?;
            let Some(credentials) = vault.get("credentials") else {
                return Err(self.error(item.span(), format!("[vault.{name}] has no credentials")));
            };
            let text = credentials.as_str().filter(|text| !text.is_empty()).ok_or_else(|| {
                let expected = format!("vault.{name}.credentials: expected the path of a file");
                self.error(credentials.span(), expected)
            })?;
            let folder = self.path.parent().unwrap_or(Path::new(""));
            found.insert(name.to_string(), VaultConfig { credentials: folder.join(text) });
        }
        Ok(found)
    }

    fn paths(&self, item: &Item) -> Result<Vec<PathBuf>, ConfigError> {
        let expected =
            "pool.paths: expected a list of directories such as [\"/var/lib/keepwell/pool\"]";
        let wrong = |span| self.error(span, expected.to_string());
        let array = item.as_array().filter(|array| !array.is_empty());
        let array = array.ok_or_else(|| wrong(item.span()))?;
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let mut paths: Vec<PathBuf> = Vec::new();
        for value in array {
            let text = value.as_str().filter(|text| !text.is_empty());
            let path = folder.join(text.ok_or_else(|| wrong(value.span()))?);
            if paths.contains(&path) {
                let message = format!("pool.paths: {} stands there twice", path.display());
                return Err(self.error(value.span(), message));
            }
            paths.push(path);
        }
        Ok(paths)
    }

    fn optional<T>(
        &self,
        table: &dyn TableLike,
        key: &str,
        default: T,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let Some(item) = table.get(key) else { return Ok(default) };
        let read = match item.as_value() {
            Some(value) => read(value),
            None => Err("expected a value, found a table".to_string()),
        };
        read.map_err(|message| self.error(item.span(), format!("pool.{key}: {message}")))
    }

    fn only_known(
        &self,
        table: &dyn TableLike,
        name: &str,
        known: &[&'static str],
    ) -> Result<(), ConfigError> {
        for (key, item) in table.iter() {
            if known.contains(&key) {
                continue;
            }
            let span = table.key(key).and_then(|key| key.span()).or_else(|| item.span());
            let place = if name.is_empty() { String::new() } else { format!(" in [{name}]") };
            let mut error = self.error(span, format!("unknown key \"{key}\"{place}"));
            error.nearest = nearest(key, known.iter().copied()).map(str::to_string);
            error.known = known.to_vec();
            return Err(error);
        }
        Ok(())
    }

    fn error(&self, span: Option<Range<usize>>, message: String) -> ConfigError {
        let start = span.map_or(0, |span| span.start).min(self.text.len());
        let line = 1 + self.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        // The TOML reader explains on several lines; ours are single.
        let message = message.trim().replace('\n', ", ");
        ConfigError { path: self.path.to_path_buf(), line, message, nearest: None, known: vec![] }
    }
}

/// Returns the text with the directory `path` added to (or taken out of) `[pool] paths`; comments survive. `folder` is the folder of the file.
pub(crate) fn with_pool_path(text: &str, folder: &Path, path: &Path, add: bool) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let paths = document.get_mut("pool")?.get_mut("paths")?.as_array_mut()?;
    if add {
        // Inside the folder relative, so that the whole of it can be moved.
        paths.push(path.strip_prefix(folder).unwrap_or(path).to_str()?);
    } else {
        paths.retain(|value| value.as_str().is_none_or(|text| folder.join(text) != path));
    }
    Some(document.to_string())
}

/// Writes the file whole, durable on return, with the folders above it. Only its owner may read it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Cause> {
    let io = |action: &'static str, path: &Path| {
        let path = path.to_path_buf();
        move |cause| Cause::Io { action, path, cause }
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    let temporary = path.with_extension("toml.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(io("remove", &temporary)(error));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&temporary).map_err(io("create", &temporary))?;
    file.write_all(text.as_bytes()).map_err(io("write", &temporary))?;
    file.sync_all().map_err(io("sync", &temporary))?;
    fs::rename(&temporary, path).map_err(io("rename", &temporary))?;
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(io("sync", folder))
}

/// Returns whether a vault can be called this in the configuration.
pub(crate) fn is_vault_name(name: &str) -> bool {
    let fine =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=63).contains(&name.len()) && name.bytes().all(fine)
}

/// Returns the text with `[vault.NAME]` added or replaced; comments survive. `None` if the text is no sound TOML.
pub(crate) fn with_vault(text: &str, name: &str, credentials: &Path) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    // Comments at the end of the file belong to what stands above them, so they stay there.
    let comments = document.trailing().as_str().unwrap_or_default().trim_end().to_string();
    document.set_trailing("");
    let vaults = document.entry("vault").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let mut vault = Table::new();
    let above = if comments.is_empty() { "\n".to_string() } else { format!("{comments}\n\n") };
    vault.decor_mut().set_prefix(above);
    vault.insert("credentials", toml_edit::value(credentials.to_str()?));
    vaults.as_table_like_mut()?.insert(name, Item::Table(vault));
    Some(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/keepwell/keepwell.toml"), text)
    }

    #[test]
    fn a_new_file_means_the_defaults() {
        let text = new_file(&["pool".into(), "/mnt/b \"q\"".into()]);

        let config = parse(&text).unwrap();

        let defaults = PoolOptions::default();
        assert_eq!(
            config.pool,
            PoolConfig {
                paths: vec!["/etc/keepwell/pool".into(), "/mnt/b \"q\"".into()],
                reserve: defaults.reserve,
                compression: defaults.compression_level,
                pack_size: defaults.pack_length,
            }
        );
        let uncommented =
            text.replace("# reserve", "reserve").replace("# compression", "compression");
        assert_eq!(parse(&uncommented.replace("# pack_size", "pack_size")), Ok(config));
    }

    #[test]
    fn a_vault_is_entered_below_everything_else_and_comments_survive() {
        let text = with_vault(&new_file(&["pool".into()]), "main", Path::new("main.vault"));

        let text = text.unwrap();
        assert!(text.ends_with("\n\n[vault.main]\ncredentials = \"main.vault\"\n"), "{text}");
        assert!(text.contains("# pack_size"));
        let config = parse(&text).unwrap();
        assert_eq!(config.vaults["main"].credentials, PathBuf::from("/etc/keepwell/main.vault"));
        let again = with_vault(&text, "second", Path::new("/b")).unwrap();
        assert_eq!(parse(&again).unwrap().vaults.len(), 2);
        for (wrong, message) in [
            ("[pool]\npaths = [\"p\"]\n[vault.M]\ncredentials = \"x\"", "a name of a vault"),
            ("[pool]\npaths = [\"p\"]\n[vault.m]\n", "has no credentials"),
            ("[pool]\npaths = [\"p\"]\n[vault.m]\ncredential = \"x\"", "unknown key"),
        ] {
            assert!(parse(wrong).unwrap_err().to_string().contains(message), "{wrong}");
        }
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

    #[test]
    fn a_disk_is_added_and_comments_survive() {
        let text = "# mine\n[pool] # the pool\npaths = [\"a\"] # one\n";

        let edit = |text: &str, path: &str, add| {
            with_pool_path(text, Path::new("/etc/keepwell"), Path::new(path), add).unwrap()
        };
        let two = edit(text, "/mnt/b", true);
        let three = edit(&two, "/etc/keepwell/c", true);
        let one = edit(&two, "/etc/keepwell/a", false);

        assert_eq!(two, "# mine\n[pool] # the pool\npaths = [\"a\", \"/mnt/b\"] # one\n");
        assert!(three.contains("\"c\"]"), "{three}");
        assert!(one.contains("# mine") && one.contains("# one") && !one.contains("\"a\""));
    }
}
