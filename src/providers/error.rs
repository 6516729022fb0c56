//! How a provider fails, and what may be done about it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::redact::Redactor;
use super::upstream_error::UpstreamError;
use crate::config::Timeouts;
use crate::engine::EngineError;
use crate::wire::Invalid;

/// What callers are told when all deployments of a model rest.
pub const RESTING: &str = "all_deployments_cooling";

/// What is said of an engine whose queue takes longer than a request may wait.
pub const OVERFLOWED: &str = "engine_overflowed";

/// What callers are told when an engine does not start.
pub const ENGINE_START_FAILED: &str = "engine_start_failed";

/// A key or an account that is not accepted will not be a moment later.
const UNAUTHORIZED_REST: Duration = Duration::from_secs(30);

/// A failure of one provider.
#[derive(Debug, thiserror::Error)]
#[error("provider `{provider}` {kind}")]
pub struct ProviderError {
    /// The provider's name in the catalog.
    pub provider: Arc<str>,
    /// What happened.
    pub kind: ErrorKind,
    /// The upstream's own words, without keys and addresses. For operators, never for a decision.
    pub detail: Option<Box<str>>,
    /// What it reported in the place of an answer, without keys and addresses.
    pub reported: Option<Box<Reported>>,
    /// What caused it.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

/// An error that an upstream reports in the place of the rest of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Why.
    pub message: String,
    /// Its type, if it says one.
    pub kind: Option<String>,
    /// Its code, if it says one.
    pub code: Option<String>,
}

/// What happened, in the words of the house.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No connection came about, or it broke before anything came back.
    Unreachable,
    /// Nothing came for so long.
    Timeout(Duration),
    /// The whole took longer than this.
    Overdue(Duration),
    /// 429, or 402: the account has run dry.
    RateLimited {
        /// How long the upstream wants to be left alone.
        retry_after: Option<Duration>,
        /// What it said.
        rejection: Box<Rejection>,
    },
    /// 5xx.
    Unavailable {
        /// The upstream's status.
        status: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The upstream does not accept the gateway's key or account, which is no caller's fault.
    Unauthorized {
        /// 401.
        status: u16,
    },
    /// 403: this text, this region, or this key for this model. Another request may well be served.
    Forbidden(Box<Rejection>),
    /// Any other 4xx: the request is at fault.
    Rejected(Box<Rejection>),
    /// A right request, in which something is that the provider's API has no words for.
    Untranslatable(Box<Rejection>),
    /// The prompt does not fit, whoever says so in whatever words.
    ContextTooLong {
        /// What the prompt needs, if the upstream said so.
        needed_tokens: Option<u64>,
        /// What there is, if the upstream said so.
        context_tokens: Option<u64>,
        /// Its words, without keys and addresses.
        message: String,
    },
    /// The gateway's own engines cannot take it now.
    Overloaded {
        /// A word for programs.
        code: &'static str,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// All that could answer cool down, and are not asked.
    CoolingDown(Box<CoolingDown>),
    /// The gateway's own engine does not start, because another program listens at its port.
    PortTaken {
        /// The port.
        port: u16,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The gateway's own engine crashed over this request. Another one would, too.
    EngineCrashed,
    /// An answer that cannot be understood, or that ends too early.
    Protocol(String),
    /// The provider has no way to do that.
    Unsupported(&'static str),
}

impl ErrorKind {
    /// How long an answer may take to come, a stream until its first content, and how it fails when it does not.
    pub(crate) fn late(timeouts: &Timeouts, stream: bool) -> (Duration, Self) {
        if stream {
            // A stream that began after the end of its time would be cut off, when nobody else could answer any more.
            let limit = timeouts.first_token.min(timeouts.request);
            (limit, Self::Timeout(limit))
        } else {
            (timeouts.request, Self::Overdue(timeouts.request))
        }
    }
}

/// A cooldown, as errors report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoolingDown {
    /// What its last failure was; unknown if another replica has seen it.
    pub said: Option<String>,
    /// So long ago.
    pub ago: Duration,
    /// When it is worth trying again.
    pub retry_after: Duration,
}

impl fmt::Display for CoolingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.said {
            Some(said) => write!(f, "{said} {} s ago", self.ago.as_secs())?,
            None => f.write_str("cools down, for another replica has met a failure or a limit")?,
        }
        match self.retry_after.as_millis().div_ceil(1000) {
            0 => f.write_str("; it is tried again with the next request"),
            seconds => write!(f, "; next attempt in {seconds} s"),
        }
    }
}

