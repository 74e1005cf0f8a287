//! The fake node under the suite of all nodes.

use std::time::Duration;

use sluice::domain::amount::Msat;
use sluice::lightning::fake::{FakeNode, Outcome};
use sluice::lightning::{Issuer as _, Network};

use crate::lightning;

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let node = FakeNode::new(Network::Regtest).unwrap();
    let other = FakeNode::numbered(Network::Regtest, 2).unwrap();
    lightning::receives(&node, async |bolt11: &str| {
        node.pay(bolt11).unwrap();
    })
    .await;
    node.set_outcome(Outcome::Succeed, Msat::new(3));
    node.set_balance(Msat::new(1_000_000));
    lightning::sends(&node, other.node_id(), async |msat| {
        other.mint(Msat::new(msat), Duration::from_secs(60)).unwrap().bolt11
    })
    .await;
    lightning::stops(&node, other.node_id()).await;
}
