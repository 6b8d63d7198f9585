//! Rules of a bucket's owner that act on objects by themselves: those that delete or move away what a vault needs, and those that keep it.
//!
//! S3 shows the rules to keys that may read them. Others learn of them only by what the store says of a test object: when it will expire,
//! whether it has versions, until when it is locked. Where neither tells, it is said.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use storepool::entropy::{Entropy, random_bytes};
use storepool::selftest::{Examination, Grade};

use crate::error::{Result, StoreFault};
use crate::layout::ObjectName;
use crate::store::ObjectStore;
use crate::store::address::{BucketAddress, Provider};
use crate::store::cloud::{BucketRules, CloudStore};
use crate::store::marks::Marks;

const CHECK: &str = "lifecycle";
/// Classes of S3 that answer a read only after hours.
const ARCHIVES: [&str; 3] = ["GLACIER", "DEEP_ARCHIVE", "ARCHIVE"];

/// Looks at the rules, and at what the store says of a test object.
pub(super) async fn examine(
    store: &CloudStore,
    bucket: &BucketAddress,
    entropy: &dyn Entropy,
    found: &mut Examination,
) -> Result<()> {
    let marks = marks(store, entropy).await?;
    let rules = match bucket.provider {
        Provider::S3 => store.rules().await?,
        Provider::Azure | Provider::Google => BucketRules::Hidden,
    };
    judge(&marks, &rules, bucket, found);
    match &marks.locked_until {
        Some(until) => found.good("lock", format!("new objects are locked until {until}")),
        None => found.cannot_see(
            "whether objects are locked against deletion: nothing says so, and not every store tells these keys",
        ),
    }
    if marks.has_versions {
        found.good("versions", "a deleted object can be brought back by its owner");
    }
    Ok(())
}

async fn marks(store: &CloudStore, entropy: &dyn Entropy) -> Result<Marks> {
    let name = ObjectName::probe(random_bytes(entropy));
    let put = store.put_marked(&name, Bytes::from_static(b"rules")).await;
    let seen = match &put {
        Ok(_) => store.marks(&name).await,
        Err(_) => Ok(Marks::default()),
    };
    // Also after a failure. Keys that cannot delete leave five bytes.
    match store.delete(&name).await {
        Err(error) if error.fault != StoreFault::PermissionDenied => return Err(error.into()),
        _ => {}
    }
    Ok(put?.or(seen?))
}

fn judge(marks: &Marks, rules: &BucketRules, bucket: &BucketAddress, found: &mut Examination) {
    let advice = "let the bucket's owner take the rule away, or leave the vault's prefix out of it: it destroys the vault";
    if let Some(expiration) = &marks.expiration {
        found.unfit(CHECK, format!("new objects are deleted by a rule: {expiration}"), advice);
    }
    let text = match rules {
        BucketRules::None => {
            if marks.expiration.is_none() {
                found.good(CHECK, "the bucket has no rules");
            }
            return;
        }
        BucketRules::Hidden => {
            if marks.expiration.is_none() {
                found.cannot_see(hidden(bucket.provider));
            }
            return;
        }
        BucketRules::Text(text) => text,
    };
    let Ok(configuration) = quick_xml::de::from_str::<Configuration>(text) else {
        return found.cannot_see(
            "the bucket's lifecycle rules: what the store says of them cannot be understood",
        );
    };
    let base = bucket.prefix.as_ref().map_or(String::new(), |prefix| format!("{prefix}/"));
    let mut harmless = true;
    for (grade, seen) in configuration.rules.iter().filter_map(|rule| rule.judge(&base)) {
        harmless = false;
        match grade {
            Grade::Unfit => found.unfit(CHECK, seen, advice),
            Grade::Weak => found.weak(
                CHECK,
                seen,
                "recovery has to wait until the objects are brought back from there, which takes hours and costs money",
            ),
            Grade::Good | Grade::Note => found.note(
                CHECK,
                seen,
                "fine where a read is answered at once; see what reading and early deletion cost",
            ),
        }
    }
    if harmless && marks.expiration.is_none() {
        found.good(CHECK, "no rule of the bucket deletes or moves what is put there");
    }
}