/// A request that an upstream, or the translation for it, refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status for the caller.
    pub status: u16,
    /// Why, without keys and addresses.
    pub message: String,
    /// A word for programs.
    pub code: Option<String>,
    /// Where in the request.
    pub param: Option<String>,
}

/// What a provider says of an account that has nothing left.
pub const INSUFFICIENT_QUOTA: &str = "insufficient_quota";

impl Rejection {
    /// Whether it is the whole account that is limited, whatever the model.
    fn is_of_account(&self) -> bool {
        self.code.as_deref() == Some(INSUFFICIENT_QUOTA)
    }
}

impl From<Invalid> for Box<Rejection> {
    fn from(invalid: Invalid) -> Self {
        let Invalid { param, code, message } = invalid;
        Self::new(Rejection { status: 400, message, code: Some(code.to_owned()), param })
    }
}

/// What a router may do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// Tell the caller: another deployment would say the same.
    Stop,
    /// Ask the next deployment, and let something rest.
    Next(Cooldown),
}

/// What rests after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cooldown {
    /// Nothing: another request may fare better at once.
    None,
    /// The deployment, at least for so long.
    Deployment(Option<Duration>),
    /// The deployment, if it has refused several times in a row.
    IfRepeated,
    /// The deployment with the key that was used, at least for so long; the whole key if it is limited for a second model.
    Limited(Option<Duration>),
    /// The key that was used, for all models, at least for so long.
    Key(Option<Duration>),
}

impl ProviderError {
    /// Why a request gets none of a provider's engines.
    pub fn no_engine(provider: &Arc<str>, error: EngineError) -> Self {
        let message = error.to_string();
        let soonest = Duration::from_secs(1);
        let overloaded = |code, retry_after: Duration| ErrorKind::Overloaded {
            code,
            retry_after: retry_after.max(soonest),
        };
        match error {
            EngineError::QueueFull => Self::new(provider, overloaded("queue_full", Duration::ZERO)),
            EngineError::StartFailed { retry_after, told, taken_port } => {
                let kind = match taken_port {
                    Some(port) => ErrorKind::PortTaken { port, retry_after: retry_after.max(soonest) },
                    None => overloaded(ENGINE_START_FAILED, retry_after),
                };
                Self::new(provider, kind).with_detail(&*told)
            }
            EngineError::Crashed => Self::new(provider, ErrorKind::EngineCrashed),
            EngineError::TooLarge { needed_tokens, context_tokens } => Self::new(
                provider,
                ErrorKind::ContextTooLong {
                    needed_tokens: Some(needed_tokens),
                    context_tokens: Some(context_tokens),
                    message,
                },
            ),
            EngineError::Gone => Self::new(provider, overloaded("engine_gone", Duration::ZERO)),
        }
    }

    /// A failure without further detail.
    pub fn new(provider: &Arc<str>, kind: ErrorKind) -> Self {
        Self { provider: provider.clone(), kind, detail: None, reported: None, source: None }
    }

