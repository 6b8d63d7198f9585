//! Patience: asks again when that may help, with growing random pauses and an end.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use storepool::entropy::{Entropy, random_bytes};
use tokio::time::Instant;

use crate::error::{StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::{ObjectBody, ObjectMeta, ObjectStore, PutReceipt};

/// How long to go on asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts of one call.
    pub attempts: u32,
    /// Longest pause after the first attempt; doubles with each further one.
    pub first_pause: Duration,
    /// Longest pause at all, whatever the store asks for.
    pub longest_pause: Duration,
    /// No attempt is begun after this time.
    pub budget: Duration,
}

impl RetryPolicy {
    /// For unattended work: up to a quarter of an hour.
    pub const PATIENT: Self = Self {
        attempts: 40,
        first_pause: Duration::from_millis(200),
        longest_pause: Duration::from_secs(30),
        budget: Duration::from_secs(15 * 60),
    };

    /// For somebody who waits in front of the screen: up to ten seconds.
    pub const BRISK: Self = Self {
        attempts: 4,
        first_pause: Duration::from_millis(200),
        longest_pause: Duration::from_secs(2),
        budget: Duration::from_secs(10),
    };
}

/// A store that repeats calls which failed for a passing reason.
///
/// A repeated put may find its own first attempt and then fails with [`StoreFault::AlreadyExists`];
/// [`crate::store::proof::put_proved`] tells that apart.
pub struct RetryStore {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    // In force once the store has answered.
    later: RetryPolicy,
    answered: AtomicBool,
    entropy: Arc<dyn Entropy>,
}

impl RetryStore {
    /// Wraps a store. The entropy spreads the pauses, so that many agents do not return at the same moment.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        policy: RetryPolicy,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { inner, policy, later: policy, answered: AtomicBool::new(false), entropy }
    }

    /// Sets the patience for a store that has answered before: who never answered is probably not there, who
    /// did will probably come back.
    pub fn once_answered(self, later: RetryPolicy) -> Self {
        Self { later, ..self }
    }

    async fn repeat<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let start = Instant::now();
        let mut attempt = 1;
        loop {
            let outcome = call().await;
            let error = match outcome {
                Err(error) if error.fault.is_transient() => error,
                settled => {
                    self.answered.store(true, Ordering::Relaxed);
                    return settled;
                }
            };
            let policy = self.policy();
            let pause = self.pause(&policy, attempt, error.fault);
            if attempt >= policy.attempts || start.elapsed() + pause > policy.budget {
                return Err(error);
            }
            tracing::debug!(object = %error.object, attempt, ?pause, fault = ?error.fault, "asking again");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    fn policy(&self) -> RetryPolicy {
        if self.answered.load(Ordering::Relaxed) { self.later } else { self.policy }
    }

    fn pause(&self, policy: &RetryPolicy, attempt: u32, fault: StoreFault) -> Duration {
        let doubled = policy.first_pause.saturating_mul(1 << (attempt - 1).min(16));
        let most = doubled.min(policy.longest_pause);
        let random = f64::from(u32::from_le_bytes(random_bytes(self.entropy.as_ref())));
        let pause = most.mul_f64((1.0 + random / f64::from(u32::MAX)) / 2.0);
        match fault {
            StoreFault::Busy { retry_after: Some(asked) } => {
                pause.max(asked).min(policy.longest_pause.max(pause))
            }
            _ => pause,
        }
    }
}

impl std::fmt::Debug for RetryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryStore")
            .field("inner", &self.inner)
            .field("policy", &self.policy())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for RetryStore {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutReceipt, StoreError> {
        self.repeat(|| self.inner.put_new(name, body.clone())).await
    }

    async fn get(&self, name: &ObjectName, limit_bytes: u64) -> Result<ObjectBody, StoreError> {
        self.repeat(|| self.inner.get(name, limit_bytes)).await
    }

    async fn get_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<ObjectBody, StoreError> {
        self.repeat(|| self.inner.get_range(name, range.clone())).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.repeat(|| self.inner.head(name)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.repeat(|| self.inner.list(prefix)).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.repeat(|| self.inner.delete(name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::conformance::check_object_store;
    use crate::testing::{Fault, FaultyStore, MemoryStore, SeededEntropy};

    fn retry(inner: Arc<dyn ObjectStore>) -> RetryStore {
        RetryStore::new(inner, RetryPolicy::PATIENT, Arc::new(SeededEntropy::new(1)))
    }

    fn name() -> ObjectName {
        "a".parse().expect("a name")
    }

    #[tokio::test]
    async fn a_patient_store_is_an_object_store() {
        check_object_store(Arc::new(retry(Arc::new(MemoryStore::new())))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn passing_faults_are_waited_out_and_lasting_ones_reported_at_once() {
        let busy = StoreFault::Busy { retry_after: Some(Duration::from_secs(20)) };
        let faults = [(0, Fault::Refuse(StoreFault::Unreachable)), (1, Fault::Refuse(busy))];
        let store = retry(Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), faults)));
        let start = Instant::now();

        store.put_new(&name(), Bytes::new()).await.expect("put");
        assert!(start.elapsed() >= Duration::from_secs(20));

        let start = Instant::now();
        let error = store.put_new(&name(), Bytes::new()).await.expect_err("refused");
        assert_eq!(error.fault, StoreFault::AlreadyExists);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_has_answered_is_waited_for_longer_than_one_that_never_did() {
        let silent = |from: u64| {
            let faults =
                (from..from + 1000).map(|call| (call, Fault::Refuse(StoreFault::Unreachable)));
            let faulty = FaultyStore::new(Arc::new(MemoryStore::new()), faults);
            let entropy = Arc::new(SeededEntropy::new(1));
            RetryStore::new(Arc::new(faulty), RetryPolicy::BRISK, entropy)
                .once_answered(RetryPolicy::PATIENT)
        };
        let (never, at_first) = (silent(0), silent(1));

        let start = Instant::now();
        never.head(&name()).await.expect_err("given up");
        assert!(start.elapsed() <= RetryPolicy::BRISK.budget);

        let error = at_first.head(&name()).await.expect_err("an empty store");
        assert_eq!(error.fault, StoreFault::NotFound);
        let start = Instant::now();
        at_first.head(&name()).await.expect_err("given up");
        assert!(start.elapsed() > RetryPolicy::PATIENT.budget / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_after_a_quarter_of_an_hour() {
        let always = (0..1000).map(|call| (call, Fault::Refuse(StoreFault::Timeout)));
        let store = retry(Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), always)));
        let start = Instant::now();

        let error = store.head(&name()).await.expect_err("given up");

        assert_eq!(error.fault, StoreFault::Timeout);
        assert!(start.elapsed() <= RetryPolicy::PATIENT.budget);
        assert!(start.elapsed() > RetryPolicy::PATIENT.budget / 2);
    }
}
