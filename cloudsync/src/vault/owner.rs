//! The vault's owner: whoever holds the key that was drawn when the vault was made. It signs the subscription state
//! and nothing else; no server needs it.

use std::fmt;
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use storepool::entropy::Entropy;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::layout::VaultId;
use crate::vault::credentials::AccessValue;
use crate::vault::file::{read_small_file, write_private_file};

const ID_CONTEXT: &str = "keepwell 2026 v1 vault id";
const FORMAT: &str = "keepwell vault owner";
const VERSION: u32 = 1;
const FILE_LIMIT: u64 = 4 << 10;
const HEADING: &str = "\
# The key of this vault's owner. It sets the vault's state: active, expired or deprovisioned.
# Keep it away from the servers; they do not need it.
";

/// The public half of an owner's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerId(pub [u8; 32]);

impl OwnerId {
    /// Returns the id of the vault that this owner made: it names the key.
    pub fn vault(&self) -> VaultId {
        let hash = blake3::Hasher::new_derive_key(ID_CONTEXT).update(&self.0).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        VaultId(id)
    }

    /// Returns whether the owner signed this.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&storepool::id::hex(&self.0))
    }
}

/// An owner's key; wiped from memory when dropped, never shown.
pub struct OwnerKey(SigningKey);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    vault: String,
    secret: AccessValue,
}

impl OwnerKey {
    /// Draws the key of a new vault.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(secret.as_mut());
        Self(SigningKey::from_bytes(&secret))
    }

    /// Returns the public half.
    pub fn id(&self) -> OwnerId {
        OwnerId(self.0.verifying_key().to_bytes())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Reads an owner file.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read_small_file(path, FILE_LIMIT)?;
        let damaged = |reason| Error::OwnerFileDamaged { reason };
        let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;
        // The reader's own words would quote the line, and the line may hold the key.
        let document: Document =
            toml::from_str(text).map_err(|_| damaged("it is not what \"vault create\" writes"))?;
        if document.format != FORMAT || document.version != VERSION {
            return Err(damaged("it is not an owner file of this version"));
        }
        let secret = Zeroizing::new(
            unhex(document.secret.expose()).ok_or_else(|| damaged("the key is not one"))?,
        );
        let key = Self(SigningKey::from_bytes(&secret));
        match key.id().vault().to_string() == document.vault {
            true => Ok(key),
            false => Err(damaged("the key is not that of its vault")),
        }
    }

    /// Writes an owner file that only its owner can read; durable on return.
    pub fn save(&self, path: &Path) -> Result<()> {
        let secret = Zeroizing::new(self.0.to_bytes());
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            vault: self.id().vault().to_string(),
            secret: AccessValue::new(storepool::id::hex(secret.as_ref())),
        };
        let body = Zeroizing::new(
            toml::to_string(&document).expect("strings and numbers can be written as TOML"),
        );
        write_private_file(path, Zeroizing::new(format!("{HEADING}{}", *body)).as_bytes())
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKey(of vault {})", self.id().vault())
    }
}

pub(super) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lower = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededEntropy;

    #[test]
    fn an_owner_file_comes_back_private_and_tells_no_secret_when_it_is_damaged() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("main.owner");
        let key = OwnerKey::generate(&SeededEntropy::new(1));

        key.save(&path).expect("saved");

        assert_eq!(OwnerKey::load(&path).expect("loaded").id(), key.id());
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).expect("text");
        let secret = text.split('"').nth(5).expect("a secret").to_owned();
        assert_eq!(secret.len(), 64);
        for (from, to) in [
            (secret.as_str(), secret.replace('a', "b").as_str()),
            ("secret = \"", "secret = "),
            ("version = 1", "version = 2"),
            ("vault = \"", "vault = \"0"),
        ] {
            std::fs::write(&path, text.replacen(from, to, 1)).expect("written");
            let error = OwnerKey::load(&path).expect_err(to);
            assert!(!format!("{error} {error:?}").contains(&secret[..8]), "{error}");
        }
        assert!(!format!("{key:?}").contains(&secret[..8]));
    }
}
