//! A server that reads the chain from an Esplora server and from an Electrum server: each is played here by a stub in front of the test's
//! bitcoind, which answers the questions that LDK and BDK ask while no transaction concerns them. (bitcoind itself as the source is what
//! every other test here has.)

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::{Value, json};
use sluice::lightning::regtest::Bitcoind;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::starts::holds;
use crate::world::server::{Serving, Settings, run, sluice, utf8};
use crate::world::{bitcoind, number, until};

/// Somebody's key, so that there are blocks.
const ADDRESS: &str = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080";
/// Blocks on the chain at the first start.
const BLOCKS: u32 = 3;
/// Esplora tells this many at once.
const PAGE: usize = 10;
/// What a server of headers tells at most at once.
const HEADERS_MAX: u64 = 2_016;

/// The chain that a stub tells, and what it was asked.
struct Source {
    bitcoind: Bitcoind,
    tells_fee_rates: bool,
    asked: Mutex<Vec<String>>,
    /// Questions that it has no answer to.
    unknown: Mutex<Vec<String>>,
}

impl Source {
    async fn new(tells_fee_rates: bool) -> Arc<Self> {
        let bitcoind = bitcoind().await;
        bitcoind.mine(BLOCKS, ADDRESS).await.unwrap();
        let (asked, unknown) = (Mutex::default(), Mutex::default());
        Arc::new(Self { bitcoind, tells_fee_rates, asked, unknown })
    }

    async fn rpc(&self, method: &str, params: Value) -> Value {
        self.bitcoind.rpc(method, params).await.unwrap()
    }

    async fn height(&self) -> u32 {
        let height = self.rpc("getblockcount", json!([])).await;
        u32::try_from(height.as_u64().unwrap()).unwrap()
    }

    async fn hash(&self, height: u32) -> String {
        self.rpc("getblockhash", json!([height])).await.as_str().unwrap().to_owned()
    }

    /// The 80 bytes of a header, hexadecimal.
    async fn header(&self, hash: &str) -> String {
        self.rpc("getblockheader", json!([hash, false])).await.as_str().unwrap().to_owned()
    }

    fn was_asked(&self, beginning: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked.starts_with(beginning))
    }

    fn no_answer(&self, question: &str) {
        self.unknown.lock().unwrap().push(question.to_owned());
    }

    /// The server starts on this source, follows the chain, stops in good order, and does so once more with the state that it then has.
    async fn is_served(&self, serving: &mut Serving, histories: &str) {
        for starts in 1..=2 {
            serving.start(&[]).await;
            assert_eq!(serving.anybody().status("/healthz").await, 200);
            let height = i128::from(self.height().await);
            let operator = serving.operator();
            until("the node at the chain's tip", async || {
                number(&operator.json("/api/v1/node").await, "/height") == height
            })
            .await;
            until("the wallet's scripts looked up", async || {
                serving.logged("of on-chain wallet finished").len() >= starts
            })
            .await;
            serving.stop().await;
            self.bitcoind.mine(BLOCKS, ADDRESS).await.unwrap();
        }
        let seed = std::fs::metadata(serving.data_dir.join("seed")).unwrap();
        assert_eq!((seed.len(), seed.permissions().mode() & 0o777), (64, 0o600));
        assert!(self.was_asked(histories));
        let unknown = self.unknown.lock().unwrap();
        assert!(unknown.is_empty(), "the stub has no answer to {unknown:?}");
        let errors = serving.logged("ERROR");
        assert!(errors.is_empty(), "every answer was understood: {errors:?}");
    }
}

/// Serves Esplora's interface (https://github.com/Blockstream/esplora/blob/master/API.md); its address.
async fn esplora(source: &Arc<Source>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(esplora_answer).with_state(Arc::clone(source));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn esplora_answer(State(source): State<Arc<Source>>, uri: Uri) -> (StatusCode, String) {
    let path = uri.path().trim_start_matches('/');
    source.asked.lock().unwrap().push(path.to_owned());
    let parts: Vec<_> = path.split('/').collect();
    let body = match parts[..] {
        ["blocks", "tip", "height"] => source.height().await.to_string(),
        ["blocks", "tip", "hash"] => source.hash(source.height().await).await,
        ["block-height", height] => source.hash(height.parse().unwrap()).await,
        ["block", hash, "header"] => source.header(hash).await,
        ["block", hash, "status"] => {
            let block = source.rpc("getblockheader", json!([hash])).await;
            let next = &block["nextblockhash"];
            json!({ "in_best_chain": true, "height": block["height"], "next_best": next })
                .to_string()
        }
        ["blocks"] => {
            let mut blocks = Vec::new();
            for height in (0..=source.height().await).rev().take(PAGE) {
                blocks.push(summary(&source, height).await);
            }
            Value::from(blocks).to_string()
        }
        ["scripthash", _, "txs"] => "[]".to_owned(),
        ["fee-estimates"] if source.tells_fee_rates => json!({ "6": 2.5 }).to_string(),
        ["fee-estimates"] => return (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        _ => {
            source.no_answer(path);
            return (StatusCode::NOT_FOUND, String::new());
        }
    };
    (StatusCode::OK, body)
}

/// A block as `GET /blocks` tells it.
async fn summary(source: &Source, height: u32) -> Value {
    let hash = source.hash(height).await;
    let block = source.rpc("getblock", json!([hash, 1])).await;
    let bits = u32::from_str_radix(block["bits"].as_str().unwrap(), 16).unwrap();
    json!({
        "id": hash,
        "height": height,
        "version": block["version"],
        "timestamp": block["time"],
        "tx_count": block["nTx"],
        "size": block["size"],
        "weight": block["weight"],
        "merkle_root": block["merkleroot"],
        "previousblockhash": block["previousblockhash"],
        "mediantime": block["mediantime"],
        "nonce": block["nonce"],
        "bits": bits,
        "difficulty": block["difficulty"],
    })
}

/// Serves Electrum's protocol 1.4 (https://electrumx.readthedocs.io/en/latest/protocol-methods.html); its address.
async fn electrum(source: &Arc<Source>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let source = Arc::clone(source);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(electrum_connection(Arc::clone(&source), stream));
        }
    });
    url
}

