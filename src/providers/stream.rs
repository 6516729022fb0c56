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
use super::upstream_error::UpstreamError;
use crate::config::Timeouts;
use crate::fairness;
use crate::llm::{Ends, Frames, Reading, TroubleKind, Usage};

/// Runs of frames as a provider makes them, before the checks.
pub type RawFrames = BoxStream<'static, Result<Frames, ProviderError>>;

/// A stream that brings more than this before its first content has none.
const MOST_BYTES_AHEAD: usize = 1024 * 1024;
/// So many runs before the first content stay in the chunks of the network that they came in. Those behind them are copied
/// out, so that a few bytes do not keep a whole chunk.
const RUNS_IN_CHUNKS: usize = 8;

/// What an answer keeps until its end.
pub trait Held: Send + Sync {
    /// What the answer has used, once it says so.
    fn used(&self, usage: Usage);
    /// Nothing more came of it for too long.
    fn fell_silent(&self) {}
}

/// A streamed answer. It ends with `None` only after a choice has said why it ended; otherwise the last item is
/// an error. Dropping it aborts the upstream request.
pub struct FrameStream {
    inner: SyncWrapper<RawFrames>,
    /// Looked at already, and put back.
    ahead: VecDeque<Item>,
    provider: Arc<str>,
    redactor: Arc<Redactor>,
    patience: Patience,
    /// Whether the first content has come. Before it, silence is measured by whoever waits for that.
    begun: bool,
    ends: Ends,
    /// What ends the stream once all before it has been handed out.
    failure: Option<Box<ProviderError>>,
    over: bool,
    held: Option<Box<dyn Held>>,
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
            .field("ends", &self.ends)
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
            patience: Patience::new(timeouts, started),
            begun: false,
            ends: Ends::default(),
            failure: None,
            over: false,
            held: None,
        }
    }

    /// Whose answer it is.
    pub fn provider(&self) -> &Arc<str> {
        &self.provider
    }

    /// Keeps something until the stream has ended or is dropped.
    pub fn hold(&mut self, held: Box<dyn Held>) {
        // What has been read already may have said it.
        let used = self.ahead.iter().find_map(Item::usage);
        used.iter().for_each(|usage| held.used(*usage));
        self.held = Some(held);
    }

    /// Reads up to the first content, and puts back what it has read. After this another
    /// provider can no longer take over.
    ///
    /// # Errors
    /// The stream failed, or ended, before any content.
    pub async fn until_content(&mut self) -> Result<(), ProviderError> {
        if self.begun {
            return Ok(());
        }
        let (mut read, mut bytes) = (VecDeque::new(), 0);
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await;
            let Some(mut item) = next.transpose()? else {
                return Err(self.failed(ErrorKind::Protocol("its answer is empty".to_owned())));
            };
            if self.begun {
                read.push_back(item);
                self.ahead = read;
                return Ok(());
            }
            bytes += item.frames.bytes().len() + size_of::<Item>();
            if bytes > MOST_BYTES_AHEAD {
                let reason = "it sends more than 1 MiB before its answer begins".to_owned();
                return Err(self.failed(ErrorKind::Protocol(reason)));
            }
            if read.len() >= RUNS_IN_CHUNKS {
                item.frames = item.frames.copied();
            }
            read.push_back(item);
        }
    }

    fn failed(&self, kind: ErrorKind) -> ProviderError {
        ProviderError::new(&self.provider, kind)
    }

    /// Takes what must be known out of a run. What stands before an event that is no chunk is handed out first.
    fn read(&mut self, frames: Frames) -> Result<Item, ProviderError> {
        let mut reading = frames.read();
        self.ends.add(reading.ends);
        if let (Some(held), Some(usage)) = (&self.held, reading.usage) {
            held.used(usage);
        }
        let Some(trouble) = reading.trouble.take() else { return Ok(Item { frames, reading }) };
        let failure = self.troubled(trouble.kind);
        if trouble.at == 0 {
            return Err(failure);
        }
        self.failure = Some(failure.into());
        Ok(Item { frames: frames.up_to(trouble.at), reading })
    }

    fn troubled(&self, kind: TroubleKind) -> ProviderError {
        let failed = |reason: &str| self.failed(ErrorKind::Protocol(reason.to_owned()));
        match kind {
            TroubleKind::Unreadable(_) => failed("a chunk of its stream cannot be read"),
            TroubleKind::Reported(error) => failed("it reported an error in its stream")
                .reporting(UpstreamError::read(error.as_bytes()), &self.redactor),
        }
    }

    /// Looks for whatever comes next, without any events too.
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frames, ProviderError>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(*failure)));
        }
        // Frames of a provider in this process come from no socket, and many of them may have come in one chunk.
        ready!(fairness::poll_turn(cx));
        match self.inner.get_mut().as_mut().poll_next(cx) {
            Poll::Ready(Some(Ok(frames))) => {
                fairness::spend(0);
                self.begun = self.begun || frames.has_content();
                // A stream that always has more is never waited for.
                let checked = self.patience.progress(self.begun);
                Poll::Ready(Some(checked.map(|()| frames).map_err(|late| self.failed(late))))
            }
            Poll::Ready(next) => Poll::Ready(next),
            Poll::Pending => {
                let exhausted = ready!(self.patience.poll_exhausted(cx));
                self.held.iter().for_each(|held| held.fell_silent());
                Poll::Ready(Some(Err(self.failed(exhausted))))
            }
        }
    }
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
        let next = loop {
            match ready!(self.poll_frames(cx)) {
                Some(Ok(frames)) if frames.is_empty() => {}
                Some(frames) => break Some(frames.and_then(|frames| self.read(frames))),
                None if self.ends.are_all() => break None,
                None => {
                    let reason = "its stream ended without a finish reason".to_owned();
                    break Some(Err(self.failed(ErrorKind::Protocol(reason))));
                }
            }
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

/// How long silence, and the whole, may last. Silence is measured from the first sign of life on. One timer does for
/// both: it is set anew only when it goes off, not with each sign of life.
pub(super) struct Patience {
    silence: Duration,
    whole: Duration,
    started: Instant,
    heard: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) fn new(timeouts: &Timeouts, started: Instant) -> Self {
        Self { silence: timeouts.stall, whole: timeouts.request, started, heard: None, timer: None }
    }

    /// Something has come, which is a sign of life or not yet.
    ///
    /// # Errors
    /// It comes after the end of the whole time.
    pub(super) fn progress(&mut self, is_sign_of_life: bool) -> Result<(), ErrorKind> {
        let now = Instant::now();
        if is_sign_of_life {
            self.heard = Some(now);
        }
        if now >= self.started + self.whole { Err(ErrorKind::Overdue(self.whole)) } else { Ok(()) }
    }

    /// Ready with the limit that was passed.
    pub(super) fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<ErrorKind> {
        loop {
            let deadline = self.started + self.whole;
            let fell_silent = self.heard.map(|heard| heard + self.silence);
            let due = fell_silent.map_or(deadline, |due| due.min(deadline));
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            // Once, when the first sign of life has come.
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(match fell_silent {
                    Some(silent) if silent <= deadline => ErrorKind::Timeout(self.silence),
                    _ => ErrorKind::Overdue(self.whole),
                });
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
        assert_eq!(error.reported.map(|reported| reported.message).as_deref(), Some("lost [address]"));
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

    #[tokio::test]
    async fn what_came_with_an_error_is_handed_out_before_it() {
        let run = [TEXT, STOP, b"{\"error\":{\"message\":\"lost\"}}".as_slice()];
        let events: Vec<u8> = run.iter().flat_map(|json| Frames::of_json(json).bytes().to_vec()).collect();
        let run = Frames::of_events(events.into());
        let all = collected(of(stream::iter([Ok(run.clone())]).boxed())).await;
        assert_eq!(all[0].as_ref().unwrap().jsons().collect::<Vec<_>>(), [TEXT, STOP]);
        assert!(matches!(all[1], Err(ErrorKind::Protocol(_))) && all.len() == 2);
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_first_content_only_the_whole_has_a_limit() {
        let silent = stream::iter([Ok(Frames::of_json(ROLE))]).chain(stream::pending()).boxed();
        let started = Instant::now();

        let all = collected(of(silent)).await;

        assert_eq!(all[1], Err(ErrorKind::Overdue(Duration::from_secs(300))));
        assert_eq!(started.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_without_an_event_count() {
        let alive = stream::unfold(0, |count| async move {
            tokio::time::sleep(Duration::from_secs(50)).await;
            Some((Ok(if count == 0 { Frames::of_json(TEXT) } else { Frames::none() }), count + 1))
        });
        let alive = alive.take(4).chain(stream::iter([Ok(Frames::of_json(STOP))])).boxed();
        assert_eq!(collected(of(alive)).await, [Ok(Frames::of_json(TEXT)), Ok(Frames::of_json(STOP))]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_has_a_limit_too() {
        let endless = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            Some((Ok(Frames::of_json(TEXT)), ()))
        });
        let started = Instant::now();

        let all = collected(of(endless.boxed())).await;

        assert_eq!(all.last(), Some(&Err(ErrorKind::Overdue(Duration::from_secs(300)))));
        assert_eq!(started.elapsed().as_secs(), 300);
    }

    /// A stream that always has more. It has an end only so that a test that fails ends as well.
    fn endless(json: &'static [u8]) -> RawFrames {
        stream::repeat_with(|| Ok(Frames::of_json(json))).take(200_000).boxed()
    }

    /// Reads until it fails.
    async fn failure_of(stream: &mut FrameStream) -> ErrorKind {
        loop {
            if let Err(error) = stream.next().await.expect("it came to its end") {
                return error.kind;
            }
        }
    }

    /// Time passes in seconds, each time that another task may run.
    async fn clock() {
        loop {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_has_a_limit_although_there_is_always_more() {
        for json in [TEXT, ROLE, b"{\"choices\":[]}"] {
            let mut stream = of(endless(json));
            let started = Instant::now();
            let failure = tokio::select! {
                failure = failure_of(&mut stream) => failure,
                () = clock() => unreachable!("it has no end"),
            };
            assert_eq!(failure, ErrorKind::Overdue(Duration::from_secs(300)));
            assert!(started.elapsed() <= Duration::from_secs(301), "{:?}", started.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_has_a_limit_although_its_reader_is_slow() {
        let mut stream = of(endless(TEXT));
        let mut read = 0;
        let failure = loop {
            match stream.next().await.expect("it came to its end") {
                Ok(_) => read += 1,
                Err(error) => break error.kind,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        assert_eq!((failure, read), (ErrorKind::Overdue(Duration::from_secs(300)), 300));
    }

    #[tokio::test(start_paused = true)]
    async fn empty_runs_without_a_pause_do_not_keep_others_waiting() {
        let signs_of_life = stream::repeat_with(|| Ok(Frames::none())).take(3_000_000).boxed();
        let mut stream = of(signs_of_life);
        let others = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = stream.next() => panic!("it came to its end"),
            () = others => {}
        }
    }

    #[tokio::test]
    async fn what_comes_before_the_first_content_is_bounded() {
        let error = of(endless(ROLE)).until_content().await.unwrap_err();
        let ErrorKind::Protocol(reason) = error.kind else { panic!("{error:?}") };
        assert_eq!(reason, "it sends more than 1 MiB before its answer begins");
        // The first content itself may be large: a picture, for example.
        let picture = format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}", "x".repeat(3 << 20));
        let frames =
            [Ok(Frames::of_json(ROLE)), Ok(Frames::of_json(picture.as_bytes())), Ok(Frames::of_json(STOP))];
        assert!(of(stream::iter(frames).boxed()).until_content().await.is_ok());
    }
}
