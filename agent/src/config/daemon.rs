//! `[daemon]`: how much of the machine the running agent may take.

use super::ConfigError;
use super::group::size;
use super::reader::Section;

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DaemonConfig {
    /// Jobs that run side by side.
    pub(crate) slots: usize,
    /// How nice jobs are to other processes, 0 to 19.
    pub(crate) nice: i32,
    /// How jobs are served by the disks.
    pub(crate) io: IoClass,
    /// Most memory that one job may take, in bytes; `None`: what it needs.
    pub(crate) memory: Option<u64>,
    /// How often a failed job is tried again before the next scheduled time.
    pub(crate) retries: u32,
    /// How many jobs the history keeps.
    pub(crate) history: u32,
}

/// How the disks serve a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IoClass {
    /// As any other.
    Normal,
    /// After the others, but never starved.
    Low,
    /// Only when nobody else wants them.
    Idle,
}

impl IoClass {
    const WORDS: [(&str, Self); 3] =
        [("normal", Self::Normal), ("low", Self::Low), ("idle", Self::Idle)];

    /// Returns its word in the configuration.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, class)| *class == self).map_or("normal", |(word, _)| word)
    }
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self { slots: 2, nice: 10, io: IoClass::Low, memory: None, retries: 3, history: 10_000 }
    }
}

impl DaemonConfig {
    /// Reads the section, if there is one.
    pub(super) fn read(section: Option<Section<'_>>) -> Result<Self, ConfigError> {
        let usual = Self::default();
        let Some(section) = section else { return Ok(usual) };
        section.only_known(&["slots", "nice", "io", "memory", "retries", "history"])?;
        let number = |key, range, usual| Ok(section.number(key, range)?.unwrap_or(usual));
        let io = section.value("io", |value| {
            let word = value.as_str().unwrap_or_default();
            let found = IoClass::WORDS.iter().find(|(known, _)| *known == word);
            found.map(|(_, class)| *class).ok_or("expected \"normal\", \"low\" or \"idle\"".into())
        })?;
        let memory = section.value("memory", size)?;
        // Below that, one worker's buffers do not fit and no backup would ever succeed.
        const MEMORY_LEAST: u64 = 256 << 20;
        if memory.is_some_and(|memory| memory < MEMORY_LEAST) {
            return Err(section.wrong("memory", "expected at least \"256M\""));
        }
        Ok(Self {
            slots: number("slots", 1..=64, usual.slots as i64)? as usize,
            nice: number("nice", 0..=19, i64::from(usual.nice))? as i32,
            io: io.unwrap_or(usual.io),
            memory,
            retries: number("retries", 0..=20, i64::from(usual.retries))? as u32,
            history: number("history", 100..=1_000_000, i64::from(usual.history))? as u32,
        })
    }
}
