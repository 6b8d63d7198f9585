//! The way to a store, step by step, each with its time: where does it end, if it does not arrive?

use std::time::Duration;

use bytes::Bytes;
use storepool::entropy::{Entropy, random_bytes};

use crate::error::{Error, Result, StoreError, StoreFault};
use crate::layout::{ObjectName, PROBES};
use crate::store::access::Settings;
use crate::store::address::{Opening, VaultAddress};
use crate::store::meaning::clock_words;
use crate::store::{ObjectStore, provider};

// More than any descriptor has.
const SMALL_OBJECT_BYTES: u64 = 64 << 10;

/// A step on the way to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingStep {
    /// The server's name was looked up.
    Resolve,
    /// A connection came about.
    Connect,
    /// The store knows who is asking and lets them look.
    Login,
    /// An object was created, and a second creation of it refused.
    Write,
    /// It came back as it was written, whole, in part and in a list.
    Read,
    /// It was deleted.
    Delete,
    /// The store's clock and this machine's were compared.
    Clock,
}

impl PingStep {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "dns",
            Self::Connect => "connect",
            Self::Login => "login",
            Self::Write => "write",
            Self::Read => "read",
            Self::Delete => "delete",
            Self::Clock => "clock",
        }
    }
}

/// A step that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingedStep {
    /// Which.
    pub step: PingStep,
    /// How long it took.
    pub took: Duration,
    /// What was found out: an address, a difference.
    pub finding: Option<String>,
}

/// How far one came.
#[derive(Debug)]
pub struct PingReport {
    /// What was done, in order.
    pub steps: Vec<PingedStep>,
    /// The step that failed, after which none was tried, and why.
    pub failure: Option<(PingStep, Error)>,
    /// By how many seconds this machine's clock is ahead of the store's, where that is known.
    pub clock_ahead_seconds: Option<i64>,
}

struct Walk<'a> {
    opening: &'a Opening,
    steps: Vec<PingedStep>,
}

impl Walk<'_> {
    async fn step<T>(
        &mut self,
        step: PingStep,
        work: impl Future<Output = Result<(T, Option<String>)>>,
    ) -> Result<T, (PingStep, Error)> {
        let start = self.opening.clock.monotonic();
        let (value, finding) = work.await.map_err(|error| (step, error))?;
        let took = self.opening.clock.monotonic().saturating_sub(start);
        self.steps.push(PingedStep { step, took, finding });
        Ok(value)
    }
}

/// Goes the way to a store and does there once all that a vault needs. Leaves nothing behind.
///
/// The store is asked once for each step and not patiently: who pings wants to know how it is now.
pub async fn ping(
    address: &VaultAddress,
    opening: &Opening,
    entropy: &dyn Entropy,
) -> Result<PingReport> {
    let mut walk = Walk { opening, steps: Vec::new() };
    let outcome = match server_of(address, opening)? {
        Some(server) => reach(&mut walk, &server).await,
        None => Ok(()),
    };
    let outcome = match outcome {
        Ok(()) => use_store(&mut walk, address, entropy).await,
        Err(failure) => Err(failure),
    };
    let (clock_ahead_seconds, failure) = match outcome {
        Ok(ahead) => (ahead, None),
        Err(failure) => (None, Some(failure)),
    };
    Ok(PingReport { steps: walk.steps, failure, clock_ahead_seconds })
}

struct Server {
    host: String,
    port: u16,
    is_proxy: bool,
    encrypted: bool,
}

// The first server on the way: the store's, or that of the proxy.
fn server_of(address: &VaultAddress, opening: &Opening) -> Result<Option<Server>> {
    let VaultAddress::Bucket(bucket) = address else { return Ok(None) };
    let unusable = |reason| Error::Access { address: address.to_string(), reason };
    let settings =
        Settings::new(bucket.provider, &opening.access, &opening.variables).map_err(unusable)?;
    let url = provider::server(bucket, &settings).map_err(unusable)?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let encrypted = url.scheme() == "https";
    if let Some((proxy, except)) = settings.proxy(encrypted)
        && !is_excepted(&host, except.unwrap_or_default())
    {
        let proxy: reqwest::Url =
            proxy.parse().map_err(|_| unusable("the proxy is not a URL".to_owned()))?;
        let host = proxy.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = proxy.port_or_known_default().unwrap_or(8080);
        return Ok(Some(Server { host, port, is_proxy: true, encrypted }));
    }
    let port = url.port_or_known_default().unwrap_or(443);
    Ok(Some(Server { host, port, is_proxy: false, encrypted }))
}

