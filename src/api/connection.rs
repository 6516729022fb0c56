//! One connection: what it is doing, and when it has done nothing for too long.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::body::LEAST_BYTES_PER_SECOND;
use super::refusal;
use super::serve::Place;
use super::unread::Rest;

/// What every HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From a request's first byte, or the connection's beginning, to the end of its head.
    pub(super) header: Duration,
    /// Between two requests, and while a caller takes nothing of what is sent.
    pub(super) idle: Duration,
}

/// What a connection is doing. Shared by its socket, its requests and its watchdog; all of it is advisory, so the
/// order in which they see it does not matter.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests under way.
    busy: AtomicU32,
    /// The first bytes of a request came, and its head has not ended.
    in_head: AtomicBool,
    /// The socket takes no more.
    blocked: AtomicBool,
    /// Somebody waits for what the caller sends next, and so learns that it has left.
    listening: AtomicBool,
    /// When what holds now began, in milliseconds since `began`.
    since: AtomicU64,
    /// HTTP/2 has signs of life of its own between requests, which are no heads.
    has_heads: bool,
    /// Where it is served.
    place: Option<Place>,
    /// Where requests leave what they have not read of their bodies.
    rest: Arc<Rest>,
    /// A request has come, and not all of its answer has been written.
    is_answering: AtomicBool,
    /// The caller is to be listened to after the last answer, until it has read that.
    is_lingering: AtomicBool,
}

impl Activity {
    pub(super) fn new(has_heads: bool) -> Self {
        Self {
            began: Instant::now(),
            busy: AtomicU32::new(0),
            in_head: AtomicBool::new(has_heads),
            blocked: AtomicBool::new(false),
            listening: AtomicBool::new(false),
            since: AtomicU64::new(0),
            has_heads,
            place: None,
            rest: Arc::default(),
            is_answering: AtomicBool::new(false),
            is_lingering: AtomicBool::new(false),
        }
    }

    /// The same, served there: its requests count among those of the place.
    pub(super) fn served_at(self, place: Place) -> Self {
        Self { place: Some(place), ..self }
    }

    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(now, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Whether no request is under way, so that what comes next is a head.
    fn is_at_head(&self) -> bool {
        self.has_heads && !self.is_busy()
    }

    /// Whether all of the last answer has been written, so that what is written next may be the refusal of a head.
    fn has_answered(&self) -> bool {
        self.has_heads && !self.is_answering.load(Ordering::Relaxed)
    }

    /// All that there was to be written has been. (The last piece of an answer is when it is no longer under way.)
    fn flushed(&self) {
        if !self.is_busy() {
            self.is_answering.store(false, Ordering::Relaxed);
        }
    }

    /// Whether nobody would notice that the caller has left, because there is something of it left to read.
    fn is_deaf(&self) -> bool {
        self.is_busy() && !self.listening.load(Ordering::Relaxed)
    }

    fn received(&self) {
        if self.has_heads && !self.is_busy() && !self.in_head.swap(true, Ordering::Relaxed) {
            self.touch();
        }
    }

    fn sent(&self) {
        self.blocked.store(false, Ordering::Relaxed);
        if !self.is_busy() {
            self.touch();
        }
    }

    fn cannot_send(&self) {
        if !self.blocked.swap(true, Ordering::Relaxed) {
            self.touch();
        }
    }

    /// A request's head has been read. Until the token is dropped, the request is under way.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
        self.is_answering.store(true, Ordering::Relaxed);
        self.place.iter().for_each(Place::begin);
        Busy(self.clone())
    }

    /// When the connection has to end, as things stand; `None` while that cannot be said.
    fn deadline(&self, patience: Patience) -> Option<Instant> {
        let since = self.began + Duration::from_millis(self.since.load(Ordering::Relaxed));
        let blocked = self.blocked.load(Ordering::Relaxed);
        match (self.is_busy(), self.in_head.load(Ordering::Relaxed)) {
            (true, _) if blocked => Some(since + patience.idle),
            (true, _) => None,
            (false, true) => Some(since + patience.header),
            (false, false) => Some(since + patience.idle),
        }
    }

