//! What every node must keep, fake or real: the same assertions over each.
//!
//! `fake.rs` plays it over two fakes, `tests/regtest/nodes.rs` over two real nodes with a channel. A [`Pair`] knows how the two are made,
//! paid and restarted; what is asked of them is here, once. Left to the fake's own tests is what a real node does not do on demand: a
//! payment that hangs, that fails on its way, that is told late or twice in one start, a store that breaks.

use std::collections::HashSet;
use std::time::Duration;

use lightning_invoice::Bolt11Invoice;
use sluice::domain::amount::Msat;
use sluice::domain::id::{NodeId, PaymentHash, Preimage};
use sluice::lightning::{Error, Event, IncomingPayment, MintError, Node, Outgoing};

/// Within this time an event comes; a real payment over one hop takes about 65 ms, 350 ms at worst.
const EVENT_DURATION_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
const EXPIRY: Duration = Duration::from_secs(600);
const FEE_MAX: Msat = Msat::new(1_000);
const SAT: Msat = Msat::new(1_000);

/// Two nodes that can pay each other: the one that is asked, and its peer.
pub trait Pair {
    /// The node that is asked. It owns enough to send some satoshi, and the suite is the one consumer of its events.
    fn node(&self) -> &dyn Node;

    /// Its peer, which takes keysends.
    fn peer(&self) -> NodeId;

    /// A node that no payment of the next call reaches.
    fn nowhere(&self) -> NodeId;

    /// A fresh invoice of the peer's.
    async fn invoice(&self, amount: Msat) -> String;

    /// The peer pays an invoice; the proof that it is given.
    async fn pay(&self, bolt11: &str) -> Preimage;

    /// Stops the node in good order and starts it again on the same state, until it can pay and be paid.
    async fn restart(&mut self);
}

/// The whole contract.
pub async fn keeps_the_contract(pair: &mut impl Pair) {
    invoices_differ_and_name_the_node(pair.node());
    an_event_is_told_until_it_is_acknowledged(pair).await;
    events_come_in_the_order_of_the_payments(pair).await;
    acknowledging_nothing_loses_nothing(pair).await;
    what_was_not_acknowledged_is_told_again_after_a_restart(pair).await;
    a_keysend_is_sent_once(pair).await;
    an_invoice_is_paid_once(pair).await;
    what_found_no_route_can_be_sent_later(pair).await;
    what_was_sent_is_known_after_a_restart(pair).await;
    nothing_malformed_is_sent(pair.node()).await;
    a_stopped_node_refuses(pair).await;
}

/// The next event that is told and is of interest here; what channels do is acknowledged on the way.
async fn next(node: &dyn Node) -> Event {
    loop {
        let event = tokio::time::timeout(EVENT_DURATION_MAX, node.next()).await.expect("an event");
        match event {
            Event::Received(_) | Event::Sent { .. } | Event::SendFailed { .. } => return event,
            _ => node.acknowledge().await.unwrap(),
        }
    }
}

async fn received(node: &dyn Node) -> IncomingPayment {
    match next(node).await {
        Event::Received(payment) => payment,
        _ => panic!("not a payment"),
    }
}

/// The peer pays a fresh invoice of this amount.
async fn paid(pair: &impl Pair, amount: Msat) -> PaymentHash {
    let minted = pair.node().mint(amount, EXPIRY).unwrap();
    let proof = pair.pay(&minted.bolt11).await;
    assert_eq!(proof.hash(), minted.hash, "the payer gets the proof");
    minted.hash
}

/// What the node owns in its channels.
fn owned(node: &dyn Node) -> u64 {
    node.info().channels.iter().map(|channel| channel.balance_msat).sum()
}

/// Waits until the node owns this much: a real channel has the payment off its books some messages after the event.
async fn comes_to_own(node: &dyn Node, expected: u64) {
    let deadline = tokio::time::Instant::now() + EVENT_DURATION_MAX;
    while owned(node) != expected {
        let now = tokio::time::Instant::now();
        assert!(now < deadline, "it owns {} msat, not {expected}", owned(node));
        tokio::time::sleep(POLL).await;
    }
}

