//! What a store must be told besides its address: which server, which keys, which way there.
//!
//! Options come from the credentials file; where it is silent, from the variables that the providers' own
//! tools use. Options that say who logs in are never mixed from both.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::store::address::Provider;

/// An option of the store that may be a key; wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessValue(Zeroizing<String>);

impl AccessValue {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// Returns the value, to be handed to the store and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl Serialize for AccessValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AccessValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Options of the store, by name: endpoint, region, keys.
pub type Access = BTreeMap<String, AccessValue>;

/// Variables of the surroundings: those of a provider's own tools, and of proxies.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, AccessValue>);

impl Variables {
    /// Takes those of the variables that a store could ask for.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let wanted = |name: &str| {
            ["AWS_", "AZURE_", "GOOGLE_", "IDENTITY_", "MSI_"]
                .iter()
                .any(|start| name.starts_with(start))
                || name.to_ascii_lowercase().ends_with("_proxy")
        };
        let taken = variables.into_iter().filter(|(name, _)| wanted(name));
        Self(taken.map(|(name, value)| (name, AccessValue::new(value))).collect())
    }

    /// Returns the first of these variables that is set and not empty.
    pub(super) fn first(&self, names: &[&str]) -> Option<&str> {
        let values = names.iter().filter_map(|name| self.0.get(*name));
        values.map(AccessValue::expose).find(|value| !value.is_empty())
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The URL of the server, if it is not the provider's own.
pub const ENDPOINT: &str = "endpoint";
/// Certificates in PEM that are trusted besides the system's.
pub const CA_CERTIFICATES: &str = "ca_certificates";
/// The URL of a proxy; `off` for none, whatever the variables say.
pub const PROXY: &str = "proxy";
/// S3: the region.
pub const REGION: &str = "region";
/// S3: the name of the access key.
pub const ACCESS_KEY_ID: &str = "access_key_id";
/// S3: the access key.
pub const SECRET_ACCESS_KEY: &str = "secret_access_key";
/// S3: belongs to keys that end.
pub const SESSION_TOKEN: &str = "session_token";
/// S3: `true` if the endpoint has the bucket's name in it.
pub const VIRTUAL_HOSTED: &str = "virtual_hosted";
/// Azure: the storage account.
pub const ACCOUNT: &str = "account";
/// Azure: the account's key.
pub const ACCOUNT_KEY: &str = "account_key";
/// Azure: a shared access signature.
pub const SAS: &str = "sas";
/// Azure: the tenant of an application that logs in.
pub const TENANT_ID: &str = "tenant_id";
/// Azure: the application.
pub const CLIENT_ID: &str = "client_id";
/// Azure: the application's secret.
pub const CLIENT_SECRET: &str = "client_secret";
/// Google: the JSON key of a service account.
pub const SERVICE_ACCOUNT: &str = "service_account";

const EVERYWHERE: [&str; 3] = [ENDPOINT, CA_CERTIFICATES, PROXY];

/// An option of one provider.
pub(super) struct ProviderOption {
    /// Its name in the credentials file.
    pub(super) name: &'static str,
    /// Variables that are asked for it, in this order.
    pub(super) variables: &'static [&'static str],
    /// Whether it says who logs in.
    pub(super) login: bool,
}