async fn electrum_connection(source: Arc<Source>, stream: TcpStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: Value = serde_json::from_str(&line).unwrap();
        let method = request["method"].as_str().unwrap();
        source.asked.lock().unwrap().push(method.to_owned());
        let mut answer = json!({ "jsonrpc": "2.0", "id": request["id"] });
        match electrum_answer(&source, method, &request["params"]).await {
            Ok(result) => answer["result"] = result,
            Err(message) => answer["error"] = json!({ "code": -32_601, "message": message }),
        }
        if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn electrum_answer(
    source: &Source,
    method: &str,
    params: &Value,
) -> Result<Value, &'static str> {
    let height = |at: usize| u32::try_from(params[at].as_u64().unwrap()).unwrap();
    Ok(match method {
        "server.version" => json!(["a stub", "1.4"]),
        "server.ping" => Value::Null,
        "server.features" => json!({
            "genesis_hash": source.hash(0).await,
            "hash_function": "sha256",
            "hosts": {},
            "protocol_max": "1.4",
            "protocol_min": "1.4",
            "pruning": null,
            "server_version": "a stub",
        }),
        "blockchain.headers.subscribe" => {
            let tip = source.height().await;
            let header = source.header(&source.hash(tip).await).await;
            json!({ "height": tip, "hex": header })
        }
        "blockchain.block.header" => source.header(&source.hash(height(0)).await).await.into(),
        "blockchain.block.headers" => {
            let end = source.height().await.saturating_add(1).min(height(0) + height(1));
            let mut headers = String::new();
            for at in height(0)..end {
                headers += &source.header(&source.hash(at).await).await;
            }
            json!({ "count": end - height(0), "hex": headers, "max": HEADERS_MAX })
        }
        "blockchain.scripthash.get_history" => json!([]),
        "blockchain.estimatefee" if source.tells_fee_rates => json!(0.000_025),
        "blockchain.estimatefee" => return Err("not today"),
        _ => {
            source.no_answer(method);
            return Err("unknown method");
        }
    })
}

/// A server that is configured for a stub.
fn prepare(dir: &tempfile::TempDir, source: &Source, kind: &str, url: &str) -> Serving {
    let data_dir = dir.path().join("server");
    let serving = Serving::prepare(&data_dir, &source.bitcoind, &Settings::default());
    serving.read_chain_from(kind, url);
    serving
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_reads_the_chain_from_esplora() {
    let (source, dir) = (Source::new(true).await, tempfile::tempdir().unwrap());
    // With the slash that people copy along.
    let url = format!("{}/", esplora(&source).await);
    let mut serving = prepare(&dir, &source, "esplora", &url);
    source.is_served(&mut serving, "scripthash/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_reads_the_chain_from_electrum() {
    let (source, dir) = (Source::new(true).await, tempfile::tempdir().unwrap());
    let url = electrum(&source).await;
    let mut serving = prepare(&dir, &source, "electrum", &url);
    source.is_served(&mut serving, "blockchain.scripthash.get_history").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_source_that_tells_no_fee_rates_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::new(false).await;
    let urls = [("esplora", esplora(&source).await), ("electrum", electrum(&source).await)];
    for (kind, url) in urls {
        let serving = prepare(&dir, &source, kind, &url);
        let output = run(sluice(&["serve", "--config", serving.config.to_str().unwrap()])).await;
        assert_eq!((output.status.code(), utf8(&output.stdout)), (Some(1), String::new()));
        // LDK has logged its own words before.
        let said = utf8(&output.stderr);
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("sluice: "), "{said}");
        holds(last, &["fee rates", "choose another"]);
    }
}
