//! The chain source, looked at before LDK is started: LDK itself would retry for minutes, or log
//! the reason and return a code.

use std::time::Duration;

use ldk_node::Builder;
use ldk_node::bitcoin::consensus::encode::serialize_hex;
use ldk_node::bitcoin::constants::genesis_block;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::lightning::rpc::{self, Rpc, RpcError};
use crate::lightning::{ChainSource, Error, Network};

/// A source that does not answer for this long is reported.
const ANSWER_DURATION_MAX: Duration = Duration::from_secs(5);
/// An Electrum server's answer is a header of 80 bytes and some JSON around it, or an error.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// A bitcoind that loads its block index is waited for.
const WARM_UP_DURATION_MAX: Duration = Duration::from_secs(60);
const WARM_UP_POLL: Duration = Duration::from_millis(250);

/// A chain source that answered, and is on the right chain where it can be asked.
pub(super) enum Checked {
    Bitcoind { host: String, port: u16, user: String, password: String },
    Esplora { url: String },
    Electrum { url: String },
}

impl Checked {
    /// Tells the builder.
    pub(super) fn configure(self, builder: &mut Builder) {
        match self {
            Self::Bitcoind { host, port, user, password } => {
                builder.set_chain_source_bitcoind_rpc(host, port, user, password);
            }
            Self::Esplora { url } => {
                builder.set_chain_source_esplora(url, None);
            }
            Self::Electrum { url } => {
                builder.set_chain_source_electrum(url, None);
            }
        }
    }
}

/// Asks the source for a sign of life.
///
/// # Errors
/// [`Error::Start`]: one line that names the source and the mend.
pub(super) async fn check(source: &ChainSource, network: Network) -> Result<Checked, Error> {
    match source {
        ChainSource::Bitcoind { host, port, cookie_file } => {
            let (user, password) = rpc::credentials(cookie_file).map_err(|why| {
                start(format!(
                    "lightning.chain.cookie_file: {why}: start bitcoind with -server, or name the \
                     file that holds user:password"
                ))
            })?;
            let rpc = Rpc::new(host, *port, user.clone(), password.clone());
            let chain = bitcoind_chain(&rpc)
                .await
                .map_err(|error| start(bitcoind_mend(&format!("{host}:{port}"), &error)))?;
            if chain != core_name(network) {
                return Err(start(format!(
                    "the bitcoind at {host}:{port} is on the chain `{chain}`, not `{}`: correct \
                     lightning.network, or lightning.chain.port",
                    core_name(network)
                )));
            }
            Ok(Checked::Bitcoind { host: host.clone(), port: *port, user, password })
        }
        ChainSource::Esplora { url } => {
            let url = url.trim_end_matches('/').to_owned();
            check_esplora(&url, network).await?;
            Ok(Checked::Esplora { url })
        }
        ChainSource::Electrum { url } => {
            check_electrum(url, network).await?;
            Ok(Checked::Electrum { url: url.clone() })
        }
    }
}

async fn bitcoind_chain(rpc: &Rpc) -> Result<String, RpcError> {
    let deadline = Instant::now() + WARM_UP_DURATION_MAX;
    loop {
        let answer = timeout(ANSWER_DURATION_MAX, rpc.call("getblockchaininfo", json!([])))
            .await
            .unwrap_or_else(|_| Err(RpcError::Unreachable("it takes too long".to_owned())));
        match answer {
            Ok(info) => {
                let chain = info.get("chain").and_then(Value::as_str).unwrap_or("unknown");
                return Ok(chain.to_owned());
            }
            Err(RpcError::WarmingUp(_)) if Instant::now() < deadline => sleep(WARM_UP_POLL).await,
            Err(error) => return Err(error),
        }
    }
}

fn bitcoind_mend(place: &str, error: &RpcError) -> String {
    let mend = match error {
        RpcError::Unreachable(_) => {
            "start it with -server, or correct lightning.chain.host and lightning.chain.port"
        }
        RpcError::Unauthorized => {
            "name its own .cookie in lightning.chain.cookie_file (it is new at each start)"
        }
        RpcError::WarmingUp(_) => "wait until it has started",
        RpcError::Refused { .. } => "see its log",
        RpcError::Garbled(_) => "lightning.chain.port must be its RPC port",
    };
    format!("the bitcoind at {place}: {error}: {mend}")
}

