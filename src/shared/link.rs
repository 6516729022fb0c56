//! The way to Redis: whether it is there, who notices that it is not, and who finds it again.
//!
//! A call waits for an answer a short time only, and the first one that gets none tells all others that Redis is away.
//! From then on nobody waits, and only the keeper asks, until it is answered.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, ScriptInvocation};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::PREFIX;
use super::news::Hear;
use crate::callers::Away;
use crate::config::{Fault, OnRedisAway};
use crate::telemetry::Replication;

/// So long a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// So long an answer may take.
const ANSWER: Duration = Duration::from_millis(500);
/// So often it is asked for a sign of life.
const BEAT: Duration = Duration::from_secs(1);
/// So long after it was lost it is asked again; each time it does not answer, twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Every so many signs of life, what is resting is read again, for news may be lost.
const BEATS_BETWEEN_READINGS: u32 = 5;

/// One node's way to Redis.
pub(super) struct Link {
    client: Client,
    /// A word for this process that no other has.
    node: String,
    /// There while Redis answers.
    connection: ArcSwapOption<MultiplexedConnection>,
    lost: Notify,
    // A std mutex: held to read or to replace.
    clock: Mutex<Option<Clock>>,
    /// Whether it has been told that Redis is away.
    is_told: AtomicBool,
    away: OnRedisAway,
    replication: Replication,
}

impl Link {
    pub(super) fn new(
        url: &SecretString,
        away: OnRedisAway,
        replication: Replication,
    ) -> Result<Self, Fault> {
        // What is wrong with the URL is not told in its own words: they may hold the password.
        let client = Client::open(url.expose_secret()).map_err(|_| {
            Fault::new(
                "LLM_PROXY_API_REDIS_URL",
                "names no Redis server",
                "give redis://, rediss:// or unix:// with an address, such as redis://127.0.0.1:6379/0",
            )
        })?;
        let chance = || RandomState::new().build_hasher().finish();
        Ok(Self {
            client,
            node: format!("{:016x}{:016x}", chance(), chance()),
            connection: ArcSwapOption::empty(),
            lost: Notify::new(),
            clock: Mutex::default(),
            is_told: AtomicBool::new(false),
            away,
            replication,
        })
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Whether Redis answers, as far as anybody knows.
    pub(super) fn is_up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Redis' clock now, in seconds; 0 if it was never heard.
    pub(super) fn second(&self) -> i64 {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).map_or(0, |clock| clock.now())
    }

    /// Redis has said what time it is.
    pub(super) fn heard(&self, second: i64) {
        let clock = Clock { heard: Instant::now(), second };
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock);
    }

    /// Whether nothing that is shared is given unasked.
    pub(super) fn is_strict(&self) -> bool {
        self.away == OnRedisAway::Closed
    }

    /// Runs a script.
    ///
    /// # Errors
    /// Redis is away, or is found to be.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Away> {
        let connection = self.connection.load_full().ok_or(Away)?;
        let mut asked = MultiplexedConnection::clone(&connection);
        match timeout(ANSWER, script.invoke_async(&mut asked)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.lose(&connection, &reason(&error)),
            Err(_) => self.lose(&connection, "does not answer in time"),
        }
        Err(Away)
    }

    /// Tells all other nodes.
    ///
    /// # Errors
    /// Redis is away, or is found to be.
    pub(super) async fn publish(&self, news: String) -> Result<(), Away> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel()).arg(news);
        self.ask(&publish).await
    }

    async fn ask(&self, command: &redis::Cmd) -> Result<(), Away> {
        let connection = self.connection.load_full().ok_or(Away)?;
        let mut asked = MultiplexedConnection::clone(&connection);
        match timeout(ANSWER, command.query_async::<redis::Value>(&mut asked)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => self.lose(&connection, &reason(&error)),
            Err(_) => self.lose(&connection, "does not answer in time"),
        }
        Err(Away)
    }

    /// This connection is of no use any more. Nobody waits for it from now on.
    fn lose(&self, connection: &Arc<MultiplexedConnection>, why: &str) {
        let before = self.connection.compare_and_swap(connection, None);
        // Another one may have been found meanwhile, which is none the worse for it.
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, connection)) {
            self.lost.notify_one();
            self.tell_away(why);
        }
    }

    fn tell_away(&self, why: &str) {
        self.replication.set(false);
        if self.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let meanwhile = match self.away {
            OnRedisAway::Open => "each replica's own limits hold",
            OnRedisAway::Closed => "what is limited is refused",
        };
        tracing::warn!("Redis {why}; until it is back, {meanwhile}");
    }

    fn found(&self, connection: MultiplexedConnection) {
        self.connection.store(Some(Arc::new(connection)));
        self.replication.set(true);
        if self.is_told.swap(false, Ordering::Relaxed) {
            tracing::warn!("Redis is back; limits and budgets are shared again");
        } else {
            tracing::info!("Limits and budgets are shared through Redis");
        }
    }

    fn sign_of_life(&self) -> redis::Cmd {
        // It writes: a server that only reads, or is full, is of no use.
        let mut sign = redis::cmd("SET");
        sign.arg(format!("{PREFIX}node:{}", self.node)).arg(1).arg("PX").arg(5000);
        sign
    }

    pub(super) async fn connect(&self) -> Result<(MultiplexedConnection, PubSubStream), String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let connecting = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            self.sign_of_life().query_async::<()>(&mut connection).await?;
            let (second, _) = redis::cmd("TIME").query_async::<(i64, i64)>(&mut connection).await?;
            self.heard(second);
            let mut news = self.client.get_async_pubsub().await?;
            news.subscribe(channel()).await?;
            Ok::<_, RedisError>((connection, news.into_on_message()))
        };
        match timeout(CONNECT, connecting).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(reason(&error)),
            Err(_) => Err("does not answer in time".to_owned()),
        }
    }

    async fn is_alive(&self) -> bool {
        self.ask(&self.sign_of_life()).await.is_ok()
    }

    fn lose_news(&self) {
        if let Some(connection) = self.connection.load_full() {
            self.lose(&connection, "has ended the connection");
        }
    }
}

