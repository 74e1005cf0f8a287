//! A channel that LDK had to close: counted, reopened, and booked, so that books and node agree again to the millisatoshi.

use std::path::Path;

use sluice::store::rocks::Rocks;
use sluice::store::{Durability, NodeKey, NodeState as _, Store};

use crate::world::server::Settings;
use crate::world::{World, until};

/// LDK's channel manager, as the store of a server that does not run keeps it.
struct Manager(Vec<u8>);

impl Manager {
    fn key() -> NodeKey {
        NodeKey { primary: String::new(), secondary: String::new(), key: "manager".to_owned() }
    }

    fn open(data_dir: &Path) -> Store<Rocks> {
        Store::new(Rocks::open(&data_dir.join("db")).unwrap())
    }

    fn read(data_dir: &Path) -> Self {
        Self(Self::open(data_dir).read(&Self::key()).unwrap().expect("there is one"))
    }

    fn write(&self, data_dir: &Path) {
        let store = Self::open(data_dir);
        store.write(&Self::key(), &self.0, Durability::Disk).unwrap();
    }
}

/// A kill can leave the manager behind the channels' monitors (rust-lightning issue 4286). That takes many kills to meet by chance; an older
/// manager put in place of the last one is the same to LDK.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_ldk_had_to_close_is_counted_reopened_and_booked() {
    let settings = Settings::default();
    let (mut world, video, creator) = World::with_the_clip(&settings).await;
    world.server.stop().await;
    let older = Manager::read(&world.server.data_dir);
    world.server.start(&[]).await;
    world.reconnect().await;

    let client = world.server.anybody();
    let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
    let segments = &renditions[0].segments[1..];
    let mut paid = 0;
    for segment in segments {
        paid += i128::from(client.buy(segment, &world.viewer).await.price.expect("a price").0);
    }
    world.rest().await;
    let before = world.server.totals().await;
    world.server.kill();
    older.write(&world.server.data_dir);
    world.server.start(&[]).await;

    assert!(world.reopen_what_closed().await > 0, "LDK had to close a channel");
    world.reconnect().await;
    assert!(world.server.metric("sluice_channels_closed_total").await > 0, "it is counted");
    let booked = async || {
        let totals = world.server.totals().await;
        totals.channels == world.server.owned().await && totals.verified
    };
    until("the closed channel in the books", booked).await;
    let after = world.server.totals().await;
    assert_eq!((after.fee, after.unclaimed), (before.fee, 0), "what was earned stays earned");

    // And it goes on: a payment over the new channel, a payout over the other.
    paid += i128::from(client.buy(&segments[0], &world.viewer).await.price.expect("a price").0);
    world.rest().await;
    let earnings = creator.json("/api/v1/earnings").await;
    let paid_out = crate::world::number(&earnings, "/paid_out_msat");
    let totals = world.server.totals().await;
    let earned = totals.fee + totals.payable + paid_out + totals.routing;
    assert_eq!(earned, paid, "all that was paid is the operator's, the creator's or the routers'");
    assert!(totals.verified);
}
