//! ldk-node's events, records and errors in the words of the ports.

use ldk_node::payment::{PaymentDetails, PaymentKind, PaymentStatus};
use ldk_node::{BuildError, ChannelDetails, NodeError};

use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, PaymentHash, Preimage};
use crate::lightning::telling::Tellings;
use crate::lightning::{Channel, Error, Event, IncomingPayment, Outgoing};

use super::ANCHOR_RESERVE_PER_CHANNEL_SAT;

/// What the two anchor outputs of a commitment transaction hold together (BOLT 3), paid by who
/// opened the channel.
const ANCHORS_MSAT: u64 = 660_000;

/// The payment whose receipt an event tells.
pub(super) fn received(event: &ldk_node::Event) -> Option<PaymentHash> {
    match event {
        ldk_node::Event::PaymentReceived { payment_hash, .. } => {
            Some(PaymentHash::new(payment_hash.0))
        }
        _ => None,
    }
}

/// The event at the head of the queue, in our words.
pub(super) fn event(event: ldk_node::Event, tellings: &Tellings) -> Event {
    use ldk_node::Event as Ldk;
    let node = |key: ldk_node::bitcoin::secp256k1::PublicKey| NodeId::new(key.serialize());
    match event {
        Ldk::PaymentReceived { payment_hash, amount_msat, .. } => {
            let hash = PaymentHash::new(payment_hash.0);
            let (received, boot) = (Msat::new(amount_msat), tellings.of(&hash));
            Event::Received(IncomingPayment { hash, received, boot })
        }
        Ldk::PaymentSuccessful { payment_hash, payment_preimage, fee_paid_msat, .. } => {
            Event::Sent {
                hash: PaymentHash::new(payment_hash.0),
                preimage: payment_preimage.map(|preimage| Preimage::new(preimage.0)),
                fee: Msat::new(fee_paid_msat.unwrap_or_default()),
            }
        }
        Ldk::PaymentFailed { payment_hash, reason, .. } => Event::SendFailed {
            hash: payment_hash.map(|hash| PaymentHash::new(hash.0)),
            reason: reason.map_or_else(|| "unknown".to_owned(), |reason| format!("{reason:?}")),
        },
        Ldk::PaymentForwarded { total_fee_earned_msat, .. } => {
            Event::Forwarded { fee: Msat::new(total_fee_earned_msat.unwrap_or_default()) }
        }
        Ldk::ChannelReady { channel_id, counterparty_node_id, .. } => Event::ChannelReady {
            peer: counterparty_node_id.map(node),
            channel: hex::encode(channel_id.0),
        },
        Ldk::ChannelClosed { channel_id, counterparty_node_id, reason, .. } => {
            Event::ChannelClosed {
                peer: counterparty_node_id.map(node),
                channel: hex::encode(channel_id.0),
                reason: reason.map_or_else(|| "unknown".to_owned(), |reason| reason.to_string()),
            }
        }
        Ldk::ChannelPending { channel_id, .. } => {
            Event::ChannelPending { channel: hex::encode(channel_id.0) }
        }
        Ldk::PaymentClaimable { .. } => Event::Other("payment_claimable"),
        Ldk::SplicePending { .. } => Event::Other("splice_pending"),
        Ldk::SpliceFailed { .. } => Event::Other("splice_failed"),
    }
}

/// The record of a payment that we sent.
pub(super) fn outgoing(payment: &PaymentDetails) -> Outgoing {
    match payment.status {
        PaymentStatus::Pending => Outgoing::Pending,
        PaymentStatus::Failed => Outgoing::Failed,
        PaymentStatus::Succeeded => {
            let preimage = match &payment.kind {
                PaymentKind::Bolt11 { preimage, .. }
                | PaymentKind::Bolt11Jit { preimage, .. }
                | PaymentKind::Bolt12Offer { preimage, .. }
                | PaymentKind::Bolt12Refund { preimage, .. }
                | PaymentKind::Spontaneous { preimage, .. } => *preimage,
                PaymentKind::Onchain { .. } => None,
            };
            Outgoing::Succeeded {
                preimage: preimage.map(|preimage| Preimage::new(preimage.0)),
                fee: Msat::new(payment.fee_paid_msat.unwrap_or_default()),
            }
        }
    }
}

/// A channel in our words.
pub(super) fn channel(channel: &ChannelDetails) -> Channel {
    let reserve_sat = channel.unspendable_punishment_reserve.unwrap_or_default();
    let sides = Sides {
        value_msat: channel.channel_value_sats.saturating_mul(1_000),
        ours_funded: channel.is_outbound,
        outbound_msat: channel.outbound_capacity_msat,
        inbound_msat: channel.inbound_capacity_msat,
        our_reserve_msat: reserve_sat.saturating_mul(1_000),
        their_reserve_msat: channel
            .counterparty_unspendable_punishment_reserve
            .saturating_mul(1_000),
    };
    Channel {
        id: hex::encode(channel.channel_id.0),
        peer: NodeId::new(channel.counterparty_node_id.serialize()),
        value_sat: channel.channel_value_sats,
        outbound_msat: channel.outbound_capacity_msat,
        inbound_msat: channel.inbound_capacity_msat,
        balance_msat: sides.balance_msat(),
        pending_msat: sides.pending_msat(),
        reserve_sat,
        record_bytes: 0,
        ready: channel.is_channel_ready,
        usable: channel.is_usable,
        announced: channel.is_announced,
    }
}

