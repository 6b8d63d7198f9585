//! The key of one object: derived from a salt over everything in it, so that no key ever meets two contents.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::Nonce;
use storepool::simulated::{self, Mistake};
use zeroize::Zeroizing;

use crate::crypto::container::header::{COMMITMENT, KIND, SALT};
use crate::crypto::container::size::HEADER_LENGTH;
use crate::crypto::ring::{SealingKeys, Secret};
use crate::layout::ObjectKind;

// Over the whole header: the same plaintext under two headers would otherwise use one nonce with two
// associated data, and give the authentication key away.
pub(super) fn synthetic_salt<'a>(
    sealing: &SealingKeys,
    header: &[u8; HEADER_LENGTH],
    plaintext: impl Iterator<Item = &'a [u8]>,
) -> [u8; 32] {
    if header[KIND] == ObjectKind::Data as u8 && simulated::makes(Mistake::SaltReused) {
        return [1; 32];
    }
    let mut hasher = Zeroizing::new(blake3::Hasher::new_keyed(&sealing.salt.0));
    hasher.update(&header[..SALT.start]).update(&header[COMMITMENT.end..]);
    for piece in plaintext {
        hasher.update(piece);
    }
    *hasher.finalize().as_bytes()
}

pub(super) fn object_key(
    sealing: &SealingKeys,
    header: &[u8; HEADER_LENGTH],
) -> (Secret, [u8; 32]) {
    let mut hasher = Zeroizing::new(blake3::Hasher::new_keyed(&sealing.seal.0));
    hasher.update(&header[..SALT.end]);
    let mut output = Zeroizing::new(hasher.finalize_xof());
    let mut secret = Secret([0; 32]);
    let mut commitment = [0; 32];
    output.fill(&mut secret.0);
    output.fill(&mut commitment);
    (secret, commitment)
}

pub(super) fn segment_nonce(index: u64, last: bool) -> Nonce<Aes256Gcm> {
    let mut nonce = [0; 12];
    nonce[0] = u8::from(last);
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    nonce.into()
}