    /// Comes back when the connection has done nothing for too long.
    pub(super) async fn exhausted(&self, patience: Patience) {
        let shortest = patience.header.min(patience.idle);
        loop {
            let deadline = self.deadline(patience);
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return;
            }
            // What holds now may end and something shorter begin; looked at often enough for that.
            let next = Instant::now() + shortest;
            sleep_until(deadline.map_or(next, |deadline| deadline.min(next))).await;
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    /// Where its body's rest is left; nowhere on HTTP/2.
    pub(super) fn rest(&self) -> Option<&Arc<Rest>> {
        self.0.has_heads.then_some(&self.0.rest)
    }

    /// The connection ends with the answer to it, while the caller may still be sending.
    pub(super) fn linger(&self) {
        self.0.is_lingering.store(true, Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.place.iter().for_each(Place::end);
    }
}

/// Reads what a connection begins with, to tell HTTP/2 from HTTP/1.1.
pub(super) async fn sniff<S: AsyncRead + Unpin>(socket: &mut S) -> io::Result<(Bytes, bool)> {
    let mut begun = Vec::with_capacity(HTTP2_PREFACE.len());
    loop {
        let mut chunk = [0; HTTP2_PREFACE.len()];
        let room = chunk.get_mut(begun.len()..).unwrap_or_default();
        let read = socket.read(room).await?;
        if read == 0 {
            return Ok((begun.into(), false));
        }
        begun.extend_from_slice(room.get(..read).unwrap_or_default());
        if !HTTP2_PREFACE.starts_with(&begun) {
            return Ok((begun.into(), false));
        }
        if begun.len() == HTTP2_PREFACE.len() {
            return Ok((begun.into(), true));
        }
    }
}

/// What a caller may send ahead of its turn. Beyond it, it is no longer heard that it has left.
const MOST_AHEAD_BYTES: usize = 64 * 1024;

/// A socket that says what it is doing, and begins with what was read of it already.
pub(super) struct Watched<S> {
    shared: Arc<Mutex<Shared<S>>>,
    activity: Arc<Activity>,
}

/// Hears that a caller has left while a request of it is under way.
pub(super) struct Watch<S> {
    shared: Arc<Mutex<Shared<S>>>,
    activity: Arc<Activity>,
}

// A std mutex: held for one call that does not wait. Only the connection's own task ever takes it.
struct Shared<S> {
    socket: S,
    /// Read already, and not handed out.
    ahead: BytesMut,
    /// What is left to say to a caller whose request cannot be read. Nothing else is sent then.
    refusal: Option<Bytes>,
    /// A length was announced that no number holds; hyper takes that for headers that are too long.
    is_endless: bool,
    /// Once nothing more is said to it.
    lingering: Option<Lingering>,
}

/// A caller that is listened to although nothing more is said to it: one that is cut off while it sends does not get to
/// read why.
struct Lingering {
    began: Instant,
    received: u64,
    timer: Pin<Box<Sleep>>,
}

/// How long such a caller is listened to that sends nothing more, and one that goes on.
const LINGERING: Duration = Duration::from_secs(2);
const LONGEST_LINGERING: Duration = Duration::from_secs(10);
/// Heads are shorter, nearly all; behind them there may be a long body, which is not to be searched.
const HEAD_BYTES: usize = 2048;
/// How the two lengths begin that are numbers, and larger than those that hyper knows.
static ENDLESS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"1844674407370955161"));

fn locked<S>(shared: &Mutex<Shared<S>>) -> MutexGuard<'_, Shared<S>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S, begun: Bytes, activity: Arc<Activity>) -> Self {
        let shared =
            Shared { socket, ahead: begun.into(), refusal: None, is_endless: false, lingering: None };
        Self { shared: Arc::new(Mutex::new(shared)), activity }
    }

    pub(super) fn watch(&self) -> Watch<S> {
        Watch { shared: self.shared.clone(), activity: self.activity.clone() }
    }
}

