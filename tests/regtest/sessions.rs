//! A player that cannot pay plays a session, and a wallet beside it follows the invoices.

use std::collections::HashSet;

use futures::StreamExt as _;
use reqwest::Response;
use serde_json::{Value, json};
use sluice::domain::id::PaymentHash;

use crate::ffmpeg;
use crate::world::client::Client;
use crate::world::server::Settings;
use crate::world::wallet::Wallet;
use crate::world::{World, number};

/// Follows a session's stream and pays what it asks, each hash once, until the session ends; what it paid.
async fn pay_what_is_asked(stream: Response, wallet: &Wallet) -> (i128, HashSet<PaymentHash>) {
    let (mut spent, mut hashes, mut text) = (0, HashSet::new(), String::new());
    let mut chunks = stream.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n").map(owned) {
            text = rest;
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            match field("event: ").or_else(|| field("event:")) {
                Some("end") => return (spent, hashes),
                Some("invoice") => {
                    let data = field("data:").unwrap().trim();
                    let invoice: Value = serde_json::from_str(data).unwrap();
                    let paid = wallet.pay(invoice["invoice"].as_str().unwrap()).await;
                    assert!(hashes.insert(paid.hash), "an invoice is told once on one stream");
                    spent += number(&invoice, "/amount_msat");
                }
                _ => {}
            }
        }
    }
    panic!("the stream ended before the session")
}

fn owned((event, rest): (&str, &str)) -> (String, String) {
    (event.to_owned(), rest.to_owned())
}

async fn film(player: &Client, playlist: &str) -> (u32, Vec<u8>) {
    let renditions = player.renditions(playlist).await;
    let best = renditions.iter().max_by_key(|rendition| rendition.height).unwrap();
    let mut film = player.bytes(&best.init).await;
    for segment in &best.segments {
        // Held until it is paid: a player sees nothing but a slow server.
        film.extend(player.bytes(segment).await);
    }
    (best.height, film)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_that_cannot_pay_gets_every_segment_while_a_wallet_follows_the_session() {
    let (world, video, _) = World::with_the_clip(&Settings::default()).await;
    let player = world.server.anybody();
    let before = world.viewer.owned();
    let session = player.post("/api/v1/sessions", &json!({ "video": video })).await;
    assert_eq!(session["payee"], world.server.operator().json("/api/v1/node").await["id"]);
    let control = session["control"].as_str().unwrap();
    let playlist = session["playlist"].as_str().unwrap();

    let stream = player.get(&format!("{control}/invoices"), None).await;
    assert!(stream.status().is_success());
    let play = async {
        let played = film(&player, playlist).await;
        let status = player.json(control).await;
        player.delete(control).await;
        (played, status)
    };
    let (((height, film), status), (spent, hashes)) =
        tokio::join!(play, pay_what_is_asked(stream, &world.viewer));

    let file = world.dir.path().join("session.mp4");
    std::fs::write(&file, film).unwrap();
    ffmpeg::decodes(&file).await;
    assert_eq!(ffmpeg::frames_and_height(&file).await, (132, height));
    assert_eq!(spent, 9_000, "4.28 s at 2 sat/s");
    assert_eq!(number(&status, "/spent_msat"), spent, "{status}");
    assert_eq!(number(&status, "/credit_msat"), 0, "{status}");

    world.rest().await;
    assert_eq!(before - world.viewer.owned(), spent, "the viewer's own node");
    let books = world.server.totals().await;
    assert_eq!((books.viewer_credit, books.unclaimed, books.verified), (0, 0, true));
    assert_eq!(world.server.payments("applied").await, hashes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_plays_a_session_to_its_end() {
    let (world, video, _) = World::with_the_clip(&Settings::default()).await;
    let anybody = world.server.anybody();
    let session = anybody.post("/api/v1/sessions", &json!({ "video": video })).await;
    let control = session["control"].as_str().unwrap();
    let playlist = format!("{}{}", world.server.base_url(), session["playlist"].as_str().unwrap());
    let stream = anybody.get(&format!("{control}/invoices"), None).await;
    let play = async {
        let seen = ffmpeg::frames_and_height(playlist.as_ref()).await;
        anybody.delete(control).await;
        seen
    };
    let ((frames, _), (spent, _)) = tokio::join!(play, pay_what_is_asked(stream, &world.viewer));
    assert_eq!(frames, 132);
    assert_eq!(spent, 9_000);
}
