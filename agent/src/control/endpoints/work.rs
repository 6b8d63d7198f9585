//! What the daemon is asked to do: each accepted wish is a job.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Json, Path};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ask, blocking, in_force};
use crate::config::{DrillCopy, GroupConfig, Upkeep};
use crate::control::refusal::Refusal;
use crate::control::server::{Office, RequestId};
use crate::daemon::{Command, Submitted, Wish};
use crate::drill::DrillOrder;
use crate::job::Task;
use crate::journal::Reason;

/// How points are made.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NewPoints {
    /// Read every file.
    force: bool,
    /// Tags of the points.
    tags: Vec<String>,
}

/// What is restored, and where to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRestore {
    /// `POINT`, `POINT:PATH`, `latest:GROUP`.
    point: String,
    /// An absolute path of a folder.
    to: String,
    /// `fail`, `skip`, `overwrite` or `newer`.
    #[serde(default)]
    conflict: Option<String>,
    /// `pool` or `vault`.
    #[serde(default)]
    from: Option<String>,
    /// Which vault of the configuration, with `from` a vault.
    #[serde(default)]
    vault: Option<String>,
    /// Only what these patterns match, as in .gitignore.
    #[serde(default)]
    include: Vec<String>,
    /// Not what these patterns match.
    #[serde(default)]
    exclude: Vec<String>,
    /// Owners get the numbers they had, even if their names have other numbers here.
    #[serde(default)]
    numeric_owner: bool,
}

/// A job that was accepted.
#[derive(JsonSchema, Serialize)]
pub(super) struct Accepted {
    /// Its number.
    job: i64,
    /// Whether it is new; `false` if such a job was there already.
    new: bool,
    /// Where it is found.
    url: String,
}

/// Who asks for work, and the key by which asking twice is known.
pub(super) struct Asker {
    office: Arc<Office>,
    request: RequestId,
    key: Option<String>,
}

impl FromRequestParts<Arc<Office>> for Asker {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut Parts,
        office: &Arc<Office>,
    ) -> Result<Self, Self::Rejection> {
        const KEY_MOST: usize = 128;
        let nameless = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request has no id");
        let request = parts.extensions.get::<RequestId>().cloned().ok_or_else(nameless)?;
        let key = parts.headers.get("idempotency-key").and_then(|key| key.to_str().ok());
        if key.is_some_and(|key| key.is_empty() || key.len() > KEY_MOST) {
            let message = "an Idempotency-Key has 1 to 128 characters";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        Ok(Self { office: office.clone(), request, key: key.map(str::to_string) })
    }
}

impl Asker {
    // Refuses what is asked of a group that the configuration does not have.
    async fn must_know(&self, name: &str) -> Result<(), Refusal> {
        let (office, name) = (self.office.clone(), name.to_string());
        blocking(move || {
            let config = in_force(&office)?;
            match crate::job::group(&config, &name) {
                Ok(_) => Ok(()),
                Err(error) => {
                    let failure = crate::console::failure::explain(&error);
                    let (message, hint) = (failure.message, failure.hint);
                    Err(Refusal { status: StatusCode::NOT_FOUND, message, hint })
                }
            }
        })
        .await
    }

    async fn submit(self, wish: Wish) -> Result<Response, Refusal> {
        let mut hasher = DefaultHasher::new();
        (&wish.name, &wish.words).hash(&mut hasher);
        let idempotency = self.key.map(|key| (key, hasher.finish()));
        let wish = Box::new(Wish { request: Some(self.request.0), ..wish });
        match ask(&self.office, |reply| Command::Submit { wish, idempotency, reply }).await? {
            Submitted::Job { id, new } => {
                let url = format!("/v1/jobs/{id}");
                let location = [(header::LOCATION, url.clone())];
                let body = Json(Accepted { job: id.0, new, url });
                Ok((StatusCode::ACCEPTED, location, body).into_response())
            }
            Submitted::KeyReused => {
                let message = "this Idempotency-Key was used for another request";
                Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message))
            }
            Submitted::Unavailable(why) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &why)),
        }
    }
}

fn hand(task: Task, words: Vec<String>) -> Wish {
    Wish {
        name: task.to_string(),
        task: Some(task),
        words,
        reason: Reason::Hand,
        attempt: 1,
        request: None,
    }
}

// An empty body means the defaults; one that is no such document is refused.
fn parse<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()))
}

