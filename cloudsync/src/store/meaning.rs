//! What an answer of a store means: status and code in, fault out. The same code means different things to
//! different stores, and a wrong clock looks like a wrong key, so this is one pure function with a table.

use std::time::Duration;

use storepool::clock::Timestamp;

use crate::error::StoreFault;

/// Beyond this a login is refused for the clock's sake: S3 and Azure allow 15 minutes, Google 10.
const CLOCK_TOLERANCE_SECONDS: u64 = 10 * 60;

/// The answer that a store gave last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    /// The store's own word for what went wrong.
    pub(super) code: Option<String>,
    /// How long it asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// Its time.
    pub(super) date: Option<Timestamp>,
}

impl Answer {
    /// Returns what the answer means when it is not a success. `now` is this machine's time.
    pub(super) fn fault(&self, now: Timestamp) -> StoreFault {
        let code = self.code.as_deref().unwrap_or_default();
        let busy = StoreFault::Busy { retry_after: self.retry_after };
        match (self.status, code) {
            (_, "RequestTimeTooSkewed") => StoreFault::WrongClock,
            (_, "NoSuchBucket" | "ContainerNotFound" | "AccountNotFound") => StoreFault::NoPlace,
            (_, "QuotaExceeded" | "StorageQuotaExceeded" | "XMinioStorageFull") | (507, _) => {
                StoreFault::NoSpace
            }
            (
                _,
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "AuthenticationFailed"
                | "NoAuthenticationInformation"
                | "InvalidAuthenticationInfo"
                | "InvalidToken"
                | "ExpiredToken"
                | "TokenRefreshRequired"
                | "invalid_grant"
                | "invalid_client",
            )
            | (401, _) => self.login(now, StoreFault::Unauthenticated),
            (_, "SlowDown" | "ServerBusy" | "RequestTimeout" | "OperationTimedOut") => busy,
            // Two creators at the same moment: neither was refused for good.
            (409, "ConditionalRequestConflict" | "OperationAborted" | "ContainerBeingDeleted") => {
                busy
            }
            (403, _) => self.login(now, StoreFault::PermissionDenied),
            (404 | 410, _) => StoreFault::NotFound,
            (409 | 412 | 304, _) => StoreFault::AlreadyExists,
            (416, _) => StoreFault::Corrupt,
            (408 | 429 | 500 | 502 | 503 | 504, _) => busy,
            _ => StoreFault::Other,
        }
    }

    /// Returns by how many seconds this machine's clock is ahead of the store's.
    pub(super) fn clock_ahead_seconds(&self, now: Timestamp) -> Option<i64> {
        self.date.map(|date| now.seconds() - date.seconds())
    }

    fn login(&self, now: Timestamp, refused: StoreFault) -> StoreFault {
        match self.clock_ahead_seconds(now) {
            Some(ahead) if ahead.unsigned_abs() > CLOCK_TOLERANCE_SECONDS => StoreFault::WrongClock,
            _ => refused,
        }
    }
}

/// Says in words that two clocks differ.
pub(super) fn clock_words(ahead_seconds: i64) -> String {
    let seconds = ahead_seconds.unsigned_abs();
    let amount = match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    let direction = if ahead_seconds < 0 { "behind" } else { "ahead of" };
    format!("this machine's clock is {amount} {direction} the store's")
}

/// Returns the store's own word in the body of an answer: XML of S3, Azure and Google, JSON of Google's login.
pub(super) fn code_of(body: &str) -> Option<String> {
    let xml = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let json = || {
        let value: serde_json::Value = serde_json::from_str(body).ok()?;
        let error = value.get("error")?;
        let word = error.as_str().or_else(|| error.get("status")?.as_str())?;
        Some(word.to_owned())
    };
    let code = xml.map(|(code, _)| code.to_owned()).or_else(json)?;
    is_word(&code).then_some(code)
}

/// Returns the store's own sentence, for people.
pub(super) fn message_of(body: &str) -> Option<String> {
    const LONGEST: usize = 200;
    let (_, rest) = body.split_once("<Message>")?;
    let (message, _) = rest.split_once("</Message>")?;
    // Azure adds numbers and times on further lines.
    let line = message.lines().next().unwrap_or_default().trim();
    let shown: String = line.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect();
    (!shown.is_empty()).then_some(shown)
}

