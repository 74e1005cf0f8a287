//! Connections: how many there may be, and how long each may take. `axum::serve` knows neither, so this drives hyper itself.
//!
//! A client that sends its headers slowly, or that takes bytes slower than anything that plays, is disconnected; one that opens too many
//! connections is told so and closed. What a request then may do is the handlers' business.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::error::Problem;
use super::{Options, client_of};
use crate::paywall::Client;
use crate::runtime::filed;
use crate::runtime::slots::{Full, Slots};
use crate::telemetry::Metrics;

/// Requests that are under way may end; streams of events would go on for ever.
const DRAIN: Duration = Duration::from_secs(1);
/// Connections that are told why they are refused, at once; further ones are just closed.
const REFUSALS_MAX: usize = 64;
/// Who is refused is given this long to hear it.
const REFUSAL: Duration = Duration::from_secs(2);
/// `MSG_MORE`: these bytes may wait for those that follow at once.
const MORE: i32 = nix::libc::MSG_MORE;
/// No descriptor is left, or the like: it passes.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// What a reader takes at least while bytes wait for it, within [`Options::stall_seconds`]: slower than the poorest rendition plays.
const STALL_BYTES: u64 = 256 << 10;

/// Answers until told to end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: Options,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let server = Server {
        places: Slots::new(options.connections_max, options.connections_per_client_max),
        refusals: Slots::new(REFUSALS_MAX, REFUSALS_MAX),
        router: TowerToHyperService::new(router),
        options,
        metrics,
    };
    let graceful = GracefulShutdown::new();
    // Dropped at the end, and with it every connection that did not end in time.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => server.take(stream, peer, &graceful, &mut connections),
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted now");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

struct Server {
    places: Slots<Client>,
    refusals: Slots<Client>,
    router: TowerToHyperService<Router>,
    options: Options,
    metrics: Metrics,
}

impl Server {
    fn take(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        graceful: &GracefulShutdown,
        connections: &mut JoinSet<()>,
    ) {
        let client = client_of(peer.ip(), &self.options);
        let place = match self.places.take(client, true) {
            Ok(place) => place,
            Err(full) => return self.refuse(stream, full, connections),
        };
        // Segments leave in large pieces and answers whole: there is nothing to gather.
        let _ = stream.set_nodelay(true);
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            router.call(request)
        });
        let patience = Duration::from_secs(self.options.stall_seconds);
        let patient = Patient::new(Sending { stream }, patience);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(self.options.header_seconds))
            .max_header_size(self.options.header_bytes_max)
            .serve_connection(TokioIo::new(patient), service);
        let connection = graceful.watch(connection);
        let open = self.metrics.connection();
        connections.spawn(async move {
            // That a client went away, or was too slow, is no error of ours.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop((place, open));
        });
    }

    /// Says why, closes.
    fn refuse(&self, stream: TcpStream, full: Full, connections: &mut JoinSet<()>) {
        self.metrics.refused("connection");
        let Ok(place) = self.refusals.take(None, true) else { return };
        let service = service_fn(move |_: Request<Incoming>| async move {
            Ok::<Response<Body>, std::convert::Infallible>(Problem::crowded(full).into_response())
        });
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_header_size(self.options.header_bytes_max)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            let _ = tokio::time::timeout(REFUSAL, connection).await;
            drop(place);
        });
    }
}

/// Whether the client is to blame, and the next one may do better.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A socket that takes bytes which are a file's, too, from that file, without a copy.
struct Sending {
    stream: TcpStream,
}

impl Sending {
    /// Sends from a file, as much as the socket takes now. Where the kernel dropped its pages this waits for the disk, as a read of the database
    /// does.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        (file, offset): (&File, u64),
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut offset = i64::try_from(offset).map_err(io::Error::other)?;
        self.poll_io(cx, || {
            match sendfile64(&self.stream, file, Some(&mut offset), bytes.len()) {
                Ok(sent) if sent > 0 => Ok(sent),
                Err(error @ (Errno::EAGAIN | Errno::EPIPE | Errno::ECONNRESET)) => {
                    Err(error.into())
                }
                // The file was cut, the disk is bad, or its file system cannot do it: the bytes are still here.
                Ok(_) | Err(_) => self.stream.try_write(bytes),
            }
        })
    }

    /// Sends what comes before a file's bytes: it leaves with the first of them.
    fn poll_send_head(
        &self,
        cx: &mut Context<'_>,
        head: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = SockRef::from(&self.stream);
        self.poll_io(cx, || socket.send_vectored_with_flags(head, MORE))
    }

    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, &mut send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Sending {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sending {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut slices = bytes.iter().enumerate();
        match slices.find_map(|(n, slice)| Some((n, slice, filed::file_of(slice)?))) {
            Some((0, slice, (file, offset))) => self.poll_send(cx, (&file, offset), slice),
            Some((n, ..)) => self.poll_send_head(cx, bytes.get(..n).unwrap_or_default()),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A stream whose reader must take something. Only the time in which bytes wait for the reader counts.
struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Since when a write waits, and what wakes it when it waited too long.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
    /// How long writes waited since the reader last took [`STALL_BYTES`], and what it took since.
    waited: Duration,
    taken: u64,
}

impl<S> Patient<S> {
    const fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waits: None, waited: Duration::ZERO, taken: 0 }
    }

    /// What a write came to, once the reader's pace is judged.
    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(wrote) = wrote {
            if let Some((since, _)) = self.waits.take() {
                self.waited = self.waited.saturating_add(since.elapsed());
            }
            let bytes = wrote.as_ref().copied().unwrap_or_default();
            self.taken = self.taken.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            if self.taken >= STALL_BYTES {
                (self.taken, self.waited) = (0, Duration::ZERO);
            }
            return Poll::Ready(wrote);
        }
        let left = self.patience.saturating_sub(self.waited);
        let (_, timer) =
            self.waits.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.judge(cx, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.judge(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
