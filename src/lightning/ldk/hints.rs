//! Route hints for minted invoices: which channels can receive now.
//!
//! `list_channels` takes LDK's channel locks, which are held while a monitor waits for the disk. So
//! the channels are looked at once a second at most, by one caller, while others go on with the
//! last look.

use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use ldk_node::ChannelDetails;
use lightning::routing::router::{RouteHint, RouteHintHop};
use lightning::types::routing::RoutingFees;

use crate::domain::amount::Msat;
use crate::runtime::lock;

/// How long a look at the channels serves: a peer that goes or comes is noticed within this time.
const LOOK_DURATION_MAX: Duration = Duration::from_secs(1);

/// How long a look serves that found no way in: a viewer waits, and the peer may have come back.
const VAIN_LOOK_DURATION_MAX: Duration = Duration::from_millis(100);

/// An invoice with three hints no longer fits a QR code that telephones read well.
const HINTS_MAX: usize = 2;

/// From this depth a public channel may be expected in the payers' graphs (LDK counts the same).
const ANNOUNCED_CONFIRMATIONS_MIN: u32 = 7;

/// A channel that is up, seen from a payer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inbound {
    capacity_msat: u64,
    htlc_minimum_msat: u64,
    htlc_maximum_msat: u64,
    announced: bool,
    /// Announced, and deep enough for payers to know it.
    public: bool,
    /// The way in; `None` until the peer has told its terms.
    hop: Option<RouteHintHop>,
}

impl Inbound {
    fn of(channel: &ChannelDetails) -> Self {
        let hop = || {
            Some(RouteHintHop {
                src_node_id: channel.counterparty_node_id,
                // The alias is the peer's, and does not tell the funding transaction.
                short_channel_id: channel.inbound_scid_alias.or(channel.short_channel_id)?,
                fees: RoutingFees {
                    base_msat: channel.counterparty_forwarding_info_fee_base_msat?,
                    proportional_millionths: channel
                        .counterparty_forwarding_info_fee_proportional_millionths?,
                },
                cltv_expiry_delta: channel.counterparty_forwarding_info_cltv_expiry_delta?,
                htlc_minimum_msat: Some(channel.inbound_htlc_minimum_msat),
                htlc_maximum_msat: channel.inbound_htlc_maximum_msat,
            })
        };
        Self {
            capacity_msat: channel.inbound_capacity_msat,
            htlc_minimum_msat: channel.inbound_htlc_minimum_msat,
            htlc_maximum_msat: channel.inbound_htlc_maximum_msat.unwrap_or(u64::MAX),
            announced: channel.is_announced,
            public: channel.is_announced
                && channel.confirmations.is_some_and(|n| n >= ANNOUNCED_CONFIRMATIONS_MIN),
            hop: hop(),
        }
    }

    fn can_receive(&self, amount: Msat) -> bool {
        self.capacity_msat >= amount.get()
            && (self.htlc_minimum_msat..=self.htlc_maximum_msat).contains(&amount.get())
            && (self.public || self.hop.is_some())
    }
}

/// The channels that are up, the largest inbound capacity first.
fn inbound(channels: &[ChannelDetails]) -> Vec<Inbound> {
    let mut inbound: Vec<_> = channels.iter().filter(|c| c.is_usable).map(Inbound::of).collect();
    inbound.sort_by_key(|channel| std::cmp::Reverse(channel.capacity_msat));
    inbound
}

/// The hints of an invoice over this amount; `None` where no channel can receive it. As LDK does:
/// none where a public channel can, and no private channel is told beside one that is about to be
/// public.
fn choose(channels: &[Inbound], amount: Msat) -> Option<Vec<RouteHint>> {
    let mut fit = channels.iter().filter(|channel| channel.can_receive(amount)).peekable();
    fit.peek()?;
    let fit: Vec<_> = fit.collect();
    if fit.iter().any(|channel| channel.public) {
        return Some(Vec::new());
    }
    let any_announced = fit.iter().any(|channel| channel.announced);
    let told = fit.iter().filter(|channel| channel.announced == any_announced);
    let hops = told.filter_map(|channel| channel.hop.clone()).take(HINTS_MAX);
    Some(hops.map(|hop| RouteHint(vec![hop])).collect())
}

/// The last look at the channels.
#[derive(Default)]
pub(super) struct Hints {
    look: Mutex<Option<Look>>,
    /// Held by the caller who looks.
    looking: Mutex<()>,
}

struct Look {
    at: Instant,
    channels: Arc<[Inbound]>,
}

impl Hints {
    /// Something happened to the channels: look again.
    pub(super) fn expire(&self) {
        *lock(&self.look) = None;
    }

