//! The wait for the beginning of a stream: short where an engine has to be loaded first, so that the caller soon hears
//! what is going on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::super::context::Context;
use super::super::engines::{self, Managed};
use super::{KEEP_ALIVE, Waiting};
use crate::gateway::{GatewayError, Generated, Reply};
use crate::telemetry::RequestRecord;

/// Whatever fails within this time has a status of its own.
const FIRST_LOOK: Duration = Duration::from_millis(1750);
/// How often a caller hears of an engine.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// An answer, or a failure.
type Answered = Result<Reply<Generated>, GatewayError>;

/// A wait for an engine that the gateway runs itself.
pub(super) struct EngineWait {
    managed: Managed,
    record: Arc<RequestRecord>,
}

/// Waits for the answer, until it is time for a sign of life; then it says which engine is waited for, if the gateway
/// runs it itself. An answer that comes soon costs nothing here.
pub(super) async fn first(
    context: &Context,
    record: &Arc<RequestRecord>,
    waiting: &mut Waiting,
) -> Result<Answered, Option<EngineWait>> {
    let sign_of_life = Instant::now() + KEEP_ALIVE;
    let mut look = Instant::now() + FIRST_LOOK;
    if let Ok(answered) = timeout_at(look, &mut *waiting).await {
        return Ok(answered);
    }
    let Some(engine) = EngineWait::of(context, record) else {
        return timeout_at(sign_of_life, waiting).await.map_err(|_| None);
    };
    while engine.comment().is_none() && look < sign_of_life {
        look = sign_of_life.min(look + LOOK_AGAIN);
        if let Ok(answered) = timeout_at(look, &mut *waiting).await {
            return Ok(answered);
        }
    }
    Err(Some(engine))
}

impl EngineWait {
    /// The engine that a request waits for, as far as is known by now.
    fn of(context: &Context, record: &Arc<RequestRecord>) -> Option<Self> {
        let model = record.facts().model.clone()?;
        let state = context.gateway.state();
        let managed = engines::first_managed(context, state.routes.route(&model)?)?;
        Some(Self { managed, record: record.clone() })
    }

    /// What the caller is told; nothing if the engine is at its work.
    pub(super) fn comment(&self) -> Option<Bytes> {
        let seconds = self.record.elapsed().as_secs();
        let told = match self.managed.engine() {
            Some(engine) if engine.phase == "loading" => {
                let percent = engine.progress.map(|percent| format!("{percent}% ")).unwrap_or_default();
                format!(": loading {percent}{} {seconds} s\n\n", engine.variant)
            }
            Some(engine) if engine.phase == "ready" && engine.waiting == 0 => return None,
            _ => format!(": waiting for {} {seconds} s\n\n", self.managed.deployment.upstream_model),
        };
        Some(told.into())
    }
}
