//! Counts prompts by the model's own file, in a confined child, while no engine runs.
//!
//! A model's file may come from anywhere, and its template is a program. Nothing of it is read in this process: the
//! child (`vocabulary`) answers how many tokens a prompt has. It is kept from one question to the next, since
//! its vocabulary takes up to a second to read, and ends when nothing is asked for a while. A question that ends the child, or
//! takes too long, goes without an answer, and the prompt's length is estimated.

use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::vocabulary::Vocabulary;
use crate::confined::{Child, Failure, Limits};
use crate::llm::{ChatRequest, RawObject, RequestKind};

/// The name of the child's work, in the gateway's command for confined children.
pub const COUNT_TOKENS: &str = "count-tokens";

/// What the child may take. The largest vocabularies in use need a third of the memory. The time is for its whole life:
/// one that has used it up is replaced at the next question.
pub const LIMITS: Limits = Limits { memory_bytes: 1 << 30, cpu_seconds: 60 };

/// How long an answer may take, with the file to be read before it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bodies beyond that hold prompts that are too long to be counted.
const MOST_BYTES: usize = 8 * 1024 * 1024;
/// After so many questions without an answer, one after the other, the file is left alone for a while.
const MOST_FAILURES: u32 = 3;
const REST: Duration = Duration::from_secs(300);

/// What stands before the body in a question.
const OF_CHAT: u8 = b'c';
const OF_TEXT: u8 = b't';

/// What the child answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Said {
    Tokens(u64),
    /// This prompt cannot be counted.
    Nothing,
    /// No prompt can be counted by this file.
    Unusable,
}

/// The child's side: answers questions about one model's file, which is read with the first of them.
pub fn answering(file: &Path) -> impl FnMut(&[u8]) -> Vec<u8> {
    let mut read = None;
    move |question| {
        let vocabulary = read.get_or_insert_with(|| caught(|| Vocabulary::read(file)).flatten()).as_ref();
        let said = vocabulary.map_or(Said::Unusable, |vocabulary| {
            caught(|| answer(vocabulary, question)).unwrap_or(Said::Nothing)
        });
        serde_json::to_vec(&said).unwrap_or_default()
    }
}

/// The result of work on a file. The tokenizer's library panics where a file contradicts itself, which says no more than
/// that the file is of no use.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn answer(vocabulary: &Vocabulary, question: &[u8]) -> Said {
    let tokens = question.split_first().and_then(|(kind, body)| {
        let body = RawObject::parse(body.to_vec().into()).ok()?;
        let kind = if *kind == OF_CHAT { RequestKind::Chat } else { RequestKind::Completion };
        vocabulary.count(kind, &body)
    });
    tokens.map_or(Said::Nothing, Said::Tokens)
}

fn question(request: &ChatRequest) -> Option<Vec<u8>> {
    let body = request.body.text();
    let kind = match request.kind {
        RequestKind::Chat => OF_CHAT,
        RequestKind::Completion => OF_TEXT,
    };
    (body.len() <= MOST_BYTES).then(|| [&[kind], &body[..]].concat())
}

/// Counts by one model's file.
#[derive(Debug)]
pub(super) struct Counter {
    program: PathBuf,
    file: PathBuf,
    // A std mutex: held for a look.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What has answered last, and by which version of the file.
    child: Option<(Child, Version)>,
    /// Since the last answer.
    failures: u32,
    rest: Option<Rest>,
}

/// A file that is not read for a while, as long as it stays the same.
#[derive(Debug)]
struct Rest {
    version: Version,
    /// For ever, if none.
    until: Option<Instant>,
}

/// What of a file changes with its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Counter {
    /// For a model's file; its children are started as `program`.
    pub(super) fn new(program: &Path, file: PathBuf) -> Self {
        Self { program: program.to_owned(), file, state: Mutex::default() }
    }

    /// How many tokens a prompt has, without its pictures; `None` if it is not known. Dropping the future ends the child.
    pub(super) async fn count(&self, request: &ChatRequest) -> Option<u64> {
        let version = Version::of(&self.file).await?;
        let kept = {
            let mut state = self.locked();
            if state.rest.as_ref().is_some_and(|rest| rest.holds(version)) {
                return None;
            }
            state.child.take().filter(|(_, of)| *of == version).map(|(child, _)| child)
        };
        let may_be_old = kept.is_some();
        let mut said = self.ask(kept, question(request)?, version).await;
        if may_be_old && said == Err(Failure::Ended) {
            // It was idle for too long, or has used up its time.
            said = self.ask(None, question(request)?, version).await;
        }
        self.learn(said, version);
        match said {
            Ok(Said::Tokens(tokens)) => Some(tokens),
            _ => None,
        }
    }

    /// Ends the child: something else counts now.
    pub(super) fn end(&self) {
        let child = self.locked().child.take();
        drop(child);
    }

    async fn ask(&self, child: Option<Child>, question: Vec<u8>, version: Version) -> Result<Said, Failure> {
        let start = || Child::start(&self.program, COUNT_TOKENS, &self.file).map_err(|_| Failure::Ended);
        let child = child.map_or_else(start, Ok)?;
        let (child, answer) = child.ask(question, PATIENCE).await?;
        let said = serde_json::from_slice(&answer).map_err(|_| Failure::Ended)?;
        // One that could not count may hold what its template has made on the way.
        if matches!(said, Said::Tokens(_)) {
            self.locked().child = Some((child, version));
        }
        Ok(said)
    }

    /// Remembers what became of a question.
    fn learn(&self, said: Result<Said, Failure>, version: Version) {
        let mut state = self.locked();
        let until = match said {
            Ok(Said::Unusable) => None,
            Ok(_) => {
                (state.failures, state.rest) = (0, None);
                return;
            }
            Err(failure) => {
                state.failures += 1;
                if state.failures < MOST_FAILURES {
                    return;
                }
                tracing::warn!(
                    file = %self.file.display(),
                    "Prompts are not counted by the model's file, their length is estimated: {failure}"
                );
                Some(Instant::now() + REST)
            }
        };
        state.rest = Some(Rest { version, until });
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rest {
    fn holds(&self, version: Version) -> bool {
        self.version == version && self.until.is_none_or(|until| Instant::now() < until)
    }
}

impl Version {
    /// That of the file as it is now; `None` if it is not there.
    async fn of(file: &Path) -> Option<Self> {
        let found = tokio::fs::metadata(file).await.ok()?;
        Some(Self { inode: found.ino(), bytes: found.len(), modified: found.modified().ok() })
    }
}