fn hidden(provider: Provider) -> &'static str {
    match provider {
        Provider::S3 => {
            "the bucket's lifecycle rules: these keys may not read them (s3:GetLifecycleConfiguration); no rule says that it deletes the test object"
        }
        Provider::Azure => {
            "the account's lifecycle rules: Azure tells them only to its owner; see that none deletes or archives what is in the container"
        }
        Provider::Google => {
            "the bucket's lifecycle rules: see that none deletes or archives what is in it"
        }
    }
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(rename = "Rule", default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rule {
    #[serde(rename = "ID", default)]
    id: Option<String>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    filter: Option<Filter>,
    #[serde(default)]
    expiration: Option<Expiration>,
    #[serde(rename = "Transition", default)]
    transitions: Vec<Transition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    tag: Option<IgnoredAny>,
    #[serde(default)]
    and: Option<Conditions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Conditions {
    #[serde(default)]
    prefix: Option<String>,
    #[serde(rename = "Tag", default)]
    tags: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Expiration {
    #[serde(default)]
    days: Option<String>,
    #[serde(default)]
    date: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transition {
    #[serde(default)]
    days: Option<String>,
    #[serde(default)]
    date: Option<String>,
    #[serde(default)]
    storage_class: String,
}

impl Rule {
    // What it does to objects whose names begin with `base`; nothing if it leaves them alone. Versions that were replaced or deleted, and
    // uploads that were broken off, are none of ours.
    fn judge(&self, base: &str) -> Option<(Grade, String)> {
        if !self.status.eq_ignore_ascii_case("enabled") || !self.concerns(base) {
            return None;
        }
        let name = match self.id.as_deref().unwrap_or_default() {
            "" => "a rule".to_string(),
            id => format!("the rule \"{}\"", id.chars().take(100).collect::<String>()),
        };
        if let Some(expiration) = &self.expiration
            && let Some(when) = moment(expiration.days.as_deref(), expiration.date.as_deref())
        {
            return Some((Grade::Unfit, format!("{name} deletes objects {when}")));
        }
        // The worst of several: what answers only after hours.
        let slow = |transition: &&Transition| ARCHIVES.contains(&transition.storage_class.as_str());
        let worst = self.transitions.iter().find(slow).or(self.transitions.first())?;
        let when = moment(worst.days.as_deref(), worst.date.as_deref()).unwrap_or_default();
        let grade = if slow(&worst) { Grade::Weak } else { Grade::Note };
        Some((grade, format!("{name} moves objects to {} {when}", worst.storage_class)))
    }

    fn concerns(&self, base: &str) -> bool {
        let filter = self.filter.as_ref();
        let and = filter.and_then(|filter| filter.and.as_ref());
        // A vault's objects have no tags.
        let tagged = filter.is_some_and(|filter| filter.tag.is_some())
            || and.is_some_and(|and| !and.tags.is_empty());
        let prefix = and
            .and_then(|and| and.prefix.as_deref())
            .or_else(|| filter?.prefix.as_deref())
            .or(self.prefix.as_deref())
            .unwrap_or_default();
        !tagged && (base.starts_with(prefix) || prefix.starts_with(base))
    }
}

fn moment(days: Option<&str>, date: Option<&str>) -> Option<String> {
    days.map(|days| format!("after {days} days")).or_else(|| Some(format!("on {}", date?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(address: &str) -> BucketAddress {
        match address.parse().expect("an address") {
            crate::store::VaultAddress::Bucket(bucket) => bucket,
            crate::store::VaultAddress::Directory(_) => panic!("a bucket"),
        }
    }

    fn judged(rules: &str) -> Examination {
        let text = format!(
            "<?xml version=\"1.0\"?><LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{rules}</LifecycleConfiguration>"
        );
        let mut found = Examination::default();
        let address = bucket("s3://bucket/servers/web");
        judge(&Marks::default(), &BucketRules::Text(text), &address, &mut found);
        found
    }

    fn rule(filter: &str, action: &str) -> String {
        format!("<Rule><ID>tidy</ID>{filter}<Status>Enabled</Status>{action}</Rule>")
    }

    const EXPIRES: &str = "<Expiration><Days>30</Days></Expiration>";

    #[test]
    fn a_rule_that_deletes_what_is_below_the_prefix_makes_the_place_unfit() {
        for filter in [
            "",
            "<Prefix></Prefix>",
            "<Filter/>",
            "<Filter><Prefix></Prefix></Filter>",
            "<Filter><Prefix>servers/</Prefix></Filter>",
            "<Prefix>servers/web/r/</Prefix>",
            "<Filter><And><Prefix>servers</Prefix><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter>",
        ] {
            let found = judged(&rule(filter, EXPIRES));
            assert_eq!(found.grade(), Grade::Unfit, "{filter}: {found:?}");
            assert!(found.findings[0].seen.contains("\"tidy\" deletes objects after 30 days"));
        }
        let date = "<Expiration><Date>2027-01-01T00:00:00Z</Date></Expiration>";
        assert_eq!(judged(&rule("", date)).grade(), Grade::Unfit);
    }

    #[test]
    fn rules_that_leave_the_vault_alone_are_harmless() {
        let other = "<Filter><Prefix>logs/</Prefix></Filter>";
        let tagged = "<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>";
        let both = "<Filter><And><Prefix>servers/</Prefix><Tag><Key>a</Key><Value>b</Value></Tag></And></Filter>";
        for rules in [
            String::new(),
            rule(other, EXPIRES),
            rule(tagged, EXPIRES),
            rule(both, EXPIRES),
            rule("", EXPIRES).replace("Enabled", "Disabled"),
            rule(
                "",
                "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>",
            ),
            rule(
                "",
                "<NoncurrentVersionExpiration><NoncurrentDays>3</NoncurrentDays></NoncurrentVersionExpiration>",
            ),
            rule(
                "",
                "<AbortIncompleteMultipartUpload><DaysAfterInitiation>3</DaysAfterInitiation></AbortIncompleteMultipartUpload>",
            ),
        ] {
            let found = judged(&rules);
            assert_eq!(found.grade(), Grade::Good, "{rules}: {found:?}");
            assert_eq!(found.findings.len(), 1);
        }
    }

    #[test]
    fn an_archive_that_does_not_answer_is_weak_and_another_class_a_note() {
        let to = |class: &str| {
            format!("<Transition><Days>1</Days><StorageClass>{class}</StorageClass></Transition>")
        };
        assert_eq!(judged(&rule("", &to("GLACIER"))).grade(), Grade::Weak);
        assert_eq!(judged(&rule("", &to("STANDARD_IA"))).grade(), Grade::Note);
        let both = to("STANDARD_IA") + &to("DEEP_ARCHIVE");
        assert_eq!(judged(&rule("", &both)).grade(), Grade::Weak);
        let several = rule("<Prefix>logs/</Prefix>", EXPIRES) + &rule("", &to("STANDARD_IA"));
        assert_eq!(judged(&several).grade(), Grade::Note);
    }

    #[test]
    fn what_cannot_be_read_is_said_and_what_an_object_says_counts() {
        let mut found = Examination::default();
        let address = bucket("s3://bucket");
        judge(&Marks::default(), &BucketRules::Text("<html>".into()), &address, &mut found);
        assert_eq!((found.findings.len(), found.unseen.len()), (0, 1));

        for provider in ["s3://bucket", "az://bucket", "gs://bucket"] {
            let mut found = Examination::default();
            judge(&Marks::default(), &BucketRules::Hidden, &bucket(provider), &mut found);
            assert_eq!((found.findings.len(), found.unseen.len()), (0, 1), "{provider}");

            let expiration = Some("expiry-date=\"Fri, 23 Dec 2026 00:00:00 GMT\"".to_string());
            let marks = Marks { expiration, ..Marks::default() };
            judge(&marks, &BucketRules::Hidden, &bucket(provider), &mut found);
            assert_eq!(found.grade(), Grade::Unfit, "{provider}");
        }
    }
}
