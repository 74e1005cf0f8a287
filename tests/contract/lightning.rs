//! What every node must keep, fake or real: the same suite over each.

use std::collections::HashSet;
use std::time::Duration;

use lightning_invoice::Bolt11Invoice;
use sluice::domain::amount::Msat;
use sluice::domain::id::{NodeId, PaymentHash, Preimage};
use sluice::lightning::{Error, Event, IncomingPayment, MintError, Node, Outgoing};

/// Within this time an event comes; a real payment over one hop takes about 65 ms, 350 ms at worst.
const EVENT_DURATION_MAX: Duration = Duration::from_secs(20);
const EXPIRY: Duration = Duration::from_secs(600);
const SAT: Msat = Msat::new(1_000);

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

/// An issuer and receiver whose invoices `pay` pays.
pub async fn receives(node: &dyn Node, pay: impl AsyncFn(&str)) {
    invoices_differ_and_name_the_node(node);
    an_event_is_told_until_it_is_acknowledged(node, &pay).await;
    events_come_in_the_order_of_the_payments(node, &pay).await;
    acknowledging_nothing_loses_nothing(node, &pay).await;
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

async fn an_event_is_told_until_it_is_acknowledged(node: &dyn Node, pay: &impl AsyncFn(&str)) {
    let minted = node.mint(SAT, EXPIRY).unwrap();
    pay(&minted.bolt11).await;
    let expected = IncomingPayment { hash: minted.hash, received: SAT, boot: node.boot() };
    for _ in 0..3 {
        assert!(next(node).await == Event::Received(expected), "the same event, exactly");
    }
    node.acknowledge().await.unwrap();
}

async fn events_come_in_the_order_of_the_payments(node: &dyn Node, pay: &impl AsyncFn(&str)) {
    for msat in [1_000, 2_500, 1_001] {
        let minted = node.mint(Msat::new(msat), EXPIRY).unwrap();
        pay(&minted.bolt11).await;
        match next(node).await {
            Event::Received(payment) => {
                assert_eq!((payment.hash, payment.received.get()), (minted.hash, msat));
            }
            _ => panic!("not a payment"),
        }
        node.acknowledge().await.unwrap();
    }
}

async fn acknowledging_nothing_loses_nothing(node: &dyn Node, pay: &impl AsyncFn(&str)) {
    let minted = node.mint(SAT, EXPIRY).unwrap();
    // Nothing was told since the last acknowledgement, so that this one has nothing to forget, whenever the payment arrives.
    node.acknowledge().await.unwrap();
    pay(&minted.bolt11).await;
    node.acknowledge().await.unwrap();
    match next(node).await {
        Event::Received(payment) => assert_eq!(payment.hash, minted.hash),
        _ => panic!("not a payment"),
    }
    node.acknowledge().await.unwrap();
}

/// A sender with enough to send; `to` takes keysends, `invoices` gives fresh invoices of that node with this many msat.
pub async fn sends(node: &dyn Node, to: NodeId, invoices: impl AsyncFn(u64) -> String) {
    let fee_max = Msat::new(1_000);
    let preimage = Preimage::new(fresh(1));
    let hash = preimage.hash();
    assert!(node.outgoing(&hash).await == Outgoing::Unknown, "nothing was sent yet");
    node.keysend(to, SAT, &preimage, fee_max).await.unwrap();
    sent(node, hash, Some(&preimage)).await;
    let again = node.keysend(to, SAT, &preimage, fee_max).await;
    assert_eq!(again, Err(Error::Duplicate), "a hash is sent once");

    let bolt11 = invoices(1_500).await;
    let hash = node.pay(&bolt11, fee_max).await.unwrap();
    sent(node, hash, None).await;
    assert_eq!(node.pay(&bolt11, fee_max).await, Err(Error::Duplicate), "an invoice is paid once");

    node.forget(&hash).await.unwrap();
    assert!(node.outgoing(&hash).await == Outgoing::Unknown, "it was forgotten");
    nothing_malformed_is_sent(node).await;
}

async fn sent(node: &dyn Node, expected: PaymentHash, proof: Option<&Preimage>) {
    match next(node).await {
        Event::Sent { hash, preimage, fee } => {
            assert_eq!(hash, expected);
            assert!(fee.get() <= 1_000);
            assert!(preimage.is_none_or(|preimage| preimage.hash() == expected));
            assert!(proof.is_none() || preimage == proof.copied());
            let known = node.outgoing(&expected).await;
            assert!(known == Outgoing::Succeeded { preimage, fee }, "asked, it says what it told");
        }
        _ => panic!("not sent"),
    }
    node.acknowledge().await.unwrap();
}

async fn nothing_malformed_is_sent(node: &dyn Node) {
    let fee_max = Msat::new(1_000);
    let own = node.mint(SAT, EXPIRY).unwrap().bolt11;
    for bolt11 in ["", "lnbc1", "lnbcrt10n1", own.as_str()] {
        assert!(matches!(node.pay(bolt11, fee_max).await, Err(Error::Malformed(_))), "{bolt11}");
    }
    let to_itself = node.keysend(node.node_id(), SAT, &Preimage::new(fresh(2)), fee_max).await;
    assert!(matches!(to_itself, Err(Error::Malformed(_))));
    assert!(node.outgoing(&Preimage::new(fresh(2)).hash()).await == Outgoing::Unknown);
}

/// A node that was stopped mints nothing and sends nothing; stopping it again does no harm.
pub async fn stops(node: &dyn Node, other: NodeId) {
    node.stop().await;
    node.stop().await;
    assert_eq!(node.mint(SAT, EXPIRY), Err(MintError::NotRunning));
    let sent = node.keysend(other, SAT, &Preimage::new(fresh(3)), SAT).await;
    assert_eq!(sent, Err(Error::NotRunning));
}

/// A preimage that no earlier run used.
fn fresh(n: u8) -> [u8; 32] {
    let mut bytes = [n; 32];
    bytes[..4].copy_from_slice(&std::process::id().to_be_bytes());
    bytes
}
