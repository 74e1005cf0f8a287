//! A source on its way to a server, by tus 1.0.0: it goes on by itself after broken connections and restarts of the server.

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use indicatif::ProgressBar;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::super::client::{Client, Failure};
use super::super::output;
use super::begun::Begun;
use crate::domain::id::VideoId;
use crate::runtime::Backoff;

/// Bytes read from the file at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How long is waited in vain, attempts aside, before the command ends.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// Waits between attempts.
pub(super) const fn waits() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(20))
}

/// What is sent.
pub(super) struct Source<'a> {
    pub(super) client: &'a Client,
    pub(super) path: &'a Path,
    pub(super) length: u64,
}

impl Source<'_> {
    /// Announces it for a title: the address to which its bytes go.
    pub(super) async fn create(&self, video: VideoId) -> anyhow::Result<String> {
        let name = self.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let video = STANDARD.encode(video.to_string());
        let metadata = format!("video {video},filename {}", STANDARD.encode(name.as_bytes()));
        let request = self
            .request(Method::POST, "/api/v1/uploads")
            .header("Upload-Length", self.length)
            .header("Upload-Metadata", metadata);
        let answer = self.client.send(request).await?;
        let at = answer.headers().get(header::LOCATION).and_then(|at| at.to_str().ok());
        at.map(str::to_owned)
            .ok_or_else(|| anyhow!("the server does not say where to send the file"))
    }

    /// Sends all that the server has not got, however often that breaks off.
    pub(super) async fn send(&self, at: &str, bar: &ProgressBar) -> anyhow::Result<()> {
        let mut waits = waits();
        let (mut there, mut waited) = (0, Duration::ZERO);
        let mut broken = false;
        loop {
            let attempt = self.attempt(at, bar, broken).await;
            if bar.position() > there {
                (there, waited) = (bar.position(), Duration::ZERO);
                waits.reset();
            }
            let failure = match attempt {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            self.check_unchanged().await?;
            let wait = match waiting(&failure) {
                Some(asked) if waited < PATIENCE => asked.max(waits.step()),
                _ => return Err(self.gave_up(failure)),
            };
            waited = waited.saturating_add(wait);
            broken = matches!(failure, Failure::Broken(_));
            if bar.is_hidden() {
                tracing::debug!(?failure, "the upload broke off");
            } else {
                bar.set_message(format!("({}; again soon)", failure.short()));
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, at: &str, bar: &ProgressBar, broken: bool) -> Result<(), Failure> {
        let offset = self.offset(at).await?;
        bar.set_position(offset);
        if offset >= self.length {
            return Ok(());
        }
        if broken {
            // A server that refuses may close before it is heard: without a body it is.
            self.client.attempt(self.patch(at, offset)).await?;
        }
        bar.set_message("");
        let file = self.from(offset).await.map_err(Failure::Local)?;
        let sent = bar.clone();
        let body = ReaderStream::with_capacity(file, CHUNK_BYTES).inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                sent.inc(chunk.len() as u64);
            }
        });
        let request = self
            .patch(at, offset)
            .header(header::CONTENT_LENGTH, self.length.saturating_sub(offset))
            .body(reqwest::Body::wrap_stream(body));
        let answer = self.client.attempt(request).await;
        // What was read from the file has not all arrived.
        bar.set_position(match &answer {
            Ok(answer) => number(answer, "upload-offset").unwrap_or(offset),
            Err(_) => offset,
        });
        answer?;
        if bar.position() >= self.length { Ok(()) } else { Err(Failure::Early) }
    }

    /// How much the server has.
    pub(super) async fn offset(&self, at: &str) -> Result<u64, Failure> {
        let answer = self.client.attempt(self.request(Method::HEAD, at)).await?;
        if number(&answer, "upload-length") != Some(self.length) {
            return Err(Failure::Local(anyhow!(
                "the server has begun an upload of another file there"
            )));
        }
        number(&answer, "upload-offset").ok_or(Failure::Early)
    }

    async fn from(&self, offset: u64) -> anyhow::Result<tokio::io::Take<File>> {
        let cannot = || format!("{} cannot be read", self.path.display());
        let mut file = File::open(self.path).await.with_context(cannot)?;
        file.seek(SeekFrom::Start(offset)).await.with_context(cannot)?;
        // A file that grows meanwhile is sent as it was announced.
        Ok(file.take(self.length.saturating_sub(offset)))
    }

    async fn check_unchanged(&self) -> anyhow::Result<()> {
        let now = tokio::fs::metadata(self.path).await.map(|metadata| metadata.len());
        if now.is_ok_and(|length| length == self.length) {
            return Ok(());
        }
        bail!("{} changed while it was sent: send it anew with --anew", self.path.display())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, path).header("Tus-Resumable", "1.0.0")
    }

    fn patch(&self, at: &str, offset: u64) -> RequestBuilder {
        self.request(Method::PATCH, at)
            .header("Upload-Offset", offset)
            .header(header::CONTENT_TYPE, "application/offset+octet-stream")
    }

    fn gave_up(&self, failure: Failure) -> anyhow::Error {
        let passes = waiting(&failure).is_some();
        let error = self.client.explain(failure);
        if passes {
            error.context(format!(
                "nothing got through for {} minutes; what arrived is kept: run the same command again to go on",
                PATIENCE.as_secs() / 60
            ))
        } else {
            error
        }
    }
}

/// How long a failure that passes has us wait at least; `None` for one that does not pass.
pub(super) fn waiting(failure: &Failure) -> Option<Duration> {
    match failure {
        Failure::Unreachable | Failure::Broken(_) | Failure::Early => Some(Duration::ZERO),
        Failure::Local(_) => None,
        Failure::Refused { status, code, retry_after, .. } => {
            let passes = match status.as_u16() {
                507 => false,
                // Another connection writes, or what is there has changed since we asked.
                408 | 409 | 423 | 460 => code != "wrong_state",
                400 => code == "broken_upload",
                429 => retry_after.is_none_or(|after| after < PATIENCE),
                other => other >= 500,
            };
            passes.then(|| retry_after.unwrap_or_default())
        }
    }
}

/// What an earlier run of this command began, where the server still has it.
pub(super) async fn resumed(
    source: &Source<'_>,
    begun: Begun,
) -> anyhow::Result<Option<(VideoId, String)>> {
    match source.offset(&begun.at).await {
        Ok(offset) => {
            output::note(&format!(
                "going on with an upload that was begun before, at {offset} of {} bytes",
                source.length
            ));
            Ok(Some((begun.video, begun.at)))
        }
        Err(Failure::Refused { status: StatusCode::NOT_FOUND, .. } | Failure::Local(_)) => Ok(None),
        Err(failure) => Err(source.client.explain(failure)),
    }
}

fn number(answer: &Response, name: &str) -> Option<u64> {
    answer.headers().get(name)?.to_str().ok()?.parse().ok()
}
