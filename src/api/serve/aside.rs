//! What a connection listens to beside its socket: asked when it has called, and not each time the socket has.
//!
//! A request wakes its connection's task several times; the end of the program does once in its life. Asking for that
//! each time costs a lock that all connections share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is polled only if it has been woken itself, whatever else has woken the task.
pub(super) struct Aside<F> {
    future: F,
    bell: Option<Arc<Bell>>,
}

/// Tells the future's own calls from those of others.
struct Bell {
    has_rung: AtomicBool,
    task: Waker,
}

impl<F> Aside<F> {
    pub(super) fn new(future: F) -> Self {
        Self { future, bell: None }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future + Unpin> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let bell = match &this.bell {
            Some(bell) if bell.task.will_wake(cx.waker()) => {
                if !bell.has_rung.load(Ordering::Acquire) {
                    return Poll::Pending;
                }
                // Before it is asked: what it calls meanwhile must not be lost.
                bell.has_rung.store(false, Ordering::Release);
                bell.clone()
            }
            // The first time, or from another task.
            _ => {
                let bell = Bell { has_rung: AtomicBool::new(false), task: cx.waker().clone() };
                this.bell.insert(Arc::new(bell)).clone()
            }
        };
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&Waker::from(bell)))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_asked_when_it_has_called_and_not_when_others_have() {
        let (asked, noise, call) = (AtomicU32::new(0), Notify::new(), Notify::new());
        let mut called = pin!(call.notified());
        let counted = std::future::poll_fn(|cx| {
            asked.fetch_add(1, Ordering::Relaxed);
            called.as_mut().poll(cx)
        });
        let mut aside = Aside::new(counted);
        let others = async {
            for _ in 0..10 {
                noise.notify_one();
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(asked.load(Ordering::Relaxed), 1);
            call.notify_one();
        };
        let heard = async {
            loop {
                tokio::select! {
                    biased;
                    () = &mut aside => return,
                    () = noise.notified() => {}
                }
            }
        };
        tokio::join!(heard, others);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_its_task() {
        let begun = Instant::now();
        let mut aside = Aside::new(Box::pin(sleep(Duration::from_secs(5))));
        // Asked by somebody else first, and then by this task, which it must wake.
        std::future::poll_fn(|_| {
            let polled = Pin::new(&mut aside).poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            Poll::Ready(())
        })
        .await;
        aside.await;
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}
