//! The socket of a connection to a server near by, which bounds what may come before the head of an answer.
//!
//! hyper passes over interim answers (`103 Early Hints`) by itself, for as long as they come: they must be counted below it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use crate::fairness;
use crate::local::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No head is longer, with all interim answers before it. (What comes of the body with the same read counts as well.)
const MOST_BYTES_TO_HEAD: usize = 1024 * 1024;
/// A head has come: what follows is bounded by its readers.
const UNBOUNDED: usize = usize::MAX;

/// A socket that counts.
#[derive(Debug)]
pub(super) struct Counted {
    socket: Socket,
    allowance: Allowance,
}

/// How many bytes may still come before the head of an answer.
// Only the task that drives the connection changes it; the order does not matter.
#[derive(Clone, Debug)]
pub(super) struct Allowance(Arc<AtomicUsize>);

/// What hyper's error is caused by where too much came before a head.
#[derive(Debug, thiserror::Error)]
#[error("too much came before the head of an answer")]
pub(super) struct Headless;

impl Counted {
    pub(super) fn new(socket: Socket) -> (Self, Allowance) {
        let allowance = Allowance(Arc::new(AtomicUsize::new(UNBOUNDED)));
        (Self { socket, allowance: allowance.clone() }, allowance)
    }

    pub(super) fn into_inner(self) -> Socket {
        self.socket
    }
}

impl Allowance {
    /// An answer is waited for.
    pub(super) fn begin(&self) {
        self.0.store(MOST_BYTES_TO_HEAD, Ordering::Relaxed);
    }

    /// Its head has come.
    pub(super) fn end(&self) {
        self.0.store(UNBOUNDED, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.allowance.0.load(Ordering::Relaxed);
        if left == UNBOUNDED {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Headless)));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        self.allowance.0.store(left.saturating_sub(read), Ordering::Relaxed);
        fairness::spend(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
