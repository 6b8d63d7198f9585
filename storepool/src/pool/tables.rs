//! What stands in for the index where it does not know a chunk, or cannot be read: the tables of contents of all packs.
//!
//! A row of the index may be hit by a flipped bit; the chunk is still in its pack. Whoever needs a chunk that something names
//! asks here before calling it missing. Nobody asks who only wants to know whether a chunk is new.

use std::sync::{Arc, PoisonError};

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::index::{IndexLookup, PackRow, Place};
use crate::pool::{Found, Pool};

/// Where every chunk is, by the first 8 bytes of its id; 16 bytes of memory for each chunk.
#[derive(Debug)]
pub(crate) struct Tables {
    rows: Vec<(i64, i64)>,
}

impl Tables {
    // Packs that are damaged or whose directories are missing are left out.
    fn read(pool: &Pool) -> Result<Self> {
        let mut rows = Vec::with_capacity(usize::try_from(pool.known_chunks()).unwrap_or(0));
        for row in pool.pack_rows() {
            if pool.directory_path(row.directory).is_none() {
                continue;
            }
            match pool.open_pack(&row) {
                Ok(pack) => {
                    let chunks = (0u32..).zip(pack.toc().chunks());
                    rows.extend(chunks.map(|(ordinal, chunk)| {
                        (chunk.id.prefix(), Place { pack: row.no, ordinal }.to_row())
                    }));
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        rows.sort_unstable();
        Ok(Self { rows })
    }

    /// Returns the places of chunks whose ids begin like this one, in the order of their packs.
    pub(crate) fn candidates(&self, id: &ChunkId) -> impl Iterator<Item = Place> + '_ {
        let prefix = id.prefix();
        let from = self.rows.partition_point(|(row, _)| *row < prefix);
        let alike = self.rows[from..].iter().take_while(move |(row, _)| *row == prefix);
        alike.map(|(_, place)| Place::from_row(*place))
    }
}

impl Pool {
    /// Returns the tables of all packs that were there when somebody asked first.
    pub(crate) fn tables(&self) -> Result<Arc<Tables>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tables) = &*tables {
            return Ok(tables.clone());
        }
        tracing::warn!("the index does not know a chunk that is needed; looking into all packs");
        let read = Arc::new(Tables::read(self)?);
        *tables = Some(read.clone());
        Ok(read)
    }

    /// Finds a chunk that something names: as [`Pool::find`], and if the index does not know it, or is damaged, in the packs
    /// themselves. An index that was wrong is made anew when the pool is opened next.
    pub fn find_needed(
        &self,
        lookup: &IndexLookup,
        id: &ChunkId,
        usable: impl Fn(&PackRow) -> bool,
    ) -> Result<Option<Found>> {
        match self.find(lookup, id, &usable) {
            Ok(None) | Err(Error::Index { corrupt: true, .. }) => {}
            found => return found,
        }
        let places: Vec<_> = self.tables()?.candidates(id).collect();
        let found = self.confirm(places, id, usable)?;
        if found.is_some() {
            self.distrust_index();
        }
        Ok(found)
    }

    /// Makes sure that the index is made anew when the pool is opened next.
    pub(crate) fn distrust_index(&self) {
        self.index().database().distrust();
    }
}

#[cfg(test)]
mod tests {
    use crate::check::{CheckOptions, check};
    use crate::monitor::SilentMonitor;
    use crate::testing::fixture::{
        create_pool, files, make_point, open_pool, read_point, test_world,
    };

    /// What rot makes of rows: another key, another place, none at all.
    const HARMS: [&str; 3] = [
        "UPDATE chunk SET prefix = prefix + 4294967296",
        "UPDATE chunk SET place = place + 1048576",
        "DELETE FROM chunk",
    ];

    /// A flipped bit in a row hid its chunk from restores until somebody ran a repair.
    #[test]
    fn a_chunk_that_the_index_hides_is_read_and_the_next_start_makes_the_index_anew() {
        for harm in HARMS {
            let home = tempfile::tempdir().unwrap();
            let (paths, pool) = create_pool(home.path(), 2, test_world());
            let content = files("a/b", 9, 1500);
            let point = make_point(&pool, &content).unwrap();
            pool.index().database().write(|tx| tx.execute(harm, [])).unwrap();

            assert_eq!(read_point(&pool, point).unwrap(), content, "{harm}");
            let report = check(&pool, &CheckOptions::default(), &SilentMonitor).unwrap();
            assert_eq!(report.affected_points, [], "{harm}");
            assert!(!report.is_sound(), "the index itself is told: {harm}");
            drop(pool);

            let pool = open_pool(&paths, test_world()).unwrap();
            assert!(pool.index_was_rebuilt(), "{harm}");
            assert!(check(&pool, &CheckOptions::default(), &SilentMonitor).unwrap().is_sound());
            drop(pool);
            assert!(!open_pool(&paths, test_world()).unwrap().index_was_rebuilt());
        }
    }

    /// A flipped bit gave two packs one number: one of them was not known any more, nor were its chunks.
    #[test]
    fn packs_with_one_number_are_told_apart_by_an_index_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let (paths, pool) = create_pool(home.path(), 1, test_world());
        let content = files("a/b", 9, 1500);
        let point = make_point(&pool, &content).unwrap();
        make_point(&pool, &files("c", 3, 1500)).unwrap();
        let database = paths[0].join("pool.db");
        drop(pool);
        flip_the_last_pack_number(&database);

        let pool = open_pool(&paths, test_world()).unwrap();

        assert!(pool.index_was_rebuilt());
        assert_eq!(read_point(&pool, point).unwrap(), content);
        assert!(check(&pool, &CheckOptions::default(), &SilentMonitor).unwrap().is_sound());
    }

    // The key of the last row of the table `pack`, one less, so that two rows have it.
    fn flip_the_last_pack_number(database: &std::path::Path) {
        use std::os::unix::fs::FileExt;
        let connection = rusqlite::Connection::open(database).unwrap();
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let page: u64 = connection
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'pack'", [], |row| {
                row.get(0)
            })
            .unwrap();
        let size: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
        drop(connection);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(database).unwrap();
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, (page - 1) * size).unwrap();
        assert_eq!(bytes[0], 13, "the table is one leaf");
        let cells = u16::from_be_bytes([bytes[3], bytes[4]]) as usize;
        let pointer = 8 + 2 * (cells - 1);
        let cell = u16::from_be_bytes([bytes[pointer], bytes[pointer + 1]]) as usize;
        // A cell begins with two varints: the length of the row, one byte here, and its key.
        assert!(bytes[cell] < 128 && bytes[cell + 1] as usize == cells, "a short row");
        bytes[cell + 1] -= 1;
        file.write_all_at(&bytes, (page - 1) * size).unwrap();
    }

    #[test]
    fn a_distrusted_index_is_used_as_long_as_others_have_it_open() {
        let home = tempfile::tempdir().unwrap();
        let (paths, pool) = create_pool(home.path(), 1, test_world());
        let content = files("a", 3, 1500);
        let point = make_point(&pool, &content).unwrap();
        pool.index().database().write(|tx| tx.execute("DELETE FROM chunk", [])).unwrap();
        pool.distrust_index();

        let other = open_pool(&paths, test_world()).unwrap();

        assert!(!other.index_was_rebuilt());
        assert_eq!(read_point(&other, point).unwrap(), content);
        drop((pool, other));
        assert!(open_pool(&paths, test_world()).unwrap().index_was_rebuilt());
    }
}
