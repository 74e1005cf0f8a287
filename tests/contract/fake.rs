//! The fake node under the suite of all nodes.

use std::time::Duration;

use sluice::domain::amount::Msat;
use sluice::domain::id::{NodeId, Preimage};
use sluice::lightning::fake::{FakeNode, Outcome};
use sluice::lightning::{Issuer as _, Network, Node};

use crate::lightning::{self, Pair};

/// What it owns to begin with.
const BALANCE: Msat = Msat::new(1_000_000);
const EXPIRY: Duration = Duration::from_secs(60);

struct Fakes {
    node: FakeNode,
    peer: FakeNode,
}

impl Pair for Fakes {
    fn node(&self) -> &dyn Node {
        &self.node
    }

    fn peer(&self) -> NodeId {
        self.peer.node_id()
    }

    fn nowhere(&self) -> NodeId {
        // A fake has no routes: its script says what finds none.
        self.node.script([Outcome::NoRoute]);
        FakeNode::numbered(Network::Regtest, 3).unwrap().node_id()
    }

    async fn invoice(&self, amount: Msat) -> String {
        let bolt11 = self.peer.mint(amount, EXPIRY).unwrap().bolt11;
        // Fakes exchange no messages: the proof is handed over in advance.
        self.node.knows(self.peer.pay(&bolt11).unwrap());
        bolt11
    }

    async fn pay(&self, bolt11: &str) -> Preimage {
        self.node.pay(bolt11).unwrap()
    }

    async fn restart(&mut self) {
        self.node.stop().await;
        // The last payment is told once more, as LDK does after some restarts.
        self.node = self.node.restarted(1).unwrap();
    }
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let node = FakeNode::new(Network::Regtest).unwrap();
    node.set_outcome(Outcome::Succeed, Msat::new(3));
    node.set_balance(BALANCE);
    let peer = FakeNode::numbered(Network::Regtest, 2).unwrap();
    lightning::keeps_the_contract(&mut Fakes { node, peer }).await;
}
