//! What a session's wallet is told: the events, the log of the last of them, and who listens.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::LOOK_MS;
use super::queue::Queue;
use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, SegmentNumber, SessionId};
use crate::domain::session::Window;
use crate::domain::video::Timeline;
use crate::paywall::token::{Keys, Receipt};
use crate::paywall::{Client, Wake};
use crate::runtime::slots::{Full, Slot, Slots};
use crate::runtime::{Listener, lock};
use crate::store::{Invoice, Progress, Purpose};
use crate::telemetry;

/// Events kept for a wallet that comes back; an older one gets a snapshot.
const EVENTS_KEPT: usize = 256;
/// Events that a wallet may be behind before it has to connect again.
const EVENTS_UNDERWAY: usize = 32;

/// What happens in a session, as its wallet is told (PROTOCOL.md, Sessions).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// Pay this.
    Invoice {
        /// What it is planned for.
        segments: Vec<SegmentNumber>,
        /// Where the first of them starts.
        start_ms: u64,
        /// How long they last together.
        duration_ms: u64,
        /// What it asks.
        amount_msat: Msat,
        /// The BOLT 11 text.
        invoice: String,
        /// Its hash.
        payment_hash: PaymentHash,
        /// In seconds since the Unix epoch.
        expires_at: u64,
        /// With the preimage it restores the credit, should the server lose it.
        receipt: String,
    },
    /// A payment is booked.
    Paid {
        /// Its hash.
        payment_hash: PaymentHash,
        /// What its invoice was planned for.
        segments: Vec<SegmentNumber>,
        /// What the invoice asked.
        amount_msat: Msat,
    },
    /// A player waits, has been served, or jumped.
    Segment {
        /// Which of the three.
        #[serde(skip)]
        what: What,
        /// The segment.
        segment: SegmentNumber,
    },
    /// No further invoices.
    End {},
}

/// What a segment's event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A player waits for its payment.
    Waiting,
    /// It was served and drawn from the credit.
    Served,
    /// The viewer jumped to it.
    Seek,
}

impl Event {
    /// Its name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Invoice { .. } => "invoice",
            Self::Paid { .. } => "paid",
            Self::Segment { what: What::Waiting, .. } => "waiting",
            Self::Segment { what: What::Served, .. } => "served",
            Self::Segment { what: What::Seek, .. } => "seek",
            Self::End {} => "end",
        }
    }
}

/// An event and its place in the stream.
#[derive(Debug, Clone)]
pub struct Numbered {
    /// `{boot}-{n}`; a snapshot carries one at its last event only, so that one that was cut short is told again.
    pub id: Option<String>,
    /// What happened.
    pub event: Event,
}

/// What is known of a session only while the process lives.
pub(super) struct Live {
    pub(super) window: Window,
    /// Invoices that were told of and are not known to be paid.
    pub(super) announced: BTreeSet<PaymentHash>,
    pub(super) log: VecDeque<(u64, Event)>,
    pub(super) next: u64,
    pub(super) events: broadcast::Sender<(u64, Event)>,
    pub(super) touched_ms: u64,
    pub(super) queue: Queue,
    /// When it was looked at last whether something is due, whether that failed, and which segments could be paid then.
    pub(super) looked_ms: Option<u64>,
    pub(super) failing: bool,
    pub(super) asked: BTreeSet<SegmentNumber>,
    /// Who brought it into memory, and owes its invoices until one is paid.
    pub(super) client: Option<Client>,
    /// Who follows, the oldest first.
    followers: VecDeque<CancellationToken>,
}

impl Live {
    pub(super) fn new(window: Window, announced: BTreeSet<PaymentHash>, now_ms: u64) -> Self {
        Self {
            window,
            announced,
            log: VecDeque::new(),
            // Greater than what an earlier stay in memory reached: a wallet that comes back is never told that it missed nothing.
            next: now_ms.max(1),
            events: broadcast::channel(EVENTS_UNDERWAY).0,
            touched_ms: now_ms,
            queue: Queue::default(),
            looked_ms: None,
            failing: false,
            asked: BTreeSet::new(),
            client: None,
            followers: VecDeque::new(),
        }
    }