    /// The hints of an invoice over this amount; `None` where no channel can receive it.
    pub(super) fn for_amount(
        &self,
        amount: Msat,
        list: impl Fn() -> Vec<ChannelDetails>,
    ) -> Option<Vec<RouteHint>> {
        let found = choose(&self.channels(LOOK_DURATION_MAX, &list), amount);
        found.or_else(|| choose(&self.channels(VAIN_LOOK_DURATION_MAX, &list), amount))
    }

    fn channels(
        &self,
        age_max: Duration,
        list: impl Fn() -> Vec<ChannelDetails>,
    ) -> Arc<[Inbound]> {
        let alone = match (self.last(), self.looking.try_lock()) {
            (Some((channels, age)), _) if age < age_max => return channels,
            (Some((channels, _)), Err(TryLockError::WouldBlock)) => return channels,
            (_, Ok(alone)) => alone,
            (_, Err(TryLockError::Poisoned(alone))) => alone.into_inner(),
            (None, Err(TryLockError::WouldBlock)) => lock(&self.looking),
        };
        // Whoever waited finds the look of the one before.
        if let Some((channels, _)) = self.last().filter(|(_, age)| *age < age_max) {
            return channels;
        }
        let channels: Arc<[Inbound]> = inbound(&list()).into();
        let look = Look { at: Instant::now(), channels: Arc::clone(&channels) };
        *lock(&self.look) = Some(look);
        drop(alone);
        channels
    }

    /// The last look, and its age.
    fn last(&self) -> Option<(Arc<[Inbound]>, Duration)> {
        let look = lock(&self.look);
        let look = look.as_ref()?;
        Some((Arc::clone(&look.channels), look.at.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ldk_node::bitcoin::secp256k1::PublicKey;

    use super::*;

    fn channel(capacity_msat: u64, scid: u64) -> Inbound {
        Inbound {
            capacity_msat,
            htlc_minimum_msat: 1,
            htlc_maximum_msat: u64::MAX,
            announced: false,
            public: false,
            hop: Some(RouteHintHop {
                src_node_id: PublicKey::from_slice(&[2; 33]).unwrap(),
                short_channel_id: scid,
                fees: RoutingFees { base_msat: 1_000, proportional_millionths: 0 },
                cltv_expiry_delta: 72,
                htlc_minimum_msat: None,
                htlc_maximum_msat: None,
            }),
        }
    }

    fn chosen(channels: &[Inbound], amount: u64) -> Option<Vec<u64>> {
        let hints = choose(channels, Msat::new(amount))?;
        Some(hints.iter().map(|hint| hint.0[0].short_channel_id).collect())
    }

    #[test]
    fn the_two_largest_channels_that_can_receive_are_told() {
        let channels = [channel(900, 1), channel(800, 2), channel(700, 3), channel(10, 4)];
        assert_eq!(chosen(&channels, 100), Some(vec![1, 2]));
        assert_eq!(chosen(&channels, 850), Some(vec![1]));
        assert_eq!(chosen(&channels, 901), None);
        assert_eq!(chosen(&[], 1), None);
    }

    #[test]
    fn a_channel_whose_peer_has_not_told_its_terms_cannot_receive() {
        let silent = Inbound { hop: None, ..channel(900, 1) };
        assert_eq!(chosen(&[silent], 100), None);
        let narrow = Inbound { htlc_maximum_msat: 50, ..channel(900, 1) };
        assert_eq!(chosen(&[narrow], 100), None);
    }

    #[test]
    fn a_public_channel_needs_no_hint_and_private_ones_are_not_told_beside_it() {
        let public = Inbound { announced: true, public: true, ..channel(200, 1) };
        let young = Inbound { announced: true, ..channel(200, 2) };
        assert_eq!(chosen(&[channel(900, 3), public.clone()], 100), Some(vec![]));
        assert_eq!(chosen(&[channel(900, 3), young], 100), Some(vec![2]));
        assert_eq!(chosen(&[channel(900, 3), public], 300), Some(vec![3]));
    }

    #[test]
    fn the_channels_are_looked_at_once_a_second_or_when_something_happened() {
        let (hints, looks) = (Hints::default(), Cell::new(0));
        let list = || {
            looks.set(looks.get() + 1);
            Vec::new()
        };
        for _ in 0..1_000 {
            hints.channels(LOOK_DURATION_MAX, list);
        }
        assert_eq!(looks.get(), 1);
        hints.expire();
        hints.channels(LOOK_DURATION_MAX, list);
        assert_eq!(looks.get(), 2);
        // Nothing can receive: the next one looks again as soon as the last look is a little older.
        assert_eq!(hints.for_amount(Msat::new(1), list), None);
        assert_eq!(looks.get(), 2);
        std::thread::sleep(VAIN_LOOK_DURATION_MAX);
        assert_eq!(hints.for_amount(Msat::new(1), list), None);
        assert_eq!(looks.get(), 3);
    }
}
