//! What a store says of an object beside its bytes: what the rules of the bucket's owner will do with it.

/// Longest text of a store that is repeated to people.
const LONGEST: usize = 200;

/// What a store says of an object in the head of an answer: what rules of the bucket's owner do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// When it will be deleted, and by which rule, in the store's words.
    pub(super) expiration: Option<String>,
    /// Whether it has versions: then a deletion can be taken back by the owner.
    pub(super) has_versions: bool,
    /// Until when nobody can delete it.
    pub(super) locked_until: Option<String>,
}

impl Marks {
    /// Reads them from the head of an answer.
    pub(super) fn read(headers: &http::HeaderMap) -> Self {
        let first = |names: &[&str]| {
            let text = names.iter().find_map(|name| headers.get(*name)?.to_str().ok())?;
            Some(text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect())
        };
        let version: Option<String> = first(&["x-amz-version-id", "x-ms-version-id"]);
        Self {
            expiration: first(&["x-amz-expiration", "x-goog-expiration"]),
            has_versions: version.is_some_and(|version| version != "null"),
            locked_until: first(&[
                "x-amz-object-lock-retain-until-date",
                "x-ms-immutability-policy-until-date",
            ]),
        }
    }

    /// Returns what either of two answers said.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            expiration: self.expiration.or(other.expiration),
            has_versions: self.has_versions || other.has_versions,
            locked_until: self.locked_until.or(other.locked_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(headers: &[(&'static str, &'static str)]) -> Marks {
        let headers = headers.iter().map(|(name, value)| {
            let value = http::HeaderValue::from_static(value);
            (http::HeaderName::from_static(name), value)
        });
        Marks::read(&headers.collect())
    }

    #[test]
    fn each_store_says_it_in_its_own_words() {
        let amazon = marks(&[
            ("x-amz-expiration", "expiry-date=\"Fri, 23 Dec 2026 00:00:00 GMT\", rule-id=\"tidy\""),
            ("x-amz-version-id", "3HL4kqtJvjVBH40Nrjfkd"),
            ("x-amz-object-lock-retain-until-date", "2027-01-01T00:00:00Z"),
        ]);
        assert!(amazon.expiration.is_some_and(|text| text.contains("tidy")));
        assert!(amazon.has_versions);
        assert_eq!(amazon.locked_until.as_deref(), Some("2027-01-01T00:00:00Z"));

        let azure = marks(&[
            ("x-ms-version-id", "2026-11-21T00:00:00.0000000Z"),
            ("x-ms-immutability-policy-until-date", "Fri, 01 Jan 2027 00:00:00 GMT"),
        ]);
        assert!(azure.has_versions && azure.locked_until.is_some() && azure.expiration.is_none());

        assert!(
            marks(&[("x-goog-expiration", "Fri, 23 Dec 2026 00:00:00 GMT")]).expiration.is_some()
        );
    }

    #[test]
    fn a_bucket_whose_versions_are_suspended_has_none() {
        assert_eq!(marks(&[("x-amz-version-id", "null"), ("etag", "x")]), Marks::default());
    }

    #[test]
    fn what_either_answer_said_counts() {
        let put = marks(&[("x-amz-expiration", "soon")]);
        let head = marks(&[("x-amz-version-id", "1"), ("x-amz-expiration", "later")]);

        let both = put.or(head);

        assert_eq!((both.expiration.as_deref(), both.has_versions), (Some("soon"), true));
    }
}
