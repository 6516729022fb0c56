//! A streamed answer, whoever gives it: checked, timed, and read as far as somebody must know.
//!
//! What holds for every provider stands here once: a stream that ends without saying why is a failure, an
//! error in the place of a chunk is a failure, and so is too long a silence.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::BoxStream;
use sync_wrapper::SyncWrapper;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::{ErrorKind, ProviderError};
use super::redact::Redactor;
use crate::config::Timeouts;
use crate::llm::{Frames, Reading, Usage};

/// Runs of frames as a provider makes them, before the checks.
pub type RawFrames = BoxStream<'static, Result<Frames, ProviderError>>;

/// A streamed answer. It ends with `None` only after a choice has said why it ended; otherwise the last item is
/// an error. Dropping it aborts the upstream request.
pub struct FrameStream {
    inner: SyncWrapper<RawFrames>,
    /// Looked at already, and put back.
    ahead: VecDeque<Item>,
    provider: Arc<str>,
    redactor: Arc<Redactor>,
    patience: Patience,
    finished: bool,
    over: bool,
}

/// A run of frames, and what has been read of it.
#[derive(Clone, Debug)]
pub struct Item {
    /// The frames.
    pub frames: Frames,
    /// Usage reported in them, and where.
    pub reading: Reading,
}

impl fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStream")
            .field("provider", &self.provider)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl FrameStream {
    /// Checks `inner`. Its time runs from `started`, when the upstream was asked.
    pub fn new(
        inner: RawFrames,
        provider: Arc<str>,
        redactor: Arc<Redactor>,
        timeouts: &Timeouts,
        started: Instant,
    ) -> Self {
        Self {
            inner: SyncWrapper::new(inner),
            ahead: VecDeque::new(),
            provider,
            redactor,
            patience: Patience::new(timeouts.stall, started + timeouts.request),
            finished: false,
            over: false,
        }
    }

    /// Whose answer it is.
    pub fn provider(&self) -> &Arc<str> {
        &self.provider
    }

    /// Reads up to the first content, and puts back what it has read. After this another
    /// provider can no longer take over.
    ///
    /// # Errors
    /// The stream failed, or ended, before any content.
    pub async fn until_content(&mut self) -> Result<(), ProviderError> {
        let mut read = VecDeque::new();
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await;
            let Some(item) = next.transpose()? else {
                return Err(self.failed(ErrorKind::Protocol("its answer is empty".to_owned())));
            };
            let has_content = item.frames.has_content();
            read.push_back(item);
            if has_content {
                self.ahead = read;
                return Ok(());
            }
        }
    }

    fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.provider, kind)
    }

    /// Takes what must be known out of a run.
    fn read(&mut self, frames: Frames) -> Result<Item, ProviderError> {
        let reading = frames.read().map_err(|_| {
            self.failed(ErrorKind::Protocol("a chunk of its stream cannot be read".to_owned()))
        })?;
        if let Some(error) = &reading.error {
            let words = self.redactor.clean(&message_of(error));
            let failed = self.failed(ErrorKind::Protocol("it reported an error in its stream".to_owned()));
            return Err(failed.with_detail(words));
        }
        self.finished |= reading.finished;
        Ok(Item { frames, reading })
    }
}

/// The `message` of an error object, or the whole of what was sent in its place.
fn message_of(error: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(error).unwrap_or_default();
    let message = value.get("message").and_then(|message| message.as_str()).or(value.as_str());
    message.unwrap_or(error).to_owned()
}

impl Stream for FrameStream {
    type Item = Result<Item, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(item) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(item)));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let next = match self.inner.get_mut().as_mut().poll_next(cx) {
            Poll::Ready(next) => {
                self.patience.progress();
                next
            }
            Poll::Pending => {
                let limit = ready!(self.patience.poll_exhausted(cx));
                Some(Err(self.failed(ErrorKind::Timeout(limit))))
            }
        };
        let next = match next {
            Some(frames) => Some(frames.and_then(|frames| self.read(frames))),
            None if self.finished => None,
            None => Some(Err(
                self.failed(ErrorKind::Protocol("its stream ended without a finish reason".to_owned()))
            )),
        };
        if !matches!(next, Some(Ok(_))) {
            self.over = true;
        }
        Poll::Ready(next)
    }
}

