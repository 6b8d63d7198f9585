//! The Table service over HTTP: signed requests, pages, group transactions. <https://learn.microsoft.com/rest/api/storageservices/table-service-rest-api>

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use ring::hmac;
use serde_json::Value;
use storepool::clock::{Clock, SystemClock};
use storepool::monitor::Monitor;

use super::entity::Entity;
use crate::http::{builder, told};
use crate::workload::WorkloadError;

const VERSION: &str = "2019-02-02";
/// Longest wait for a connection, and for the next bytes of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How soon somebody who gives up waiting is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often a request is sent that the service was too busy for, or that was lost on the way.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(400);
/// Entities of a page: the most that the service gives.
const PAGE: u32 = 1000;
/// Longest answer; the service ends a page at 4 MiB.
const ANSWER_MOST: usize = 64 << 20;
/// Letters that stand for themselves in an address.
const PLAIN: &[u8] = b"-_.~";

/// A way to the tables of an account.
pub(super) struct TableClient {
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) requests: Requests,
}

/// What is needed to ask.
#[derive(Clone)]
pub(super) struct Requests {
    client: Client,
    account: String,
    endpoint: String,
    key: hmac::Key,
}

/// Where a page begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Continuation {
    partition: Option<String>,
    row: Option<String>,
}

/// Which of a table's entities are meant: those whose partition keys lie from the first up to, and not with, the second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

/// An entry of a group transaction; all of one partition.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Write the entity, whatever is there.
    Put(Entity),
    /// Remove the entity.
    Delete(Entity),
}

impl TableClient {
    /// Creates the way; nothing is asked yet.
    pub(super) fn new(
        account: &str,
        endpoint: Option<&str>,
        key: &str,
    ) -> Result<Self, WorkloadError> {
        let no_key = || {
            WorkloadError::failed(format!("the key of account {account} is no key"))
                .hint("the file holds the account's key alone, as Azure shows it (base64)")
        };
        let key = zeroize::Zeroizing::new(STANDARD.decode(key.trim()).map_err(|_| no_key())?);
        if key.is_empty() {
            return Err(no_key());
        }
        let failed = |cause: String| {
            WorkloadError::failed(format!("cannot talk to account {account}")).because(cause)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("table")
            .enable_all()
            .build()
            .map_err(|cause| failed(cause.to_string()))?;
        let client = builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|cause| failed(told(cause)))?;
        let usual = format!("https://{account}.table.core.windows.net");
        let requests = Requests {
            client,
            account: account.to_string(),
            endpoint: endpoint.unwrap_or(&usual).trim_end_matches('/').to_string(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        };
        Ok(Self { runtime, requests })
    }

    /// Returns the names of all tables, in order; an error as soon as `monitor` is cancelled.
    pub(super) fn tables(&self, monitor: &dyn Monitor) -> Result<Vec<String>, WorkloadError> {
        let given_up = async {
            while !monitor.cancelled() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                tables = self.requests.tables() => tables,
                () = given_up => {
                    let what = format!("listing the tables of account {} was given up", self.requests.account);
                    Err(WorkloadError::failed(what))
                }
            }
        })
    }

    /// Makes a table; one that is there already is none the worse.
    pub(super) fn create_table(&self, table: &str) -> Result<(), WorkloadError> {
        self.runtime.block_on(self.requests.create_table(table))
    }

    /// Returns one page of a table, and where the next one begins.
    pub(super) fn page(
        &self,
        table: &str,
        from: &Continuation,
    ) -> Result<(Vec<Entity>, Option<Continuation>), WorkloadError> {
        self.runtime.block_on(self.requests.page(table, &Range::default(), from))
    }
}

