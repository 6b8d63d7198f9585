//! HTTP beside the vault's: one TLS, one name of ours, and errors that never tell an address, which may hold a token.

use reqwest::{Client, ClientBuilder};

/// Begins a client.
pub(crate) fn builder() -> ClientBuilder {
    // One TLS stack and one provider for the whole process; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().user_agent(concat!("keepwell/", env!("CARGO_PKG_VERSION")))
}

/// Returns what happened and why, without the address.
pub(crate) fn told(error: reqwest::Error) -> String {
    // The error of the library names the address; its causes do not.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
