//! `[vault.NAME]`: where the second copy goes.

use std::path::PathBuf;
use std::time::Duration;

use cloudsync::forget::{UNDELETE_LEAST, UNDELETE_MOST, UNDELETE_PERIOD};
use cloudsync::retention::RetentionPolicy;
use cloudsync::standing::Policy;
use cloudsync::store::bandwidth::Calendar;

use super::maintenance::{MaintenanceConfig, OF_A_VAULT};
use super::reader::Section;
use super::{ConfigError, retention, upload_limit};

/// `[vault.NAME]`: where the second copy goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VaultConfig {
    /// The credentials file; a relative one is meant from the folder of the configuration.
    pub(crate) credentials: PathBuf,
    /// How fast to upload, and when.
    pub(crate) upload_limit: Calendar,
    /// Which points stay in the vault; all if nothing is said.
    pub(crate) retention: Option<RetentionPolicy>,
    /// How long forgotten points can be restored.
    pub(crate) undelete: Duration,
    /// How the vault's state reaches into local work.
    pub(crate) policy: Policy,
    /// `[vault.NAME.maintenance]`.
    pub(crate) maintenance: MaintenanceConfig,
}

impl VaultConfig {
    /// Reads the section.
    pub(super) fn read(name: &str, section: &Section<'_>) -> Result<Self, ConfigError> {
        if !is_vault_name(name) {
            let expected = "a name of a vault has 1 to 63 of a-z, 0-9, - and _";
            return Err(section.complaint(expected.to_string()));
        }
        section.only_known(&[
            "credentials",
            "upload_limit",
            "retention",
            "undelete",
            "policy",
            "maintenance",
        ])?;
        let credentials = section
            .path("credentials", "the path of a file")?
            .ok_or_else(|| section.complaint(format!("[vault.{name}] has no credentials")))?;
        let upload_limit = match section.get("upload_limit").map(upload_limit::read) {
            None => Calendar::default(),
            Some(Ok(calendar)) => calendar,
            Some(Err(message)) => return Err(section.wrong("upload_limit", message)),
        };
        let undelete = section.duration("undelete", UNDELETE_LEAST..=UNDELETE_MOST)?;
        let policy = section.parsed("policy", "\"keep-local\" or \"strict\"")?;
        let maintenance = section.section("maintenance", "[vault.main.maintenance]")?;
        Ok(Self {
            credentials,
            upload_limit,
            retention: retention::read(section, "retention")?,
            undelete: undelete.unwrap_or(UNDELETE_PERIOD),
            policy: policy.unwrap_or_default(),
            maintenance: MaintenanceConfig::read(maintenance, &OF_A_VAULT)?,
        })
    }
}

/// Returns whether a vault can be called this in the configuration.
pub(crate) fn is_vault_name(name: &str) -> bool {
    let fine =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=63).contains(&name.len()) && name.bytes().all(fine)
}
