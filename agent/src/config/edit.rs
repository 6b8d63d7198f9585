//! Changes of the configuration file: made in its text, so that comments and order survive, and written whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use storepool::pool::PoolOptions;
use toml_edit::{DocumentMut, Item, Table, Value};

use crate::error::Cause;

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

/// Reads the text of the file.
pub(crate) fn read(path: &Path) -> Result<String, Cause> {
    fs::read_to_string(path).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => Cause::NoConfiguration { path: path.to_path_buf() },
        _ => Cause::Io { action: "read", path: path.to_path_buf(), cause },
    })
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

/// One change of a group: `None` takes the key out. A key of two words, as in `retention.daily`, stands in a table of the group.
pub(crate) type GroupChange = (&'static str, Option<Value>);

/// Returns the text with `[group.NAME]` changed, or added if it is not there; comments survive. `None` if the text is no sound TOML.
pub(crate) fn with_group(text: &str, name: &str, changes: &[GroupChange]) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let known = document.get("group").and_then(|groups| groups.get(name)).is_some();
    let comments = document.trailing().as_str().unwrap_or_default().trim_end().to_string();
    if !known {
        document.set_trailing("");
    }
    let groups = document.entry("group").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let groups = groups.as_table_like_mut()?;
    if !known {
        let mut group = Table::new();
        let above = if comments.is_empty() { "\n".to_string() } else { format!("{comments}\n\n") };
        group.decor_mut().set_prefix(above);
        groups.insert(name, Item::Table(group));
    }
    let group = groups.get_mut(name)?.as_table_like_mut()?;
    for (key, value) in changes {
        match key.split_once('.') {
            None => set(group, key, value.clone()),
            Some((table, key)) => {
                let empty = || toml_edit::value(toml_edit::InlineTable::new());
                let inner = group.entry(table).or_insert_with(empty).as_table_like_mut()?;
                set(inner, key, value.clone());
                if inner.is_empty() {
                    group.remove(table);
                } else if let Some(inline) =
                    group.get_mut(table).and_then(Item::as_inline_table_mut)
                {
                    // Otherwise the space before the brace ends up before the next comma.
                    inline.fmt();
                }
            }
        }
    }
    Some(document.to_string())
}

fn set(table: &mut dyn toml_edit::TableLike, key: &str, value: Option<Value>) {
    let Some(mut value) = value else {
        table.remove(key);
        return;
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        // What stands beside the old value, a comment for instance, stays.
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            table.insert(key, Item::Value(value));
        }
    }
}

/// Returns the text without `[group.NAME]`; comments elsewhere survive. `None` if the text is no sound TOML or has no such group.
pub(crate) fn without_group(text: &str, name: &str) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let groups = document.get_mut("group")?.as_table_like_mut()?;
    let group = groups.remove(name)?;
    if groups.is_empty() {
        document.remove("group");
    }
    // What stands right above the group goes with it; what a blank line parts from it is about something else.
    let above = group.as_table().and_then(|table| table.decor().prefix()?.as_str());
    let apart = above.and_then(|above| above.rsplit_once("\n\n")).map_or("", |(apart, _)| apart);
    if !apart.trim().is_empty() {
        let trailing = document.trailing().as_str().unwrap_or_default().to_string();
        document.set_trailing(format!("{apart}\n{trailing}"));
    }
    Some(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError, PoolConfig};
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

    const GROUPS: &str = "\
# mine
[pool]
paths = [\"p\"]

# the web server
[group.web] # important
sources = [{ files = [\"/srv\"] }]
schedule = \"15m\" # often

# the rest
[group.rest]
sources = [{ files = [\"/\"] }]
# the end
";

    #[test]
    fn a_group_is_added_changed_and_removed_and_comments_survive() {
        let files = |path: &str| {
            let mut source = toml_edit::InlineTable::new();
            source.insert("files", Value::from_iter([path]));
            Some(Value::from_iter([source]))
        };

        let changes = [
            ("schedule", Some("daily 02:00".into())),
            ("retention.daily", Some(7.into())),
            ("retention.weekly", Some(4.into())),
        ];
        let changed = with_group(GROUPS, "web", &changes).unwrap();
        let added = with_group(&changed, "db", &[("sources", files("/var"))]).unwrap();
        let removed = without_group(&added, "rest").unwrap();
        let unset = with_group(
            &removed,
            "web",
            &[("retention.daily", None), ("retention.weekly", None), ("schedule", None)],
        );

        assert!(changed.contains("schedule = \"daily 02:00\" # often"), "{changed}");
        assert!(changed.contains("retention = { daily = 7, weekly = 4 }"), "{changed}");
        assert_eq!(parse(&added).unwrap().groups.len(), 3);
        assert!(
            added.ends_with("# the end\n\n[group.db]\nsources = [{ files = [\"/var\"] }]\n"),
            "{added}"
        );
        for comment in ["# mine", "# the web server", "# important", "# often"] {
            assert!(removed.contains(comment), "{comment}: {removed}");
        }
        assert_eq!(parse(&removed).unwrap().groups.keys().collect::<Vec<_>>(), ["db", "web"]);
        let unset = unset.unwrap();
        assert!(!unset.contains("retention") && !unset.contains("schedule"), "{unset}");
        assert_eq!(without_group(GROUPS, "nothing"), None);
    }
}