/// Bitcoin Core's name of the chain.
fn core_name(network: Network) -> &'static str {
    match network {
        Network::Mainnet => "main",
        Network::Testnet => "test",
        Network::Signet => "signet",
        Network::Regtest => "regtest",
    }
}

async fn check_esplora(url: &str, network: Network) -> Result<(), Error> {
    let silent = |why: String| unusable(&format!("the Esplora server {url}"), &why);
    let client = reqwest::Client::builder()
        .timeout(ANSWER_DURATION_MAX)
        .build()
        .map_err(|error| silent(error.to_string()))?;
    let get = |path: &str| {
        let request = client.get(format!("{url}{path}"));
        async move { request.send().await?.error_for_status()?.text().await }
    };
    let height = get("/blocks/tip/height").await.map_err(|e| silent(why(&e)))?;
    if height.trim().parse::<u32>().is_err() {
        return Err(silent("it does not tell a block height".to_owned()));
    }
    let genesis = get("/block-height/0").await.map_err(|e| silent(why(&e)))?;
    let ours = genesis_block(network.bitcoin()).block_hash().to_string();
    // Each custom signet has this genesis too, so that agreement does not prove the network there.
    if genesis.trim() != ours {
        return Err(silent(elsewhere(network)));
    }
    Ok(())
}

fn elsewhere(network: Network) -> String {
    format!("it is not on the chain `{}`, which lightning.network chooses", core_name(network))
}

fn unusable(server: &str, why: &str) -> Error {
    start(format!("{server}: {why}: correct lightning.chain.url, or choose another one"))
}

/// The innermost cause, such as "Connection refused", without the address that the caller names
/// anyway.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it takes too long".to_owned();
    }
    let causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}

async fn check_electrum(url: &str, network: Network) -> Result<(), Error> {
    let silent = |why: &str| unusable(&format!("the Electrum server {url}"), why);
    let (encrypted, place) = match url.split_once("://") {
        Some(("tcp", place)) => (false, place),
        Some(("ssl", place)) => (true, place),
        Some(_) => return Err(silent("only tcp:// and ssl:// are understood")),
        None => (false, url),
    };
    let ask = async {
        let stream = TcpStream::connect(place.trim_end_matches('/'))
            .await
            .map_err(|error| error.to_string())?;
        // Behind TLS only LDK's own client can ask: a second TLS client for one line is not worth
        // its code.
        if encrypted { Ok(()) } else { ask_electrum(stream, network).await }
    };
    match timeout(ANSWER_DURATION_MAX, ask).await {
        Ok(answer) => answer.map_err(|why| silent(&why)),
        Err(_) => Err(silent("it takes too long")),
    }
}

/// Asks for the header of block 0 (Electrum protocol 1.4, `blockchain.block.header`).
///
/// Not for `server.features`, which tells the genesis hash too: Blockstream's electrs does not know
/// that method unless it is built for it, while this one LDK needs as well.
async fn ask_electrum(mut stream: TcpStream, network: Network) -> Result<(), String> {
    let request =
        json!({ "jsonrpc": "2.0", "id": 0, "method": "blockchain.block.header", "params": [0] });
    let sent = stream.write_all(format!("{request}\n").as_bytes()).await;
    sent.map_err(|error| error.to_string())?;
    let mut stream = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&line)
        .map_err(|_| "it does not speak Electrum's protocol".to_owned())?;
    let Some(header) = answer.get("result").and_then(Value::as_str) else {
        let said = answer.pointer("/error/message").and_then(Value::as_str);
        return Err(format!("it does not tell block 0 ({})", said.unwrap_or("without a reason")));
    };
    // Each custom signet begins with this block too.
    if header != serialize_hex(&genesis_block(network.bitcoin()).header) {
        return Err(elsewhere(network));
    }
    Ok(())
}

