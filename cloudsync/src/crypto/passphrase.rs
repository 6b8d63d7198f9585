//! Passphrases: what is acceptable, how one is generated, and how strong one probably is.

use std::fmt;

use storepool::entropy::Entropy;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::error::PassphraseError;

/// Fewest characters of a passphrase.
pub const CHARACTERS_LEAST: usize = 16;
/// Most bytes of a passphrase.
pub const BYTES_LIMIT: usize = 1024;

// Without i, l, o, 0 and 1, which look alike on paper.
const GENERATED_ALPHABET: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";
const GENERATED_GROUPS: usize = 7;
const GENERATED_GROUP_LENGTH: usize = 4;

/// A passphrase in its normal form (Unicode NFC); wiped from memory when dropped, never shown by debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Bits of randomness in a generated passphrase: 28 symbols out of 31.
    pub const GENERATED_BITS: u32 = 138;

    /// Accepts a text as a passphrase: at least 16 characters, at most 1,024 bytes, no control characters,
    /// taken as it is but for Unicode normalisation, so that it does not matter how a keyboard composes an
    /// accent.
    pub fn new(text: &str) -> Result<Self, PassphraseError> {
        // Bounded before it is normalised; composing never makes a text three times as long.
        if text.len() > 3 * BYTES_LIMIT {
            return Err(PassphraseError::TooLong { bytes: text.len() });
        }
        // Reserved at once: a string that grows leaves its earlier copies behind in memory.
        let mut normal = Zeroizing::new(String::with_capacity(4 * text.len()));
        normal.extend(text.nfc());
        if normal.len() > BYTES_LIMIT {
            return Err(PassphraseError::TooLong { bytes: normal.len() });
        }
        if normal.chars().any(char::is_control) {
            return Err(PassphraseError::ControlCharacter);
        }
        let characters = normal.chars().count();
        if characters < CHARACTERS_LEAST {
            return Err(PassphraseError::TooShort { characters });
        }
        Ok(Self(normal))
    }

    /// Accepts the content of a passphrase file or the output of a command: as [`Passphrase::new`], without
    /// one line break at the end.
    pub fn from_file(content: &[u8]) -> Result<Self, PassphraseError> {
        let text = std::str::from_utf8(content).map_err(|_| PassphraseError::NotText)?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        Self::new(text.strip_suffix('\r').unwrap_or(text))
    }

    /// Draws a passphrase such as `k7qf-m2xp-9dhr-c4tw-sy3n-eb8g-vaj5`, of [`Passphrase::GENERATED_BITS`] bits.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(64));
        for group in 0..GENERATED_GROUPS {
            if group > 0 {
                text.push('-');
            }
            for _ in 0..GENERATED_GROUP_LENGTH {
                text.push(draw_symbol(entropy));
            }
        }
        Self(text)
    }

    /// Returns the text, to be written to the file that the administrator named and to nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Estimates how hard the passphrase is to guess.
    pub fn strength(&self) -> Strength {
        Strength { bits: estimate_bits(&self.0) }
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

// Drawn again when it does not fit, so that all symbols are equally likely.
fn draw_symbol(entropy: &dyn Entropy) -> char {
    loop {
        let mut byte = Zeroizing::new([0; 1]);
        entropy.fill(byte.as_mut());
        if let Some(symbol) = GENERATED_ALPHABET.get(usize::from(byte[0] & 31)) {
            return char::from(*symbol);
        }
    }
}

/// An estimate, from above: what a guesser would need who knows how people make passphrases, but not this person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Strength {
    /// Binary logarithm of the number of guesses.
    pub bits: u32,
}

impl Strength {
    /// Returns what the number means, given that each guess costs 256 MiB for half a second.
    pub fn verdict(self) -> Verdict {
        match self.bits {
            0..45 => Verdict::Weak,
            45..70 => Verdict::Fair,
            _ => Verdict::Strong,
        }
    }
}

/// What a [`Strength`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A determined guesser finds it.
    Weak,
    /// Withstands all but the richest.
    Fair,
    /// Withstands anybody.
    Strong,
}

// A word from a list of 7,776, as used for dice: 12.9 bits.
const WORD_TENTH_BITS: u32 = 129;
const REPEAT_TENTH_BITS: u32 = 10;

fn estimate_bits(text: &str) -> u32 {
    let characters: Zeroizing<Vec<char>> = Zeroizing::new(text.chars().collect());
    let symbol = symbol_tenth_bits(&characters);
    let mut total = 0u32;
    let mut position = 0;
    while position < characters.len() {
        let word = characters[position..].iter().take_while(|c| c.is_alphabetic()).count();
        if word >= 3 {
            let run = &characters[position..position + word];
            let seen = position > 0 && contains(&characters[..position], run);
            let spelled: u32 = (0..word).map(|i| character_tenth_bits(run, i, symbol)).sum();
            // Runs of letters are words until proven otherwise; a long one without a vowel is not a word.
            let vowels = run.iter().any(|c| "aeiouyäöüAEIOUYÄÖÜ".contains(*c) || !c.is_ascii());
            total += match (seen, vowels || word < 6) {
                (true, _) => REPEAT_TENTH_BITS,
                (false, true) => spelled.min(WORD_TENTH_BITS * (word as u32).div_ceil(9)),
                (false, false) => spelled,
            };
            position += word;
        } else {
            total += character_tenth_bits(&characters, position, symbol);
            position += 1;
        }
    }
    total / 10
}