/// On which channel nodes tell each other.
pub(super) fn channel() -> String {
    format!("{PREFIX}news")
}

/// What an error says without its own words, which may hold an address.
fn reason(error: &RedisError) -> String {
    if error.is_connection_refusal() {
        return "refuses connections".to_owned();
    }
    if error.is_timeout() {
        return "does not answer in time".to_owned();
    }
    format!("cannot be used ({})", error.code().unwrap_or_else(|| error.category()))
}

/// Finds Redis, and finds it again.
pub(super) struct Keeper {
    link: Arc<Link>,
    news: Option<PubSubStream>,
}

impl Keeper {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, news: None }
    }

    /// Tries once to get a connection. Whether there is one.
    pub(super) async fn attempt(&mut self) -> bool {
        match self.link.connect().await {
            Ok((connection, news)) => {
                self.news = Some(news);
                self.link.found(connection);
                true
            }
            Err(why) => {
                self.link.tell_away(&why);
                false
            }
        }
    }

    /// Keeps the connection, or looks for one, until the end.
    pub(super) async fn run(mut self, hear: &impl Hear, end: CancellationToken) {
        let living = async {
            let mut wait = FIRST_WAIT;
            loop {
                if self.news.is_some() && self.link.is_up() {
                    wait = FIRST_WAIT;
                    self.stay(hear).await;
                }
                self.news = None;
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
                self.attempt().await;
            }
        };
        tokio::select! {
            () = living => {}
            () = end.cancelled() => {}
        }
    }

    /// Listens until the connection is lost.
    async fn stay(&mut self, hear: &impl Hear) {
        let Some(news) = &mut self.news else { return };
        let link = &self.link;
        // Whatever was told before somebody listened.
        hear.missed(link).await;
        let mut beats = 0;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while link.is_up() {
            tokio::select! {
                message = news.next() => match message {
                    Some(message) => hear.message(message.get_payload_bytes(), link.node()),
                    None => link.lose_news(),
                },
                () = link.lost.notified() => {}
                _ = beat.tick() => {
                    beats += 1;
                    if link.is_alive().await && beats % BEATS_BETWEEN_READINGS == 0 {
                        hear.read(link).await;
                    }
                }
            }
        }
    }
}

/// What Redis' clock says, as far as it was heard: an instant here, and the second there.
#[derive(Clone, Copy, Debug)]
struct Clock {
    heard: Instant,
    second: i64,
}

impl Clock {
    fn now(&self) -> i64 {
        let since = self.heard.elapsed().as_secs();
        self.second.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }
}
