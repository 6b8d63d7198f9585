//! `drill = { ... }` of a group: how and when it is proven that its points can be restored.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use storepool::size::Size;
use storepool::space::parse_size;
use toml_edit::InlineTable;

use super::ConfigError;
use super::reader::Section;
use crate::schedule::Schedule;

/// Enough to meet many packs, little enough for any disk.
const USUAL_SAMPLE: u64 = 1 << 30;
const EXAMPLE: &str = "drill = { schedule = \"monthly 1st Sun\", from = \"vault\" }";
const DAY: Duration = Duration::from_secs(86_400);

/// `drill = { ... }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DrillConfig {
    /// When; `None`: only by hand.
    pub(crate) schedule: Option<Schedule>,
    /// Which copy is restored.
    pub(crate) from: DrillCopy,
    /// How much of each source.
    pub(crate) sample: SampleSize,
    /// The folder for sandboxes; `None`: a private one of the state.
    pub(crate) folder: Option<PathBuf>,
    /// Without a successful drill for so long there is an alert; `None`: twice the longest pause of the schedule.
    pub(crate) alert_after: Option<Duration>,
}

/// Which copy a drill restores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DrillCopy {
    /// The first one.
    #[default]
    Pool,
    /// The second one, in the vault of the group.
    Vault,
}

/// How much of a source a drill restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampleSize {
    /// Everything.
    All,
    /// Files of so many bytes together, chosen at random.
    Bytes(u64),
}

impl Default for SampleSize {
    fn default() -> Self {
        Self::Bytes(USUAL_SAMPLE)
    }
}

impl DrillCopy {
    /// Returns its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Vault => "vault",
        }
    }
}

impl SampleSize {
    /// Returns it in a unit that people know; [`Display`](fmt::Display) is exact.
    pub(crate) fn for_people(self) -> String {
        match self {
            Self::All => "all".to_string(),
            Self::Bytes(bytes) => Size(bytes).to_string(),
        }
    }
}

impl FromStr for SampleSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            // Nothing would be proven by nothing.
            text => parse_size(text).filter(|bytes| *bytes > 0).map(Self::Bytes).ok_or_else(|| {
                "expected \"all\" or a size such as \"1GiB\", more than nothing".to_string()
            }),
        }
    }
}

impl fmt::Display for SampleSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl DrillConfig {
    /// Reads the section of a group that has a vault, or has none.
    pub(super) fn read(group: &Section<'_>, has_vault: bool) -> Result<Option<Self>, ConfigError> {
        let Some(section) = group.section("drill", EXAMPLE)? else { return Ok(None) };
        section.only_known(&["schedule", "from", "sample", "in", "alert_after"])?;
        let schedule = match section.text("schedule", "a schedule such as \"monthly 1st Sun\"")? {
            Some("never") | None => None,
            Some(_) => section.parsed("schedule", "a schedule such as \"monthly 1st Sun\"")?,
        };
        let from = match section.text("from", "\"pool\" or \"vault\"")? {
            None | Some("pool") => DrillCopy::Pool,
            Some("vault") if has_vault => DrillCopy::Vault,
            Some("vault") => {
                let message = "the group has no vault: name one with vault = \"...\"";
                return Err(section.wrong("from", message));
            }
            Some(word) => {
                let message = "expected \"pool\" or \"vault\"".to_string();
                return Err(section.unknown_word("from", message, word, ["pool", "vault"]));
            }
        };
        let sample =
            section.value("sample", |value| match (value.as_str(), value.as_integer()) {
                (Some(text), _) => text.parse(),
                (None, Some(bytes)) => bytes.to_string().parse(),
                (None, None) => Err("expected \"all\" or a size such as \"1GiB\"".to_string()),
            })?;
        Ok(Some(Self {
            schedule,
            from,
            sample: sample.unwrap_or_default(),
            folder: section.path("in", "the path of a folder")?,
            alert_after: section.duration("alert_after", DAY..=DAY * 3650)?,
        }))
    }

    /// Returns it as it is in force.
    pub(super) fn shown(&self) -> InlineTable {
        let mut table = InlineTable::new();
        let schedule = self.schedule.as_ref().map_or("never".to_string(), ToString::to_string);
        table.insert("schedule", schedule.into());
        table.insert("from", self.from.word().into());
        let sample = match self.sample {
            SampleSize::All => "all".into(),
            SampleSize::Bytes(bytes) => (bytes as i64).into(),
        };
        table.insert("sample", sample);
        if let Some(folder) = &self.folder {
            table.insert("in", folder.display().to_string().into());
        }
        if let Some(after) = self.alert_after {
            table.insert("alert_after", crate::duration::text(after).into());
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn drill(vault: &str, drill: &str) -> Result<Option<DrillConfig>, String> {
        let text = format!(
            "[pool]\npaths = [\"p\"]\n{vault}[group.web]\nsources = [{{ files = [\"/\"] }}]\n{drill}"
        );
        let config = Config::parse(Path::new("/c.toml"), &text);
        config
            .map(|config| config.groups["web"].drill.clone())
            .map_err(|error| format!("{error} {}", error.nearest().unwrap_or_default()))
    }

    #[test]
    fn a_drill_is_read_and_what_cannot_be_meant_is_told() {
        const VAULT: &str = "[vault.main]\ncredentials = \"c\"\n";
        let read = drill(VAULT, "drill = { schedule = \"monthly 1st Sun\", from = \"vault\" }\n");
        let read = read.unwrap().unwrap();
        assert_eq!((read.from, read.sample), (DrillCopy::Vault, SampleSize::Bytes(1 << 30)));
        let whole = drill("", "[group.web.drill]\nsample = \"all\"\nin = \"d\"\n");
        let whole = whole.unwrap().unwrap();
        assert_eq!((whole.sample, whole.folder), (SampleSize::All, Some("/d".into())));
        assert_eq!(drill("", "").unwrap(), None);

        for (wrong, told) in [
            ("drill = { shedule = \"daily\" }", "schedule"),
            ("drill = { from = \"vault\" }", "has no vault"),
            ("drill = { from = \"pol\" }", "pool"),
            ("drill = { sample = \"0\" }", "more than nothing"),
            ("drill = { alert_after = \"1h\" }", "from 1d"),
            ("drill = true", "must be a table"),
        ] {
            let error = drill("", &format!("{wrong}\n")).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
