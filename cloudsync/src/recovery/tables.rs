//! The tables of contents of the packs that some points need: from indexes, or from the packs themselves where an index tells mostly of others.

use std::collections::HashMap;

use storepool::pack::Toc;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::layout::{ObjectHash, ObjectKind};
use crate::sync::{read_index, read_table};
use crate::vault::Ordinals;
use crate::vault::chain::Realm;
use crate::vault::commit::ObjectRecord;
use crate::vault::snapshot::Snapshot;

/// Objects that are read side by side.
const READS_AT_ONCE: usize = 16;
/// Bytes of indexes that are read side by side, so that large ones come one by one.
const BYTES_AT_ONCE: u64 = 16 << 20;
/// What a request costs, in bytes that could be read meanwhile.
const REQUEST_BYTES: u64 = 64 << 10;
/// Bytes that are read of a pack besides its table: half of the first and of the last segment, and a header.
const PACK_EXTRA_BYTES: u64 = 64 << 10;

/// A pack, the number of its object, and what it holds.
pub(super) type Table = (u64, ObjectRecord, Toc);

/// Reads the tables of the packs among these objects. Packs that are gone or cannot be read are left out.
pub(super) async fn read_tables(
    realm: &Realm,
    snapshot: &Snapshot,
    needs: &Ordinals,
) -> Result<Vec<Table>> {
    let plan = Plan::new(snapshot, needs);
    let mut wanted = plan.wanted;
    let mut tables = Vec::with_capacity(wanted.len());
    let mut queue = plan.indexes.into_iter().peekable();
    let (mut reads, mut bytes) = (JoinSet::new(), 0);
    loop {
        while let Some(index) = queue.next_if(|index| {
            reads.is_empty() || reads.len() < READS_AT_ONCE && bytes + index.size <= BYTES_AT_ONCE
        }) {
            bytes += index.size;
            let realm = realm.clone();
            reads.spawn(async move { (index.size, read_index(&realm, &index).await) });
        }
        let Some(read) = reads.join_next().await else { break };
        let (size, read) = read.map_err(|_| Error::Interrupted { stage: "reading indexes" })?;
        bytes -= size;
        for table in read? {
            if let Some((ordinal, record)) = wanted.remove(&table.hash) {
                tables.push((ordinal, record, table.toc));
            }
        }
    }
    // Also those whose index is lost.
    let mut queue = wanted.into_values();
    let mut reads = JoinSet::new();
    loop {
        while reads.len() < READS_AT_ONCE
            && let Some((ordinal, record)) = queue.next()
        {
            let realm = realm.clone();
            reads.spawn(async move { (ordinal, record, read_table(&realm, &record).await) });
        }
        let Some(read) = reads.join_next().await else { return Ok(tables) };
        let (ordinal, record, toc) =
            read.map_err(|_| Error::Interrupted { stage: "reading tables" })?;
        match toc {
            Ok(toc) => tables.push((ordinal, record, toc)),
            Err(error) if error.is_gap() => {
                tracing::warn!(%error, "a pack of the vault cannot be read");
            }
            Err(error) => return Err(error),
        }
    }
}

// What is read; packs of which none of the indexes tells are asked themselves.
struct Plan {
    wanted: HashMap<ObjectHash, (u64, ObjectRecord)>,
    indexes: Vec<ObjectRecord>,
}

impl Plan {
    fn new(snapshot: &Snapshot, needs: &Ordinals) -> Self {
        let mut plan = Self { wanted: HashMap::new(), indexes: Vec::new() };
        // Packs come before the index of exactly these (`docs/format-vault.md`, section 6).
        let (mut told, mut wanted) = (0, 0);
        // An object that is gone is a gap of those files that need it.
        for (ordinal, object) in snapshot.objects() {
            let record = object.record;
            match record.kind {
                ObjectKind::Data | ObjectKind::Metadata => {
                    told += 1;
                    if needs.contains(*ordinal) {
                        wanted += 1;
                        plan.wanted.insert(record.hash, (*ordinal, record));
                    }
                }
                ObjectKind::Index => {
                    if needs.contains(*ordinal) && is_worth_reading(record.size, told, wanted) {
                        plan.indexes.push(record);
                    }
                    (told, wanted) = (0, 0);
                }
                _ => {}
            }
        }
        plan
    }
}

// Whether an index of so many bytes that tells of so many packs costs less than the beginnings of those that are wanted.
fn is_worth_reading(index_bytes: u64, told: u64, wanted: u64) -> bool {
    let table_bytes = index_bytes / told.max(1);
    // Two requests for each pack: most tables are longer than what the first one reads.
    let each = table_bytes + PACK_EXTRA_BYTES + 2 * REQUEST_BYTES;
    wanted > 0 && index_bytes + REQUEST_BYTES <= wanted * each
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_index_is_read_unless_it_tells_mostly_of_others() {
        // Small ones always: one request for each pack costs more.
        assert!(is_worth_reading(2 << 10, 1, 1));
        assert!(is_worth_reading(100 << 10, 40, 1));
        // A point of 1.3 GB beside nothing else, and beside twice as much.
        assert!(is_worth_reading(4 * MIB, 10, 10));
        assert!(!is_worth_reading(12 * MIB, 30, 10));
        assert!(!is_worth_reading(8 * MIB, 20, 1));
        assert!(!is_worth_reading(8 * MIB, 20, 0));
    }

    /// One small file of a point may cost 8 MiB; the tables are the most of it.
    #[test]
    fn the_tables_of_a_point_cost_little_more_than_they_are() {
        for (told, wanted) in (1..60).flat_map(|told| (1..=told).map(move |wanted| (told, wanted)))
        {
            let index = told * 400 * 1024;
            let cost = match is_worth_reading(index, told, wanted) {
                true => index,
                false => wanted * (400 * 1024 + PACK_EXTRA_BYTES),
            };
            let own = wanted * 400 * 1024;
            assert!(cost * 2 <= own * 3 + 2 * MIB, "{wanted} of {told}: {cost} for {own}");
        }
    }
}