fn start(line: String) -> Error {
    Error::Start(line)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request with this status and body.
    async fn server(status: &'static str, body: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    async fn bitcoind_line(port: u16, cookie: &str) -> String {
        let file =
            std::env::temp_dir().join(format!("sluice-cookie-{port}-{}", std::process::id()));
        std::fs::write(&file, cookie).unwrap();
        let source =
            ChainSource::Bitcoind { host: "127.0.0.1".to_owned(), port, cookie_file: file.clone() };
        let line = match check(&source, Network::Regtest).await {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        std::fs::remove_file(file).unwrap();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[tokio::test]
    async fn a_bitcoind_that_will_not_do_is_named_with_the_mend() {
        let regtest = r#"{"result":{"chain":"regtest"},"error":null,"id":"sluice"}"#;
        assert_eq!(bitcoind_line(server("200 OK", regtest).await, "u:p").await, "ok");
        let main = r#"{"result":{"chain":"main"},"error":null,"id":"sluice"}"#;
        let line = bitcoind_line(server("200 OK", main).await, "u:p").await;
        assert!(line.contains("`main`, not `regtest`"), "{line}");
        let line = bitcoind_line(server("401 Unauthorized", "").await, "u:p").await;
        assert!(line.contains("credentials are refused"), "{line}");
        let line = bitcoind_line(server("404 Not Found", "<html>").await, "u:p").await;
        assert!(line.contains("lightning.chain.port must be its RPC port"), "{line}");
        let line = bitcoind_line(1, "u:p").await;
        assert!(line.contains("start it with -server"), "{line}");
        let line = bitcoind_line(1, "nothing").await;
        assert!(line.contains("does not hold `user:password`"), "{line}");
    }

    #[tokio::test]
    async fn an_esplora_server_that_will_not_do_is_named_with_the_mend() {
        let check = async |url: String| check_esplora(&url, Network::Regtest).await;
        let line = check("http://127.0.0.1:1".to_owned()).await.unwrap_err().to_string();
        assert!(line.contains("correct lightning.chain.url"), "{line}");
        let port = server("200 OK", "17").await;
        let line = check(format!("http://127.0.0.1:{port}")).await.unwrap_err().to_string();
        assert!(line.contains("not on the chain `regtest`"), "{line}");
    }

    /// Answers every line with this one.
    async fn electrum(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                let asked: Value = serde_json::from_str(&line).unwrap();
                assert_eq!(asked["method"], "blockchain.block.header");
                assert_eq!(asked["params"], json!([0]));
                stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
        });
        format!("tcp://{place}")
    }

    fn block_0_of(network: Network) -> String {
        let header = serialize_hex(&genesis_block(network.bitcoin()).header);
        json!({ "jsonrpc": "2.0", "id": 0, "result": header }).to_string()
    }

    #[tokio::test]
    async fn an_electrum_server_on_the_right_chain_will_do() {
        let url = electrum(block_0_of(Network::Regtest)).await;
        assert_eq!(check_electrum(&url, Network::Regtest).await, Ok(()));
        let bare = url.trim_start_matches("tcp://");
        assert_eq!(check_electrum(bare, Network::Regtest).await, Ok(()));
    }

    #[tokio::test]
    async fn an_electrum_server_that_will_not_do_is_named_with_the_mend() {
        let http = server("400 Bad Request", "").await;
        let error = json!({ "id": 0, "error": { "code": -32601, "message": "unknown method" } });
        let urls = [
            (electrum(block_0_of(Network::Mainnet)).await, "not on the chain `regtest`"),
            (electrum(error.to_string()).await, "unknown method"),
            (format!("tcp://127.0.0.1:{http}"), "does not speak Electrum's protocol"),
            ("ssl://127.0.0.1:1".to_owned(), "refused"),
            ("http://127.0.0.1:1".to_owned(), "only tcp:// and ssl://"),
            ("127.0.0.1".to_owned(), "invalid socket address"),
        ];
        for (url, why) in urls {
            let line = check_electrum(&url, Network::Regtest).await.unwrap_err().to_string();
            for word in [&url, why, "correct lightning.chain.url"] {
                assert!(line.contains(word) && !line.contains('\n'), "{word}: {line}");
            }
        }
    }
}
