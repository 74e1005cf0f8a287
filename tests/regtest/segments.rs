//! The whole way by L402: from a file to sats at the creator's node.

use std::collections::HashSet;

use crate::ffmpeg;
use crate::world::server::Settings;
use crate::world::{World, number};

#[tokio::test(flavor = "multi_thread")]
async fn real_nodes_pay_the_real_executable_for_real_segments_that_ffprobe_accepts() {
    let (world, video, creator) = World::with_the_clip(&Settings::default()).await;
    let anybody = world.server.anybody();
    let before = (world.viewer.owned(), world.creator.owned(), world.server.totals().await);

    let renditions = anybody.renditions(&format!("/hls/{video}/index.m3u8")).await;
    let heights: HashSet<_> = renditions.iter().map(|rendition| rendition.height).collect();
    assert!(heights.len() >= 2 && heights.len() == renditions.len(), "{heights:?}");
    let best = renditions.iter().max_by_key(|rendition| rendition.height).unwrap();
    assert!(best.segments.len() >= 4, "{best:?}");

    let mut film = anybody.bytes(&best.init).await;
    let (mut spent, mut free, mut hashes) = (0, 0, HashSet::new());
    for segment in &best.segments {
        let bought = anybody.buy(segment, &world.viewer).await;
        film.extend(bought.bytes);
        match bought.price {
            Some((amount, paid)) => {
                assert!(hashes.insert(paid.hash), "each segment has an invoice of its own");
                assert_eq!(paid.fee, 0, "one hop");
                spent += i128::from(amount);
            }
            None => free += 1,
        }
    }
    assert_eq!(free, 1, "the first second is free, and no more");
    assert_eq!(hashes.len(), best.segments.len() - 1);
    // 4.28 s at 2 sat/s, rounded up once.
    assert_eq!(spent, 9_000);

    let file = world.dir.path().join("film.mp4");
    std::fs::write(&file, film).unwrap();
    ffmpeg::decodes(&file).await;
    assert_eq!(ffmpeg::frames_and_height(&file).await, (132, best.height));

    world.rest().await;
    let books = world.server.totals().await;
    assert_eq!(before.0 - world.viewer.owned(), spent, "the viewer's own node");
    let earnings = creator.json("/api/v1/earnings").await;
    let paid_out = number(&earnings, "/paid_out_msat");
    assert!(paid_out > 0, "{earnings}");
    assert_eq!(world.creator.owned() - before.1, paid_out, "the creator's own node");
    assert_eq!(books.channels, world.server.owned().await, "the server's own node");
    assert_eq!(books.channels - before.2.channels, spent - paid_out);
    assert_eq!(books.fee + books.payable + paid_out + books.routing, spent, "{books:?}");
    assert_eq!((books.viewer_credit, books.unclaimed, books.verified), (0, 0, true));
    assert_eq!(books.fee, spent * 3 / 100, "three in a hundred");
    assert_eq!(world.server.payments("applied").await, hashes.len() as u64);
    assert_eq!(world.server.metric("sluice_channels_closed_total").await, 0);
}
