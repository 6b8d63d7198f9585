//! Padmé padding: hides the length of an object at a cost of a few per cent.
//!
//! From "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs" (2019), algorithm 1: a
//! length keeps only as many significant bits as its exponent needs, so an object tells `log log L` bits
//! about its length instead of `log L`.

/// No plaintext is padded to less, so that all small objects look alike.
pub const PADDED_LEAST: u64 = 1024;

/// Returns the length that a plaintext of `length` bytes is padded to.
///
/// Padding a padded length changes nothing.
pub fn padded_length(length: u64) -> u64 {
    let length = length.max(PADDED_LEAST);
    let exponent = length.ilog2();
    let significant = exponent.ilog2() + 1;
    length.next_multiple_of(1 << (exponent - significant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_lengths() {
        for (length, padded) in [
            (0, 1024),
            (1024, 1024),
            (1025, 1088),
            (65_537, 67_584),
            (9_999_999, 10_223_616),
            (33_554_432, 33_554_432),
        ] {
            assert_eq!(padded_length(length), padded, "{length}");
        }
    }

    #[test]
    fn one_to_sixty_four_mebibytes_have_193_sizes() {
        let mut sizes = std::collections::BTreeSet::new();
        let mut length = 1 << 20;
        while length <= 64 << 20 {
            sizes.insert(padded_length(length));
            length = padded_length(length) + 1;
        }
        assert_eq!(sizes.len(), 193);
    }

    proptest! {
        #[test]
        fn padding_is_stable_and_small(length in 0u64..1 << 40) {
            let padded = padded_length(length);
            prop_assert!(padded >= length);
            prop_assert_eq!(padded_length(padded), padded);
            if length >= 1 << 20 {
                prop_assert!((padded - length) * 31 <= length);
            }
        }
    }
}
