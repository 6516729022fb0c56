//! Notes who is asked while nobody has answered yet, so that a call that is given up meanwhile is written down with it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::llm::{Session, Usage, UsageSource};
use crate::providers::{Calls, Handover};
use crate::router::{Deployment, Watch};
use crate::telemetry::{Facts, RequestRecord};

/// Notes who is asked, or has answered, at which price.
pub(super) fn note_asked(facts: &mut Facts, deployment: &Deployment) {
    facts.provider = Some(deployment.provider_name.clone());
    facts.deployment = Some(deployment.id.clone());
    facts.metrics = Some(deployment.metrics.clone());
    facts.price = deployment.prices.now().cloned();
}

/// A question that is under way. Dropped before its [`Asking::end`], it has used the prompt, if anybody has got it.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    record: &'a RequestRecord,
    /// Whether the prompt has reached any of those who are asked.
    calls: Calls,
    /// About so long is the prompt.
    input_tokens: u64,
    /// So many were asked before, of other models.
    pub(super) earlier: u32,
    is_over: bool,
    /// An engine has crashed over it.
    avoids_engines: AtomicBool,
}

impl<'a> Asking<'a> {
    /// Nobody is asked yet.
    pub(super) fn new(record: &'a RequestRecord, input_tokens: u64) -> Self {
        Self {
            record,
            calls: Calls::default(),
            input_tokens,
            earlier: 0,
            is_over: false,
            avoids_engines: AtomicBool::new(false),
        }
    }

    /// Asks one, and sees whether what is asked is handed over.
    pub(super) fn handing_over<F: Future>(&self, asked: F) -> impl Future<Output = F::Output> + use<F> {
        self.calls.begin().watch(asked)
    }

    /// There is an answer, or none will come. What was used is for others to say.
    pub(super) fn end(mut self) {
        self.is_over = true;
    }
}

impl Watch for Asking<'_> {
    fn asked(&self, deployment: &Deployment, attempts: u32) {
        let mut facts = self.record.facts();
        note_asked(&mut facts, deployment);
        facts.attempts = self.earlier.saturating_add(attempts);
    }

    fn request_id(&self) -> Option<&str> {
        Some(&self.record.id)
    }

    fn session(&self) -> Option<Session> {
        self.record.session
    }

    fn begins(&self) -> Handover {
        self.calls.begin()
    }

    fn failed(&self) {
        self.calls.are_over();
    }

    fn engine_crashed(&self) {
        self.avoids_engines.store(true, Ordering::Relaxed);
    }

    fn avoids_engines(&self) -> bool {
        self.avoids_engines.load(Ordering::Relaxed)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.is_over || self.input_tokens == 0 || !self.calls.is_any_handed_over() {
            return;
        }
        let input_tokens = self.input_tokens;
        let source = UsageSource::Estimated;
        self.record.used(Usage { input_tokens, source, ..Usage::default() });
    }
}