    /// Whether a request for a segment looks for what is due: one of all that are held, each [`LOOK_MS`]. Where that failed whoever has nothing
    /// to pay looks himself, and is told why.
    pub(super) fn needs_look(&self, number: SegmentNumber, now_ms: u64) -> bool {
        let long_ago = |at: u64| now_ms.abs_diff(at) >= LOOK_MS;
        self.looked_ms.is_none_or(long_ago) || (self.failing && !self.asked.contains(&number))
    }

    /// A place among those who follow; where all are taken, the oldest one's.
    pub(super) fn take_place(&mut self, most: usize) -> DropGuard {
        self.followers.retain(|place| !place.is_cancelled());
        while self.followers.len() >= most {
            if let Some(oldest) = self.followers.pop_front() {
                oldest.cancel();
            }
        }
        let place = CancellationToken::new();
        self.followers.push_back(place.clone());
        place.drop_guard()
    }

    /// Tells an open invoice, once.
    pub(super) fn announce(&mut self, invoice: &Invoice, timeline: &Timeline, keys: &Keys) {
        if self.announced.insert(invoice.hash)
            && let Some(event) = announce(invoice, timeline, keys)
        {
            self.tell(event);
        }
    }

    /// Tells invoices that are new, and payments that are new; each once. `find` gives an invoice that is no longer among the unpaid.
    /// How many payments were new.
    pub(super) fn announce_changes<E>(
        &mut self,
        unpaid: &[Invoice],
        timeline: &Timeline,
        keys: &Keys,
        find: impl Fn(&PaymentHash) -> Result<Option<Invoice>, E>,
    ) -> Result<u32, E> {
        let mut paid = 0_u32;
        let told = self.announced.iter().copied();
        let gone: Vec<PaymentHash> =
            told.filter(|hash| !unpaid.iter().any(|of| of.hash == *hash)).collect();
        for hash in gone {
            let found = find(&hash)?;
            self.announced.remove(&hash);
            // Otherwise it was forgotten after its time.
            if let Some(invoice) = found.filter(is_paid) {
                paid = paid.saturating_add(1);
                self.tell(Event::Paid {
                    payment_hash: hash,
                    segments: planned(&invoice).to_vec(),
                    amount_msat: invoice.amount,
                });
            }
        }
        for invoice in unpaid {
            self.announce(invoice, timeline, keys);
        }
        Ok(paid)
    }

    /// Numbers an event, keeps it for who comes later, and tells who listens.
    pub(super) fn tell(&mut self, event: Event) {
        let n = self.next;
        self.next = n.saturating_add(1);
        self.log.push_back((n, event.clone()));
        if self.log.len() > EVENTS_KEPT {
            self.log.pop_front();
        }
        // Nobody may be listening; the log is for who comes later.
        let _ = self.events.send((n, event));
    }
}

type Shared = Arc<Mutex<Live>>;

/// The sessions in memory: so many in all, and so many of each client.
pub(super) struct Streams {
    of: Mutex<HashMap<SessionId, Held>>,
    places: Slots<Client>,
}

/// A session in memory and the place that it takes.
struct Held {
    live: Shared,
    client: Option<Client>,
    paid: bool,
    _place: Slot<Client>,
}

impl Held {
    /// When it was touched last; `None` where somebody uses it now.
    fn idle_since(&self) -> Option<u64> {
        if Arc::strong_count(&self.live) > 1 {
            return None;
        }
        // One that is locked is in use.
        let live = self.live.try_lock().ok()?;
        (live.events.receiver_count() == 0).then_some(live.touched_ms)
    }
}

impl Streams {
    pub(super) fn new(max: usize, per_client: usize) -> Self {
        Self { of: Mutex::default(), places: Slots::new(max, per_client) }
    }

