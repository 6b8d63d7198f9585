//! The limit on uploads as it is in force: by the hour it is here, and by what the configuration says now.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use cloudsync::store::bandwidth::{LocalWeek, UploadLimiter, WeekMinute};
use jiff::tz::TimeZone;

use crate::config::{Config, VaultConfig};
use crate::place::Place;
use crate::vaults::Engine;

/// How often the configuration file is looked at while something may be uploaded.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Returns the limiter for uploads to a vault. As long as it is in use it follows changes of the configuration file.
pub(crate) fn limiter(
    engine: &Engine,
    place: &Place,
    name: &str,
    config: &VaultConfig,
) -> Arc<UploadLimiter> {
    let calendar = config.upload_limit.clone();
    let limiter = Arc::new(UploadLimiter::new(calendar, engine.clock(), local_week()));
    let file = Followed {
        path: place.configuration.clone(),
        vault: name.to_string(),
        limiter: Arc::downgrade(&limiter),
    };
    engine.handle().spawn(file.follow());
    limiter
}

struct Followed {
    path: PathBuf,
    vault: String,
    limiter: Weak<UploadLimiter>,
}

impl Followed {
    async fn follow(self) {
        let mut seen = modified(&self.path);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(limiter) = self.limiter.upgrade() else { return };
            let now = modified(&self.path);
            if now == seen {
                continue;
            }
            seen = now;
            let path = self.path.clone();
            let loaded = tokio::task::spawn_blocking(move || Config::load(&path)).await;
            // A file that is wrong, or just being written, changes nothing for what runs.
            let Ok(Ok(config)) = loaded else { continue };
            if let Some(vault) = config.vaults.get(&self.vault) {
                limiter.set(vault.upload_limit.clone());
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn local_week() -> LocalWeek {
    let zone = TimeZone::system();
    Arc::new(move |now| {
        let seconds = now.seconds();
        let moment = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let local = zone.to_datetime(moment);
        WeekMinute {
            weekday: local.weekday().to_monday_zero_offset().unsigned_abs(),
            minute: local.hour().unsigned_abs() as u16 * 60 + local.minute().unsigned_abs() as u16,
        }
    })
}