// What one character adds, given the ones before it: little when it repeats them or goes on counting.
fn character_tenth_bits(characters: &[char], position: usize, symbol: u32) -> u32 {
    let code = |index: usize| i64::from(u32::from(characters[index]));
    if position >= 1 && (code(position) - code(position - 1)).abs() <= 1 {
        return REPEAT_TENTH_BITS;
    }
    if position >= 3 && contains(&characters[..position], &characters[position - 2..=position]) {
        return REPEAT_TENTH_BITS;
    }
    symbol
}

fn symbol_tenth_bits(characters: &[char]) -> u32 {
    let any = |test: fn(&char) -> bool| characters.iter().any(test);
    let mut alphabet = 0u32;
    alphabet += if any(char::is_ascii_lowercase) { 26 } else { 0 };
    alphabet += if any(char::is_ascii_uppercase) { 26 } else { 0 };
    alphabet += if any(char::is_ascii_digit) { 10 } else { 0 };
    alphabet += if any(|c| c.is_ascii() && !c.is_ascii_alphanumeric()) { 8 } else { 0 };
    alphabet += if any(|c| !c.is_ascii()) { 30 } else { 0 };
    (f64::from(alphabet.max(2)).log2() * 10.0) as u32
}

fn contains(text: &[char], part: &[char]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededEntropy;

    #[test]
    fn sixteen_characters_are_enough_and_fifteen_are_not() {
        assert!(Passphrase::new("sixteen-chars-ok").is_ok());
        assert_eq!(
            Passphrase::new("fifteen-chars-k").err(),
            Some(PassphraseError::TooShort { characters: 15 })
        );
        assert!(Passphrase::new("ääääääääääääääää").is_ok());
        assert!(Passphrase::new(&"x".repeat(1024)).is_ok());
        assert_eq!(
            Passphrase::new(&"x".repeat(1025)).err(),
            Some(PassphraseError::TooLong { bytes: 1025 })
        );
        assert!(Passphrase::new(&"x".repeat(1 << 20)).is_err());
    }

    #[test]
    fn composed_and_decomposed_accents_are_one_passphrase() {
        let composed = Passphrase::new("gr\u{fc}ne \u{c4}pfel vom Baum").expect("long enough");
        let decomposed =
            Passphrase::new("gru\u{308}ne A\u{308}pfel vom Baum").expect("long enough");

        assert_eq!(composed, decomposed);
    }

    #[test]
    fn one_line_break_at_the_end_of_a_file_does_not_count() {
        let plain = Passphrase::new("correct horse battery").expect("fine");

        assert_eq!(Passphrase::from_file(b"correct horse battery\n").as_ref(), Ok(&plain));
        assert_eq!(Passphrase::from_file(b"correct horse battery\r\n").as_ref(), Ok(&plain));
        assert_eq!(
            Passphrase::from_file(b"correct horse battery\n\n").err(),
            Some(PassphraseError::ControlCharacter)
        );
        assert_eq!(
            Passphrase::from_file(b"\xff".repeat(20).as_slice()).err(),
            Some(PassphraseError::NotText)
        );
    }

    #[test]
    fn a_generated_passphrase_is_acceptable_and_rated_strong() {
        let entropy = SeededEntropy::new(1);
        let one = Passphrase::generate(&entropy);
        let two = Passphrase::generate(&entropy);

        assert_ne!(one, two);
        assert_eq!(Passphrase::new(one.expose()).as_ref(), Ok(&one));
        assert_eq!(one.expose().len(), 34);
        assert_eq!(one.strength().verdict(), Verdict::Strong);
        let bits = 28.0 * 31f64.log2();
        assert_eq!(Passphrase::GENERATED_BITS, bits as u32);
    }

    #[test]
    fn habits_are_rated_lower_than_chance() {
        let bits = |text: &str| Passphrase::new(text).expect("acceptable").strength().bits;

        assert!(bits("aaaaaaaaaaaaaaaaaaaa") < 30);
        assert!(bits("abcdefghijklmnop1234") < 45);
        assert!(bits("passwordpassword1234") < 45);
        assert!(bits("password password password") < 30);
        assert!(bits("correct horse battery staple") > 45);
        assert!(bits("correct horse battery staple") < 70);
        assert!(bits("V7#qL2!xRz9@mK4$") > 80);
    }

    #[test]
    fn debug_output_does_not_show_it() {
        let passphrase = Passphrase::new("correct horse battery").expect("fine");

        assert_eq!(format!("{passphrase:?}"), "Passphrase(…)");
    }
}
