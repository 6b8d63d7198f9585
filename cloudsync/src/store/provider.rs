//! From options to a store of the `object_store` crate: the only place that knows how each provider is set up.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ObjectStore, RetryConfig};
use reqwest::Url;

use crate::store::access::{
    self, ACCESS_KEY_ID, ACCOUNT, ACCOUNT_KEY, CLIENT_ID, CLIENT_SECRET, ENDPOINT, REGION, SAS,
    SECRET_ACCESS_KEY, SERVICE_ACCOUNT, SESSION_TOKEN, Settings, TENANT_ID, VIRTUAL_HOSTED,
};
use crate::store::address::{BucketAddress, Provider};
use crate::store::http::Connector;

const DEFAULT_REGION: &str = "us-east-1";

/// Returns the server that will be asked.
///
/// # Errors
/// What is wrong with the endpoint, without repeating it.
pub(super) fn server(bucket: &BucketAddress, settings: &Settings<'_>) -> Result<Url, String> {
    let Some(text) = settings.get(ENDPOINT) else {
        let host = match bucket.provider {
            Provider::S3 => {
                format!("s3.{}.amazonaws.com", settings.get(REGION).unwrap_or(DEFAULT_REGION))
            }
            Provider::Azure => {
                let account = settings.get(ACCOUNT);
                let account = account.ok_or("there is no \"account\", the storage account")?;
                format!("{account}.blob.core.windows.net")
            }
            Provider::Google => "storage.googleapis.com".to_owned(),
        };
        let url = format!("https://{host}/").parse::<Url>();
        return url.map_err(|_| "the region or account cannot be part of a server's name".into());
    };
    let url: Url = text.parse().map_err(|_| "the endpoint is not a URL")?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
        return Err("the endpoint must begin with https:// or http:// and name a server".into());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("the endpoint must have neither a password nor a question mark".into());
    }
    Ok(url)
}

/// A store that was set up.
pub(super) struct Built {
    /// The store.
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same, if it is S3: it can sign what the crate itself does not ask.
    pub(super) s3: Option<AmazonS3>,
}

/// Sets the store up.
///
/// # Errors
/// What is wrong with the options, without the value of any that may be a key.
pub(super) fn build(
    bucket: &BucketAddress,
    settings: &Settings<'_>,
    connector: Connector,
) -> Result<Built, String> {
    // Whoever repeats must know what was already done, so nobody below us does it.
    let never = RetryConfig {
        max_retries: 0,
        retry_timeout: Duration::from_secs(3600),
        ..RetryConfig::default()
    };
    let endpoint = match settings.get(ENDPOINT) {
        Some(_) => Some(server(bucket, settings)?.to_string().trim_end_matches('/').to_owned()),
        None => None,
    };
    match bucket.provider {
        Provider::S3 => {
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(&bucket.bucket)
                .with_region(settings.get(REGION).unwrap_or(DEFAULT_REGION))
                // One object at a time: the bulk request is missing from many servers.
                .with_disable_bulk_delete(true)
                .with_http_connector(connector)
                .with_retry(never);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            match settings.get(VIRTUAL_HOSTED) {
                None | Some("false") => {}
                Some("true") => builder = builder.with_virtual_hosted_style_request(true),
                Some(_) => return Err("\"virtual_hosted\" is either true or false".into()),
            }
            let keys = (settings.get(ACCESS_KEY_ID), settings.get(SECRET_ACCESS_KEY));
            builder = match keys {
                (Some(id), Some(secret)) => {
                    let keys = builder.with_access_key_id(id).with_secret_access_key(secret);
                    match settings.get(SESSION_TOKEN) {
                        Some(token) => keys.with_token(token),
                        None => keys,
                    }
                }
                (None, None) => roles(builder, settings),
                (Some(_), None) => {
                    return Err(
                        "there is an \"access_key_id\" without \"secret_access_key\"".into()
                    );
                }
                (None, Some(_)) => {
                    return Err("there is a \"secret_access_key\" without \"access_key_id\"".into());
                }
            };
            let s3 = told(builder.build(), settings)?;
            Ok(Built { store: Arc::new(s3.clone()), s3: Some(s3) })
        }
        Provider::Azure => {
            let account = settings.get(ACCOUNT);
            let account = account.ok_or("there is no \"account\", the storage account")?;
            let mut builder = MicrosoftAzureBuilder::new()
                .with_account(account)
                .with_container_name(&bucket.bucket)
                .with_http_connector(connector)
                .with_retry(never);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            for (name, key) in [
                (ACCOUNT_KEY, AzureConfigKey::AccessKey),
                (SAS, AzureConfigKey::SasKey),
                (TENANT_ID, AzureConfigKey::AuthorityId),
                (CLIENT_ID, AzureConfigKey::ClientId),
                (CLIENT_SECRET, AzureConfigKey::ClientSecret),
            ] {
                if let Some(value) = settings.get(name) {
                    builder = builder.with_config(key, value);
                }
            }
            for (variable, key) in [
                ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
                ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
                ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
                ("MSI_ENDPOINT", AzureConfigKey::MsiEndpoint),
            ] {
                if let Some(value) = settings.role_variable(variable) {
                    builder = builder.with_config(key, value);
                }
            }
            Ok(Built { store: Arc::new(told(builder.build(), settings)?), s3: None })
        }
        Provider::Google => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_bucket_name(&bucket.bucket)
                .with_http_connector(connector)
                .with_retry(never);
            if let Some(endpoint) = endpoint {
                builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
            }
            if let Some(key) = settings.get(SERVICE_ACCOUNT) {
                builder = builder.with_service_account_key(key);
            }
            for (variable, key) in [
                ("GOOGLE_SERVICE_ACCOUNT", GoogleConfigKey::ServiceAccount),
                ("GOOGLE_APPLICATION_CREDENTIALS", GoogleConfigKey::ApplicationCredentials),
            ] {
                if let Some(value) = settings.role_variable(variable) {
                    builder = builder.with_config(key, value);
                }
            }
            Ok(Built { store: Arc::new(told(builder.build(), settings)?), s3: None })
        }
    }
}