struct Sides {
    value_msat: u64,
    ours_funded: bool,
    outbound_msat: u64,
    inbound_msat: u64,
    our_reserve_msat: u64,
    their_reserve_msat: u64,
}

/// LDK tells no balances, but capacities: a side's balance less its reserve, less what is in HTLCs
/// that it offered, less the anchors where this side opened the channel, and never below zero. So a
/// side above zero tells its balance.
impl Sides {
    fn ours(&self) -> Option<u64> {
        told(self.outbound_msat, self.our_reserve_msat, self.ours_funded)
    }

    fn theirs(&self) -> Option<u64> {
        told(self.inbound_msat, self.their_reserve_msat, !self.ours_funded)
    }

    /// Our share: told by our side, or what theirs leaves. The side that did not open the channel is
    /// preferred, because it is exact for channels without anchors, too.
    fn balance_msat(&self) -> u64 {
        let rest = self.theirs().map(|theirs| self.value_msat.saturating_sub(theirs));
        let known = if self.ours_funded { rest.or(self.ours()) } else { self.ours().or(rest) };
        known.unwrap_or_default()
    }

    /// What neither side has: it is in HTLCs.
    fn pending_msat(&self) -> Option<u64> {
        let both = self.ours()?.saturating_add(self.theirs()?);
        Some(self.value_msat.saturating_sub(both))
    }
}

fn told(capacity: u64, reserve: u64, funded: bool) -> Option<u64> {
    let anchors = if funded { ANCHORS_MSAT } else { 0 };
    (capacity > 0).then(|| capacity.saturating_add(reserve).saturating_add(anchors))
}

/// What ldk-node says when asked for something.
pub(super) fn error(error: NodeError) -> Error {
    match error {
        NodeError::NotRunning => Error::NotRunning,
        NodeError::DuplicatePayment => Error::Duplicate,
        // LDK's router found no way, or every channel's slots are taken; nothing was sent.
        NodeError::PaymentSendingFailed => Error::NoRoute,
        NodeError::InvalidInvoice
        | NodeError::InvalidAmount
        | NodeError::InvalidPublicKey
        | NodeError::InvalidNodeId
        | NodeError::InvalidSocketAddress => Error::Malformed(error.to_string()),
        NodeError::InsufficientFunds => Error::Node(format!(
            "the on-chain funds do not cover the channel, its fee and \
             {ANCHOR_RESERVE_PER_CHANNEL_SAT} sat of reserve for each channel"
        )),
        NodeError::ConnectionFailed => Error::Node("the peer does not answer".to_owned()),
        other => Error::Node(other.to_string()),
    }
}

/// Why the node could not be put together.
pub(super) fn build_error(error: BuildError) -> Error {
    Error::Start(match error {
        BuildError::NetworkMismatch => {
            "the node's state is of another network: correct lightning.network, or choose \
             another data_dir"
                .to_owned()
        }
        BuildError::ReadFailed | BuildError::InvalidChannelMonitor => format!(
            "the node's state cannot be read ({error}): restore it, and never start an older copy"
        ),
        BuildError::WalletSetupFailed => {
            "the node's wallet does not fit the seed: restore the seed that this data_dir was made \
             with"
                .to_owned()
        }
        other => format!("the Lightning node cannot be built: {other}"),
    })
}

/// Why the node did not start.
pub(super) fn start_error(error: NodeError) -> Error {
    Error::Start(match error {
        NodeError::FeerateEstimationUpdateFailed | NodeError::FeerateEstimationUpdateTimeout => {
            "the chain source tells no fee rates: see its log, or choose another one".to_owned()
        }
        other => format!("the Lightning node does not start: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: u64 = 100_000_000;
    const RESERVE: u64 = 1_000_000;

    /// What LDK would tell of a channel of which we own this much.
    fn told(ours_funded: bool, ours: u64) -> Sides {
        let (our_anchors, their_anchors) =
            if ours_funded { (ANCHORS_MSAT, 0) } else { (0, ANCHORS_MSAT) };
        Sides {
            value_msat: VALUE,
            ours_funded,
            outbound_msat: ours.saturating_sub(RESERVE + our_anchors),
            inbound_msat: (VALUE - ours).saturating_sub(RESERVE + their_anchors),
            our_reserve_msat: RESERVE,
            their_reserve_msat: RESERVE,
        }
    }

    #[test]
    fn a_balance_is_exact_above_and_below_the_reserve_for_both_sides() {
        for ours in [0, 1, 999_999, RESERVE, 1_660_001, 50_000_000, VALUE - RESERVE, VALUE] {
            for ours_funded in [false, true] {
                assert_eq!(told(ours_funded, ours).balance_msat(), ours, "{ours_funded}");
            }
        }
    }

    #[test]
    fn what_is_in_htlcs_is_what_neither_side_has() {
        for ours_funded in [false, true] {
            let sides = told(ours_funded, 50_000_000);
            assert_eq!(sides.pending_msat(), Some(0), "{ours_funded}");
            let paying = Sides { inbound_msat: sides.inbound_msat - 10_000, ..sides };
            assert_eq!(paying.pending_msat(), Some(10_000), "{ours_funded}");
            assert_eq!(told(ours_funded, RESERVE).pending_msat(), None, "{ours_funded}");
        }
    }

    #[test]
    fn sending_errors_tell_whether_to_ask() {
        assert_eq!(error(NodeError::DuplicatePayment), Error::Duplicate);
        assert_eq!(error(NodeError::PaymentSendingFailed), Error::NoRoute);
        assert!(matches!(error(NodeError::PersistenceFailed), Error::Node(_)));
    }
}
