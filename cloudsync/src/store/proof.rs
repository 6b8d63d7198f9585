//! Puts whose outcome is known: after a lost or doubtful answer the store is asked what it has.

use bytes::Bytes;
use storepool::simulated::{self, Mistake};

use crate::error::{StoreError, StoreFault};
use crate::layout::ObjectName;
use crate::store::{ObjectStore, PutReceipt};

/// How an object came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was created by this call.
    Created(PutReceipt),
    /// It was there with exactly these bytes: put before, or by this call, whose answer was lost.
    Present,
}

/// Creates an object and returns only when it is certain that it is there with exactly these bytes.
///
/// [`StoreFault::AlreadyExists`] means that another object has the name. Any other error leaves it open
/// whether the object is there or will still arrive; repeating the call is always safe.
pub async fn put_proved(
    store: &dyn ObjectStore,
    name: &ObjectName,
    body: Bytes,
) -> Result<PutOutcome, StoreError> {
    let doubt = match store.put_new(name, body.clone()).await {
        Ok(receipt) => return Ok(PutOutcome::Created(receipt)),
        Err(error) if !error.fault.is_ambiguous() => return Err(error),
        Err(error)
            if error.fault == StoreFault::Timeout
                && simulated::makes(Mistake::TimeoutIsSuccess) =>
        {
            return Ok(PutOutcome::Present);
        }
        Err(error) => error,
    };
    // A timeout is not a success, "already exists" not a failure: only the bytes tell.
    match store.get(name, body.len() as u64).await {
        Ok(found) if found.bytes == body => Ok(PutOutcome::Present),
        Ok(_) => Err(other_content(name)),
        Err(error) if error.fault == StoreFault::Corrupt => Err(other_content(name)),
        Err(_) => Err(doubt),
    }
}

fn other_content(name: &ObjectName) -> StoreError {
    StoreError::new("create", name.as_str(), StoreFault::AlreadyExists)
        .because("it has other content")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Fault, FaultyStore, MemoryStore};
    use std::sync::Arc;

    fn name() -> ObjectName {
        "a/b".parse().expect("a name")
    }

    #[tokio::test]
    async fn a_lost_answer_is_a_success_and_a_lost_request_is_not() {
        let memory = Arc::new(MemoryStore::new());
        let lost = FaultyStore::new(memory.clone(), [(0, Fault::LoseReply)]);
        let body = Bytes::from_static(b"body");

        assert_eq!(
            put_proved(&lost, &name(), body.clone()).await.expect("proved"),
            PutOutcome::Present
        );

        let dropped = FaultyStore::new(
            Arc::new(MemoryStore::new()),
            [(0, Fault::Refuse(StoreFault::Timeout))],
        );
        let error = put_proved(&dropped, &name(), body.clone()).await.expect_err("not there");
        assert_eq!(error.fault, StoreFault::Timeout);
        assert!(matches!(put_proved(&dropped, &name(), body).await, Ok(PutOutcome::Created(_))));
    }

    #[tokio::test]
    async fn another_object_under_the_name_is_never_taken_for_ours() {
        let memory = MemoryStore::new();
        memory.put_new(&name(), Bytes::from_static(b"theirs")).await.expect("put");

        for body in ["ours", "theirs!", "their"] {
            let error = put_proved(&memory, &name(), Bytes::from_static(body.as_bytes()))
                .await
                .expect_err("refused");
            assert_eq!(error.fault, StoreFault::AlreadyExists);
        }
        assert_eq!(
            put_proved(&memory, &name(), Bytes::from_static(b"theirs")).await.expect("there"),
            PutOutcome::Present
        );
    }
}
