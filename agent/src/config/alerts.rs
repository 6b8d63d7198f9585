//! `[alerts]`: who is told when something is wrong, and who hears that all is well.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml_edit::Value;
use zeroize::Zeroizing;

use super::ConfigError;
use super::group::HookCommand;
use super::reader::Section;

/// `[alerts]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AlertsConfig {
    /// Alerts below this level are listed but not delivered.
    pub(crate) level: AlertLevel,
    /// Alerts that are not critical wait for each other so long and are told together; zero: each at once.
    pub(crate) digest: Duration,
    /// An alert that goes on is told again after so long.
    pub(crate) repeat: Duration,
    /// A command that is given each notice as JSON.
    pub(crate) command: Option<HookCommand>,
    /// A web address that each notice is posted to as JSON.
    pub(crate) webhook: Option<WebhookConfig>,
    /// A mailbox.
    pub(crate) mail: Option<MailConfig>,
    /// An address that is asked for as long as all is well, so that silence is noticed elsewhere.
    pub(crate) heartbeat: Option<WebhookConfig>,
    /// Between two heartbeats.
    pub(crate) heartbeat_every: Duration,
    /// A file for the textfile collector of Prometheus.
    pub(crate) textfile: Option<PathBuf>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AlertLevel {
    /// Good to know.
    Information,
    /// Something will be lost if nobody acts in the next days.
    Warning,
    /// Something is not protected, or damaged.
    Critical,
}

impl AlertLevel {
    const WORDS: [(&str, Self); 3] = [
        ("information", Self::Information),
        ("warning", Self::Warning),
        ("critical", Self::Critical),
    ];

    /// Returns its word.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, level)| *level == self).map_or("critical", |(word, _)| word)
    }

    /// Returns the level of a word.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, level)| *level)
    }
}

/// Something secret, or where it is read from. It never appears in messages.
#[derive(Clone, PartialEq)]
pub(crate) enum Secret {
    /// It stands in the configuration itself, which only its owner can read.
    Here(Zeroizing<String>),
    /// The first line of a file.
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(_) => f.write_str("(secret)"),
            Self::File(path) => write!(f, "(secret in {})", path.display()),
        }
    }
}

/// An address of the web.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WebhookConfig {
    /// `http://` or `https://`; it may hold a token.
    pub(crate) url: Secret,
}

/// `mail = { ... }`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MailConfig {
    /// Name of the server.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// How the way there is protected.
    pub(crate) security: MailSecurity,
    /// A certificate authority besides those of the system, PEM.
    pub(crate) ca_file: Option<PathBuf>,
    /// The account.
    pub(crate) user: Option<String>,
    /// Its password.
    pub(crate) password: Option<Secret>,
    /// Sender.
    pub(crate) from: String,
    /// Recipients.
    pub(crate) to: Vec<String>,
}

/// How the way to a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MailSecurity {
    /// TLS from the first byte (port 465).
    Tls,
    /// TLS after STARTTLS, which must be offered (port 587).
    StartTls,
    /// Nothing: only for a server on this machine, and without a password.
    None,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            level: AlertLevel::Warning,
            digest: Duration::ZERO,
            repeat: Duration::from_secs(86_400),
            command: None,
            webhook: None,
            mail: None,
            heartbeat: None,
            heartbeat_every: Duration::from_secs(300),
            textfile: None,
        }
    }
}

impl AlertsConfig {
    /// Reads the section, if there is one.
    pub(super) fn read(section: Option<Section<'_>>) -> Result<Self, ConfigError> {
        let usual = Self::default();
        let Some(section) = section else { return Ok(usual) };
        section.only_known(&[
            "level",
            "digest",
            "repeat",
            "command",
            "webhook",
            "mail",
            "heartbeat",
            "heartbeat_every",
            "textfile",
        ])?;
        let level = section.value("level", |value| {
            AlertLevel::of_word(value.as_str().unwrap_or_default())
                .ok_or("expected \"information\", \"warning\" or \"critical\"".into())
        })?;
        let second = Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        Ok(Self {
            level: level.unwrap_or(usual.level),
            digest: section.duration("digest", Duration::ZERO..=day)?.unwrap_or(usual.digest),
            repeat: section.duration("repeat", second..=day * 30)?.unwrap_or(usual.repeat),
            command: section.value("command", HookCommand::read)?,
            webhook: WebhookConfig::read(&section, "webhook")?,
            mail: MailConfig::read(&section)?,
            heartbeat: WebhookConfig::read(&section, "heartbeat")?,
            heartbeat_every: section
                .duration("heartbeat_every", second..=day)?
                .unwrap_or(usual.heartbeat_every),
            textfile: section.path("textfile", "the path of a file")?,
        })
    }
}

