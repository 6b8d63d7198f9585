//! Changes of bytes that readers should not take for sound: flips, cuts, splices, borrowed parts, numbers at their ends.

/// Returns the seed of this run: that in `KEEPWELL_FUZZ_SEED`, which repeats one, or a new one.
pub(crate) fn seed() -> u64 {
    match std::env::var("KEEPWELL_FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("KEEPWELL_FUZZ_SEED is a number"),
        Err(_) => {
            let mut seed = [0; 8];
            storepool::entropy::Entropy::fill(&storepool::entropy::SystemEntropy, &mut seed);
            u64::from_le_bytes(seed)
        }
    }
}

/// Draws changes from a seed.
pub(crate) struct Mutator(u64);

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { ((self.next() >> 16) % bound as u64) as usize }
    }

    /// Returns a changed copy of one of the corpus.
    pub(crate) fn change(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            self.step(&mut bytes, corpus);
        }
        bytes
    }

    fn step(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(bytes.len());
        match self.below(8) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            3 => bytes.truncate(at),
            4 => {
                let value = (self.next() as u8, self.below(40));
                bytes.splice(at..at, std::iter::repeat_n(value.0, value.1));
            }
            // A number at its end: lengths and counts are little-endian.
            5 if bytes.len() >= at + 8 => {
                let number = [u64::MAX, u64::from(u32::MAX), 1 << 31, 1 << 63][self.below(4)];
                let width = [2, 4, 8][self.below(3)];
                bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
            6 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len());
                let part = &other[from..(from + self.below(64)).min(other.len())];
                let end = (at + part.len()).min(bytes.len());
                bytes.splice(at..end, part.iter().copied());
            }
            _ => {
                let end = (at + self.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}
