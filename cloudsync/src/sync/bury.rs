//! Giving up the name of an object that no commit names and that is not what its name says: what a store keeps of an upload that was
//! cut. It is named and condemned by one commit, so the next object of these bytes gets the next name, and prune removes it.

use crate::error::{Error, Result, SealError};
use crate::layout::{ObjectKind, ObjectName};
use crate::ledger::Ledger;
use crate::sync::load_to_write;
use crate::vault::anchor::Anchor;
use crate::vault::chain::{Draft, Realm, Surroundings};
use crate::vault::commit::{Changes, CommitKind, ObjectRecord};

/// Condemns the object of this name; does nothing if a commit names it meanwhile.
pub(super) async fn bury(
    realm: &Realm,
    anchor: &mut Anchor,
    ledger: &Ledger,
    around: &Surroundings<'_>,
    name: &ObjectName,
) -> Result<()> {
    let folder = name.as_str().split('/').nth(2).unwrap_or_default();
    let kind = ObjectKind::RECORDED.into_iter().find(|kind| folder.chars().eq([kind.folder()]));
    let Some(((hash, copy), kind)) = name.content_parts().zip(kind) else {
        return Err(Error::damaged(name, SealError::Name));
    };
    let snapshot = load_to_write(realm, ledger, anchor).await?;
    if snapshot.live_object(hash).is_some() || snapshot.next_copy(hash) != copy {
        return Ok(());
    }
    let size = realm.store().head(name).await?.size;
    // Nobody opens it any more, so its salt does not matter.
    let record = ObjectRecord { kind, hash, copy, size, salt: [0; 32] };
    let changes = Changes {
        objects_added: vec![record],
        objects_condemned: [snapshot.next_ordinal()].into_iter().collect(),
        ..Changes::default()
    };
    let draft = Draft { kind: CommitKind::Repack, changes, witnesses: Vec::new() };
    let after = realm.append(&snapshot, draft, anchor, around).await?;
    ledger.store(realm.keys(), &after, &[])
}
