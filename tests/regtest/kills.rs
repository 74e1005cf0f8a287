//! The server is killed between the ledger's commit and the acknowledgement of a payment: nothing is lost, nothing counted twice.

use crate::world::client::Challenge;
use crate::world::server::Settings;
use crate::world::wallet::Paid;
use crate::world::{World, until};

/// Holds settlement after the commit, for longer than any test.
const HELD: [(&str, &str); 1] = [("FAILPOINTS", "payment-credited=sleep(600000)")];

/// So many looks in a row, 50 ms and two requests apart, must find nothing written.
const QUIET_LOOKS: u32 = 10;

/// A server that holds at the failpoint, with one payment booked and not acknowledged.
struct Held {
    world: World,
    segment: String,
    challenge: Challenge,
    paid: Paid,
    /// What viewer and server owned before.
    before: (i128, i128),
}

impl Held {
    async fn new() -> Self {
        // No payouts, so that what was paid stays where it is.
        let settings = Settings { payout_seconds: 3_600, ..Settings::default() };
        let (mut world, video, _) = World::with_the_clip(&settings).await;
        let before = (world.viewer.owned(), world.server.owned().await);
        world.server.stop().await;
        world.server.start(&HELD).await;
        world.reconnect().await;

        let client = world.server.anybody();
        let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
        let segment = renditions[0].segments[1].clone();
        let challenge = client.challenge(&segment).await.expect("a price");
        let paid = world.viewer.pay(&challenge.invoice).await;
        let held = Self { world, segment, challenge, paid, before };
        until("the payment in the ledger", async || {
            held.world.server.payments("applied").await == 1
        })
        .await;
        held.at_rest().await;
        held
    }

    fn amount(&self) -> i128 {
        i128::from(self.challenge.amount)
    }

    /// Waits until both nodes own what the payment left them, and the server has written nothing for a while, so that no kill meets a
    /// channel in the middle of a step. Balances alone do not tell: the last `revoke_and_ack` of a payment (BOLT 2) moves none, and LDK
    /// writes its ChannelManager some milliseconds after its monitors; a kill in between costs the channel.
    async fn at_rest(&self) {
        let (mut last, mut quiet) = (None, 0);
        until("both ends at rest", async || {
            let (viewer, server) = (self.world.viewer.owned(), self.world.server.owned().await);
            let arrived =
                self.before.0 - viewer == self.amount() && server - self.before.1 == self.amount();
            let written = Some(self.world.server.written_bytes());
            quiet = if arrived && written == last { quiet + 1 } else { 0 };
            last = written;
            quiet >= QUIET_LOOKS
        })
        .await;
    }

    /// What was paid before the kill opens its segment, without a second payment, and the books hold it once.
    async fn opens_once(&self) {
        let Self { world, segment, challenge, paid, before } = self;
        let totals = world.server.totals().await;
        assert_eq!(totals.viewer_credit, self.amount(), "credited once, and served to nobody yet");

        let credential = challenge.credential(&paid.preimage);
        let bytes = world.server.anybody().redeem(segment, &credential).await;
        assert!(!bytes.is_empty());
        assert_eq!(before.0 - world.viewer.owned(), self.amount(), "no second payment");

        let books = world.server.totals().await;
        assert_eq!(books.channels, world.server.owned().await, "the server's own node");
        assert_eq!((books.viewer_credit, books.unclaimed, books.verified), (0, 0, true));
        assert_eq!(books.fee + books.payable, self.amount(), "earned once");
        assert_eq!(world.server.payments("applied").await, 0, "nothing was booked after the kill");
        for lost in ["unclaimed", "repeated", "overpaid"] {
            assert_eq!(world.server.payments(lost).await, 0, "{lost}");
        }
        assert_eq!(world.server.metric("sluice_channels_closed_total").await, 0);
        assert_eq!(world.viewer.node.info().channels.len(), 1, "the viewer's channel stands");
    }

    async fn told_again(&self) {
        let told = async || self.world.server.payments("replayed").await >= 1;
        until("the payment told again", told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_commit_and_acknowledgement_loses_and_doubles_nothing() {
    let mut held = Held::new().await;
    held.world.server.kill();
    held.world.server.start(&[]).await;
    held.world.reconnect().await;
    held.told_again().await;
    held.opens_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_kill_twice_in_a_row_loses_and_doubles_nothing() {
    let mut held = Held::new().await;
    held.world.server.kill();
    held.world.server.start(&HELD).await;
    held.world.reconnect().await;
    held.told_again().await;
    held.world.server.kill();
    held.world.server.start(&[]).await;
    held.world.reconnect().await;
    held.told_again().await;
    held.opens_once().await;
}
