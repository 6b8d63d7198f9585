//! The entropy seam: the only module here that asks the system for randomness.

/// A source of unpredictable bytes. Never settable from outside a test build.
pub trait Entropy: Send + Sync {
    /// Fills `buffer` with fresh random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// The randomness of the operating system (`getrandom(2)`).
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        // The call fails only on kernels without getrandom(2); running on with predictable names and
        // nonces would be worse than stopping.
        getrandom::fill(buffer).expect("the kernel provides randomness");
    }
}

/// Returns `N` fresh random bytes.
pub fn random_bytes<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}
