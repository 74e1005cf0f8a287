//! `sluice subtitles`: sends a WebVTT or an SRT file for a title.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Method;

use super::client::Connection;
use super::output;
use super::upload::video_id;
use crate::domain::id::VideoId;
use crate::domain::subtitle::{self, Language};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The title.
    #[arg(value_parser = video_id)]
    video: VideoId,
    /// A WebVTT or an SRT file, in UTF-8; without one, `--delete` says what goes.
    #[arg(required_unless_present = "delete", conflicts_with = "delete")]
    file: Option<PathBuf>,
    /// Its language: a BCP 47 tag such as en or pt-BR.
    #[arg(long, value_parser = language)]
    language: Language,
    /// How players name it; without one, the language.
    #[arg(long)]
    name: Option<String>,
    /// Take the subtitles of this language away.
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    connection: Connection,
}

fn language(text: &str) -> Result<Language, String> {
    text.parse().map_err(|_| "a language is a BCP 47 tag, such as en or pt-BR".to_owned())
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.connection.client()?;
    let Arguments { video, language, .. } = arguments;
    let path = format!("/api/v1/videos/{video}/subtitles/{language}");
    let Some(file) = &arguments.file else {
        client.send(client.request(Method::DELETE, &path)).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let shown = file.display();
    let bytes = tokio::fs::read(file).await.with_context(|| format!("{shown} cannot be read"))?;
    // The same look that the server takes: what is wrong is told before anything is sent.
    match subtitle::parse(&bytes) {
        Ok(cues) => {
            let mut request = client.request(Method::PUT, &path).body(bytes);
            if let Some(name) = &arguments.name {
                request = request.query(&[("name", name)]);
            }
            client.send(request).await?;
            output::line(&format!("{} cues in {language}", cues.len()));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => bail!("{shown}, {error}"),
    }
}