const fn login(name: &'static str, variables: &'static [&'static str]) -> ProviderOption {
    ProviderOption { name, variables, login: true }
}

const fn plain(name: &'static str, variables: &'static [&'static str]) -> ProviderOption {
    ProviderOption { name, variables, login: false }
}

/// Returns the options that the provider knows besides those that all know.
pub(super) fn options_of(provider: Provider) -> &'static [ProviderOption] {
    const S3: &[ProviderOption] = &[
        plain(ENDPOINT, &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]),
        plain(REGION, &["AWS_REGION", "AWS_DEFAULT_REGION"]),
        plain(VIRTUAL_HOSTED, &["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"]),
        login(ACCESS_KEY_ID, &["AWS_ACCESS_KEY_ID"]),
        login(SECRET_ACCESS_KEY, &["AWS_SECRET_ACCESS_KEY"]),
        login(SESSION_TOKEN, &["AWS_SESSION_TOKEN"]),
    ];
    const AZURE: &[ProviderOption] = &[
        plain(ENDPOINT, &["AZURE_STORAGE_ENDPOINT"]),
        plain(ACCOUNT, &["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]),
        login(
            ACCOUNT_KEY,
            &["AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"],
        ),
        login(SAS, &["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"]),
        login(TENANT_ID, &["AZURE_TENANT_ID"]),
        login(CLIENT_ID, &["AZURE_CLIENT_ID"]),
        login(CLIENT_SECRET, &["AZURE_CLIENT_SECRET"]),
    ];
    const GOOGLE: &[ProviderOption] = &[
        plain(ENDPOINT, &["GOOGLE_BASE_URL"]),
        login(SERVICE_ACCOUNT, &["GOOGLE_SERVICE_ACCOUNT_KEY"]),
    ];
    match provider {
        Provider::S3 => S3,
        Provider::Azure => AZURE,
        Provider::Google => GOOGLE,
    }
}

/// The options in force for one store: those of the credentials file, completed from the variables.
pub(super) struct Settings<'a> {
    provider: Provider,
    access: &'a Access,
    variables: &'a Variables,
    own_login: bool,
}

impl<'a> Settings<'a> {
    /// Checks the options.
    ///
    /// # Errors
    /// What is wrong with them, without any value.
    pub(super) fn new(
        provider: Provider,
        access: &'a Access,
        variables: &'a Variables,
    ) -> Result<Self, String> {
        let options = options_of(provider);
        let known = |name: &str| {
            EVERYWHERE.contains(&name) || options.iter().any(|option| option.name == name)
        };
        if let Some(unknown) = access.keys().find(|name| !known(name)) {
            let own = options.iter().map(|option| option.name).filter(|name| *name != ENDPOINT);
            let names: Vec<_> = EVERYWHERE.into_iter().chain(own).collect();
            return Err(format!("\"{unknown}\" is not one of {}", names.join(", ")));
        }
        let own_login =
            options.iter().any(|option| option.login && access.contains_key(option.name));
        Ok(Self { provider, access, variables, own_login })
    }

    /// Returns the value of an option.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        if let Some(value) = self.access.get(name) {
            return Some(value.expose()).filter(|value| !value.is_empty());
        }
        let option = options_of(self.provider).iter().find(|option| option.name == name)?;
        // A session token of somebody else's keys would make good keys useless.
        match option.login && self.own_login {
            true => None,
            false => self.variables.first(option.variables),
        }
    }

    /// Returns a variable of a provider's tools that has no option of its own: roles and the like.
    pub(super) fn role_variable(&self, name: &str) -> Option<&'a str> {
        match self.own_login {
            true => None,
            false => self.variables.first(&[name]),
        }
    }

    /// Returns the proxy for requests to a server that is (or is not) asked with TLS, and the hosts that are asked without it.
    pub(super) fn proxy(&self, encrypted: bool) -> Option<(&'a str, Option<&'a str>)> {
        match self.access.get(PROXY).map(AccessValue::expose) {
            Some("off" | "") => None,
            Some(proxy) => Some((proxy, None)),
            None => {
                // HTTP_PROXY in capitals is what a web server passes on of a request, so it is not believed.
                let names: &[&str] = match encrypted {
                    true => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
                    false => &["http_proxy", "all_proxy", "ALL_PROXY"],
                };
                let proxy = self.variables.first(names)?;
                Some((proxy, self.variables.first(&["no_proxy", "NO_PROXY"])))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(options: &[(&str, &str)]) -> Access {
        options.iter().map(|(name, value)| ((*name).to_owned(), AccessValue::new(*value))).collect()
    }

    fn variables(variables: &[(&str, &str)]) -> Variables {
        Variables::of(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn the_file_comes_first_and_variables_fill_the_gaps() {
        let variables = variables(&[
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", "https://general"),
            ("AWS_ENDPOINT_URL_S3", "https://special"),
            ("AWS_ACCESS_KEY_ID", "theirs"),
            ("HOME", "/root"),
        ]);
        let access = access(&[("region", "eu-central-1")]);

        let settings = Settings::new(Provider::S3, &access, &variables).expect("sound");

        assert_eq!(settings.get(REGION), Some("eu-central-1"));
        assert_eq!(settings.get(ENDPOINT), Some("https://special"));
        assert_eq!(settings.get(ACCESS_KEY_ID), Some("theirs"));
        assert_eq!(settings.get(SECRET_ACCESS_KEY), None);
        assert_eq!(variables.first(&["HOME"]), None);
    }

    #[test]
    fn keys_of_the_file_are_never_mixed_with_those_of_the_surroundings() {
        let variables = variables(&[
            ("AWS_SESSION_TOKEN", "theirs"),
            ("AWS_ROLE_ARN", "theirs"),
            ("AWS_REGION", "eu-west-1"),
        ]);
        let access = access(&[("access_key_id", "ours"), ("secret_access_key", "ours")]);

        let settings = Settings::new(Provider::S3, &access, &variables).expect("sound");

        assert_eq!(settings.get(SESSION_TOKEN), None);
        assert_eq!(settings.role_variable("AWS_ROLE_ARN"), None);
        assert_eq!(settings.get(REGION), Some("eu-west-1"));
    }

    #[test]
    fn an_unknown_option_is_refused_by_name_and_not_by_value() {
        let access = access(&[("regoin", "planted")]);

        let error = Settings::new(Provider::S3, &access, &Variables::default()).err();

        let error = error.expect("refused");
        assert!(error.contains("\"regoin\"") && error.contains("region"), "{error}");
        assert!(!error.contains("planted"));
        assert!(!format!("{access:?}").contains("planted"));
    }

    #[test]
    fn a_proxy_is_taken_from_the_file_or_from_the_variables() {
        let variables =
            variables(&[("HTTPS_PROXY", "http://v:1"), ("NO_PROXY", "a,b"), ("HTTP_PROXY", "x")]);
        let proxy = |options: &[(&str, &str)], encrypted| {
            let access = access(options);
            let settings = Settings::new(Provider::Google, &access, &variables).expect("sound");
            settings
                .proxy(encrypted)
                .map(|(proxy, except)| (proxy.to_owned(), except.map(str::to_owned)))
        };

        assert_eq!(proxy(&[], true), Some(("http://v:1".into(), Some("a,b".into()))));
        assert_eq!(proxy(&[], false), None);
        assert_eq!(proxy(&[("proxy", "http://f:2")], false), Some(("http://f:2".into(), None)));
        assert_eq!(proxy(&[("proxy", "off")], true), None);
    }
}
