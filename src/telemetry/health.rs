//! What probes are told: whether the process is alive, and whether it should get requests.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

/// The state of the process, as far as it concerns those who send it requests.
#[derive(Debug)]
pub struct Health {
    started: SystemTime,
    draining: AtomicBool,
    cutting_off: AtomicBool,
    refused_reload: ArcSwapOption<String>,
    troubled_store: ArcSwapOption<String>,
    /// 0: there is none, 1: it is away, 2: it answers.
    redis: AtomicU8,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            draining: AtomicBool::new(false),
            cutting_off: AtomicBool::new(false),
            refused_reload: ArcSwapOption::empty(),
            troubled_store: ArcSwapOption::empty(),
            redis: AtomicU8::new(0),
        }
    }
}

impl Health {
    /// When the process began to serve.
    pub fn started_at(&self) -> SystemTime {
        self.started
    }

    /// The same, in seconds since 1970.
    pub fn started_at_seconds(&self) -> u64 {
        self.started.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// From now on no more requests are wanted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on answers must end, whether or not they are whole.
    pub fn cut_off(&self) {
        self.cutting_off.store(true, Ordering::Relaxed);
    }

    /// Whether answers must end.
    pub fn is_cutting_off(&self) -> bool {
        self.cutting_off.load(Ordering::Relaxed)
    }

    /// A changed configuration was refused, for this reason; the one before it goes on serving.
    pub fn reload_refused(&self, reason: String) {
        self.refused_reload.store(Some(reason.into()));
    }

    /// A changed configuration was accepted.
    pub fn reload_accepted(&self) {
        self.refused_reload.store(None);
    }

    /// Redis, through which replicas share what they count, answers or does not.
    pub(super) fn set_redis(&self, is_up: bool) {
        self.redis.store(1 + u8::from(is_up), Ordering::Relaxed);
    }

    /// Whether Redis answers; `None` if nothing is shared.
    pub fn redis(&self) -> Option<bool> {
        match self.redis.load(Ordering::Relaxed) {
            0 => None,
            known => Some(known == 2),
        }
    }

    /// Why the last change was refused, if it was.
    pub fn refused_reload(&self) -> Option<String> {
        self.refused_reload.load().as_ref().map(|reason| String::clone(reason))
    }

    /// How it is with the store of keys and usage: what is wrong, or nothing.
    pub fn store_is(&self, trouble: Option<String>) {
        self.troubled_store.store(trouble.map(Into::into));
    }

    /// What is wrong with the store of keys and usage, if anything is.
    pub fn troubled_store(&self) -> Option<String> {
        self.troubled_store.load().as_ref().map(|reason| String::clone(reason))
    }
}
