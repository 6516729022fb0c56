//! Where a reload is asked for, by those who do not own what was loaded: a short queue to the one who does.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Diff;

/// So many may wait for the one who reloads. More would only ask for the same again.
const MOST_WAITING: usize = 4;
/// Files are read at once, and providers that are asked for their models have a few seconds; several may wait in turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Everything is to be read anew and to hold from then on.
    Reload,
    /// Everything is to be read, and only told what a reload would change.
    Rehearse,
}

/// What a reload has changed, or would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many models are served then.
    pub models: usize,
    /// How many prompts there are then.
    pub prompts: usize,
    /// What is different.
    #[serde(flatten)]
    pub diff: Diff,
    /// Things to tell the operator that are no errors.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How it went: what is different, or all that is wrong, one fault a line.
pub type Outcome = Result<Report, Vec<String>>;

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Too many wait already.
    Busy,
    /// It takes too long. What was begun goes on.
    Late,
    /// Nobody is there any more: the service ends.
    Ending,
}

/// A wish, and where its outcome goes.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub wish: Wish,
    /// Whose admin key asks for it.
    pub by: Arc<str>,
    /// From where it is asked for.
    pub peer: String,
    answer: oneshot::Sender<Outcome>,
}

impl Request {
    /// Whether whoever asked has left. A reload is done all the same.
    pub fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }

    /// Tells how it went. Who has left misses nothing that the log does not say.
    pub fn tell(self, outcome: Outcome) {
        let _ = self.answer.send(outcome);
    }
}

/// Where a reload is asked for.
#[derive(Clone, Debug)]
pub struct Reloads {
    requests: mpsc::Sender<Request>,
}

impl Reloads {
    /// Where to ask, and where the one who reloads hears of it.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, heard) = mpsc::channel(MOST_WAITING);
        (Self { requests }, heard)
    }

    /// Asks, and waits for the outcome. Dropping the future takes nothing back.
    ///
    /// # Errors
    /// There is none in time, or there will be none.
    pub async fn ask(&self, wish: Wish, (by, peer): (Arc<str>, String)) -> Result<Outcome, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(Request { wish, by, peer, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unanswered::Busy,
            mpsc::error::TrySendError::Closed(_) => Unanswered::Ending,
        })?;
        match timeout(PATIENCE, answered).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(Unanswered::Ending),
            Err(_) => Err(Unanswered::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker() -> (Arc<str>, String) {
        ("ann".into(), "192.0.2.1".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_gets_the_outcome_or_hears_why_there_is_none() {
        let (reloads, mut heard) = Reloads::new();
        let serving = async {
            let request = heard.recv().await.unwrap();
            assert_eq!((request.wish, request.is_given_up()), (Wish::Rehearse, false));
            request.tell(Err(vec!["a fault".to_owned()]));
            // The next one is heard and never answered.
            let _held = heard.recv().await.unwrap();
            std::future::pending::<()>().await;
        };
        let asking = async {
            assert_eq!(reloads.ask(Wish::Rehearse, asker()).await, Ok(Err(vec!["a fault".to_owned()])));
            assert_eq!(reloads.ask(Wish::Reload, asker()).await, Err(Unanswered::Late));
        };
        tokio::select! {
            () = serving => {}
            () = asking => {}
        }
        drop(heard);
        assert_eq!(reloads.ask(Wish::Reload, asker()).await, Err(Unanswered::Ending));
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_full_says_so_and_who_leaves_is_known() {
        let (reloads, mut heard) = Reloads::new();
        {
            let mut waiting: Vec<_> =
                (0..MOST_WAITING).map(|_| Box::pin(reloads.ask(Wish::Reload, asker()))).collect();
            for ask in &mut waiting {
                assert!(futures_util::poll!(ask).is_pending());
            }
            assert_eq!(reloads.ask(Wish::Reload, asker()).await, Err(Unanswered::Busy));
        }
        let request = heard.recv().await.unwrap();
        assert!(request.is_given_up());
        request.tell(Ok(Report::default()));
    }
}
