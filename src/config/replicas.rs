//! Redis, through which replicas of the gateway share limits: where it is, and what holds while it is not there.

use secrecy::{ExposeSecret, SecretString};

use super::parse::Parsed;

/// What the environment says of Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `REDIS_URL`, which may hold a password.
    pub url: SecretString,
    /// `REDIS_FAIL`
    pub away: OnRedisAway,
}

/// What happens to requests with limits while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRedisAway {
    /// Each replica counts for itself.
    #[default]
    Open,
    /// They are refused.
    Closed,
}

const SCHEMES: [&str; 4] = ["redis://", "rediss://", "unix://", "redis+unix://"];

impl Parsed {
    /// `REDIS_URL` and `REDIS_FAIL`. The URL is never told back: it may hold a password.
    pub(super) fn redis(&mut self, url: Option<&str>, fail: Option<&str>) -> Option<RedisSettings> {
        let away = match fail.map(str::to_lowercase).as_deref() {
            None | Some("open") => OnRedisAway::Open,
            Some("closed") => OnRedisAway::Closed,
            Some(_) => {
                self.bad("REDIS_FAIL", fail.unwrap_or_default(), "open or closed");
                OnRedisAway::Open
            }
        };
        let url: SecretString = url?.trim().into();
        let names_something =
            |scheme: &&str| url.expose_secret().strip_prefix(*scheme).is_some_and(|place| !place.is_empty());
        if !SCHEMES.iter().any(names_something) {
            self.fault(
                "REDIS_URL",
                "names no Redis server".to_owned(),
                "give redis://, rediss:// or unix:// with an address, such as redis://127.0.0.1:6379/0"
                    .to_owned(),
            );
        }
        Some(RedisSettings { url, away })
    }
}
