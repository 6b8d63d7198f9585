//! The objects of a vault that are not sealed: small JSON documents that say what is where
//! (`docs/format-vault.md`, section 2). None of them is trusted with anything.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storepool::clock::Timestamp;

use crate::error::{Error, Result, SealError, StoreFault};
use crate::layout::{Label, ObjectName, RealmId, VaultId};
use crate::store::ObjectStore;
use crate::vault::owner::OwnerId;

/// Most bytes of a plain object.
pub(super) const PLAIN_LIMIT: u64 = 16 << 10;
pub(super) const VERSION: u32 = 1;
const VERSION_FIELD: &str = "document version";
const DESCRIPTOR_FORMAT: &str = "keepwell vault";
const SERVER_FORMAT: &str = "keepwell server";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DescriptorDocument {
    format: String,
    version: u32,
    vault: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    name: String,
    created: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerDocument {
    format: String,
    version: u32,
    vault: String,
    label: String,
    realm: String,
    created: String,
}

/// What makes a vault a vault: its identity and the name that its owner gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The vault.
    pub vault: VaultId,
    /// Who can set its state.
    pub owner: Option<OwnerId>,
    /// Its name for people.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
}

impl Descriptor {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(&DescriptorDocument {
            format: DESCRIPTOR_FORMAT.to_owned(),
            version: VERSION,
            vault: self.vault.to_string(),
            owner: self.owner.map(|owner| owner.to_string()),
            name: self.name.clone(),
            created: rfc3339(self.created),
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let document: DescriptorDocument = decode(bytes)?;
        check(&document.format, DESCRIPTOR_FORMAT, document.version)?;
        let vault =
            document.vault.parse().map_err(|_| SealError::Format("the vault id is not one"))?;
        let owner = document.owner.map(|text| {
            let owner = OwnerId::parse(&text).filter(|owner| owner.vault() == vault);
            owner.ok_or(SealError::Format("its owner is not the one who made it"))
        });
        Ok(Self {
            vault,
            owner: owner.transpose()?,
            name: document.name,
            created: from_rfc3339(&document.created)?,
        })
    }

    /// Reads the descriptor of a vault; nothing if there is none.
    pub(super) async fn load(store: &dyn ObjectStore) -> Result<Option<Self>> {
        let name = ObjectName::descriptor();
        match store.get(&name, PLAIN_LIMIT).await {
            Ok(body) => {
                let decoded = Self::decode(&body.bytes).map_err(|reason| unusable(&name, reason));
                Ok(Some(decoded?))
            }
            Err(error) if error.fault == StoreFault::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A server that is registered with a vault, as the vault shows it to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The vault.
    pub vault: VaultId,
    /// The server's name.
    pub label: Label,
    /// What it owns in the vault.
    pub realm: RealmId,
    /// When it was registered.
    pub registered: Timestamp,
}

impl Server {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(&ServerDocument {
            format: SERVER_FORMAT.to_owned(),
            version: VERSION,
            vault: self.vault.to_string(),
            label: self.label.to_string(),
            realm: self.realm.to_string(),
            created: rfc3339(self.registered),
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let document: ServerDocument = decode(bytes)?;
        check(&document.format, SERVER_FORMAT, document.version)?;
        let wrong = |_| SealError::Format("an identifier is not one");
        Ok(Self {
            vault: document.vault.parse().map_err(wrong)?,
            label: document.label.parse().map_err(wrong)?,
            realm: document.realm.parse().map_err(wrong)?,
            registered: from_rfc3339(&document.created)?,
        })
    }

    /// Reads the object that registers `label` with `vault`; nothing if there is none.
    pub(super) async fn load(
        store: &dyn ObjectStore,
        vault: VaultId,
        label: &Label,
    ) -> Result<Option<Self>> {
        let name = ObjectName::server(label);
        let body = match store.get(&name, PLAIN_LIMIT).await {
            Ok(body) => body,
            Err(error) if error.fault == StoreFault::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let server = Self::decode(&body.bytes).map_err(|reason| Error::damaged(&name, reason))?;
        match server.vault == vault && server.label == *label {
            true => Ok(Some(server)),
            false => Err(Error::damaged(&name, SealError::Name)),
        }
    }
}

/// Returns a moment as RFC 3339 text in UTC, to the second.
pub(crate) fn rfc3339(moment: Timestamp) -> String {
    // Every second that 64 bits of nanoseconds can express is within the range of dates.
    let moment = jiff::Timestamp::from_second(moment.seconds()).unwrap_or_default();
    moment.to_string()
}

/// Returns the day of a moment, in UTC.
pub(crate) fn date(moment: Timestamp) -> String {
    rfc3339(moment).split('T').next().unwrap_or_default().to_owned()
}

/// Reads RFC 3339 text.
pub(crate) fn from_rfc3339(text: &str) -> Result<Timestamp, SealError> {
    let wrong = SealError::Format("a time is not one");
    let moment: jiff::Timestamp = text.parse().map_err(|_| wrong)?;
    Ok(Timestamp(i64::try_from(moment.as_nanosecond()).map_err(|_| wrong)?))
}

pub(super) fn encode(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("strings and numbers can be written as JSON")
}

// A vault of a newer version is not damaged.
fn unusable(name: &ObjectName, reason: SealError) -> Error {
    match reason {
        SealError::Unknown { field: VERSION_FIELD, value } if value > VERSION.into() => {
            let object = format!("\"{name}\" in the vault");
            let supported = VERSION.into();
            storepool::Error::NewerFormat { object, found: value, supported }.into()
        }
        reason => Error::damaged(name, reason),
    }
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SealError> {
    serde_json::from_slice(bytes)
        .map_err(|_| SealError::Format("it is not the JSON document it should be"))
}

pub(super) fn check(found: &str, expected: &str, version: u32) -> Result<(), SealError> {
    if found != expected {
        return Err(SealError::Format("it is a document of another kind"));
    }
    match version {
        VERSION => Ok(()),
        other => Err(SealError::Unknown { field: VERSION_FIELD, value: other.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_and_strangers_are_refused() {
        let owner = OwnerId([7; 32]);
        let descriptor = Descriptor {
            vault: owner.vault(),
            owner: Some(owner),
            name: "main \"vault\"".into(),
            created: Timestamp(1_770_000_000_000_000_000),
        };
        let server = Server {
            vault: VaultId([1; 16]),
            label: "web1".parse().expect("a label"),
            realm: RealmId([2; 16]),
            registered: descriptor.created,
        };

        assert_eq!(Descriptor::decode(&descriptor.encode()), Ok(descriptor.clone()));
        assert_eq!(Server::decode(&server.encode()), Ok(server.clone()));
        assert!(Descriptor::decode(&server.encode()).is_err());
        let text = String::from_utf8(descriptor.encode()).expect("text");
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("keepwell vault", "something"),
            ("}", ",\"more\":1}"),
            ("2026-", "26-"),
            ("\"vault\":\"04", "\"vault\":\"05"),
            ("\"owner\":\"07", "\"owner\":\"08"),
        ] {
            assert!(Descriptor::decode(text.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        assert_eq!(
            text,
            "{\"format\":\"keepwell vault\",\"version\":1,\"vault\":\"04a71e7eda35e80a22b6d7450e43cd67\",\
             \"owner\":\"0707070707070707070707070707070707070707070707070707070707070707\",\
             \"name\":\"main \\\"vault\\\"\",\"created\":\"2026-02-02T02:40:00Z\"}"
        );
    }
}