fn invoices_differ_and_name_the_node(node: &dyn Node) {
    let minted: Vec<_> = (0..50).map(|_| node.mint(SAT, EXPIRY).unwrap()).collect();
    let hashes: HashSet<_> = minted.iter().map(|minted| minted.hash).collect();
    assert_eq!(hashes.len(), minted.len(), "each invoice has a hash of its own");
    for minted in minted {
        let invoice: Bolt11Invoice = minted.bolt11.parse().unwrap();
        assert_eq!(invoice.recover_payee_pub_key().serialize(), *node.node_id().as_bytes());
        assert_eq!(invoice.amount_milli_satoshis(), Some(SAT.get()));
        assert_eq!(invoice.description().to_string(), "Sluice");
        assert_eq!(invoice.expires_at().unwrap().as_secs(), minted.expires_at);
        assert!(invoice.route_hints().len() <= 2);
        let hash: &[u8; 32] = invoice.payment_hash().as_ref();
        assert_eq!(hash, minted.hash.as_bytes());
    }
    assert!(matches!(
        node.mint(Msat::new(u64::MAX), EXPIRY),
        Err(MintError::NoInbound(_) | MintError::Refused(_))
    ));
}

async fn an_event_is_told_until_it_is_acknowledged(pair: &impl Pair) {
    let node = pair.node();
    let before = owned(node);
    let hash = paid(pair, SAT).await;
    let expected = IncomingPayment { hash, received: SAT, boot: node.boot() };
    for _ in 0..3 {
        assert!(received(node).await == expected, "the same event, exactly");
    }
    node.acknowledge().await.unwrap();
    comes_to_own(node, before + SAT.get()).await;
}

async fn events_come_in_the_order_of_the_payments(pair: &impl Pair) {
    let node = pair.node();
    let (before, mut hashes) = (owned(node), Vec::new());
    for msat in [1_000, 2_500, 1_001] {
        hashes.push((paid(pair, Msat::new(msat)).await, msat));
    }
    for expected in hashes {
        let payment = received(node).await;
        assert_eq!((payment.hash, payment.received.get()), expected);
        node.acknowledge().await.unwrap();
    }
    comes_to_own(node, before + 4_501).await;
}

async fn acknowledging_nothing_loses_nothing(pair: &impl Pair) {
    let (node, before) = (pair.node(), owned(pair.node()));
    // Nothing was told since the last acknowledgement, so that neither has anything to forget, whenever the payment arrives.
    node.acknowledge().await.unwrap();
    let hash = paid(pair, SAT).await;
    node.acknowledge().await.unwrap();
    assert_eq!(received(node).await.hash, hash);
    node.acknowledge().await.unwrap();
    comes_to_own(node, before + SAT.get()).await;
}

async fn what_was_not_acknowledged_is_told_again_after_a_restart(pair: &mut impl Pair) {
    let (id, first) = (pair.node().node_id(), pair.node().boot());
    let before = owned(pair.node());
    let kept = paid(pair, SAT).await;
    assert_eq!(received(pair.node()).await.boot, first);

    pair.restart().await;
    let node = pair.node();
    assert_eq!(node.node_id(), id);
    assert!(node.boot() > first, "a start has a number of its own");
    let again = received(node).await;
    assert_eq!((again.hash, again.received), (kept, SAT));
    assert!(first < again.boot && again.boot < node.boot(), "neither the old start's nor new");
    node.acknowledge().await.unwrap();

    // A node may tell once more by itself what it claimed before, but under this start's number, by which the ledger knows it.
    let new = paid(pair, SAT).await;
    loop {
        let payment = received(node).await;
        assert_eq!(payment.boot, node.boot());
        node.acknowledge().await.unwrap();
        if payment.hash == new {
            break;
        }
    }
    comes_to_own(node, before + 2 * SAT.get()).await;
}

async fn a_keysend_is_sent_once(pair: &impl Pair) {
    let (node, to, preimage) = (pair.node(), pair.peer(), Preimage::new(fresh(1)));
    let (hash, before) = (preimage.hash(), owned(node));
    assert!(node.outgoing(&hash).await == Outgoing::Unknown, "nothing was sent yet");
    node.keysend(to, SAT, &preimage, FEE_MAX).await.unwrap();
    let fee = sent(node, &preimage).await;
    comes_to_own(node, before - SAT.get() - fee.get()).await;
    let again = node.keysend(to, SAT, &preimage, FEE_MAX).await;
    assert_eq!(again, Err(Error::Duplicate), "a hash is sent once");
    comes_to_own(node, before - SAT.get() - fee.get()).await;
}