pub(super) async fn make_points(
    asker: Asker,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let new: NewPoints = parse(&body)?;
    asker.must_know(&name).await?;
    let mut words = vec!["backup".to_string(), name.clone()];
    if new.force {
        words.push("--force".to_string());
    }
    for tag in new.tags {
        words.push(format!("--tag={tag}"));
    }
    asker.submit(hand(Task::Backup(name), words)).await
}

pub(super) async fn make_copies(
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    asker.must_know(&name).await?;
    let words = vec!["sync".to_string(), name.clone()];
    asker.submit(hand(Task::Sync(name), words)).await
}

/// How a group is drilled; what is not said is as the configuration has it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NewDrill {
    /// `pool` or `vault`.
    from: Option<String>,
    /// Which vault of the configuration, with `from` a vault.
    vault: Option<String>,
    /// `all`, or a size such as `1GiB`.
    sample: Option<String>,
    /// The seed of a drill that is to be repeated.
    seed: Option<String>,
}

impl NewDrill {
    fn order(self, group: &GroupConfig) -> Result<DrillOrder, String> {
        let mut order = DrillOrder::of(group);
        order.from = match self.from.as_deref() {
            None => order.from,
            Some("pool") => DrillCopy::Pool,
            Some("vault") => DrillCopy::Vault,
            Some(_) => return Err("\"from\" must be pool or vault".to_string()),
        };
        if self.vault.is_some() && order.from == DrillCopy::Pool {
            return Err("\"vault\" is for \"from\" a vault".to_string());
        }
        order.vault = self.vault;
        if let Some(sample) = self.sample {
            order.sample = sample.parse()?;
        }
        order.seed = self.seed.map(|seed| seed.parse()).transpose()?;
        Ok(order)
    }
}

pub(super) async fn drill(
    asker: Asker,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let new: NewDrill = parse(&body)?;
    asker.must_know(&name).await?;
    let office = asker.office.clone();
    let wish = blocking(move || {
        let config = in_force(&office)?;
        let missing = || Refusal::new(StatusCode::NOT_FOUND, "there is no such group");
        let group = config.groups.get(&name).ok_or_else(missing)?;
        let order = new
            .order(group)
            .map_err(|message| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &message))?;
        let wish = hand(Task::Drill(name.clone()), order.words(group));
        Ok(match order.is_as_configured(group) {
            true => wish,
            false => Wish { task: None, name: order.name(group), ..wish },
        })
    })
    .await?;
    asker.submit(wish).await
}

/// How the pool or a vault is looked after; what is not said is as the configuration has it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NewUpkeep {
    /// Of check: how much of the data is read, 0 to 100.
    read_percent: Option<f64>,
    /// Of prune: how much may stay unused, 0 to 100.
    max_unused_percent: Option<f64>,
}

impl NewUpkeep {
    fn words(&self, wish: Wish, upkeep: Upkeep) -> Result<Wish, Refusal> {
        let (percent, option) = match upkeep {
            Upkeep::Forget => (None, ""),
            Upkeep::Prune => (self.max_unused_percent, "--max-unused"),
            Upkeep::Check => (self.read_percent, "--read-data"),
        };
        let foreign = [
            (self.read_percent, upkeep == Upkeep::Check),
            (self.max_unused_percent, upkeep == Upkeep::Prune),
        ];
        if foreign.iter().any(|(value, fits)| value.is_some() && !fits) {
            let message = format!("{} takes no such share", upkeep.word());
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &message));
        }
        let Some(percent) = percent else { return Ok(wish) };
        if !(0.0..=100.0).contains(&percent) {
            let message = "a share is 0 to 100";
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        let mut words = wish.words;
        words.retain(|word| !word.starts_with(option));
        // Nothing at all is read without the option; nothing at all stays unused with 0.
        if upkeep == Upkeep::Prune || percent > 0.0 {
            words.push(format!("{option}={percent}%"));
        }
        Ok(Wish { words, ..wish })
    }
}

pub(super) async fn maintain(
    asker: Asker,
    Path(task): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    look_after(asker, None, &task, &body).await
}

pub(super) async fn maintain_vault(
    asker: Asker,
    Path((name, task)): Path<(String, String)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    look_after(asker, Some(name), &task, &body).await
}