// Without keys of our own: the role of the container or of the machine.
fn roles(mut builder: AmazonS3Builder, settings: &Settings<'_>) -> AmazonS3Builder {
    for (variable, key) in [
        (
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        ),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            AmazonS3ConfigKey::ContainerAuthorizationTokenFile,
        ),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
        ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
        ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
        ("AWS_ENDPOINT_URL_STS", AmazonS3ConfigKey::StsEndpoint),
        ("AWS_METADATA_ENDPOINT", AmazonS3ConfigKey::MetadataEndpoint),
    ] {
        if let Some(value) = settings.role_variable(variable) {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

fn told<S: ObjectStore>(
    built: object_store::Result<S>,
    settings: &Settings<'_>,
) -> Result<S, String> {
    let error = match built {
        Ok(store) => return Ok(store),
        Err(error) => error.to_string(),
    };
    let secrets = [SECRET_ACCESS_KEY, SESSION_TOKEN, ACCOUNT_KEY, SAS, CLIENT_SECRET];
    let shown = secrets
        .into_iter()
        .filter_map(|name| settings.get(name))
        .any(|secret| error.contains(secret));
    // The reader of a key file quotes what it does not understand.
    let quotes = settings.get(access::SERVICE_ACCOUNT).is_some();
    match shown || quotes {
        true => Err("a key among them is not one of this kind of store".into()),
        false => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::access::{Access, AccessValue, Variables};
    use crate::store::http::Way;

    fn access(options: &[(&str, &str)]) -> Access {
        options.iter().map(|(name, value)| ((*name).to_owned(), AccessValue::new(*value))).collect()
    }

    fn try_with(provider: Provider, options: &[(&str, &str)]) -> Result<String, String> {
        let (access, variables) = (access(options), Variables::default());
        let settings = Settings::new(provider, &access, &variables)?;
        let bucket = BucketAddress { provider, bucket: "bucket".to_owned(), prefix: None };
        let server = server(&bucket, &settings)?;
        let way = Way {
            certificates: None,
            proxy: None,
            plain: false,
            limiter: None,
            connect_limit: Duration::from_secs(1),
            stall_limit: Duration::from_secs(1),
        };
        build(&bucket, &settings, Connector::new(&way)?)?;
        Ok(server.to_string())
    }

    #[test]
    fn each_provider_has_its_own_server_unless_another_is_named() {
        let keys = [("access_key_id", "id"), ("secret_access_key", "key")];
        let with = |more: &[(&'static str, &'static str)]| [&keys, more].concat();
        let azure = [("account", "name"), ("account_key", "a2V5")];
        for (provider, options, server) in [
            (Provider::S3, with(&[]), "https://s3.us-east-1.amazonaws.com/"),
            (Provider::S3, with(&[("region", "eu-west-1")]), "https://s3.eu-west-1.amazonaws.com/"),
            (Provider::S3, with(&[("endpoint", "http://s:9000")]), "http://s:9000/"),
            (Provider::Azure, azure.to_vec(), "https://name.blob.core.windows.net/"),
            (Provider::Google, vec![], "https://storage.googleapis.com/"),
        ] {
            assert_eq!(try_with(provider, &options).as_deref(), Ok(server));
        }
    }

    #[test]
    fn options_that_cannot_be_meant_are_refused_without_repeating_keys() {
        let id = ("access_key_id", "id");
        for (provider, options, reason) in [
            (Provider::S3, vec![id], "without \"secret_access_key\""),
            (Provider::S3, vec![("secret_access_key", "planted")], "without \"access_key_id\""),
            (Provider::S3, vec![("endpoint", "s3.example")], "not a URL"),
            (Provider::S3, vec![("endpoint", "ftp://s3.example")], "must begin with https://"),
            (Provider::S3, vec![("endpoint", "https://u:planted@s3")], "neither a password"),
            (Provider::Azure, vec![("account_key", "a2V5")], "no \"account\""),
            (Provider::Azure, vec![("account", "a"), ("account_key", "planted!")], ""),
            (Provider::Azure, vec![("account", "a"), ("sas", "planted")], ""),
            (Provider::Google, vec![("service_account", "{\"planted\": 1}")], "a key among them"),
        ] {
            let error = try_with(provider, &options).expect_err(reason);
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("planted"), "{error}");
        }
    }
}