    /// The same, with its cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same, with the upstream's own words.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into().into());
        self
    }

    /// The same, with what the upstream's error means that stands in the place of an answer, or of the rest of one.
    #[must_use]
    pub(super) fn reporting(self, error: UpstreamError, redactor: &Redactor) -> Self {
        let Some(message) = error.message.as_deref().map(|text| redactor.clean(text)) else { return self };
        let kind = if error.is_context_too_long() {
            let (needed_tokens, context_tokens) = (error.needed_tokens, error.context_tokens);
            ErrorKind::ContextTooLong { needed_tokens, context_tokens, message: message.clone() }
        } else {
            self.kind
        };
        let clean = |text: String| redactor.clean(&text);
        let code = error.code.or_else(|| error.number.map(|number| number.to_string()));
        let reported =
            Reported { message: message.clone(), kind: error.kind.map(clean), code: code.map(clean) };
        Self { kind, reported: Some(reported.into()), ..self }.with_detail(message)
    }

    /// Whether no connection came about, so that the upstream knows nothing of the request.
    pub(super) fn is_unsent(&self) -> bool {
        // What breaks a connection that was there is an error of the protocol's.
        let is_of_system =
            self.source.as_deref().is_some_and(<dyn Error + Send + Sync>::is::<std::io::Error>);
        self.kind == ErrorKind::Unreachable && is_of_system
    }

    /// The only place that decides whether another deployment may be asked, and what rests.
    pub fn failover(&self) -> Failover {
        match &self.kind {
            ErrorKind::Rejected(_) | ErrorKind::ContextTooLong { .. } => Failover::Stop,
            // The next request may be one that it can serve.
            ErrorKind::Untranslatable(_)
            | ErrorKind::Unsupported(_)
            | ErrorKind::Overloaded { .. }
            | ErrorKind::CoolingDown(_)
            | ErrorKind::PortTaken { .. }
            | ErrorKind::EngineCrashed => Failover::Next(Cooldown::None),
            ErrorKind::Forbidden(_) => Failover::Next(Cooldown::IfRepeated),
            ErrorKind::RateLimited { retry_after, rejection } if rejection.is_of_account() => {
                Failover::Next(Cooldown::Key(*retry_after))
            }
            ErrorKind::RateLimited { retry_after, .. } => Failover::Next(Cooldown::Limited(*retry_after)),
            ErrorKind::Unauthorized { .. } => Failover::Next(Cooldown::Key(Some(UNAUTHORIZED_REST))),
            ErrorKind::Unavailable { retry_after, .. } => Failover::Next(Cooldown::Deployment(*retry_after)),
            ErrorKind::Unreachable
            | ErrorKind::Timeout(_)
            | ErrorKind::Overdue(_)
            | ErrorKind::Protocol(_) => Failover::Next(Cooldown::Deployment(None)),
        }
    }
}

impl ErrorKind {
    /// A word for figures.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout(_) | Self::Overdue(_) => "timeout",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unavailable { .. } => "unavailable",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Rejected(_) => "rejected",
            Self::Untranslatable(_) => "untranslatable",
            Self::ContextTooLong { .. } => "context_too_long",
            Self::Overloaded { .. } | Self::PortTaken { .. } => "overloaded",
            Self::CoolingDown(_) => "cooling_down",
            Self::EngineCrashed => "engine_crashed",
            Self::Protocol(_) => "protocol",
            Self::Unsupported(_) => "unsupported",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("could not be reached"),
            Self::Timeout(limit) => write!(f, "sent nothing for {} s", limit.as_secs_f64()),
            Self::Overdue(limit) => write!(f, "took longer than {} s", limit.as_secs_f64()),
            Self::RateLimited { rejection, .. } if rejection.is_of_account() => {
                write!(f, "refused for its quota with status {}", rejection.status)
            }
            Self::RateLimited { .. } => f.write_str("limited the rate with status 429"),
            Self::Unavailable { status, .. } => write!(f, "failed with status {status}"),
            Self::Unauthorized { status } => write!(f, "rejected the key with {status}"),
            Self::Forbidden(_) => f.write_str("refused the request with status 403"),
            Self::Rejected(rejection) => write!(f, "rejected the request with status {}", rejection.status),
            Self::Untranslatable(_) => f.write_str("has no words for something in the request"),
            Self::ContextTooLong { .. } => f.write_str("has no room for the prompt"),
            Self::Overloaded { code: "queue_full", .. } => f.write_str("has too many requests in its queue"),
            Self::Overloaded { code: OVERFLOWED, .. } => f.write_str("has a queue that takes long"),
            Self::CoolingDown(cooling) => cooling.fmt(f),
            Self::Overloaded { code: ENGINE_START_FAILED, .. } => f.write_str("cannot start its engine"),
            Self::PortTaken { port, .. } => {
                write!(f, "cannot start its engine: port {port} belongs to another program")
            }
            Self::EngineCrashed => {
                f.write_str("lost its engine, which crashed over this request; it is not tried again")
            }
            Self::Overloaded { .. } => f.write_str("does not serve this model now"),
            Self::Protocol(reason) => write!(f, "gave no valid answer: {reason}"),
            Self::Unsupported(what) => write!(f, "cannot serve {what}"),
        }
    }
}
