//! Notices by mail, over TLS unless the server is on this machine.

use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport};

use super::{CourierError, Notice, PATIENCE, reveal};
use crate::config::{MailConfig, MailSecurity};

/// Sends the notice to all recipients.
pub(super) fn send(config: &MailConfig, notice: &Notice) -> Result<(), CourierError> {
    let failed = |detail: String| CourierError::Mail { host: config.host.clone(), detail };
    let mut message = Message::builder()
        .from(config.from.parse().map_err(|error| failed(format!("{}: {error}", config.from)))?)
        .subject(notice.subject())
        .header(ContentType::TEXT_PLAIN);
    for to in &config.to {
        message = message.to(to.parse().map_err(|error| failed(format!("{to}: {error}")))?);
    }
    let message = message.body(notice.text()).map_err(|error| failed(error.to_string()))?;
    let transport = transport(config).map_err(|error| match error {
        Problem::Courier(error) => error,
        Problem::Tls(detail) => failed(detail),
    })?;
    transport.send(&message).map(|_| ()).map_err(|error| failed(told(&error)))
}

enum Problem {
    Courier(CourierError),
    Tls(String),
}

fn transport(config: &MailConfig) -> Result<SmtpTransport, Problem> {
    // One TLS stack and one provider for the whole process; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = || -> Result<TlsParameters, Problem> {
        let mut builder = TlsParameters::builder(config.host.clone());
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|cause| {
                Problem::Courier(CourierError::Secret { path: path.clone(), cause })
            })?;
            let certificate =
                Certificate::from_pem(&pem).map_err(|error| Problem::Tls(told(&error)))?;
            builder = builder.add_root_certificate(certificate);
        }
        builder.build().map_err(|error| Problem::Tls(told(&error)))
    };
    let tls = match config.security {
        MailSecurity::Tls => Tls::Wrapper(tls()?),
        // Required: a server that does not offer it gets nothing.
        MailSecurity::StartTls => Tls::Required(tls()?),
        MailSecurity::None => Tls::None,
    };
    let mut builder = SmtpTransport::builder_dangerous(&config.host)
        .port(config.port)
        .tls(tls)
        .timeout(Some(PATIENCE));
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        let password = reveal(password).map_err(Problem::Courier)?;
        builder = builder.credentials(Credentials::new(user.clone(), password.to_string()));
    }
    Ok(builder.build())
}

fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Errors of the library repeat their source at the end of their own words.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}
