//! Bodies that an answer does not wait for.
//!
//! A caller that is refused may still be sending. If its connection is closed then, it sees that and not the answer; and
//! if nothing says that it will be closed, it sends its next request to a connection that has ended. So what is left of a
//! body comes back here when the request is dropped: a little is read to its end, and of more the answer says that the
//! connection ends with the answer, and is listened to until it has read that.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout_at};

/// What is read to its end, so that the connection can go on.
const LITTLE_BYTES: u64 = 64 * 1024;
/// How long that may take. Mostly it is there already.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the rest of a body is left, by the one request that is under way on a connection.
#[derive(Debug, Default)]
// A std mutex: held for an assignment.
pub(super) struct Rest(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// No answer waits for it.
    #[default]
    Unwanted,
    Wanted,
    Left(Unread),
}

/// What is left of a body.
#[derive(Debug)]
pub(super) struct Unread {
    incoming: Incoming,
    /// Whether the caller sends it only when it is asked to.
    is_held_back: bool,
}

/// A request's body.
pub(super) struct Watched {
    /// Gone once it is left.
    incoming: Option<Incoming>,
    rest: Option<Arc<Rest>>,
    is_held_back: bool,
    has_ended: bool,
}

impl Rest {
    fn swap(&self, state: State) -> State {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), state)
    }

    /// What the request has left, now that it is answered.
    pub(super) fn take(&self) -> Option<Unread> {
        match self.swap(State::Unwanted) {
            State::Left(unread) => Some(unread),
            State::Unwanted | State::Wanted => None,
        }
    }
}

impl Watched {
    /// A body, of which the rest is left there. On HTTP/2 nothing is: a stream can end without its connection.
    pub(super) fn new(incoming: Incoming, rest: Option<Arc<Rest>>, is_held_back: bool) -> Self {
        if let Some(rest) = &rest {
            rest.swap(State::Wanted);
        }
        Self { incoming: Some(incoming), rest, is_held_back, has_ended: false }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.is_held_back = false;
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        self.has_ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (Some(incoming), Some(rest)) = (self.incoming.take(), self.rest.take()) else { return };
        if self.has_ended || incoming.is_end_stream() {
            return;
        }
        let mut state = rest.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Wanted) {
            *state = State::Left(Unread { incoming, is_held_back: self.is_held_back });
        }
    }
}

impl Unread {
    /// Reads it to its end, if that is a matter of little. Whether it has ended.
    pub(super) async fn read_if_little(mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut left = LITTLE_BYTES;
        if self.is_held_back || self.incoming.size_hint().lower() > left {
            return false;
        }
        loop {
            match timeout_at(until, self.incoming.frame()).await {
                Ok(None) => return true,
                Ok(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                    match left.checked_sub(bytes) {
                        Some(still) => left = still,
                        None => return false,
                    }
                }
                Ok(Some(Err(_))) | Err(_) => return false,
            }
        }
    }
}
