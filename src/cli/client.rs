//! A client of the API, for the subcommands that talk to a running server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Answers come within this; uploads and streams of events take as long as they take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Args)]
pub(super) struct Connection {
    /// The server.
    #[arg(long, global = true, env = "SLUICE_SERVER", default_value = "http://127.0.0.1:8402")]
    server: String,
    /// A file that holds the key; without one, the environment's SLUICE_KEY.
    #[arg(long, global = true)]
    key_file: Option<PathBuf>,
}

/// A server and the key that opens it.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Connection {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let key = match &self.key_file {
            Some(file) => std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?,
            None => std::env::var("SLUICE_KEY").map_err(|_| {
                anyhow!("name the key: --key-file FILE, or SLUICE_KEY in the environment")
            })?,
        };
        Client::new(&self.server, key.trim())
    }
}

impl Client {
    pub(super) fn new(base: &str, key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().connect_timeout(CONNECT_WITHIN).build()?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// The address of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(&self.key)
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(self.send(self.request(Method::GET, path)).await?.json().await?)
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<T> {
        Ok(self.send(self.request(Method::POST, path).json(body)).await?.json().await?)
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<T> {
        Ok(self.send(self.request(Method::PATCH, path).json(body)).await?.json().await?)
    }

    /// Sends, and turns a problem document into its sentence.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        self.attempt(request).await.map_err(|failure| self.explain(failure))
    }

    /// Sends once; what went wrong tells whether another attempt may help.
    pub(super) async fn attempt(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return Err(Failure::Unreachable),
            Err(error) => return Err(Failure::Broken(error.without_url())),
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let after = answer.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
        let retry_after = after.and_then(|after| after.parse().ok()).map(Duration::from_secs);
        let problem: Value = answer.json().await.unwrap_or_default();
        let text = |key| problem.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(Failure::Refused { status, code: text("code"), detail: text("detail"), retry_after })
    }

    /// A failure as a line that says what to do.
    pub(super) fn explain(&self, failure: Failure) -> anyhow::Error {
        match failure {
            Failure::Unreachable => {
                anyhow!("no server answers at {}: is `sluice serve` running there?", self.base)
            }
            Failure::Broken(error) => error.into(),
            Failure::Early => anyhow!("the server ended the request before it had everything"),
            Failure::Local(error) => error,
            Failure::Refused { status, detail, .. } if detail.is_empty() => {
                // A HEAD has no body that could say more.
                match status {
                    StatusCode::UNAUTHORIZED => anyhow!("the server does not know this key (401)"),
                    _ => anyhow!("the server answers {status} and gives no reason"),
                }
            }
            Failure::Refused { status, detail, .. } => anyhow!("{detail} ({})", status.as_u16()),
        }
    }
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection.
    Unreachable,
    /// It broke.
    Broken(reqwest::Error),
    /// It ended before all was sent, or without what an answer must say.
    Early,
    /// Something on this machine.
    Local(anyhow::Error),
    /// The server's word.
    Refused { status: StatusCode, code: String, detail: String, retry_after: Option<Duration> },
}

impl Failure {
    /// In a word or two.
    pub(super) fn short(&self) -> String {
        match self {
            Self::Unreachable => "no server answers".to_owned(),
            Self::Broken(_) | Self::Early => "the connection broke".to_owned(),
            Self::Local(error) => error.to_string(),
            Self::Refused { status, .. } => format!("the server answers {}", status.as_u16()),
        }
    }
}
