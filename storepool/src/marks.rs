//! Marks on chunks: one bit for each chunk of a pack, so that a pool of 20 million chunks needs 2.5 MB.

use std::collections::BTreeMap;

use crate::index::{PackNo, Place};

/// A set of places.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    packs: BTreeMap<PackNo, PackMarks>,
}

#[derive(Clone, Debug, Default)]
struct PackMarks {
    words: Vec<u64>,
    count: u64,
}

impl Marks {
    /// Marks a place. Returns whether it was not marked before.
    pub fn set(&mut self, place: Place) -> bool {
        let pack = self.packs.entry(place.pack).or_default();
        let (word, bit) = split(place.ordinal);
        if pack.words.len() <= word {
            pack.words.resize(word + 1, 0);
        }
        let fresh = pack.words[word] & bit == 0;
        pack.words[word] |= bit;
        pack.count += u64::from(fresh);
        fresh
    }

    /// Returns whether a place is marked.
    pub fn contains(&self, place: Place) -> bool {
        let (word, bit) = split(place.ordinal);
        self.packs
            .get(&place.pack)
            .and_then(|pack| pack.words.get(word))
            .is_some_and(|word| word & bit != 0)
    }

    /// Returns how many places of a pack are marked.
    pub fn count(&self, pack: PackNo) -> u64 {
        self.packs.get(&pack).map_or(0, |pack| pack.count)
    }

    /// Returns how many places are marked.
    pub fn total(&self) -> u64 {
        self.packs.values().map(|pack| pack.count).sum()
    }

    /// Takes all marks of a pack away.
    pub fn clear(&mut self, pack: PackNo) {
        self.packs.remove(&pack);
    }

    /// Returns the packs with marks, in order.
    pub fn packs(&self) -> impl Iterator<Item = PackNo> + '_ {
        self.packs.iter().filter(|(_, pack)| pack.count > 0).map(|(no, _)| *no)
    }

    /// Returns all marked places, in order.
    pub fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let of = |pack| self.ordinals(pack).map(move |ordinal| Place { pack, ordinal });
        self.packs().flat_map(of)
    }

    /// Returns the marked ordinals of a pack, in order.
    pub fn ordinals(&self, pack: PackNo) -> impl Iterator<Item = u32> + '_ {
        self.ordinals_from(pack, 0)
    }

    /// Returns the marked ordinals of a pack from `first` on, in order.
    pub fn ordinals_from(&self, pack: PackNo, first: u32) -> impl Iterator<Item = u32> + '_ {
        let words = self.packs.get(&pack).map(|pack| pack.words.as_slice()).unwrap_or_default();
        let (from, bit) = split(first);
        (0u32..).zip(words).skip(from).flat_map(move |(index, word)| {
            let mut left = if index as usize == from { word & !(bit - 1) } else { *word };
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                (left != 0).then(|| {
                    left &= left - 1;
                    index * u64::BITS + bit
                })
            })
        })
    }
}

fn split(ordinal: u32) -> (usize, u64) {
    ((ordinal / u64::BITS) as usize, 1 << (ordinal % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_once_and_listed_in_order() {
        let mut marks = Marks::default();
        let place = |pack, ordinal| Place { pack: PackNo(pack), ordinal };

        for ordinal in [64, 3, 1000, 3, 63] {
            marks.set(place(7, ordinal));
        }

        assert_eq!(marks.count(PackNo(7)), 4);
        assert_eq!(marks.ordinals(PackNo(7)).collect::<Vec<_>>(), [3, 63, 64, 1000]);
        assert_eq!(marks.ordinals_from(PackNo(7), 63).collect::<Vec<_>>(), [63, 64, 1000]);
        assert_eq!(marks.ordinals_from(PackNo(7), 65).collect::<Vec<_>>(), [1000]);
        assert!(marks.contains(place(7, 64)) && !marks.contains(place(7, 65)));
        assert!(!marks.contains(place(8, 3)) && marks.count(PackNo(8)) == 0);
        marks.clear(PackNo(7));
        assert_eq!((marks.total(), marks.packs().count()), (0, 0));
    }
}