async fn an_invoice_is_paid_once(pair: &impl Pair) {
    let node = pair.node();
    let (bolt11, before) = (pair.invoice(Msat::new(1_500)).await, owned(node));
    let hash = node.pay(&bolt11, FEE_MAX).await.unwrap();
    let (preimage, fee) = told(node, hash).await;
    assert_eq!(preimage.hash(), hash, "the proof");
    comes_to_own(node, before - 1_500 - fee.get()).await;
    assert_eq!(node.pay(&bolt11, FEE_MAX).await, Err(Error::Duplicate), "an invoice is paid once");

    node.forget(&hash).await.unwrap();
    assert!(node.outgoing(&hash).await == Outgoing::Unknown, "it was forgotten");
}

async fn what_found_no_route_can_be_sent_later(pair: &impl Pair) {
    let (node, preimage) = (pair.node(), Preimage::new(fresh(2)));
    let before = owned(node);
    let refused = node.keysend(pair.nowhere(), SAT, &preimage, FEE_MAX).await;
    assert_eq!(refused, Err(Error::NoRoute));
    assert!(node.outgoing(&preimage.hash()).await == Outgoing::Failed);
    assert_eq!(owned(node), before, "nothing was sent");
    node.keysend(pair.peer(), SAT, &preimage, FEE_MAX).await.unwrap();
    let fee = sent(node, &preimage).await;
    comes_to_own(node, before - SAT.get() - fee.get()).await;
}

async fn what_was_sent_is_known_after_a_restart(pair: &mut impl Pair) {
    let (before, preimage) = (owned(pair.node()), Preimage::new(fresh(3)));
    pair.node().keysend(pair.peer(), SAT, &preimage, FEE_MAX).await.unwrap();
    let fee = sent(pair.node(), &preimage).await;

    pair.restart().await;
    let node = pair.node();
    let expected = Outgoing::Succeeded { preimage: Some(preimage), fee };
    assert!(node.outgoing(&preimage.hash()).await == expected);
    let again = node.keysend(pair.peer(), SAT, &preimage, FEE_MAX).await;
    assert_eq!(again, Err(Error::Duplicate), "a hash is sent once, in whichever start");
    comes_to_own(node, before - SAT.get() - fee.get()).await;
}

/// A keysend arrives; what it cost.
async fn sent(node: &dyn Node, preimage: &Preimage) -> Msat {
    let (proof, fee) = told(node, preimage.hash()).await;
    assert!(proof == *preimage);
    fee
}

/// The event of a payment that arrives.
async fn told(node: &dyn Node, expected: PaymentHash) -> (Preimage, Msat) {
    let Event::Sent { hash, preimage, fee } = next(node).await else { panic!("not sent") };
    assert_eq!(hash, expected);
    assert!(fee <= FEE_MAX);
    let known = node.outgoing(&expected).await;
    assert!(known == Outgoing::Succeeded { preimage, fee }, "asked, it says what it told");
    node.acknowledge().await.unwrap();
    (preimage.expect("a proof"), fee)
}

async fn nothing_malformed_is_sent(node: &dyn Node) {
    let own = node.mint(SAT, EXPIRY).unwrap().bolt11;
    for bolt11 in ["", "lnbc1", "lnbcrt10n1", own.as_str()] {
        assert!(matches!(node.pay(bolt11, FEE_MAX).await, Err(Error::Malformed(_))), "{bolt11}");
    }
    let preimage = Preimage::new(fresh(4));
    let to_itself = node.keysend(node.node_id(), SAT, &preimage, FEE_MAX).await;
    assert!(matches!(to_itself, Err(Error::Malformed(_))));
    assert!(node.outgoing(&preimage.hash()).await == Outgoing::Unknown);
}

/// A node that was stopped mints nothing and sends nothing; stopping it again does no harm.
async fn a_stopped_node_refuses(pair: &impl Pair) {
    let node = pair.node();
    node.stop().await;
    node.stop().await;
    assert_eq!(node.mint(SAT, EXPIRY), Err(MintError::NotRunning));
    let sent = node.keysend(pair.peer(), SAT, &Preimage::new(fresh(5)), SAT).await;
    assert_eq!(sent, Err(Error::NotRunning));
}

/// A preimage that no earlier run used.
fn fresh(n: u8) -> [u8; 32] {
    let mut bytes = [n; 32];
    bytes[..4].copy_from_slice(&std::process::id().to_be_bytes());
    bytes
}
