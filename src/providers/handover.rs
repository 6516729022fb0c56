//! Whether a request has reached a server: who gives up before that has cost nobody anything.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

tokio::task_local! {
    /// Of the call that is made in this scope.
    static CURRENT: Handover;
}

/// The calls that are made for one request, some of them beside each other.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Marks>);

/// A bit for each of the last calls, all in one allocation.
#[derive(Debug, Default)]
struct Marks {
    begun: AtomicU32,
    under_way: AtomicU32,
    handed_over: AtomicU32,
}

/// One call. It is handed over when a connection to the server is there and the request goes out on it.
#[derive(Clone, Debug, Default)]
pub struct Handover {
    /// None where nobody wants to know.
    calls: Option<Calls>,
    /// Its bit.
    mark: u32,
}

impl Calls {
    /// One more is made.
    pub fn begin(&self) -> Handover {
        let Marks { begun, under_way, handed_over } = &*self.0;
        let mark = 1 << (begun.fetch_add(1, Ordering::Relaxed) % u32::BITS);
        handed_over.fetch_and(!mark, Ordering::Relaxed);
        under_way.fetch_or(mark, Ordering::Relaxed);
        Handover { calls: Some(self.clone()), mark }
    }

    /// Whether a server has a request of those that are under way.
    pub fn is_any_handed_over(&self) -> bool {
        let Marks { under_way, handed_over, .. } = &*self.0;
        under_way.load(Ordering::Relaxed) & handed_over.load(Ordering::Relaxed) != 0
    }

    /// None is under way any more.
    pub fn are_over(&self) {
        self.0.under_way.store(0, Ordering::Relaxed);
    }
}

impl Handover {
    /// Runs what asks a server, and notes when that has the request.
    pub fn watch<F: Future>(&self, asking: F) -> impl Future<Output = F::Output> + use<F> {
        // No function of its own that waits: what asks is large, and would be in memory twice.
        CURRENT.scope(self.clone(), asking)
    }

    /// The call is over. What is noted of it later counts no more.
    pub fn end(&self) {
        if let Some(Calls(marks)) = &self.calls {
            marks.under_way.fetch_and(!self.mark, Ordering::Relaxed);
        }
    }

    /// The call of this scope, for those who see only outside of it that its request goes out.
    pub(super) fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Notes that the server has the request of this scope, or that it has it not yet. Outside of any nobody wants to
    /// know.
    pub(super) fn note(is_done: bool) {
        let _ = CURRENT.try_with(|current| current.is_done(is_done));
    }

    /// Notes of this call what [`Handover::note`] notes of that of the scope.
    pub(super) fn is_done(&self, is_done: bool) {
        let Some(Calls(marks)) = &self.calls else { return };
        if is_done {
            marks.handed_over.fetch_or(self.mark, Ordering::Relaxed);
        } else {
            marks.handed_over.fetch_and(!self.mark, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_changes_nothing_of_another() {
        let calls = Calls::default();
        let (first, second) = (calls.begin(), calls.begin());
        assert!(!calls.is_any_handed_over());
        first.is_done(true);
        second.is_done(false);
        assert!(calls.is_any_handed_over());
        second.end();
        assert!(calls.is_any_handed_over());
        first.end();
        assert!(!calls.is_any_handed_over());
        first.is_done(true);
        assert!(!calls.is_any_handed_over(), "it is over");
    }

    #[test]
    fn marks_are_clean_when_they_are_used_again() {
        let calls = Calls::default();
        for _ in 0..100 {
            let call = calls.begin();
            assert!(!calls.is_any_handed_over());
            call.is_done(true);
            assert!(calls.is_any_handed_over());
            calls.are_over();
        }
        Handover::default().is_done(true);
    }

    #[tokio::test]
    async fn what_is_noted_is_of_the_call_in_whose_scope_it_is() {
        let calls = Calls::default();
        let (outer, inner) = (calls.begin(), calls.begin());
        outer.watch(inner.watch(async { Handover::note(true) })).await;
        outer.end();
        assert!(calls.is_any_handed_over());
        inner.watch(async { Handover::note(false) }).await;
        assert!(!calls.is_any_handed_over());
    }
}
