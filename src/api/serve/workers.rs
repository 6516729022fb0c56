//! The threads that serve connections: one for each processor, with a runtime of its own.
//!
//! A connection stays with its thread, and so does all that is done for it: the upstream's answer wakes the thread that is
//! to pass it on, and no other. A runtime that moves work between threads wakes one of them to look for work each time
//! there is some, which costs a sixth of what a small answer costs. What a thread cannot do is to help another that has
//! more to do; so each new connection goes where the fewest are.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, available_parallelism};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The threads. They end with this, and so does what still runs on them.
#[derive(Debug)]
pub struct Workers {
    all: Arc<[Worker]>,
    // Before the threads are waited for.
    end: Option<DropGuard>,
    threads: Vec<JoinHandle<()>>,
}

/// Where work can be given to.
#[derive(Clone, Debug)]
pub(in crate::api) struct Crew(Arc<[Worker]>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Tasks that were given to it and have not ended.
    tasks: AtomicUsize,
}

impl Workers {
    /// As many as there are processors for this process.
    ///
    /// # Errors
    /// The system gives no threads, or no means to wait for sockets.
    pub fn start() -> io::Result<Self> {
        Self::start_some(available_parallelism().map_or(1, usize::from))
    }

    fn start_some(count: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let (mut all, mut threads) = (Vec::new(), Vec::new());
        // From here on a failure ends those that have started.
        let guard = end.clone().drop_guard();
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            all.push(Worker { runtime: runtime.handle().clone(), tasks: AtomicUsize::new(0) });
            let end = end.clone();
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            threads.push(thread.spawn(move || runtime.block_on(end.cancelled()))?);
        }
        Ok(Self { all: all.into(), end: Some(guard), threads })
    }

    pub(super) fn crew(&self) -> Crew {
        Crew(self.all.clone())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end = None;
        for thread in self.threads.drain(..) {
            // One that has panicked has ended, too.
            let _ = thread.join();
        }
    }
}

impl Crew {
    /// Runs a task where the fewest are.
    pub(in crate::api) fn spawn<F>(&self, tracker: &TaskTracker, task: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        // Of as many, the first: what is idle stays idle, and its processor, too.
        let least = self.0.iter().enumerate().min_by_key(|(_, worker)| worker.tasks.load(Ordering::Relaxed));
        let Some((index, worker)) = least else { return };
        worker.tasks.fetch_add(1, Ordering::Relaxed);
        let counted = Counted { crew: self.clone(), index };
        let task = async move {
            let _counted = counted;
            task.await;
        };
        tracker.spawn_on(task, &worker.runtime);
    }
}

/// A task that has not ended.
struct Counted {
    crew: Crew,
    index: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(worker) = self.crew.0.get(self.index) {
            worker.tasks.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A task that tells on which thread it runs, and ends when what is returned with that is dropped.
    async fn hold(crew: &Crew, tracker: &TaskTracker) -> (String, oneshot::Sender<()>) {
        let (tell, told) = oneshot::channel();
        let (hold, ended) = oneshot::channel::<()>();
        crew.spawn(tracker, async move {
            let _ = tell.send(thread::current().name().unwrap_or_default().to_owned());
            let _ = ended.await;
        });
        (timeout(LONG, told).await.unwrap().unwrap(), hold)
    }

    #[tokio::test]
    async fn each_new_task_goes_where_the_fewest_are() {
        let workers = Workers::start_some(3).unwrap();
        let (crew, tracker) = (workers.crew(), TaskTracker::new());
        let (mut names, mut holds) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let (name, hold) = hold(&crew, &tracker).await;
            names.push(name);
            holds.push(hold);
        }
        assert_eq!(names, ["worker-0", "worker-1", "worker-2", "worker-0", "worker-1", "worker-2"]);
        // Both of the second one's end.
        drop((holds.remove(4), holds.remove(1)));
        timeout(LONG, async {
            while tracker.len() > 4 || crew.0[1].tasks.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        let (next, _one) = hold(&crew, &tracker).await;
        let (after, _two) = hold(&crew, &tracker).await;
        assert_eq!([next, after], ["worker-1", "worker-1"]);
    }

    #[tokio::test]
    async fn a_task_that_panics_takes_nobody_with_it() {
        let workers = Workers::start_some(1).unwrap();
        let (crew, tracker) = (workers.crew(), TaskTracker::new());
        let (_, held) = hold(&crew, &tracker).await;
        crew.spawn(&tracker, async { panic!("on purpose") });
        let (name, _hold) = hold(&crew, &tracker).await;
        assert_eq!(name, "worker-0");
        assert!(!held.is_closed(), "what ran beside it goes on");
        assert_eq!(crew.0[0].tasks.load(Ordering::Relaxed), 2, "it is counted no longer");
    }

    #[tokio::test]
    async fn what_still_runs_ends_with_the_threads() {
        struct Told(Arc<AtomicBool>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let workers = Workers::start_some(2).unwrap();
        let (crew, tracker) = (workers.crew(), TaskTracker::new());
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Told(is_over.clone());
        crew.spawn(&tracker, async move {
            let _told = told;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert!(is_over.load(Ordering::Acquire));
        tracker.close();
        timeout(LONG, tracker.wait()).await.unwrap();
    }
}
