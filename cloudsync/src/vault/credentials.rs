//! The credentials file: what an owner hands to a server so that it can register, and what is needed, with
//! the passphrase, to recover. It never holds the passphrase.

use std::path::Path;

use serde::{Deserialize, Serialize};
use storepool::clock::Timestamp;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::layout::{Label, VaultId};
use crate::store::VaultAddress;
use crate::vault::file::{read_small_file, write_private_file};
use crate::vault::plain::{from_rfc3339, rfc3339};

pub use crate::store::access::{Access, AccessValue};

const FORMAT: &str = "keepwell vault credentials";
const VERSION: u32 = 1;
const FILE_LIMIT: u64 = 64 << 10;
const HEADING: &str = "# Keepwell vault credentials: they let a server register with this vault and, together with its passphrase, recover.
# Keep them with the passphrase's owner, not with the passphrase. They are not the passphrase and do not contain it.
";

/// The content of a credentials file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The vault; the one at the address must be the same.
    pub vault: VaultId,
    /// Its name for people.
    pub name: String,
    /// Where it is.
    pub address: VaultAddress,
    /// When the credentials were made.
    pub issued: Timestamp,
    /// Until when a server may be registered with them. They are good for recovery ever after.
    pub registration_expires: Timestamp,
    /// Suggestions for the server's label.
    pub labels: Vec<Label>,
    /// Options of the store.
    pub access: Access,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    vault: String,
    name: String,
    url: String,
    issued: String,
    registration_expires: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default, skip_serializing_if = "Access::is_empty")]
    access: Access,
}

impl Credentials {
    /// Reads the text of a credentials file.
    pub fn parse(text: &str) -> Result<Self> {
        // The reader's own words would quote the line, and the line may hold a key.
        let document: Document = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Error::CredentialsDamaged {
                reason: format!("line {line}: {}", unquoted(error.message())),
            }
        })?;
        let damaged = |reason: &str| Error::CredentialsDamaged { reason: reason.to_owned() };
        if document.format != FORMAT {
            return Err(damaged("it is not a vault credentials file"));
        }
        if document.version != VERSION {
            return Err(damaged("it was made by a newer version"));
        }
        let time = |text: &str| from_rfc3339(text).map_err(|_| damaged("a time is not one"));
        Ok(Self {
            vault: document.vault.parse().map_err(|_| damaged("the vault id is not one"))?,
            name: document.name,
            address: document.url.parse()?,
            issued: time(&document.issued)?,
            registration_expires: time(&document.registration_expires)?,
            labels: document
                .labels
                .iter()
                .map(|label| label.parse())
                .collect::<Result<_, _>>()
                .map_err(|_| damaged("a label is not one"))?,
            access: document.access,
        })
    }

    /// Returns the text of a credentials file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            vault: self.vault.to_string(),
            name: self.name.clone(),
            url: self.address.to_string(),
            issued: rfc3339(self.issued),
            registration_expires: rfc3339(self.registration_expires),
            labels: self.labels.iter().map(Label::to_string).collect(),
            access: self.access.clone(),
        };
        let body = Zeroizing::new(
            toml::to_string(&document).expect("strings and numbers can be written as TOML"),
        );
        Zeroizing::new(format!("{HEADING}{}", *body))
    }

    /// Reads a credentials file.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read_small_file(path, FILE_LIMIT)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Error::CredentialsDamaged { reason: "it is not text".to_owned() })?;
        Self::parse(text)
    }

    /// Writes a credentials file that only its owner can read; durable on return.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_private_file(path, self.to_text().as_bytes())
    }

    /// Returns whether these credentials hold options of a store that others on this machine could read in the file at `path`.
    pub fn are_exposed_in(&self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt;
        let others = |mode: u32| mode & 0o077 != 0;
        !self.access.is_empty()
            && std::fs::metadata(path).is_ok_and(|file| others(file.permissions().mode()))
    }

    /// Refuses to register after the expiry. `now` is the vault's time.
    pub fn check_registration(&self, now: Timestamp) -> Result<()> {
        match now <= self.registration_expires {
            true => Ok(()),
            false => Err(Error::CredentialsExpired {
                expired: rfc3339(self.registration_expires),
                now: rfc3339(now),
            }),
        }
    }
}

// What stands between quotation marks came from the file.
fn unquoted(message: &str) -> String {
    message
        .lines()
        .next()
        .unwrap_or_default()
        .split(['"', '\''])
        .step_by(2)
        .collect::<Vec<_>>()
        .join("…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            vault: VaultId([1; 16]),
            name: "main".into(),
            address: "file:///srv/my%20vault".parse().expect("an address"),
            issued: Timestamp(1_770_000_000_000_000_000),
            registration_expires: Timestamp(1_770_864_000_000_000_000),
            labels: vec!["web1".parse().expect("a label")],
            access: Access::from([("secret_key".to_owned(), AccessValue::new("planted-secret"))]),
        }
    }

    #[test]
    fn a_credentials_file_comes_back_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("main.vault");

        credentials().save(&path).expect("saved");

        assert_eq!(Credentials::load(&path).expect("loaded"), credentials());
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!credentials().are_exposed_in(&path));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("changed");
        assert!(credentials().are_exposed_in(&path));
        assert!(!Credentials { access: Access::new(), ..credentials() }.are_exposed_in(&path));
    }

    #[test]
    fn damage_is_named_without_repeating_secrets() {
        let text = credentials().to_text();
        for (from, to) in [
            ("version = 1", "version = 2"),
            ("version = 1", "version = \"planted-secret"),
            ("[access]", "[axess]"),
            ("secret_key = \"planted-secret\"", "secret_key = planted-secret"),
            ("secret_key = \"planted-secret\"", "secret_key = [\"planted-secret\"]"),
            ("vault = \"01", "vault = \"0x"),
            ("2026-02-02T02:40:00Z", "yesterday"),
            ("web1", "web 1"),
            ("keepwell vault credentials\"", "recipe\""),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Credentials::parse(&text.replacen(from, to, 1)).expect_err(to);
            assert!(matches!(error, Error::CredentialsDamaged { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("planted"), "{error}");
        }
        assert!(!format!("{:?}", credentials()).contains("planted"));
    }

    #[test]
    fn registration_ends_and_the_message_says_when() {
        let credentials = credentials();
        assert!(credentials.check_registration(credentials.registration_expires).is_ok());
        let late = Timestamp(credentials.registration_expires.0 + 1_000_000_000);
        let error = credentials.check_registration(late).expect_err("expired");
        assert_eq!(
            error.to_string(),
            "the credentials expired for registration at 2026-02-12T02:40:00Z; the vault's clock says 2026-02-12T02:40:01Z"
        );
    }
}
