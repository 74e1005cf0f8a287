//! JSON-RPC to a bitcoind: the check before the start, and the regtest harness.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// What bitcoind answers while it loads its block index (`RPC_IN_WARMUP`).
const WARMING_UP: i64 = -28;

/// One call may take this long; `generatetoaddress` of a hundred blocks takes about a second.
const CALL_DURATION_MAX: Duration = Duration::from_secs(30);

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// Nobody answers there.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// The credentials are wrong.
    #[error("the credentials are refused")]
    Unauthorized,
    /// bitcoind is starting.
    #[error("still starting: {0}")]
    WarmingUp(String),
    /// bitcoind refused the call.
    #[error("{message} ({code})")]
    Refused {
        /// Bitcoin Core's `RPCErrorCode`.
        code: i64,
        /// Its text.
        message: String,
    },
    /// Somebody answers who does not speak JSON-RPC.
    #[error("the answer is not JSON-RPC (HTTP status {0})")]
    Garbled(u16),
}

/// `user:password` as a cookie file holds it.
pub(super) fn credentials(cookie_file: &Path) -> Result<(String, String), String> {
    let shown = cookie_file.display();
    let text = std::fs::read_to_string(cookie_file)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    text.trim()
        .split_once(':')
        .map(|(user, password)| (user.to_owned(), password.to_owned()))
        .ok_or_else(|| format!("{shown} does not hold `user:password`"))
}

/// A connection to one bitcoind.
pub(super) struct Rpc {
    client: reqwest::Client,
    url: String,
    user: String,
    password: String,
}

impl Rpc {
    /// Nothing is sent yet.
    pub(super) fn new(host: &str, port: u16, user: String, password: String) -> Self {
        // The node is the operator's own: a proxy from the environment is not for it.
        // And no connection is kept: bitcoind waits up to 30 seconds for one when it stops.
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(CALL_DURATION_MAX)
            .build();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let url = format!("http://{host}:{port}/");
        Self { client: client.unwrap_or_default(), url, user, password }
    }

    /// Calls a method with positional parameters.
    pub(super) async fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let request =
            json!({ "jsonrpc": "1.0", "id": "sluice", "method": method, "params": params });
        let unreachable = |error: reqwest::Error| {
            let root =
                std::iter::successors(std::error::Error::source(&error), |e| e.source()).last();
            RpcError::Unreachable(root.map_or_else(|| error.to_string(), ToString::to_string))
        };
        let answer = self
            .client
            .post(&self.url)
            .basic_auth(&self.user, Some(&self.password))
            .json(&request)
            .send()
            .await
            .map_err(unreachable)?;
        let status = answer.status().as_u16();
        if matches!(status, 401 | 403) {
            return Err(RpcError::Unauthorized);
        }
        let body = answer.bytes().await.map_err(unreachable)?;
        let mut body: Value =
            serde_json::from_slice(&body).map_err(|_| RpcError::Garbled(status))?;
        match body.get("error") {
            None => Err(RpcError::Garbled(status)),
            Some(Value::Null) => Ok(body.get_mut("result").map_or(Value::Null, Value::take)),
            Some(error) => {
                let code = error.get("code").and_then(Value::as_i64).unwrap_or_default();
                let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
                let message = message.to_owned();
                Err(match code {
                    WARMING_UP => RpcError::WarmingUp(message),
                    _ => RpcError::Refused { code, message },
                })
            }
        }
    }
}
