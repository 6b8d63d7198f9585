//! The sieve: chunks that the index surely does not have, told without asking it.
//!
//! A backup of new data asks for each chunk and is told "no" each time; a search in SQLite for each costs more than naming the chunk. The sieve is
//! a Bloom filter over the index's rows, made once the searches in vain have cost about as much as one pass over the rows: so it never costs more
//! than twice the better choice, whatever is backed up. A wrong "perhaps" costs a search. Rows that another process adds are unknown to it; then a
//! chunk is stored twice, never lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::id::ChunkId;
use crate::index::Index;
use crate::pack::Toc;

/// So many rows are passed in order in the time of one search in vain, its transaction included (measured: 0.2 and 6 microseconds).
const ROWS_PASSED_FOR_A_SEARCH: u64 = 30;
/// Bits for each chunk: with four of them set in one word, about one answer in a hundred is a needless "perhaps".
const BITS_PER_CHUNK: u64 = 16;
/// Bits set for each chunk.
const BITS_SET: u32 = 4;
/// Smallest and largest filter in words of 8 bytes: 2 MiB for a million chunks, and at most 32 MiB. Above 16 million chunks it says "perhaps" more often.
const WORDS_LEAST: u64 = 1 << 18;
const WORDS_MOST: u64 = 1 << 22;

/// The filter: bits of one chunk lie in one word, so that a question costs one look at memory.
struct Filter {
    words: Vec<AtomicU64>,
    // Chunks it is made for.
    capacity: u64,
}

impl Filter {
    fn new(chunks: u64) -> Self {
        let needed = chunks.saturating_mul(BITS_PER_CHUNK).div_ceil(64);
        let words = needed.next_power_of_two().clamp(WORDS_LEAST, WORDS_MOST);
        let capacity = match words {
            WORDS_MOST => u64::MAX,
            words => words * 64 / BITS_PER_CHUNK,
        };
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), capacity }
    }

    // The first 8 bytes of a chunk's name are as good as random: their low end chooses the word, the high end the bits in it.
    fn place(&self, prefix: i64) -> (&AtomicU64, u64) {
        let bits = prefix as u64;
        let word = (bits as usize) & (self.words.len() - 1);
        let mask =
            (0..BITS_SET).fold(0, |mask, bit| mask | 1 << (bits >> (64 - 6 * (bit + 1)) & 63));
        (&self.words[word], mask)
    }

    fn add(&self, prefix: i64) {
        let (word, mask) = self.place(prefix);
        word.fetch_or(mask, Ordering::Relaxed);
    }

    fn may_have(&self, prefix: i64) -> bool {
        let (word, mask) = self.place(prefix);
        word.load(Ordering::Relaxed) & mask == mask
    }
}

/// The sieve of one writer, shared by its threads.
pub(crate) struct Sieve {
    index: Index,
    // Rows of the index, and searches in vain since the filter was made.
    rows: AtomicU64,
    searches: AtomicU64,
    // Changes with each filter that is made or dropped.
    generation: AtomicU64,
    filter: Mutex<Option<Arc<Filter>>>,
}

/// One thread's view of a [`Sieve`].
#[derive(Default)]
pub(crate) struct SieveView {
    generation: u64,
    filter: Option<Arc<Filter>>,
}

impl std::fmt::Debug for SieveView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SieveView").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Sieve {
    /// Creates the sieve of an index that has about `rows` rows of chunks.
    pub(crate) fn new(index: Index, rows: u64) -> Self {
        Self {
            index,
            rows: AtomicU64::new(rows),
            searches: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            filter: Mutex::new(None),
        }
    }

    /// Returns whether the index surely does not have the chunk.
    pub(crate) fn excludes(&self, id: &ChunkId, view: &mut SieveView) -> Result<bool> {
        if self.generation.load(Ordering::Acquire) != view.generation {
            let filter = self.lock();
            view.generation = self.generation.load(Ordering::Acquire);
            view.filter = filter.clone();
        }
        if view.filter.is_none() && self.is_worth_it() {
            self.make(view)?;
        }
        Ok(view.filter.as_ref().is_some_and(|filter| !filter.may_have(id.prefix())))
    }

    /// Notes that the index was searched in vain.
    pub(crate) fn searched_in_vain(&self) {
        self.searches.fetch_add(1, Ordering::Relaxed);
    }

    /// Enters the chunks of a pack by `enter`, which adds their rows to the index, and takes them into the sieve.
    pub(crate) fn enter<T>(&self, toc: &Toc, enter: impl FnOnce() -> Result<T>) -> Result<T> {
        // Held meanwhile, so that a filter being made either finds the rows or gets the chunks here.
        let mut filter = self.lock();
        let entered = enter()?;
        let rows = self.rows.fetch_add(toc.chunks().len() as u64, Ordering::Relaxed);
        if let Some(known) = &*filter {
            for chunk in toc.chunks() {
                known.add(chunk.id.prefix());
            }
            if rows > known.capacity {
                // Too full to be of use: a larger one is made when searches in vain have paid for it.
                *filter = None;
                self.searches.store(0, Ordering::Relaxed);
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
        }
        Ok(entered)
    }

    fn is_worth_it(&self) -> bool {
        let searches = self.searches.load(Ordering::Relaxed);
        searches.saturating_mul(ROWS_PASSED_FOR_A_SEARCH) >= self.rows.load(Ordering::Relaxed)
    }

    fn make(&self, view: &mut SieveView) -> Result<()> {
        let mut filter = self.lock();
        if filter.is_none() {
            let made = Filter::new(self.rows.load(Ordering::Relaxed).saturating_mul(2));
            let mut rows = 0;
            self.index.visit_prefixes(&mut |prefix| {
                rows += 1;
                made.add(prefix);
            })?;
            self.rows.store(rows, Ordering::Relaxed);
            *filter = Some(Arc::new(made));
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        view.generation = self.generation.load(Ordering::Acquire);
        view.filter = filter.clone();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Filter>>> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(range: std::ops::Range<u64>) -> impl Iterator<Item = i64> {
        range.map(|number| {
            let hash = blake3::hash(&number.to_le_bytes());
            i64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap())
        })
    }

    #[test]
    fn what_was_added_is_never_excluded() {
        let filter = Filter::new(1000);

        prefixes(0..5000).for_each(|prefix| filter.add(prefix));

        assert!(prefixes(0..5000).all(|prefix| filter.may_have(prefix)));
    }

    #[test]
    fn nearly_everything_else_is_excluded() {
        let filter = Filter::new(1 << 20);

        prefixes(0..1 << 20).for_each(|prefix| filter.add(prefix));

        let kept = prefixes(1 << 20..(1 << 20) + 100_000).filter(|prefix| filter.may_have(*prefix));
        let kept = kept.count();
        assert!(kept < 3_000, "{kept} of 100000 strangers pass");
    }

    #[test]
    fn a_filter_is_never_larger_than_its_bound() {
        assert_eq!(Filter::new(0).words.len() as u64, WORDS_LEAST);
        assert_eq!(Filter::new(u64::MAX).words.len() as u64, WORDS_MOST);
    }
}
