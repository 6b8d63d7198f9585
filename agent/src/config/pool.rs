//! `[pool]`: where the pool is and how it is written.

use std::path::PathBuf;
use std::str::FromStr;

use storepool::pool::PoolOptions;
use storepool::space::{Reserve, parse_size};

use super::ConfigError;
use super::reader::Section;

/// Levels of zstd that are worth their time.
const COMPRESSION: std::ops::RangeInclusive<i64> = -7..=19;
/// Smallest and largest pack: smaller ones are too many files, larger ones take too long to copy in a prune.
const PACK_SIZE: std::ops::RangeInclusive<u64> = (1 << 20)..=(128 << 20);

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

impl PoolConfig {
    /// Reads the section.
    pub(super) fn read(section: &Section<'_>) -> Result<Self, ConfigError> {
        section.only_known(&["paths", "reserve", "compression", "pack_size"])?;
        let defaults = PoolOptions::default();
        let paths = paths(section)?;
        let reserve =
            section.value("reserve", |value| match (value.as_str(), value.as_integer()) {
                (Some(text), _) => Reserve::from_str(text),
                (_, Some(bytes)) if bytes >= 0 => Ok(Reserve::Bytes(bytes.unsigned_abs())),
                _ => {
                    Err("expected a percentage such as \"5%\" or a size such as \"20G\""
                        .to_string())
                }
            })?;
        let compression = section.value("compression", |value| {
            value.as_integer().filter(|level| COMPRESSION.contains(level)).ok_or_else(|| {
                format!(
                    "expected a zstd level from {} to {}",
                    COMPRESSION.start(),
                    COMPRESSION.end()
                )
            })
        })?;
        let pack_size = section.value("pack_size", |value| {
            let size = match value.as_integer() {
                Some(bytes) => u64::try_from(bytes).ok(),
                None => value.as_str().and_then(parse_size),
            };
            size.filter(|size| PACK_SIZE.contains(size))
                .ok_or_else(|| "expected a size from \"1M\" to \"128M\"".to_string())
        })?;
        Ok(Self {
            paths,
            reserve: reserve.unwrap_or(defaults.reserve),
            compression: compression.map_or(defaults.compression_level, |level| level as i32),
            pack_size: pack_size.unwrap_or(defaults.pack_length),
        })
    }

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

fn paths(section: &Section<'_>) -> Result<Vec<PathBuf>, ConfigError> {
    const EXPECTED: &str = "expected a list of directories such as [\"/var/lib/keepwell/pool\"]";
    let Some(item) = section.get("paths") else {
        return Err(section.complaint("[pool] has no paths".to_string()));
    };
    let array = item.as_array().filter(|array| !array.is_empty());
    let array = array.ok_or_else(|| section.wrong("paths", EXPECTED))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for value in array {
        let text = value.as_str().filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| section.wrong_element("paths", value, EXPECTED))?;
        let path = section.resolve(text);
        if paths.contains(&path) {
            let message = format!("{} stands there twice", path.display());
            return Err(section.wrong_element("paths", value, message));
        }
        paths.push(path);
    }
    Ok(paths)
}
