//! What an examination found: facts with grades, and what could not be seen.

use std::io;

use serde::Serialize;

/// How good something is. The later one is the worse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// Worth knowing; nothing is at risk.
    Note,
    /// It works, but a promise does not hold here: after a power cut, a restart, or for the second copy.
    Weak,
    /// It does not work correctly: nothing may be entrusted to it.
    Unfit,
}

impl Grade {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Weak => "weak",
            Self::Unfit => "unfit",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a name for programs that stays.
    pub check: &'static str,
    /// How good it is.
    pub grade: Grade,
    /// What was seen.
    pub seen: String,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Everything that was found out about a disk or a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Examination {
    /// What was looked at, in this order.
    pub findings: Vec<Finding>,
    /// What matters and cannot be seen from here.
    pub unseen: Vec<String>,
}

impl Examination {
    /// Returns the grade of the whole: that of its worst part.
    pub fn grade(&self) -> Grade {
        self.findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Good)
    }

    /// Returns what is worse than a note.
    pub fn complaints(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.grade > Grade::Note)
    }

    /// Returns what was seen by one check; the worst of several.
    pub fn of(&self, check: &str) -> Option<&Finding> {
        let own = self.findings.iter().filter(|finding| finding.check == check);
        own.max_by_key(|finding| finding.grade)
    }

    /// Adds something that is as it should be.
    pub fn good(&mut self, check: &'static str, seen: impl Into<String>) {
        self.findings.push(Finding { check, grade: Grade::Good, seen: seen.into(), advice: None });
    }

    /// Adds something worth knowing.
    pub fn note(
        &mut self,
        check: &'static str,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Grade::Note, seen.into(), advice.into());
    }

    /// Adds something because of which a promise does not hold.
    pub fn weak(
        &mut self,
        check: &'static str,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Grade::Weak, seen.into(), advice.into());
    }

    /// Adds something that makes the place unusable.
    pub fn unfit(
        &mut self,
        check: &'static str,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Grade::Unfit, seen.into(), advice.into());
    }

    /// Adds that a check could not be done at all: for want of room that is worth knowing, else nothing can be relied on.
    pub fn failed(&mut self, check: &'static str, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                self.weak(check, "not tried: there is no room", "make room, then examine it again");
            }
            _ => self.unfit(check, format!("it fails: {error}"), "use another disk"),
        }
    }

    /// Adds what cannot be seen from here.
    pub fn cannot_see(&mut self, what: impl Into<String>) {
        self.unseen.push(what.into());
    }

    /// Takes over everything that another examination of the same thing found.
    pub fn append(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.unseen.extend(other.unseen);
    }

    fn add(&mut self, check: &'static str, grade: Grade, seen: String, advice: String) {
        self.findings.push(Finding { check, grade, seen, advice: Some(advice) });
    }
}
