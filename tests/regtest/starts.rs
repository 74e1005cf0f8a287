//! A start that cannot work says why, in one line that names the mend, and ends.

use std::path::Path;
use std::time::Instant;

use sluice::lightning::regtest::free_port;

use crate::world::bitcoind;
use crate::world::server::{AT_ONCE, Serving, Settings, run, sluice, utf8};

/// Starts a server on this configuration with some lines replaced; the one line that it ends with.
async fn refused(serving: &Serving, changes: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(&serving.config).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}: {text}");
        text = text.replace(from, to);
    }
    let config = serving.config.with_extension("wrong.toml");
    std::fs::write(&config, text).unwrap();
    line(&["serve", "--config", config.to_str().unwrap()]).await
}

async fn line(arguments: &[&str]) -> String {
    let begun = Instant::now();
    let output = run(sluice(arguments)).await;
    let said = utf8(&output.stderr);
    assert!(!output.status.success() && output.status.code().is_some(), "{arguments:?}: {said}");
    assert!(begun.elapsed() < AT_ONCE, "{arguments:?} took {:?}", begun.elapsed());
    assert_eq!(utf8(&output.stdout), "");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("sluice: "), "{said}");
    said
}

pub fn holds(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "`{word}` is missing: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_will_not_do_is_named_with_the_mend() {
    let (chain, dir) = (bitcoind().await, tempfile::tempdir().unwrap());
    let serving = Serving::prepare(&dir.path().join("server"), &chain, &Settings::default());
    let port = format!("port = {}", chain.rpc_port());
    let nobody = free_port().unwrap();
    let cookie = chain.cookie_file();
    let cookie = cookie.to_str().unwrap();
    let wrong = dir.path().join("cookie");
    std::fs::write(&wrong, "__cookie__:not-the-password").unwrap();
    let wrong = wrong.to_str().unwrap();

    let said = refused(&serving, &[("ladder =", "laddder =")]).await;
    holds(&said, &["laddder", "sluice init --print"]);
    let said = refused(&serving, &[("segment_ms = 1000", "segment_ms = \"long\"")]).await;
    holds(&said, &["segment_ms", "sluice init --print"]);
    let said = refused(&serving, &[("segment_ms = 1000", "segment_ms = 10")]).await;
    holds(&said, &["media.segment_ms", "between 1000 and 60000"]);
    let said = refused(&serving, &[("listen = \"127.0.0.1", "listen = \"0.0.0.0")]).await;
    holds(&said, &["http.listen", "http.trusted_proxies"]);
    let said = refused(&serving, &[(&port, &format!("port = {nobody}"))]).await;
    holds(&said, &["bitcoind", &nobody.to_string(), "chain.port"]);
    let said = refused(&serving, &[(cookie, "/nowhere/.cookie")]).await;
    holds(&said, &["/nowhere/.cookie", "chain.cookie_file"]);
    let said = refused(&serving, &[(cookie, wrong)]).await;
    holds(&said, &["refused", ".cookie"]);
    let mainnet = ("network = \"regtest\"", "network = \"mainnet\"");
    let said = refused(&serving, &[mainnet]).await;
    holds(&said, &["payout.lnurl_allow_loopback", "mainnet"]);
    let strict = ("lnurl_allow_loopback = true", "lnurl_allow_loopback = false");
    let said = refused(&serving, &[mainnet, strict]).await;
    holds(&said, &["`regtest`", "`main`", "network"]);
    let said = line(&["serve", "--config", "/nowhere/sluice.toml"]).await;
    holds(&said, &["/nowhere/sluice.toml", "sluice init"]);

    // After all this a right one starts.
    let mut serving = serving;
    serving.start(&[]).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_source_that_does_not_answer_is_named() {
    let (chain, dir) = (bitcoind().await, tempfile::tempdir().unwrap());
    let place = format!("127.0.0.1:{}", free_port().unwrap());
    for (kind, scheme) in [("esplora", "http"), ("electrum", "tcp")] {
        let serving = Serving::prepare(&dir.path().join(kind), &chain, &Settings::default());
        serving.read_chain_from(kind, &format!("{scheme}://{place}"));
        let said = refused(&serving, &[]).await;
        holds(&said, &[&place, "chain.url", "choose another"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_port_or_directory_is_refused() {
    let (chain, dir) = (bitcoind().await, tempfile::tempdir().unwrap());
    let settings = Settings::default();
    let mut first = Serving::prepare(&dir.path().join("server"), &chain, &settings);
    first.start(&[]).await;

    let second = Serving::prepare(&dir.path().join("other"), &chain, &settings);
    let said = refused(&second, &[(&second.http, &first.http)]).await;
    holds(&said, &["http.listen", &first.http, "in use"]);
    let said = refused(&second, &[(&second.lightning, &first.lightning)]).await;
    holds(&said, &["lightning.listen", &first.lightning, "in use"]);
    let (own, taken) = (text(&second.data_dir), text(&first.data_dir));
    let said = refused(&second, &[(&own, &taken)]).await;
    holds(&said, &[&taken, "in use", "data_dir"]);
    assert_eq!(first.anybody().status("/healthz").await, 200, "the first goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_seed_is_never_made_anew() {
    let (chain, dir) = (bitcoind().await, tempfile::tempdir().unwrap());
    let data_dir = dir.path().join("server");
    let mut serving = Serving::prepare(&data_dir, &chain, &Settings::default());
    serving.start(&[]).await;
    serving.stop().await;
    std::fs::remove_file(data_dir.join("seed")).unwrap();
    let said = refused(&serving, &[]).await;
    holds(&said, &["seed", "restore it from your backup"]);
    assert!(!data_dir.join("seed").exists());
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
