//! The ports, as the fake keeps them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, PaymentHash, Preimage};
use crate::lightning::{
    Channel, Error, Event, IncomingPayment, Issuer, MintError, Minted, Node, NodeInfo, OpenChannel,
    Operator, Outgoing, Receiver, Sender,
};

use super::{FakeNode, Issued, Told, parse};

/// The identity of the one channel.
const CHANNEL: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl Issuer for FakeNode {
    fn mint(&self, amount: Msat, expiry: Duration) -> Result<Minted, MintError> {
        let mut state = self.state();
        if state.stopped {
            return Err(MintError::NotRunning);
        }
        if amount > state.inbound {
            return Err(MintError::NoInbound(amount));
        }
        let now = state.now.map(Duration::from_secs);
        let now =
            now.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let preimage = self.preimage(state.minted);
        let minted = self.mint.invoice_for(&preimage, amount, expiry, now)?;
        state.minted = state.minted.saturating_add(1);
        state.issued.insert(minted.hash, Issued { preimage, amount });
        Ok(minted)
    }

    fn node_id(&self) -> NodeId {
        self.mint.node_id()
    }
}

#[async_trait]
impl Receiver for FakeNode {
    async fn next(&self) -> Event {
        loop {
            let queued = self.queued.notified();
            {
                let mut state = self.state();
                if let Some(told) = state.queue.front().cloned().filter(|_| !state.stopped) {
                    state.told = true;
                    return match told {
                        Told::Received(hash, received) => {
                            let boot = state.tellings.of(&hash);
                            Event::Received(IncomingPayment { hash, received, boot })
                        }
                        Told::Other(event) => event,
                    };
                }
            }
            queued.await;
        }
    }

    async fn acknowledge(&self) -> Result<(), Error> {
        let mut state = self.state();
        if !std::mem::take(&mut state.told) {
            return Ok(());
        }
        if let Some(told) = state.queue.pop_front() {
            let hash = match &told {
                Told::Received(hash, _) => Some(*hash),
                Told::Other(_) => None,
            };
            state.tellings.acknowledged(hash.as_ref());
            state.acknowledged.push(told);
        }
        Ok(())
    }

    fn boot(&self) -> u64 {
        self.state().tellings.current()
    }
}

#[async_trait]
impl Sender for FakeNode {
    async fn keysend(
        &self,
        to: NodeId,
        amount: Msat,
        preimage: &Preimage,
        _: Msat,
    ) -> Result<(), Error> {
        if to == self.node_id() {
            return Err(Error::Malformed("the destination is this node itself".to_owned()));
        }
        self.send(preimage.hash(), amount, Some(*preimage))
    }

    async fn pay(&self, bolt11: &str, _: Msat) -> Result<PaymentHash, Error> {
        let (hash, invoice) = parse(bolt11)?;
        let malformed = |why: &str| Error::Malformed(why.to_owned());
        if invoice.network() != self.network.bitcoin() {
            return Err(malformed("the invoice is of another network"));
        }
        let amount = invoice
            .amount_milli_satoshis()
            .ok_or_else(|| malformed("the invoice names no amount"))?;
        if invoice.recover_payee_pub_key().serialize() == *self.node_id().as_bytes() {
            return Err(malformed("the invoice is this node's own"));
        }
        let proof = self.state().known.get(&hash).copied();
        self.send(hash, Msat::new(amount), proof)?;
        Ok(hash)
    }

    async fn outgoing(&self, hash: &PaymentHash) -> Outgoing {
        self.state().sent.get(hash).map_or(Outgoing::Unknown, |sent| sent.how.clone())
    }

    async fn forget(&self, hash: &PaymentHash) -> Result<(), Error> {
        self.state().sent.remove(hash);
        Ok(())
    }
}

#[async_trait]
impl Operator for FakeNode {
    fn info(&self) -> NodeInfo {
        let state = self.state();
        let whole = state.balance.checked_add(state.inbound).unwrap_or(state.balance);
        let channel = Channel {
            id: CHANNEL.to_owned(),
            peer: NodeId::new([2; 33]),
            value_sat: whole.get() / 1_000,
            outbound_msat: state.balance.get(),
            inbound_msat: state.inbound.get(),
            balance_msat: state.balance.get(),
            pending_msat: Some(0),
            reserve_sat: 0,
            record_bytes: 0,
            ready: true,
            usable: !state.stopped,
            announced: false,
        };
        NodeInfo {
            id: self.node_id(),
            network: self.network,
            height: 1,
            onchain_sat: 0,
            onchain_spendable_sat: 0,
            lightning_sat: state.balance.get() / 1_000,
            channels: vec![channel],
            peers: 1,
        }
    }

    fn address(&self) -> Result<String, Error> {
        Ok("bcrt1qfake".to_owned())
    }

    async fn connect(&self, _: NodeId, address: &str, _: bool) -> Result<(), Error> {
        match address.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => Ok(()),
            _ => Err(Error::Malformed(format!("`{address}` is not a `host:port`"))),
        }
    }

    async fn open_channel(&self, open: OpenChannel) -> Result<(), Error> {
        let peer = open.peer;
        self.state().channels.push(open);
        self.queue(Told::Other(Event::ChannelReady {
            peer: Some(peer),
            channel: CHANNEL.to_owned(),
        }));
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Node for FakeNode {
    async fn stop(&self) {
        self.state().stopped = true;
    }

    async fn failed(&self) -> Error {
        loop {
            let broke = self.broke.notified();
            tokio::pin!(broke);
            broke.as_mut().enable();
            if let Some(why) = self.state().broken.clone() {
                return Error::Node(why);
            }
            broke.await;
        }
    }
}