async fn look_after(
    asker: Asker,
    vault: Option<String>,
    task: &str,
    body: &[u8],
) -> Result<Response, Refusal> {
    let Some(upkeep) = Upkeep::of_word(task) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "expected forget, prune or check"));
    };
    let new: NewUpkeep = parse(body)?;
    let office = asker.office.clone();
    let wish = blocking(move || {
        let config = in_force(&office)?;
        if let Some(name) = vault.as_ref().filter(|name| !config.vaults.contains_key(*name)) {
            let message = format!("there is no [vault.{name}] in the configuration");
            return Err(Refusal::new(StatusCode::NOT_FOUND, &message));
        }
        let task = Task::upkeep(upkeep, vault.as_deref());
        new.words(Wish::task(&config, task, Reason::Hand), upkeep)
    })
    .await?;
    asker.submit(wish).await
}

pub(super) async fn restore(asker: Asker, body: Bytes) -> Result<Response, Refusal> {
    let new: NewRestore = parse(&body)?;
    let wrong = |message| Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    if !new.to.starts_with('/') {
        return wrong("\"to\" must be an absolute path");
    }
    // Otherwise it would be taken for an option.
    if new.point.starts_with('-') || new.point.is_empty() {
        return wrong("\"point\" must name a point");
    }
    let mut words = vec!["restore".to_string(), new.point.clone(), format!("--to={}", new.to)];
    match new.conflict.as_deref() {
        None => {}
        Some(conflict @ ("fail" | "skip" | "overwrite" | "newer")) => {
            words.push(format!("--conflict={conflict}"));
        }
        Some(_) => return wrong("\"conflict\" must be fail, skip, overwrite or newer"),
    }
    match new.from.as_deref() {
        None => {}
        Some(from @ ("pool" | "vault")) => words.push(format!("--from={from}")),
        Some(_) => return wrong("\"from\" must be pool or vault"),
    }
    words.extend(new.vault.iter().map(|vault| format!("--vault={vault}")));
    words.extend(new.include.iter().map(|pattern| format!("--include={pattern}")));
    words.extend(new.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
    words.extend(new.numeric_owner.then(|| "--numeric-owner".to_string()));
    let target = PathBuf::from(&new.to);
    if !blocking(move || Ok(is_writable(&target))).await? {
        // A hardened service may not write to the folders of the system; the command itself may.
        let message = format!("the daemon may not write to {}", new.to);
        return Err(Refusal::new(StatusCode::CONFLICT, &message));
    }
    let wish = Wish {
        task: None,
        name: format!("restore {}", new.point),
        words,
        reason: Reason::Hand,
        attempt: 1,
        request: None,
    };
    asker.submit(wish).await
}

// Whether this process could make `path` or write into it. What is no folder is for the restore itself to complain of.
fn is_writable(path: &FilePath) -> bool {
    let there = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    there.is_none_or(|there| rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_body_that_is_no_such_document_is_refused() {
        assert!(parse::<NewPoints>(b"").is_ok());
        assert!(parse::<NewPoints>(b"{\"force\": true}").unwrap().force);
        assert_eq!(parse::<NewPoints>(b"{\"forse\": true}").unwrap_err().status, 422);
        assert!(parse::<NewRestore>(b"{}").is_err());
    }

    #[test]
    fn a_drill_is_the_task_only_as_it_is_configured() {
        let text = "[pool]\npaths = [\"p\"]\n[vault.main]\ncredentials = \"c\"\n[group.web]\nsources = [{ files = [\"/\"] }]\n\
                    drill = { from = \"vault\", sample = \"2G\" }\n";
        let config = Config::parse(FilePath::new("/c.toml"), text).unwrap();
        let group = &config.groups["web"];
        let name = |body: &str| {
            let new: NewDrill = parse(body.as_bytes()).unwrap();
            new.order(group).map(|order| order.name(group))
        };

        assert_eq!(name("{}").as_deref(), Ok("drill web"));
        assert_eq!(
            name(r#"{"sample":"2GiB","vault":"main","seed":"00000000000000ff"}"#).as_deref(),
            Ok("drill web")
        );
        assert_eq!(name(r#"{"from":"pool"}"#).as_deref(), Ok("drill web --from=pool"));
        let small = name(r#"{"sample":"1G"}"#);
        assert_eq!(small.as_deref(), Ok("drill web --from=vault --sample=1073741824"));
        for wrong in [r#"{"from":"tape"}"#, r#"{"sample":"none"}"#, r#"{"seed":"1"}"#] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        assert!(name(r#"{"from":"pool","vault":"main"}"#).is_err());
    }
}
