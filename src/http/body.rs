//! Media bodies: handed on in pieces, so that what was sent is known, with a bound on what all of them keep in memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Problem;
use crate::paywall::egress::Passage;
use crate::telemetry::Metrics;

/// One piece: large enough that its cost does not count, small enough that what a client left behind is known to a fraction of a segment.
const PIECE: usize = 256 << 10;
/// Permits are counted in this many bytes.
const UNIT: u64 = 1 << 10;
/// A request waits this long for memory.
const WAIT: Duration = Duration::from_secs(5);

/// What all bodies under way may keep in memory. Of it a quarter is kept for what is paid.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
    free: Arc<Semaphore>,
    max: u32,
}

/// What a body keeps.
#[derive(Debug)]
pub struct Kept {
    _units: OwnedSemaphorePermit,
    _free: Option<OwnedSemaphorePermit>,
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
        Self { units, free, max }
    }

    /// Takes what a body of this length keeps.
    ///
    /// # Errors
    /// 503 where it does not come free in time.
    pub async fn take(&self, len: u64, paid: bool) -> Result<Kept, Problem> {
        // A segment that is larger than all of it is served alone.
        let most = if paid { self.max } else { self.max.saturating_sub(self.max / 4).max(1) };
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(u32::MAX).min(most);
        let taken = async {
            let free = match paid {
                true => None,
                false => Some(Arc::clone(&self.free).acquire_many_owned(units).await.ok()?),
            };
            let units = Arc::clone(&self.units).acquire_many_owned(units).await.ok()?;
            Some(Kept { _units: units, _free: free })
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
