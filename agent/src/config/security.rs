//! `[security]`: what protects against whoever has broken into this server.

use super::ConfigError;
use super::reader::Section;

/// `[security]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SecurityConfig {
    /// Whether no vault's retention may be shorter than the floors.
    pub(crate) enabled: bool,
}

impl Default for SecurityConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl SecurityConfig {
    /// Reads the section.
    pub(super) fn read(section: Option<Section<'_>>) -> Result<Self, ConfigError> {
        let Some(section) = section else { return Ok(Self::default()) };
        section.only_known(&["enabled"])?;
        let enabled = section.value("enabled", |value| {
            value.as_bool().ok_or("expected true or false".to_string())
        })?;
        Ok(Self { enabled: enabled.unwrap_or(true) })
    }
}
