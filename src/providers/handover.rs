//! Whether a request has reached a server: who gives up before that has cost nobody anything.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

tokio::task_local! {
    /// Of the request that is asked in this scope.
    static CURRENT: Handover;
}

/// Is done when a connection to the server is there and the request goes out on it.
#[derive(Clone, Debug, Default)]
pub struct Handover(Arc<AtomicBool>);

impl Handover {
    /// Runs what asks a server, and notes when that has the request.
    pub fn watch<F: Future>(&self, asking: F) -> impl Future<Output = F::Output> + use<F> {
        // No function of its own that waits: what asks is large, and would be in memory twice.
        CURRENT.scope(self.clone(), asking)
    }

    /// Whether a server has the request.
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Another one is asked.
    pub fn begin_anew(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Notes that the server has the request of this scope, or that it has it not yet. Outside of any nobody wants to
    /// know.
    pub(super) fn note(is_done: bool) {
        let _ = CURRENT.try_with(|handover| handover.0.store(is_done, Ordering::Relaxed));
    }
}