// Whatever is not a plain word did not come from a store, and is not repeated to anybody.
fn is_word(code: &str) -> bool {
    (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_770_000_000_000_000_000);

    #[test]
    fn each_answer_has_its_meaning() {
        let busy = StoreFault::Busy { retry_after: None };
        for (status, code, fault) in [
            (404, "", StoreFault::NotFound),
            (404, "NoSuchKey", StoreFault::NotFound),
            (404, "BlobNotFound", StoreFault::NotFound),
            (404, "NoSuchBucket", StoreFault::NoPlace),
            (404, "ContainerNotFound", StoreFault::NoPlace),
            (403, "", StoreFault::PermissionDenied),
            (403, "AccessDenied", StoreFault::PermissionDenied),
            (403, "InvalidAccessKeyId", StoreFault::Unauthenticated),
            (403, "SignatureDoesNotMatch", StoreFault::Unauthenticated),
            (403, "AuthenticationFailed", StoreFault::Unauthenticated),
            (403, "RequestTimeTooSkewed", StoreFault::WrongClock),
            (403, "QuotaExceeded", StoreFault::NoSpace),
            (400, "ExpiredToken", StoreFault::Unauthenticated),
            (400, "invalid_grant", StoreFault::Unauthenticated),
            (401, "", StoreFault::Unauthenticated),
            (409, "BlobAlreadyExists", StoreFault::AlreadyExists),
            (409, "ConditionalRequestConflict", busy),
            (412, "PreconditionFailed", StoreFault::AlreadyExists),
            (412, "ConditionNotMet", StoreFault::AlreadyExists),
            (416, "InvalidRange", StoreFault::Corrupt),
            (400, "RequestTimeout", busy),
            (429, "", busy),
            (500, "InternalError", busy),
            (503, "SlowDown", busy),
            (507, "", StoreFault::NoSpace),
            (301, "PermanentRedirect", StoreFault::Other),
            (501, "NotImplemented", StoreFault::Other),
        ] {
            let code = Some(code.to_owned()).filter(|code| !code.is_empty());
            let answer = Answer { status, code, ..Answer::default() };
            assert_eq!(answer.fault(NOW), fault, "{answer:?}");
        }
    }

    #[test]
    fn a_login_that_is_refused_while_the_clocks_differ_is_the_clocks_fault() {
        let answer = |status, code: Option<&str>, behind_seconds: i64| Answer {
            status,
            code: code.map(str::to_owned),
            date: Some(Timestamp(NOW.0 - behind_seconds * 1_000_000_000)),
            ..Answer::default()
        };
        for behind in [3600, -3600] {
            let azure = answer(403, Some("AuthenticationFailed"), behind);
            assert_eq!(azure.fault(NOW), StoreFault::WrongClock);
            assert_eq!(azure.clock_ahead_seconds(NOW), Some(behind));
            assert_eq!(answer(403, None, behind).fault(NOW), StoreFault::WrongClock);
            assert_eq!(answer(404, None, behind).fault(NOW), StoreFault::NotFound);
        }
        assert_eq!(answer(403, None, 300).fault(NOW), StoreFault::PermissionDenied);
    }

    #[test]
    fn the_stores_own_words_are_found_and_nothing_else_is_repeated() {
        let s3 = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>Not here.</Message></Error>";
        assert_eq!(code_of(s3).as_deref(), Some("NoSuchKey"));
        assert_eq!(message_of(s3).as_deref(), Some("Not here."));
        assert_eq!(code_of("{\"error\":\"invalid_grant\"}").as_deref(), Some("invalid_grant"));
        let google = "{\"error\":{\"code\":401,\"status\":\"UNAUTHENTICATED\"}}";
        assert_eq!(code_of(google).as_deref(), Some("UNAUTHENTICATED"));
        for noise in ["", "<html>", "<Code></Code>", "<Code>a b</Code>", "{\"error\":7}", "<Code>x"]
        {
            assert_eq!(code_of(noise), None, "{noise}");
        }
        assert_eq!(message_of("<Message>one\ntwo</Message>").as_deref(), Some("one"));
    }

    #[test]
    fn differences_of_clocks_are_told_in_words() {
        assert_eq!(clock_words(0), "this machine's clock is 0 s ahead of the store's");
        assert_eq!(clock_words(-3660), "this machine's clock is 61 min behind the store's");
        assert_eq!(clock_words(400_000), "this machine's clock is 4 days ahead of the store's");
    }
}
