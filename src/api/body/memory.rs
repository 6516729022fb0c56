//! The memory that the bodies of requests take, all together.
//!
//! A body is counted as it comes, not as it is announced, so that a caller who announces much and sends nothing takes nothing
//! from others. Bodies that wait for each other are refused after a while, which frees what they hold. Small bodies, which
//! are nearly all, are only added up, in a sum of their own: large ones never keep them waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A body of this size is small.
pub(super) const SMALL_BYTES: usize = 64 * 1024;
/// All small ones together. Those beyond it wait with the large ones.
const MOST_SMALL_BYTES: usize = 64 * 1024 * 1024;
/// So long a body waits for others to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Memory is counted in pieces of this size.
const PIECE_BYTES: usize = 1024;

/// The memory for bodies.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    /// Pieces that are free for large bodies.
    large: Arc<Semaphore>,
    /// Bytes of small bodies. No other memory depends on it, so its order does not matter.
    small: AtomicUsize,
    /// Large bodies that wait.
    waiting: AtomicUsize,
}

/// The memory of one body, until it is dropped.
#[derive(Debug)]
pub(super) enum Reserved {
    Small(Small),
    Large(OwnedSemaphorePermit),
}

/// What a small body adds to the sum of them.
#[derive(Debug)]
pub(super) struct Small {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

impl BodyMemory {
    /// Memory for so many bytes, and for one of the largest bodies at least.
    pub(crate) fn new(bytes: usize, max_body_bytes: usize) -> Self {
        let pieces = pieces(bytes.max(max_body_bytes));
        let large = Arc::new(Semaphore::new(usize::try_from(pieces).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { large, small: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    /// Memory for a body of so many bytes. `None` if others do not leave enough of it in time.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reserved> {
        if bytes <= SMALL_BYTES {
            let before = self.small.fetch_add(bytes, Ordering::Relaxed);
            let reserved = Reserved::Small(Small { memory: self.clone(), bytes });
            if before + bytes <= MOST_SMALL_BYTES {
                return Some(reserved);
            }
        }
        self.permit(pieces(bytes)).await.map(Reserved::Large)
    }

    /// Memory for a body that has become larger, `bytes` in all. `None` if others do not leave enough of it in time.
    pub(super) async fn grow(self: &Arc<Self>, reserved: &mut Reserved, bytes: usize) -> Option<()> {
        match reserved {
            Reserved::Large(permit) => {
                let held = u32::try_from(permit.num_permits()).unwrap_or(u32::MAX);
                permit.merge(self.permit(pieces(bytes).saturating_sub(held)).await?);
            }
            Reserved::Small(_) => *reserved = Reserved::Large(self.permit(pieces(bytes)).await?),
        }
        Some(())
    }

    async fn permit(&self, pieces: u32) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.large.clone().try_acquire_many_owned(pieces) {
            return Some(permit);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        timeout(PATIENCE, self.large.clone().acquire_many_owned(pieces)).await.ok()?.ok()
    }

    /// Whether bodies wait for the memory of others.
    pub(super) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

struct Waiting<'w>(&'w AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn pieces(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX)
}

impl Reserved {
    /// How many bytes it is for.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Small(small) => small.bytes,
            Self::Large(permit) => permit.num_permits() * PIECE_BYTES,
        }
    }

    /// Gives back what a body did not need, and keeps the rest with its bytes for as long as any part of them is in use.
    /// The memory of a small one is kept by its handler.
    pub(super) fn keep(self, body: Bytes) -> (Bytes, Option<Self>) {
        let mut permit = match self {
            Self::Large(permit) => permit,
            small @ Self::Small(_) => return (body, Some(small)),
        };
        let needed = usize::try_from(pieces(body.len())).unwrap_or(usize::MAX);
        drop(permit.split(permit.num_permits().saturating_sub(needed)));
        (Bytes::from_owner(Kept { body, _memory: permit }), None)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.memory.small.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A large body with its memory.
struct Kept {
    body: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "it ends with its test")]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn memory(bytes: usize) -> Arc<BodyMemory> {
        Arc::new(BodyMemory::new(bytes, MIB))
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_waits_for_others_and_not_for_ever() {
        let memory = memory(4 * MIB);
        let first = memory.reserve(3 * MIB).await.unwrap();
        let started = tokio::time::Instant::now();
        assert!(memory.reserve(2 * MIB).await.is_none());
        assert_eq!(started.elapsed(), PATIENCE);
        let second = tokio::spawn({
            let memory = memory.clone();
            async move { memory.reserve(2 * MIB).await }
        });
        tokio::task::yield_now().await;
        assert!(memory.is_short());
        drop(first);
        assert!(second.await.unwrap().is_some() && !memory.is_short());
    }

    #[tokio::test]
    async fn memory_lasts_as_long_as_the_bytes_and_is_no_more_than_they_take() {
        let memory = memory(4 * MIB);
        let (body, held) = memory.reserve(4 * MIB).await.unwrap().keep(Bytes::from(vec![0; MIB]));
        assert!(held.is_none());
        assert_eq!(memory.large.available_permits() * PIECE_BYTES, 3 * MIB);
        let part = body.slice(..1);
        drop(body);
        assert_eq!(memory.large.available_permits() * PIECE_BYTES, 3 * MIB);
        drop(part);
        assert_eq!(memory.large.available_permits() * PIECE_BYTES, 4 * MIB);
    }

    #[tokio::test]
    async fn a_body_takes_as_much_as_has_come_of_it() {
        let memory = memory(4 * MIB);
        let mut growing = memory.reserve(SMALL_BYTES).await.unwrap();
        assert_eq!(memory.large.available_permits() * PIECE_BYTES, 4 * MIB);
        for bytes in [MIB, 3 * MIB] {
            memory.grow(&mut growing, bytes).await.unwrap();
            assert_eq!(growing.bytes(), bytes);
            assert_eq!(memory.large.available_permits() * PIECE_BYTES, 4 * MIB - bytes);
        }
        assert_eq!(memory.small.load(Ordering::Relaxed), 0);
        drop(growing);
        assert_eq!(memory.large.available_permits() * PIECE_BYTES, 4 * MIB);
    }

    #[tokio::test]
    async fn large_bodies_leave_small_ones_alone() {
        let memory = memory(MIB);
        let _all = memory.reserve(MIB).await.unwrap();
        let small = memory.reserve(SMALL_BYTES).await.unwrap();
        assert_eq!((small.bytes(), memory.small.load(Ordering::Relaxed)), (SMALL_BYTES, SMALL_BYTES));
        drop(small);
        assert_eq!(memory.small.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn small_bodies_are_bounded_too() {
        let memory = memory(MIB);
        let mut all = Vec::new();
        while let Some(reserved) = memory.reserve(SMALL_BYTES).await {
            all.push(reserved);
        }
        assert_eq!(all.len() * SMALL_BYTES, MOST_SMALL_BYTES + MIB);
    }

    #[tokio::test]
    async fn there_is_room_for_one_body_whatever_is_set() {
        assert!(memory(1).reserve(MIB).await.is_some());
    }
}