impl WebhookConfig {
    fn read(section: &Section<'_>, key: &str) -> Result<Option<Self>, ConfigError> {
        let expected = "an address such as \"https://example.org/hook\", or { url_file = \"...\" }";
        let url = |value: &Value| match value.as_str() {
            Some(text) if text.starts_with("https://") || text.starts_with("http://") => {
                Ok(Secret::Here(Zeroizing::new(text.to_string())))
            }
            _ => Err(format!("expected {expected}")),
        };
        if section.get(key).is_some_and(|item| item.is_str()) {
            return Ok(section.value(key, url)?.map(|url| Self { url }));
        }
        let Some(table) = section.section(key, &format!("expected {expected}"))? else {
            return Ok(None);
        };
        table.only_known(&["url", "url_file"])?;
        let (here, file) =
            (table.value("url", url)?, table.path("url_file", "the path of a file")?);
        match (here, file) {
            (Some(url), None) => Ok(Some(Self { url })),
            (None, Some(file)) => Ok(Some(Self { url: Secret::File(file) })),
            _ => Err(section.wrong(key, format!("expected {expected}"))),
        }
    }
}

impl MailConfig {
    fn read(section: &Section<'_>) -> Result<Option<Self>, ConfigError> {
        let example = "mail = { host = \"mail.example.org\", from = \"...\", to = [\"...\"] }";
        let Some(table) = section.section("mail", example)? else { return Ok(None) };
        table.only_known(&[
            "host",
            "port",
            "security",
            "ca_file",
            "user",
            "password_file",
            "from",
            "to",
        ])?;
        let required = |key: &str| table.complaint(format!("alerts.mail has no {key}: {example}"));
        let host =
            table.text("host", "the name of a mail server")?.ok_or_else(|| required("host"))?;
        let security = table.value("security", |value| match value.as_str() {
            Some("tls") => Ok(MailSecurity::Tls),
            Some("starttls") => Ok(MailSecurity::StartTls),
            Some("none") => Ok(MailSecurity::None),
            _ => Err("expected \"tls\", \"starttls\" or \"none\"".to_string()),
        })?;
        let security = security.unwrap_or(MailSecurity::StartTls);
        let password = table.path("password_file", "the path of a file")?.map(Secret::File);
        let local = ["localhost", "127.0.0.1", "::1"].contains(&host);
        if security == MailSecurity::None && (!local || password.is_some()) {
            let message =
                "without TLS only a server on this machine is used, and without a password";
            return Err(table.wrong("security", message));
        }
        let user = table.text("user", "the name of an account")?.map(str::to_string);
        if user.is_some() != password.is_some() {
            return Err(table.complaint("alerts.mail: user and password_file go together".into()));
        }
        let usual = match security {
            MailSecurity::Tls => 465,
            MailSecurity::StartTls => 587,
            MailSecurity::None => 25,
        };
        let address = |text: &str| text.contains('@') && !text.contains(char::is_control);
        let from = table.text("from", "an address")?.ok_or_else(|| required("from"))?;
        let to = table.texts("to", "a list of addresses")?.unwrap_or_default();
        if to.is_empty() {
            return Err(required("to"));
        }
        if !address(from) {
            return Err(table.wrong("from", "expected an address such as \"keepwell@example.org\""));
        }
        if !to.iter().all(|to| address(to)) {
            return Err(table.wrong("to", "expected addresses such as \"admin@example.org\""));
        }
        Ok(Some(Self {
            host: host.to_string(),
            port: table.number("port", 1..=65_535)?.map_or(usual, |port| port as u16),
            security,
            ca_file: table.path("ca_file", "the path of a file")?,
            user,
            password,
            from: from.to_string(),
            to,
        }))
    }
}