impl Item {
    /// The usage that the run reports.
    pub fn usage(&self) -> Option<Usage> {
        self.reading.usage
    }
}

/// How long silence, and the whole, may last. One timer does for both: it is set anew only when it goes
/// off, not with each sign of life.
pub(super) struct Patience {
    silence: Duration,
    deadline: Instant,
    heard: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) fn new(silence: Duration, deadline: Instant) -> Self {
        Self { silence, deadline, heard: Instant::now(), timer: None }
    }

    pub(super) fn progress(&mut self) {
        self.heard = Instant::now();
    }

    /// Ready with the limit that was passed.
    pub(super) fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        loop {
            let due = self.deadline.min(self.heard + self.silence);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(self.silence.min(self.deadline.saturating_duration_since(self.heard)));
            }
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};

    const TEXT: &[u8] = br#"{"choices":[{"delta":{"content":"x"}}]}"#;
    const ROLE: &[u8] = br#"{"choices":[{"delta":{"role":"assistant"}}]}"#;
    const STOP: &[u8] = br#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;

    fn of(inner: RawFrames) -> FrameStream {
        let timeouts = Timeouts {
            stall: Duration::from_secs(60),
            request: Duration::from_secs(300),
            ..Timeouts::default()
        };
        FrameStream::new(inner, "p".into(), Arc::default(), &timeouts, Instant::now())
    }

    fn chunks(jsons: &'static [&'static [u8]]) -> RawFrames {
        stream::iter(jsons.iter().map(|json| Ok(Frames::of_json(json)))).boxed()
    }

    async fn collected(mut stream: FrameStream) -> Vec<Result<Frames, ErrorKind>> {
        let mut all = Vec::new();
        while let Some(item) = stream.next().await {
            all.push(item.map(|item| item.frames).map_err(|error| error.kind));
        }
        all
    }

    #[tokio::test]
    async fn a_finished_stream_just_ends() {
        let all = collected(of(chunks(&[TEXT, STOP]))).await;
        assert_eq!(all, [Ok(Frames::of_json(TEXT)), Ok(Frames::of_json(STOP))]);
    }

    #[tokio::test]
    async fn a_stream_that_does_not_say_why_it_ends_has_failed() {
        let all = collected(of(chunks(&[TEXT]))).await;
        assert!(matches!(&all[1], Err(ErrorKind::Protocol(reason)) if reason.contains("finish reason")));
        assert_eq!(all.len(), 2);
    }

    #[tokio::test]
    async fn an_error_in_the_stream_is_a_failure_with_cleaned_words() {
        let mut stream = of(chunks(&[TEXT, br#"{"error":{"message":"lost http://10.0.0.1/x"}}"#, STOP]));
        stream.next().await.unwrap().unwrap();
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.detail.as_deref(), Some("lost [address]"));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn looking_for_content_loses_nothing() {
        let mut stream = of(chunks(&[ROLE, TEXT, STOP]));
        stream.until_content().await.unwrap();
        let all = collected(stream).await;
        assert_eq!(all, [Ok(Frames::of_json(ROLE)), Ok(Frames::of_json(TEXT)), Ok(Frames::of_json(STOP))]);
    }

    #[tokio::test]
    async fn an_end_before_any_content_is_found_while_looking() {
        assert!(of(chunks(&[ROLE])).until_content().await.is_err());
        assert!(of(chunks(&[])).until_content().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_stream_and_signs_of_life_do_not() {
        let slow = stream::unfold(0, |count| async move {
            tokio::time::sleep(Duration::from_secs(50)).await;
            (count < 3).then(|| (Ok(Frames::of_json(TEXT)), count + 1))
        });
        let silent = slow.chain(stream::pending()).boxed();
        let started = Instant::now();

        let all = collected(of(silent)).await;

        assert_eq!(all.len(), 4);
        assert_eq!(all[3], Err(ErrorKind::Timeout(Duration::from_secs(60))));
        assert_eq!(started.elapsed().as_secs(), 200 + 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_has_a_limit_too() {
        let endless = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            Some((Ok(Frames::of_json(TEXT)), ()))
        });
        let started = Instant::now();

        let all = collected(of(endless.boxed())).await;

        assert!(matches!(all.last(), Some(Err(ErrorKind::Timeout(_)))));
        assert_eq!(started.elapsed().as_secs(), 300);
    }
}