impl Requests {
    async fn tables(&self) -> Result<Vec<String>, WorkloadError> {
        let what = format!("list the tables of account {}", self.account);
        let mut tables = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let query = next.as_ref().map(|name| format!("NextTableName={}", encoded(name)));
            let address = (Method::GET, "/Tables", query.as_deref().unwrap_or_default());
            let answer = self.ask(&what, address, |request| {
                request.header("accept", "application/json;odata=nometadata")
            });
            let answer = answer.await?;
            next = header(&answer, "x-ms-continuation-nexttablename");
            let value = document(&what, answer).await?;
            let names = value["value"].as_array().cloned().unwrap_or_default();
            tables.extend(
                names.iter().filter_map(|one| Some(one["TableName"].as_str()?.to_string())),
            );
            if next.is_none() {
                tables.sort();
                return Ok(tables);
            }
        }
    }

    async fn create_table(&self, table: &str) -> Result<(), WorkloadError> {
        let what = format!("make the table {table}");
        let body = serde_json::json!({ "TableName": table }).to_string();
        let answer = self.send(&what, (Method::POST, "/Tables", ""), |request| {
            request
                .header("accept", "application/json;odata=nometadata")
                .header("content-type", "application/json")
                .header("prefer", "return-no-content")
                .body(body.clone())
        });
        match answer.await? {
            answer if answer.status().is_success() || answer.status() == StatusCode::CONFLICT => {
                Ok(())
            }
            answer => Err(refusal(&what, answer).await),
        }
    }

    /// Returns one page of a range of a table, and where the next one begins.
    pub(super) async fn page(
        &self,
        table: &str,
        range: &Range,
        from: &Continuation,
    ) -> Result<(Vec<Entity>, Option<Continuation>), WorkloadError> {
        let what = format!("read the table {table}");
        let mut query = format!("$top={PAGE}");
        if let Some(filter) = filter(range) {
            query.push_str(&format!("&$filter={}", encoded(&filter)));
        }
        for (name, value) in [("NextPartitionKey", &from.partition), ("NextRowKey", &from.row)] {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        let path = format!("/{table}()");
        let answer = self.ask(&what, (Method::GET, &path, &query), |request| {
            // Full: the only form that names the type of every property that JSON does not tell.
            request.header("accept", "application/json;odata=fullmetadata")
        });
        let answer = answer.await?;
        let partition = header(&answer, "x-ms-continuation-nextpartitionkey");
        let row = header(&answer, "x-ms-continuation-nextrowkey");
        let next = partition.is_some().then_some(Continuation { partition, row });
        let value = document(&what, answer).await?;
        let rows = value["value"].as_array().cloned().unwrap_or_default();
        let entities = rows.iter().map(Entity::from_wire).collect::<Result<Vec<_>, _>>();
        let strange =
            |cause: String| WorkloadError::failed(format!("cannot {what}")).because(cause);
        Ok((entities.map_err(strange)?, next))
    }

    /// Makes changes of one partition, all or none of them. Sent again when the answer is lost: writing or removing twice is doing it once.
    pub(super) async fn transact(
        &self,
        table: &str,
        changes: &[Change],
    ) -> Result<(), WorkloadError> {
        let what = format!("write to the table {table}");
        let body = self.batch(table, changes);
        let answer = self.ask(&what, (Method::POST, "/$batch", ""), |request| {
            request
                .header("accept", "application/json;odata=nometadata")
                .header("content-type", "multipart/mixed; boundary=batch_keepwell")
                .body(body.clone())
        });
        let text = answer.await?.text().await.map_err(|cause| {
            WorkloadError::failed(format!("cannot {what}")).because(told(cause))
        })?;
        let statuses: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
        let good = statuses.iter().filter(|status| status.starts_with('2')).count();
        // What is to be removed may be gone.
        let gone = statuses.iter().any(|status| status.starts_with("404"));
        if good == changes.len() || (gone && matches!(changes, [Change::Delete(_)])) {
            return Ok(());
        }
        let refused = statuses.iter().find(|status| !status.starts_with('2'));
        let why = refused.map_or("it did not confirm every change", |status| status.trim());
        Err(WorkloadError::failed(format!("cannot {what}"))
            .because(format!("the service answered {why}{}", code_in(&text))))
    }

    fn batch(&self, table: &str, changes: &[Change]) -> String {
        let mut body = String::from(
            "--batch_keepwell\r\nContent-Type: multipart/mixed; boundary=changeset_keepwell\r\n\r\n",
        );
        for (number, change) in changes.iter().enumerate() {
            let (method, entity) = match change {
                Change::Put(entity) => ("PUT", entity),
                Change::Delete(entity) => ("DELETE", entity),
            };
            let key = |text: &str| encoded(&text.replace('\'', "''"));
            body.push_str(&format!(
                "--changeset_keepwell\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: {number}\r\n\r\n\
                 {method} {}/{table}(PartitionKey='{}',RowKey='{}') HTTP/1.1\r\n\
                 Accept: application/json;odata=nometadata\r\nDataServiceVersion: 3.0\r\n",
                self.endpoint,
                key(&entity.partition),
                key(&entity.row),
            ));
            match change {
                Change::Put(entity) => {
                    let content = entity.to_wire().to_string();
                    body.push_str(&format!(
                        "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{content}\r\n",
                        content.len()
                    ));
                }
                Change::Delete(_) => body.push_str("If-Match: *\r\n\r\n\r\n"),
            }
        }
        body.push_str("--changeset_keepwell--\r\n--batch_keepwell--\r\n");
        body
    }

    // Sends, again when that may help, and refuses every answer that is no success.
    async fn ask(
        &self,
        what: &str,
        address: (Method, &str, &str),
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, WorkloadError> {
        match self.send(what, address, build).await? {
            answer if answer.status().is_success() => Ok(answer),
            answer => Err(refusal(what, answer).await),
        }
    }

    async fn send(
        &self,
        what: &str,
        (method, path, query): (Method, &str, &str),
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, WorkloadError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let mut url = format!("{}{path}", self.endpoint);
            if !query.is_empty() {
                url = format!("{url}?{query}");
            }
            let sent = build(self.signed(method.clone(), &url)?).send().await;
            let busy = |answer: &Response| {
                answer.status().is_server_error()
                    || matches!(
                        answer.status(),
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            };
            match sent {
                Ok(answer) if tries == TRIES || !busy(&answer) => return Ok(answer),
                Err(cause) if tries == TRIES => {
                    return Err(
                        WorkloadError::failed(format!("cannot {what}")).because(told(cause))
                    );
                }
                _ => tokio::time::sleep(pause).await,
            }
            tries += 1;
            pause *= 2;
        }
    }

    // Shared Key Lite: the date and the resource, which on an emulator has the account twice.
    fn signed(&self, method: Method, url: &str) -> Result<RequestBuilder, WorkloadError> {
        let parsed = reqwest::Url::parse(url).map_err(|cause| {
            WorkloadError::failed(format!("{} is no address of tables", self.endpoint))
                .because(cause)
        })?;
        let now = SystemClock::new().now();
        let date = Timestamp::from_nanosecond(i128::from(now.0))
            .map_err(|cause| WorkloadError::failed("the clock is beyond all dates").because(cause))?
            .strftime("%a, %d %b %Y %H:%M:%S GMT")
            .to_string();
        let text = format!("{date}\n/{}{}", self.account, parsed.path());
        let signature = STANDARD.encode(hmac::sign(&self.key, text.as_bytes()));
        Ok(self
            .client
            .request(method, parsed)
            .header("x-ms-date", date)
            .header("x-ms-version", VERSION)
            .header("dataserviceversion", "3.0")
            .header("maxdataserviceversion", "3.0;NetFx")
            .header("authorization", format!("SharedKeyLite {}:{signature}", self.account)))
    }
}

fn filter(range: &Range) -> Option<String> {
    let quoted = |text: &String| text.replace('\'', "''");
    let from = range.from.as_ref().map(|key| format!("PartitionKey ge '{}'", quoted(key)));
    let to = range.to.as_ref().map(|key| format!("PartitionKey lt '{}'", quoted(key)));
    match (from, to) {
        (Some(from), Some(to)) => Some(format!("{from} and {to}")),
        (from, to) => from.or(to),
    }
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn header(answer: &Response, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_string()).filter(|text| !text.is_empty())
}

async fn document(what: &str, answer: Response) -> Result<Value, WorkloadError> {
    let failed = |cause: String| WorkloadError::failed(format!("cannot {what}")).because(cause);
    let mut answer = answer;
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|cause| failed(told(cause)))? {
        if bytes.len() + part.len() > ANSWER_MOST {
            return Err(failed("the answer is longer than any page".to_string()));
        }
        bytes.extend_from_slice(&part);
    }
    serde_json::from_slice(&bytes).map_err(|cause| failed(cause.to_string()))
}

async fn refusal(what: &str, answer: Response) -> WorkloadError {
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    let error = WorkloadError::failed(format!("cannot {what}")).because(format!(
        "the service answered {}{}",
        status.as_u16(),
        code_in(&text)
    ));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => error.hint(
            "see that account, key and endpoint belong together, and that the clock is right",
        ),
        _ => error,
    }
}

// Only the code: the message may repeat what was sent.
fn code_in(text: &str) -> String {
    let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let code = code.filter(|code| code.chars().all(|letter| letter.is_ascii_alphanumeric()));
    code.map(|code| format!(" ({code})")).unwrap_or_default()
}
