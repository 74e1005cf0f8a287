//! `sluice upload`: one command from a file to an address that can be watched.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio_util::io::ReaderStream;

use super::client::{Client, Connection};
use super::output;
use crate::domain::id::VideoId;

/// Bytes read from the file at once.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The film or recording.
    file: PathBuf,
    /// Its name; without one, the file's.
    #[arg(long)]
    title: Option<String>,
    /// Send the file for this draft or failed title instead of making another; its name and price stay.
    #[arg(long, value_parser = video_id)]
    video: Option<VideoId>,
    /// What it is about.
    #[arg(long, default_value = "")]
    description: String,
    /// The price in millisatoshi per second; 0 is free.
    #[arg(long, default_value_t = 500)]
    msat_per_second: u64,
    /// What is free at the beginning, in seconds.
    #[arg(long, default_value_t = 12)]
    preview_seconds: u32,
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn video_id(text: &str) -> Result<VideoId, String> {
    text.parse().map_err(|_| "the id of a title is a UUID: the end of its address".to_owned())
}

/// A title to be made.
pub(super) struct Upload<'a> {
    pub(super) file: &'a Path,
    pub(super) title: &'a str,
    pub(super) description: &'a str,
    pub(super) msat_per_second: u64,
    pub(super) preview_seconds: u32,
}

#[derive(Deserialize)]
struct Created {
    id: VideoId,
}

#[derive(Deserialize)]
struct Progress {
    state: String,
    permille: Option<u64>,
    reason: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.connection.client()?;
    let name = arguments.file.file_stem().map(|name| name.to_string_lossy().into_owned());
    let title = arguments.title.clone().or(name).unwrap_or_default();
    let upload = Upload {
        file: &arguments.file,
        title: &title,
        description: &arguments.description,
        msat_per_second: arguments.msat_per_second,
        preview_seconds: arguments.preview_seconds,
    };
    let video = match arguments.video {
        Some(video) => {
            put(&client, video, upload.file).await?;
            video
        }
        None => send(&client, &upload).await?,
    };
    follow(&client, video).await?;
    output::line(&client.url(&format!("/watch/{video}")));
    Ok(ExitCode::SUCCESS)
}

/// Makes a draft and sends its source.
pub(super) async fn send(client: &Client, upload: &Upload<'_>) -> anyhow::Result<VideoId> {
    // Looked at before the title is made: a file that is not there should leave no draft behind.
    length(upload.file).await?;
    let draft = json!({
        "title": upload.title,
        "description": upload.description,
        "msat_per_second": upload.msat_per_second,
        "preview_seconds": upload.preview_seconds,
    });
    let created: Created = client.post("/api/v1/videos", &draft).await?;
    put(client, created.id, upload.file).await?;
    Ok(created.id)
}

/// The length of a file that can be sent.
async fn length(file: &Path) -> anyhow::Result<u64> {
    let path = file.display();
    let metadata =
        tokio::fs::metadata(file).await.with_context(|| format!("{path} cannot be read"))?;
    if !metadata.is_file() {
        bail!("{path} is no file");
    }
    if metadata.len() == 0 {
        bail!("{path} is empty");
    }
    Ok(metadata.len())
}

/// Sends the source of a title.
async fn put(client: &Client, video: VideoId, path: &Path) -> anyhow::Result<()> {
    let length = length(path).await?;
    let file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let bar = bar(length, "sending   {bar:32} {bytes}/{total_bytes} {eta}");
    let sent = bar.clone();
    let body = ReaderStream::with_capacity(file, CHUNK_BYTES).inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            sent.inc(chunk.len() as u64);
        }
    });
    let request = client
        .request(Method::PUT, &format!("/api/v1/videos/{video}/source"))
        .header(reqwest::header::CONTENT_LENGTH, length)
        .body(reqwest::Body::wrap_stream(body));
    let answer = client.send(request).await;
    bar.finish_and_clear();
    let again = || format!("the title is kept: send it again with --video {video}");
    answer.map(drop).with_context(again)
}

/// Shows how a title is made, until it can be watched.
pub(super) async fn follow(client: &Client, video: VideoId) -> anyhow::Result<()> {
    let bar = bar(1_000, "encoding  {bar:32} {percent} % {eta}");
    let path = format!("/api/v1/videos/{video}/events");
    let mut events = client.send(client.request(Method::GET, &path)).await?.bytes_stream();
    let mut text = String::new();
    while let Some(chunk) = events.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk.context("the server went away")?));
        while let Some((line, rest)) = text.split_once('\n') {
            let told =
                line.strip_prefix("data:").map(str::trim).map(serde_json::from_str::<Progress>);
            text = rest.to_owned();
            let Some(Ok(told)) = told else { continue };
            match told.state.as_str() {
                "ready" => {
                    bar.finish_and_clear();
                    return Ok(());
                }
                "failed" => bail!("{}", told.reason.unwrap_or_default()),
                _ => bar.set_position(told.permille.unwrap_or_default()),
            }
        }
    }
    bail!("the server ended the connection before the title was ready")
}

/// A progress bar; on no terminal it draws nothing.
fn bar(length: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}
