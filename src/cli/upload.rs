//! `sluice upload`: one command from a file to an address that can be watched.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::json;

use super::client::{Client, Connection};
use super::output;
use crate::domain::id::VideoId;

mod begun;
mod tus;

use begun::{Begun, Memory};
use tus::Source;

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
    /// Begin anew, also where an earlier run of this command was cut off and the server kept what had arrived.
    #[arg(long)]
    anew: bool,
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
    let path = arguments.file.as_path();
    let source = Source { client: &client, path, length: length(path).await? };
    let memory = Memory::of(&client.url(""), path);
    let begun = memory.recall().filter(|begun| {
        !arguments.anew && arguments.video.is_none_or(|video| video == begun.video)
    });
    let resumed = match begun {
        Some(begun) => tus::resumed(&source, begun).await?,
        None => None,
    };
    let (video, at) = match resumed {
        Some(resumed) => resumed,
        None => {
            let video = match arguments.video {
                Some(video) => video,
                None => draft(&client, &arguments.described()).await?,
            };
            (video, source.create(video).await.with_context(|| again(video))?)
        }
    };
    memory.keep(&Begun { video, at: at.clone() });
    sent(&source, &at).await?;
    // The server has it all: what comes is told by the title.
    memory.forget();
    follow(&client, video).await?;
    output::line(&client.url(&format!("/watch/{video}")));
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn described(&self) -> Upload<'_> {
        let name = self.file.file_stem().and_then(|name| name.to_str());
        Upload {
            file: &self.file,
            title: self.title.as_deref().or(name).unwrap_or("Untitled"),
            description: &self.description,
            msat_per_second: self.msat_per_second,
            preview_seconds: self.preview_seconds,
        }
    }
}

/// Makes a draft and sends its source.
pub(super) async fn send(client: &Client, upload: &Upload<'_>) -> anyhow::Result<VideoId> {
    // Looked at before the title is made: a file that is not there should leave no draft behind.
    let length = length(upload.file).await?;
    let source = Source { client, path: upload.file, length };
    let video = draft(client, upload).await?;
    let at = source.create(video).await.with_context(|| again(video))?;
    sent(&source, &at).await?;
    Ok(video)
}

async fn draft(client: &Client, upload: &Upload<'_>) -> anyhow::Result<VideoId> {
    let draft = json!({
        "title": upload.title,
        "description": upload.description,
        "msat_per_second": upload.msat_per_second,
        "preview_seconds": upload.preview_seconds,
    });
    let created: Created = client.post("/api/v1/videos", &draft).await?;
    Ok(created.id)
}

async fn sent(source: &Source<'_>, at: &str) -> anyhow::Result<()> {
    let bar = bar(source.length, "sending   {bar:32} {bytes}/{total_bytes} {eta} {msg}");
    let sent = source.send(at, &bar).await;
    bar.finish_and_clear();
    sent
}

fn again(video: VideoId) -> String {
    format!("the title is kept: send the file again with --video {video}")
}

/// The length of a file that can be sent.
async fn length(file: &Path) -> anyhow::Result<u64> {
    let path = file.display();
    let metadata =
        tokio::fs::metadata(file).await.with_context(|| format!("{path} cannot be read"))?;
    if !metadata.is_file() {
        bail!("{path} is no file: name the film itself");
    }
    if metadata.len() == 0 {
        bail!("{path} is empty: there is nothing to send");
    }
    Ok(metadata.len())
}

/// Shows how a title is made, until it can be watched; over restarts of the server, too.
pub(super) async fn follow(client: &Client, video: VideoId) -> anyhow::Result<()> {
    let bar = bar(1_000, "encoding  {bar:32} {percent} % {eta}");
    let path = format!("/api/v1/videos/{video}/events");
    let (mut waits, mut heard) = (tus::waits(), Instant::now());
    loop {
        match client.attempt(client.request(Method::GET, &path)).await {
            Ok(events) => {
                if let Some(end) = followed(events, &bar).await {
                    bar.finish_and_clear();
                    return end;
                }
                heard = Instant::now();
                waits.reset();
            }
            Err(failure) if tus::waiting(&failure).is_none() || heard.elapsed() > tus::PATIENCE => {
                return Err(client.explain(failure));
            }
            Err(_) => {}
        }
        tokio::time::sleep(waits.step()).await;
    }
}

/// Until the title is ready or has failed; `None` where the connection ends before.
async fn followed(events: Response, bar: &ProgressBar) -> Option<anyhow::Result<()>> {
    let mut events = events.bytes_stream();
    let mut text = String::new();
    while let Some(Ok(chunk)) = events.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some((line, rest)) = text.split_once('\n') {
            let told =
                line.strip_prefix("data:").map(str::trim).map(serde_json::from_str::<Progress>);
            text = rest.to_owned();
            let Some(Ok(told)) = told else { continue };
            match told.state.as_str() {
                "ready" => return Some(Ok(())),
                "failed" => return Some(Err(anyhow!("{}", told.reason.unwrap_or_default()))),
                _ => bar.set_position(told.permille.unwrap_or_default()),
            }
        }
    }
    None
}

/// A progress bar; on no terminal it draws nothing.
fn bar(length: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}