fn is_excepted(host: &str, list: &str) -> bool {
    list.split(',').map(|entry| entry.trim().trim_start_matches('.')).any(|entry| {
        entry == "*"
            || host == entry
            || (!entry.is_empty()
                && host.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.')))
    })
}

async fn reach(walk: &mut Walk<'_>, server: &Server) -> Result<(), (PingStep, Error)> {
    let name = format!("{}:{}", server.host, server.port);
    let failed = |action, cause: std::io::Error| {
        let fault = match cause.kind() {
            std::io::ErrorKind::TimedOut => StoreFault::Timeout,
            _ => StoreFault::Unreachable,
        };
        Error::from(StoreError::new(action, &name, fault).because(cause))
    };
    let found = walk
        .step(PingStep::Resolve, async {
            let lookup = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
            let found: Vec<_> = lookup.map_err(|cause| failed("find", cause))?.collect();
            let mut finding = found.first().map(|address| address.ip().to_string());
            if server.is_proxy {
                finding = finding.map(|address| format!("{address}, the proxy"));
            }
            Ok((found, finding))
        })
        .await?;
    let limit = walk.opening.connect_limit;
    walk.step(PingStep::Connect, async {
        let connecting = tokio::net::TcpStream::connect(&found[..]);
        let connected = match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        let stream = connected.map_err(|cause| failed("connect to", cause))?;
        let mut finding = stream.peer_addr().ok().map(|peer| peer.to_string());
        if !server.encrypted {
            // The vault's content is sealed all the same; who comes by sees names of objects and can disturb.
            finding = finding.map(|peer| format!("{peer}, not encrypted"));
        }
        Ok(((), finding))
    })
    .await
}

async fn use_store(
    walk: &mut Walk<'_>,
    address: &VaultAddress,
    entropy: &dyn Entropy,
) -> Result<Option<i64>, (PingStep, Error)> {
    let opening = walk.opening;
    let store = walk
        .step(PingStep::Login, async {
            let store = address.open(opening)?;
            match store.get(&ObjectName::descriptor(), SMALL_OBJECT_BYTES).await {
                Ok(_) => Ok((store, None)),
                Err(error) if error.fault == StoreFault::NotFound => {
                    Ok((store, Some("there is no vault".to_owned())))
                }
                Err(error) => Err(error.into()),
            }
        })
        .await?;
    let name = ObjectName::probe(random_bytes(entropy));
    let body = Bytes::copy_from_slice(&random_bytes::<64>(entropy));
    let written = walk.step(PingStep::Write, write(store.as_ref(), &name, &body)).await;
    let read = match written {
        Ok(time) => {
            walk.step(PingStep::Read, read(store.as_ref(), &name, &body)).await.map(|()| time)
        }
        Err(failure) => Err(failure),
    };
    // Also after a failure: what may be there is worth nothing.
    let deleted = walk
        .step(PingStep::Delete, async {
            match store.delete(&name).await {
                Ok(()) => Ok(((), None)),
                Err(error) if error.fault == StoreFault::PermissionDenied => {
                    Ok(((), Some("not allowed with these keys".to_owned())))
                }
                Err(error) => Err(error.into()),
            }
        })
        .await;
    let time = match (read, deleted) {
        (Ok(time), Ok(())) => time,
        (Ok(_), Err(failure)) => return Err(failure),
        (Err(failure), _) => {
            walk.steps.retain(|done| done.step != PingStep::Delete);
            return Err(failure);
        }
    };
    let now = opening.clock.now();
    let ahead = time.map(|time: storepool::clock::Timestamp| now.seconds() - time.seconds());
    let finding = ahead.map_or("the store does not tell its time".to_owned(), clock_words);
    walk.step(PingStep::Clock, async { Ok(((), Some(finding))) }).await?;
    Ok(ahead)
}

async fn write(
    store: &dyn ObjectStore,
    name: &ObjectName,
    body: &Bytes,
) -> Result<(Option<storepool::clock::Timestamp>, Option<String>)> {
    let receipt = store.put_new(name, body.clone()).await?;
    match store.put_new(name, body.clone()).await {
        Err(error) if error.fault == StoreFault::AlreadyExists => Ok((receipt.server_time, None)),
        Err(error) => Err(error.into()),
        Ok(_) => Err(Error::CreateNotExclusive { address: store.address().to_owned() }),
    }
}

async fn read(
    store: &dyn ObjectStore,
    name: &ObjectName,
    body: &Bytes,
) -> Result<((), Option<String>)> {
    let unsound = |reason| Err(Error::StoreUnsound { address: store.address().to_owned(), reason });
    if store.get(name, body.len() as u64).await?.bytes != *body {
        return unsound("an object does not read back as it was written");
    }
    if store.get_range(name, 10..20).await?.bytes != body[10..20] {
        return unsound("a part of an object does not read back as it was written");
    }
    if !store.list(PROBES).await?.iter().any(|found| found.name == *name) {
        return unsound("an object that was just written is not listed");
    }
    Ok(((), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SeededEntropy;
    use std::sync::Arc;
    use storepool::clock::SystemClock;

    fn opening(endpoint: &str) -> Opening {
        let value = crate::store::access::AccessValue::new;
        let access = [
            ("endpoint".to_owned(), value(endpoint)),
            ("access_key_id".to_owned(), value("id")),
            ("secret_access_key".to_owned(), value("planted-secret")),
        ];
        Opening::new(access.into(), Arc::new(SystemClock::new()))
    }

    #[tokio::test]
    async fn a_directory_is_pinged_without_a_network_and_nothing_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let address = VaultAddress::Directory(directory.path().join("vault"));
        let opening = Opening::new(Default::default(), Arc::new(SystemClock::new()));
        let store = address.create(&opening).expect("created");

        let report = ping(&address, &opening, &SeededEntropy::new(1)).await.expect("pinged");

        assert!(report.failure.is_none(), "{report:?}");
        let names: Vec<_> = report.steps.iter().map(|done| done.step.name()).collect();
        assert_eq!(names, ["login", "write", "read", "delete", "clock"]);
        assert_eq!(report.clock_ahead_seconds.map(i64::abs).map(|ahead| ahead < 60), Some(true));
        assert!(store.list("").await.expect("listed").is_empty());
    }

    #[tokio::test]
    async fn a_closed_port_ends_at_connect_and_a_wrong_name_at_dns() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let address: VaultAddress = "s3://bucket/prefix".parse().expect("an address");
        for (endpoint, step) in [
            (format!("http://127.0.0.1:{port}"), PingStep::Connect),
            ("https://no-such-host.invalid".to_owned(), PingStep::Resolve),
        ] {
            let opening = opening(&endpoint);

            let report = ping(&address, &opening, &SeededEntropy::new(1)).await.expect("pinged");

            let (failed, error) = report.failure.expect("a failure");
            assert_eq!(failed, step, "{error}");
            assert_eq!(error.store_fault(), Some(StoreFault::Unreachable));
            assert!(!format!("{error:?}").contains("planted"));
        }
    }

    #[test]
    fn the_first_server_on_the_way_is_the_proxy_if_there_is_one() {
        let address: VaultAddress = "s3://bucket".parse().expect("an address");
        let mut opening = opening("https://s3.example:9000");
        let server = |opening: &Opening| {
            let server = server_of(&address, opening).expect("sound").expect("a server");
            (server.host, server.port, server.is_proxy)
        };
        assert_eq!(server(&opening), ("s3.example".into(), 9000, false));

        let with = |variables: &[(&str, &str)]| {
            let pairs = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            crate::store::access::Variables::of(pairs)
        };
        opening.variables = with(&[("HTTPS_PROXY", "http://proxy:3128")]);
        assert_eq!(server(&opening), ("proxy".into(), 3128, true));
        opening.variables =
            with(&[("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", "a, .example")]);
        assert_eq!(server(&opening), ("s3.example".into(), 9000, false));
    }
}
