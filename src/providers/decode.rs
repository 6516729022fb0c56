//! From the bytes of an answer to its frames, whatever the dialect.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::error::{ErrorKind, ProviderError};
use super::frames::{LineSplitter, SseSplitter, Unframed};
use super::stream::RawFrames;
use super::transport::Response;
use super::upstream::Upstream;
use super::upstream_error::UpstreamError;
use crate::llm::Frames;
use crate::wire::ollama::{LineDecoder, LineFault};

/// How long an upstream may take to end an answer that it says is over.
const END_WITHIN: Duration = Duration::from_secs(1);
/// What comes then is thrown away. No server sends so much.
const MOST_CHUNKS_AFTER_THE_END: usize = 16;

/// Makes frames of what the network brings.
pub(super) trait Decode: Send + 'static {
    /// Takes a chunk, and adds the frames that are whole now to `out`.
    fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Frames>) -> Result<(), Fault>;

    /// Takes the end.
    fn finish(&mut self, out: &mut VecDeque<Frames>) -> Result<(), Fault>;

    /// Whether the answer is over, although its connection may stay open.
    fn is_done(&self) -> bool;
}

/// Why there will be no more frames.
pub(super) struct Fault {
    /// The end of a sentence that begins with the provider.
    reason: String,
    /// The upstream's own words.
    words: Option<String>,
}

impl From<Unframed> for Fault {
    fn from(unframed: Unframed) -> Self {
        Self { reason: unframed.reason().to_owned(), words: None }
    }
}

impl From<LineFault> for Fault {
    fn from(fault: LineFault) -> Self {
        match fault {
            LineFault::Reported(words) => {
                Self { reason: "it reported an error in its answer".to_owned(), words: Some(words) }
            }
            LineFault::Unreadable(reason) => Self { reason, words: None },
        }
    }
}

impl Fault {
    /// For a reason that is the end of a sentence about the provider.
    pub(super) fn of(reason: String) -> Self {
        Self { reason, words: None }
    }

    /// The same with the upstream's own words, which may be JSON.
    pub(super) fn with_words(self, words: String) -> Self {
        Self { words: Some(words), ..self }
    }

    pub(super) fn into_error(self, upstream: &Upstream) -> ProviderError {
        let error = upstream.failed(ErrorKind::Protocol(self.reason));
        match self.words {
            Some(words) => error.reporting(UpstreamError::read(words.as_bytes()), &upstream.redactor),
            None => error,
        }
    }
}

impl Decode for SseSplitter {
    fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Frames>) -> Result<(), Fault> {
        Ok(SseSplitter::push(self, chunk, out)?)
    }

    fn finish(&mut self, out: &mut VecDeque<Frames>) -> Result<(), Fault> {
        Ok(SseSplitter::finish(self, out)?)
    }

    fn is_done(&self) -> bool {
        SseSplitter::is_done(self)
    }
}

/// Ollama's lines.
pub(super) struct Lines {
    splitter: LineSplitter,
    decoder: LineDecoder,
}

impl Lines {
    pub(super) fn new(decoder: LineDecoder) -> Self {
        Self { splitter: LineSplitter::default(), decoder }
    }
}

impl Decode for Lines {
    fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Frames>) -> Result<(), Fault> {
        self.splitter.push(&chunk);
        while let Some(line) = self.splitter.next_line()? {
            out.extend(self.decoder.line(&line)?);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut VecDeque<Frames>) -> Result<(), Fault> {
        let rest = self.splitter.rest();
        out.extend(self.decoder.line(&rest)?);
        Ok(())
    }

    fn is_done(&self) -> bool {
        false
    }
}

/// An answer that is being read.
struct Reading<D> {
    upstream: Arc<Upstream>,
    bytes: BoxStream<'static, Result<Bytes, ProviderError>>,
    decoder: D,
    /// Decoded, and not handed out.
    ready: VecDeque<Frames>,
    /// What ends the answer once everything that is ready has been handed out.
    end: Option<Result<(), ProviderError>>,
}

impl<D: Decode> Reading<D> {
    async fn next(&mut self) -> Option<Result<Frames, ProviderError>> {
        while self.ready.is_empty() {
            if let Some(end) = self.end.take() {
                self.end = Some(Ok(()));
                if end.is_ok() {
                    self.let_connection_serve_again();
                }
                return end.err().map(Err);
            }
            let decoded = match self.bytes.next().await {
                Some(Ok(chunk)) => self.decoder.push(chunk, &mut self.ready),
                Some(Err(error)) => {
                    self.end = Some(Err(error));
                    continue;
                }
                None => {
                    self.end = Some(Ok(()));
                    self.decoder.finish(&mut self.ready)
                }
            };
            match decoded {
                Err(fault) => self.end = Some(Err(fault.into_error(&self.upstream))),
                Ok(()) if self.decoder.is_done() => self.end = Some(Ok(())),
                // Something came, if only a comment or the beginning of an event.
                Ok(()) if self.ready.is_empty() && self.end.is_none() => return Some(Ok(Frames::none())),
                Ok(()) => {}
            }
        }
        self.ready.pop_front().map(Ok)
    }

    /// An answer that says it is over has not yet ended for HTTP, and a connection whose answer has not been read
    /// to its end is of no more use. What is left mostly is there already; nobody waits for what is not.
    fn let_connection_serve_again(&mut self) {
        let bytes = std::mem::replace(&mut self.bytes, stream::empty().boxed());
        let rest = bytes.take(MOST_CHUNKS_AFTER_THE_END).for_each(|_| std::future::ready(()));
        let mut rest = Box::pin(timeout(END_WITHIN, rest));
        if rest.as_mut().now_or_never().is_none() {
            #[expect(
                clippy::disallowed_methods,
                reason = "ends soon by itself, and nothing is lost with it"
            )]
            tokio::spawn(rest);
        }
    }
}

/// The frames of an answer, as they come.
pub(super) fn frames<D: Decode>(upstream: Arc<Upstream>, response: Response, decoder: D) -> RawFrames {
    let bytes = upstream.bytes(response).boxed();
    let reading = Reading { upstream, bytes, decoder, ready: VecDeque::new(), end: None };
    stream::unfold(reading, |mut reading| async { reading.next().await.map(|next| (next, reading)) }).boxed()
}
