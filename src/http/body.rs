//! Media bodies: handed on in pieces, so that what was sent is known, with a bound on what all of them keep in memory.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Problem;
use crate::paywall::Client;
use crate::paywall::egress::Passage;
use crate::runtime::lock;
use crate::telemetry::Metrics;

/// One piece: large enough that its cost does not count, small enough that what a client left behind is known to a fraction of a segment.
const PIECE: usize = 256 << 10;
/// Permits are counted in this many bytes.
const UNIT: u64 = 1 << 10;
/// A request waits this long for memory.
const WAIT: Duration = Duration::from_secs(5);

/// One client gets so much of it at most, so that a few slow readers do not take it from all.
const CLIENT_SHARE: u32 = 8;

/// What all bodies under way may keep in memory. Of it a quarter is kept for what is paid, and one client has an eighth.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
    free: Arc<Semaphore>,
    clients: Arc<Clients>,
    max: u32,
}

/// What each client keeps; only of those that keep something.
type Clients = Mutex<HashMap<Client, Arc<Semaphore>>>;

/// What a body keeps.
#[derive(Debug)]
pub struct Kept {
    _units: OwnedSemaphorePermit,
    _free: Option<OwnedSemaphorePermit>,
    _share: Share,
}

/// A client's part of it.
#[derive(Debug)]
struct Share {
    clients: Arc<Clients>,
    client: Client,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.permit = None;
        let mut clients = lock(&self.clients);
        // Whoever waits for it holds it, too.
        if clients.get(&self.client).is_some_and(|share| Arc::strong_count(share) == 1) {
            clients.remove(&self.client);
        }
    }
}

/// A part's bytes with what they may keep: it is given back once the last piece has left, since each piece holds all of them.
struct Counted {
    bytes: Bytes,
    _memory: Kept,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Memory {
    /// So many bytes.
    pub fn new(bytes_max: u64) -> Self {
        let max = u32::try_from(bytes_max / UNIT).unwrap_or(u32::MAX >> 3).max(1);
        let permits = usize::try_from(max).unwrap_or(Semaphore::MAX_PERMITS);
        let free = permits.saturating_sub(permits / 4).max(1);
        let (units, free) = (Arc::new(Semaphore::new(permits)), Arc::new(Semaphore::new(free)));
        Self { units, free, clients: Arc::default(), max }
    }

    /// A client's part. A segment that is larger than that is served alone.
    async fn share(&self, client: Client, units: u32) -> Option<Share> {
        let most = (self.max / CLIENT_SHARE).max(1);
        let semaphore = {
            let mut clients = lock(&self.clients);
            let new = || Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(1)));
            Arc::clone(clients.entry(client).or_insert_with(new))
        };
        // Made before the wait, so that who gives up leaves nothing behind.
        let mut share = Share { clients: Arc::clone(&self.clients), client, permit: None };
        share.permit = Some(semaphore.acquire_many_owned(units.min(most)).await.ok()?);
        Some(share)
    }

    /// Takes what a body of this length keeps.
    ///
    /// # Errors
    /// 503 where it does not come free in time.
    pub async fn take(&self, client: Client, len: u64, paid: bool) -> Result<Kept, Problem> {
        // A segment that is larger than all of it is served alone.
        let most = if paid { self.max } else { self.max.saturating_sub(self.max / 4).max(1) };
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(u32::MAX).min(most);
        let taken = async {
            let share = self.share(client, units).await?;
            let free = match paid {
                true => None,
                false => Some(Arc::clone(&self.free).acquire_many_owned(units).await.ok()?),
            };
            let units = Arc::clone(&self.units).acquire_many_owned(units).await.ok()?;
            Some(Kept { _units: units, _free: free, _share: share })
        };
        let taken = tokio::time::timeout(WAIT, taken).await;
        taken.ok().flatten().ok_or_else(Problem::busy)
    }
}

/// A body that counts what leaves.
pub struct Media {
    left: Bytes,
    metrics: Metrics,
    /// What it takes of a segment's allowance; nothing where it is free.
    passage: Option<Passage>,
}

impl Media {
    /// Of these bytes.
    pub fn new(bytes: Bytes, metrics: Metrics, passage: Option<Passage>, memory: Kept) -> Self {
        Self { left: Bytes::from_owner(Counted { bytes, _memory: memory }), metrics, passage }
    }

    /// As axum takes it.
    pub fn into_body(self) -> Body {
        Body::new(self)
    }
}

impl HttpBody for Media {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.left.split_to(PIECE.min(this.left.len()));
        let bytes = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        this.metrics.sent(bytes);
        if let Some(passage) = &mut this.passage {
            passage.sent(bytes);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it has to wait.
    async fn waits(taken: impl Future<Output = Result<Kept, Problem>>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), taken).await.is_err()
    }

    fn client(n: u8) -> Client {
        Client::from(std::net::IpAddr::from([192, 0, 2, n]))
    }

    #[tokio::test]
    async fn a_client_that_keeps_its_share_waits_and_another_does_not() {
        let memory = Memory::new(80 * UNIT);
        let kept = memory.take(client(1), 10 * UNIT, true).await.unwrap();
        assert!(waits(memory.take(client(1), UNIT, true)).await, "its share is an eighth");
        let other = memory.take(client(2), 10 * UNIT, true).await.unwrap();
        drop((kept, other));
        assert!(lock(&memory.clients).is_empty(), "who keeps nothing is forgotten");
        assert!(memory.take(client(1), 70 * UNIT, true).await.is_ok(), "served alone");
    }

    #[tokio::test]
    async fn what_is_kept_for_payers_is_not_for_others() {
        let memory = Memory::new(80 * UNIT);
        let mut kept = Vec::new();
        for n in 0..6 {
            kept.push(memory.take(client(n), 10 * UNIT, false).await.unwrap());
        }
        assert!(waits(memory.take(client(7), UNIT, false)).await);
        assert!(memory.take(client(7), 10 * UNIT, true).await.is_ok());
    }

    #[tokio::test]
    async fn memory_comes_back_once_the_last_piece_has_left_and_not_before() {
        let memory = Memory::new(32 << 20);
        let kept = memory.take(client(1), 4 << 20, true).await.unwrap();
        let metrics = Metrics::default();
        let bytes = Bytes::from(vec![1; 4 << 20]);
        let mut body = std::pin::pin!(Media::new(bytes, metrics, None, kept));
        let mut pieces = Vec::new();
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            pieces.extend(frame.into_data());
        }
        assert_eq!(pieces.len(), (4 << 20) / PIECE);
        assert!(waits(memory.take(client(1), 1, true)).await, "the pieces wait in a socket");
        pieces.clear();
        body.set(Media { left: Bytes::new(), metrics: Metrics::default(), passage: None });
        assert!(memory.take(client(1), 1, true).await.is_ok());
    }
}