    pub(super) fn get(&self, id: SessionId) -> Option<Shared> {
        lock(&self.of).get(&id).map(|held| Arc::clone(&held.live))
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.of).len()
    }

    /// Puts a session into memory, where another request did not meanwhile. Who takes no part makes room: what is stored makes a session anew.
    pub(super) fn insert(
        &self,
        id: SessionId,
        live: Live,
        client: Option<Client>,
        paid: bool,
    ) -> Result<Shared, Full> {
        let mut of = lock(&self.of);
        if let Some(held) = of.get(&id) {
            return Ok(Arc::clone(&held.live));
        }
        let place = match self.places.take(client, paid) {
            Ok(place) => place,
            Err(full) => {
                // Who has not paid does not push out who has.
                let whose = |held: &Held| match full {
                    Full::InAll => paid || !held.paid,
                    Full::ForKey => held.client == client && (paid || !held.paid),
                };
                let gone = idlest(of.iter().filter(|(_, held)| whose(held)));
                of.remove(&gone.ok_or(full)?);
                self.places.take(client, paid)?
            }
        };
        let live = Arc::new(Mutex::new(live));
        of.insert(id, Held { live: Arc::clone(&live), client, paid, _place: place });
        Ok(live)
    }

    /// Drops those that nobody touched for so long.
    pub(super) fn forget_idle(&self, now_ms: u64, idle_ms: u64) {
        lock(&self.of).retain(|_, held| {
            held.idle_since().is_none_or(|since| now_ms.saturating_sub(since) < idle_ms)
        });
    }
}

/// The session that was touched longest ago, of those that nobody uses now.
fn idlest<'a>(held: impl Iterator<Item = (&'a SessionId, &'a Held)>) -> Option<SessionId> {
    let touched = held.filter_map(|(id, held)| Some((held.idle_since()?, *id)));
    touched.min_by_key(|(touched_ms, _)| *touched_ms).map(|(_, id)| id)
}

/// A wallet that follows a session.
pub struct Follower {
    pub(super) events: broadcast::Receiver<(u64, Event)>,
    pub(super) listener: Listener<Wake>,
    /// Given back when it is dropped.
    pub(super) place: DropGuard,
    pub(super) _counted: (Slot<Client>, telemetry::Held),
}

/// What a follower wakes for.
#[derive(Debug)]
pub enum Followed {
    /// This happened.
    Event(u64, Event),
    /// Something was booked: look again.
    Rung,
    /// It fell behind, the session left the memory, or another took its place: connect again.
    Lost,
}

impl Follower {
    /// Waits for the next event or ring.
    pub async fn next(&mut self) -> Followed {
        tokio::select! {
            biased;
            () = self.place.token().cancelled() => Followed::Lost,
            event = self.events.recv() => match event {
                Ok((n, event)) => Followed::Event(n, event),
                Err(_) => Followed::Lost,
            },
            () = self.listener.rung() => Followed::Rung,
        }
    }
}

fn is_paid(invoice: &Invoice) -> bool {
    invoice.progress != Progress::Open
}

pub(super) fn is_open(invoice: &Invoice, now_s: u64) -> bool {
    !is_paid(invoice) && invoice.expires_at > now_s
}

pub(super) fn planned(invoice: &Invoice) -> &[SegmentNumber] {
    match &invoice.purpose {
        Purpose::Session { segments, .. } => segments,
        Purpose::Segment { .. } => &[],
    }
}

/// An open invoice as its wallet is told of it; nothing where its text was not kept.
pub(super) fn announce(invoice: &Invoice, timeline: &Timeline, keys: &Keys) -> Option<Event> {
    let Purpose::Session { session, segments } = &invoice.purpose else { return None };
    let (start, _) = timeline.span(*segments.first()?)?;
    let duration = segments
        .iter()
        .filter_map(|number| timeline.span(*number))
        .map(|(start, end)| end.since(start).millis())
        .fold(0_u64, u64::saturating_add);
    let receipt = Receipt {
        session: *session,
        hash: invoice.hash,
        amount: invoice.amount,
        expires_at: invoice.expires_at,
        segments: segments.clone(),
    };
    Some(Event::Invoice {
        receipt: keys.issue_receipt(&receipt),
        segments: segments.clone(),
        start_ms: start.millis(),
        duration_ms: duration,
        amount_msat: invoice.amount,
        invoice: invoice.bolt11.clone()?,
        payment_hash: invoice.hash,
        expires_at: invoice.expires_at,
    })
}