impl<S: AsyncRead + Unpin> Watch<S> {
    /// Ready when the caller has left. hyper looks for that itself, unless the caller has sent something behind its
    /// request; then it is read here, and kept for later.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.activity.is_deaf() {
            return Poll::Pending;
        }
        let mut shared = locked(&self.shared);
        while shared.ahead.len() < MOST_AHEAD_BYTES {
            let mut chunk = [0; 1024];
            let mut buffer = ReadBuf::new(&mut chunk);
            match ready!(Pin::new(&mut shared.socket).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => shared.ahead.extend_from_slice(buffer.filled()),
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = locked(&self.shared);
        let before = buffer.filled().len();
        if shared.ahead.is_empty() {
            let read = Pin::new(&mut shared.socket).poll_read(cx, buffer);
            self.activity.listening.store(read.is_pending(), Ordering::Relaxed);
            ready!(read)?;
        } else {
            let length = shared.ahead.len().min(buffer.remaining());
            buffer.put_slice(&shared.ahead.split_to(length));
            self.activity.listening.store(false, Ordering::Relaxed);
            // The rest at once, if it is there: hyper doubles its buffer for a head that comes in two pieces.
            if let Poll::Ready(Err(error)) = Pin::new(&mut shared.socket).poll_read(cx, buffer) {
                return Poll::Ready(Err(error));
            }
        }
        let received = buffer.filled().get(before..).unwrap_or_default();
        if !received.is_empty() {
            let head = received.get(..received.len().min(HEAD_BYTES)).unwrap_or_default();
            shared.is_endless |= self.activity.is_at_head() && ENDLESS.find(head).is_some();
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    /// Writes `first`, or all of what `write` writes, unless it is a refusal by hyper.
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        first: &[u8],
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut shared = locked(&self.shared);
        // Within an answer, a line that looks like a refusal is what its upstream says.
        if shared.refusal.is_none() && self.activity.has_answered() {
            shared.refusal = refusal::in_words(first, shared.is_endless);
        }
        let written = if shared.refusal.is_some() {
            ready!(shared.poll_refusal(cx))?;
            Poll::Ready(Ok(first.len()))
        } else {
            write(Pin::new(&mut shared.socket), cx)
        };
        match &written {
            Poll::Ready(_) => self.activity.sent(),
            Poll::Pending => self.activity.cannot_send(),
        }
        written
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shared<S> {
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.refusal.as_mut().filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            rest.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Listens until the caller has read the last answer, and hangs up.
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let lingering = self.lingering.get_or_insert_with(Lingering::new);
        let mut chunk = [0; 8 * 1024];
        // First, for one that always has something to say.
        while lingering.timer.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut chunk);
            if ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer)).is_err()
                || buffer.filled().is_empty()
            {
                break;
            }
            lingering.has_sent(buffer.filled().len());
        }
        Poll::Ready(())
    }
}

impl Lingering {
    fn new() -> Self {
        let began = Instant::now();
        Self { began, received: 0, timer: Box::pin(sleep_until(began + LINGERING)) }
    }

    /// Gives a caller more time that sends what it announced, and not one that trickles.
    fn has_sent(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
        let more = Duration::from_secs(self.received / LEAST_BYTES_PER_SECOND as u64);
        self.timer.as_mut().reset(self.began + LONGEST_LINGERING.min(LINGERING + more));
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, bytes, |socket, cx| socket.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.first().map_or(&[][..], |slice| slice);
        self.poll_writing(cx, first, |socket, cx| socket.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        locked(&self.shared).socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = locked(&self.shared);
        ready!(Pin::new(&mut shared.socket).poll_flush(cx))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = locked(&self.shared);
        ready!(Pin::new(&mut shared.socket).poll_shutdown(cx))?;
        if shared.refusal.is_some() || self.activity.is_lingering.load(Ordering::Relaxed) {
            ready!(shared.poll_hung_up(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const PATIENCE: Patience = Patience { header: Duration::from_secs(10), idle: Duration::from_secs(75) };

    async fn lasts(activity: &Arc<Activity>) -> u64 {
        let started = Instant::now();
        let _ = tokio::time::timeout(Duration::from_secs(1000), activity.exhausted(PATIENCE)).await;
        started.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_ends_with_the_time_for_a_head() {
        assert_eq!(lasts(&Arc::new(Activity::new(true))).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lasts_longer_than_a_slow_head() {
        let activity = Arc::new(Activity::new(true));
        drop(activity.begin());
        assert_eq!(lasts(&activity).await, 75);

        drop(activity.begin());
        activity.received();
        assert_eq!(lasts(&activity).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_has_all_the_time_it_takes() {
        let activity = Arc::new(Activity::new(true));
        let _busy = activity.begin();
        activity.received();
        assert_eq!(lasts(&activity).await, 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_is_given_up() {
        let activity = Arc::new(Activity::new(true));
        let _busy = activity.begin();
        activity.cannot_send();
        tokio::time::advance(Duration::from_secs(60)).await;
        activity.sent();
        activity.cannot_send();
        assert_eq!(lasts(&activity).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_of_http2_are_no_heads() {
        let activity = Arc::new(Activity::new(false));
        activity.received();
        assert_eq!(lasts(&activity).await, 75);
    }

    #[tokio::test]
    async fn the_beginning_tells_the_protocol_and_is_not_lost() {
        for (sent, is_http2) in [
            (&b"GET / HTTP/1.1\r\n"[..], false),
            (HTTP2_PREFACE, true),
            (b"PRI * HTTP/1.1\r\n", false),
            (b"P", false),
            (b"", false),
        ] {
            let (mut caller, mut server) = tokio::io::duplex(8);
            let writing = async {
                caller.write_all(sent).await.unwrap();
                drop(caller);
            };
            let reading = async {
                let (begun, seen) = sniff(&mut server).await.unwrap();
                let mut all = Vec::new();
                Watched::new(server, begun, Arc::new(Activity::new(true)))
                    .read_to_end(&mut all)
                    .await
                    .unwrap();
                (all, seen)
            };
            let ((), (all, seen)) = tokio::join!(writing, reading);
            assert_eq!((all.as_slice(), seen), (sent, is_http2));
        }
    }

    const LINE: &[u8] = b"HTTP/1.1 404 Not Found\r\n\r\n";

    #[tokio::test]
    async fn what_looks_like_a_refusal_is_one_where_an_answer_begins_and_nowhere_else() {
        // A socket that takes a few bytes at a time: a write goes on at every place of the line.
        for takes in 1..LINE.len() + 2 {
            let activity = Arc::new(Activity::new(true));
            let (mut caller, server) = tokio::io::duplex(takes);
            let mut socket = Watched::new(server, Bytes::new(), activity.clone());
            let writing = async {
                let busy = activity.begin();
                socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                socket.flush().await.unwrap();
                socket.write_all(&LINE.repeat(3)).await.unwrap();
                // The last of it is written when the answer is no longer under way.
                socket.flush().await.unwrap();
                drop(busy);
                socket.write_all(&LINE.repeat(3)).await.unwrap();
                socket.flush().await.unwrap();
                socket.write_all(LINE).await.unwrap();
                drop(socket);
            };
            let mut all = String::new();
            let ((), read) = tokio::join!(writing, caller.read_to_string(&mut all));
            read.unwrap();
            let line = std::str::from_utf8(LINE).unwrap();
            let expected =
                format!("HTTP/1.1 200 OK\r\n\r\n{}HTTP/1.1 404 Not Found\r\ncontent-type", line.repeat(6));
            assert!(all.starts_with(&expected) && all.ends_with("}}"), "{takes}: {all}");
        }
    }

    #[tokio::test]
    async fn on_http2_nothing_is_a_refusal_of_a_head() {
        let (mut caller, server) = tokio::io::duplex(1024);
        let mut socket = Watched::new(server, Bytes::new(), Arc::new(Activity::new(false)));
        socket.write_all(LINE).await.unwrap();
        drop(socket);
        let mut all = Vec::new();
        caller.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, LINE);
    }

    /// How long a caller is listened to that sends so many bytes after each pause, for ever.
    async fn lingers(bytes: usize, pause: Duration) -> Duration {
        let activity = Arc::new(Activity::new(true));
        activity.begin().linger();
        let (caller, server) = tokio::io::duplex(1024 * 1024);
        let mut socket = Watched::new(server, Bytes::new(), activity);
        let (_said, mut sending) = tokio::io::split(caller);
        let began = Instant::now();
        let sending = async {
            loop {
                tokio::time::sleep(pause).await;
                if sending.write_all(&vec![b'x'; bytes]).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            ended = socket.shutdown() => ended.unwrap(),
            () = sending => {}
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_listened_to_for_some_seconds_and_no_longer() {
        assert_eq!(lingers(1, Duration::from_secs(3600)).await.as_secs(), 2);
        assert_eq!(lingers(1, Duration::from_millis(100)).await.as_secs(), 2);
        assert_eq!(lingers(10_000, Duration::from_secs(1)).await.as_secs(), 10);
    }
}
