//! Sessions: the stream of invoices ahead of the playhead, for players that cannot pay and wallets that pay beside them.
//!
//! A session is a signed token until its first invoice. What is stored then (invoices, credit, what was served) is the truth; what is kept
//! here in memory (where it plays, what was announced) is made anew from it after a restart, and every event is found by comparing
//! the two, so that a lost signal loses nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::token::{Keys, SessionKind, SessionToken};
use super::{CROWDED, Client, Error, Paywall, Wake};
use crate::domain::amount::{AmountError, Msat};
use crate::domain::id::{SegmentNumber, SegmentRef, SessionId};
use crate::domain::ledger::Split;
use crate::domain::session::{Ask, Window};
use crate::domain::video::{Media, Terms};
use crate::runtime::slots::{Full, Slot, Slots};
use crate::runtime::{lock, new_uuid};
use crate::store::{Draw, Invoice};

mod claim;
mod control;
mod life;
mod mint;
mod queue;
mod stream;
mod terms;

pub use control::Status;
pub use queue::Waiting;
pub use stream::{Event, Followed, Follower, Numbered, What};
use stream::{Live, Streams, announce, is_open, planned};
pub use terms::terms;
use terms::{new_record, price};

/// An unpaid segment is held this long by default: browsers' players give up at ten seconds.
const HOLD_MS_DEFAULT: u16 = 8_000;
/// The longest hold: GStreamer gives up earlier, mpv and VLC bear it.
const HOLD_MS_MAX: u16 = 25_000;
/// Invoices ahead of the playhead, by default and at most.
const AHEAD_DEFAULT: u8 = 3;
const AHEAD_MAX: u8 = 10;
/// Segments of one invoice at most: some minutes.
const BUNDLE_MAX: u8 = 60;
/// Invoices of one session that can be paid at once: a window's, and those that a wallet reported as failed.
const UNPAID_MAX: usize = 128;
/// Unpaid invoices that are kept of a session which has paid, beside as many as it has paid: it is outside of the caps for others.
const UNPAID_KEPT: usize = 32;
/// Wallets that follow one session at once; a further one takes the place of the oldest, whose connection may be long dead.
const FOLLOWERS_MAX: usize = 4;
/// So often it is looked for what is due in a session, and a held request looks without being rung.
const LOOK_MS: u64 = 250;
/// A session that nobody touched for so long leaves the memory; what is stored stays.
const IDLE_MS: u64 = 15 * 60 * 1_000;

/// What a viewer asks for when a session begins.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Invoices ahead of the playhead.
    pub ahead: Option<u8>,
    /// Segments of one invoice.
    pub bundle: Option<u8>,
    /// How long an unpaid segment is held.
    pub hold_ms: Option<u16>,
    /// What may be spent in all.
    pub max: Option<Msat>,
}

/// A session's two keys and terms.
#[derive(Clone)]
pub struct Opened {
    /// The session.
    pub session: SessionToken,
    /// Opens media.
    pub play: String,
    /// Shows invoices and ends it.
    pub control: String,
    /// The first segment that is not free.
    pub first_paid: Option<SegmentNumber>,
}

/// The answer to a player.
pub enum Play {
    /// Preview, or a free title.
    Free,
    /// Paid, and drawn before or to be drawn now; with the place of a request that was held, to be kept until then.
    Granted(Option<Waiting>),
    /// Held for as long as it bears, and not paid.
    Owed {
        /// The invoice that is open for it, if any.
        invoice: Option<Box<Invoice>>,
        /// Its price.
        amount: Msat,
    },
}

/// The version that a session plays, and who earns from it.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// The version.
    pub media: &'a Media,
    /// Who earns.
    pub split: Split,
}

/// The gate for sessions.
pub struct SessionGate {
    paywall: Arc<Paywall>,
    streams: Streams,
    /// Wallets that follow a session.
    followers: Slots<Client>,
    /// Held while a session's record is changed.
    changes: Mutex<()>,
    boot: u64,
}

impl SessionGate {
    /// Over a gate.
    pub fn new(paywall: Arc<Paywall>, boot: u64) -> Self {
        let options = &paywall.parts.options;
        let streams = Streams::new(options.sessions_max, options.sessions_per_client_max);
        let followers = Slots::new(options.streams_max, options.streams_per_client_max);
        Self { paywall, streams, followers, changes: Mutex::default(), boot }
    }

    /// Begins a session for a version under the terms of now. Nothing is stored.
    ///
    /// # Errors
    /// [`Error::TooMany`] where the client asks too often.
    pub fn open(
        &self,
        media: &Media,
        video: crate::domain::id::VideoId,
        terms: Terms,
        wish: Wish,
        client: Client,
    ) -> Result<Opened, Error> {
        self.paywall.limit_rate(client)?;
        let parts = &self.paywall.parts;
        let now = parts.clock.now_s();
        let session = SessionToken {
            id: SessionId::new(new_uuid(&*parts.clock)),
            video,
            version: media.version,
            price: terms.price,
            preview_seconds: terms.preview_seconds,
            granularity: terms.granularity,
            ahead: wish.ahead.unwrap_or(AHEAD_DEFAULT).clamp(1, AHEAD_MAX),
            bundle: wish.bundle.unwrap_or(1).clamp(1, BUNDLE_MAX),
            hold_ms: wish.hold_ms.unwrap_or(HOLD_MS_DEFAULT).min(HOLD_MS_MAX),
            max: wish.max.unwrap_or(Msat::new(u64::MAX)),
            expires_at: now.saturating_add(parts.options.session_seconds),
            generation: 0,
        };
        Ok(Opened {
            play: parts.keys.issue_session(SessionKind::Play, &session),
            control: parts.keys.issue_session(SessionKind::Control, &session),
            first_paid: terms.first_paid(&media.timeline),
            session,
        })
    }

    /// Holds a player's request while its payment may come. Nothing is charged: the caller reads the bytes next, then takes them with
    /// [`SessionGate::take`]. Held requests hold no bytes.
    ///
    /// # Errors
    /// [`Error`] where neither the bytes nor an invoice can be given now; what was paid stays good.
    pub async fn wait(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        number: SegmentNumber,
        client: Client,
    ) -> Result<Play, Error> {
        let Some(amount) = price(session, stage, number)? else { return Ok(Play::Free) };
        let parts = &self.paywall.parts;
        let mut listener = parts.bells.listen(Wake::Session(session.id));
        let hold = Duration::from_millis(u64::from(session.hold_ms));
        let deadline = tokio::time::Instant::now() + hold;
        let (mut place, mut _held, mut later) = (None, None, false);
        loop {
            if self.covers(session, number, amount)? {
                return Ok(Play::Granted(place));
            }
            if place.is_some() {
                // It was good when the request came.
                self.ensure_current(session)?;
            }
            // Looked at after the credit: what is paid plays, also where there is no room for another session.
            let live = self.live(session, client)?;
            let came = place.is_none();
            if came {
                let slot = self.place(&self.paywall.held, session, client, "hold")?;
                _held = Some((slot, parts.metrics.hold()));
                place = Some(Waiting::enter(&live, number, amount));
            }
            // Once, or until it has its turn: a request that is held must not pull the playhead back from where the viewer jumped since.
            if came || later {
                later = self.want(&live, number) == Ask::Later;
            }
            // Where an invoice is open for this segment its payment may be on its way: that none can be minted beside it ends nothing.
            let due = lock(&live).needs_look(number, parts.clock.now_ms());
            if due && let Err(error) = self.refresh(session, stage, &live) {
                let open = lock(&live).asked.contains(&number);
                if !open {
                    return Err(error);
                }
            }
            if came {
                lock(&live).tell(Event::Segment { what: What::Waiting, segment: number });
            }
            // A seek is invoiced once it stands; the clock lets further invoices out; both need a look without a ring.
            tokio::select! {
                () = listener.rung() => {}
                () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        Ok(Play::Owed { invoice: self.open_for(session, number)?.map(Box::new), amount })
    }

    /// Whether a segment was served, or the credit covers it beside those that somebody waits longer for.
    fn covers(
        &self,
        session: &SessionToken,
        number: SegmentNumber,
        amount: Msat,
    ) -> Result<bool, Error> {
        let live = self.streams.get(session.id);
        let before = live.map_or(Msat::ZERO, |live| lock(&live).queue.before(number));
        let needed = amount.checked_add(before).ok_or(AmountError::Overflow)?;
        Ok(self.paywall.parts.store.covers(session.id, number, needed)?)
    }

    /// The open invoice that is planned for a segment.
    fn open_for(
        &self,
        session: &SessionToken,
        number: SegmentNumber,
    ) -> Result<Option<Invoice>, Error> {
        let now = self.paywall.parts.clock.now_s();
        let open = |invoice: &Invoice| is_open(invoice, now) && planned(invoice).contains(&number);
        let state = self.paywall.parts.store.session(session.id)?;
        Ok(state.and_then(|state| state.invoices.into_iter().find(open)))
    }

    /// Gives a segment whose bytes the caller has in hand: free, served before, or drawn from the credit and earned now. False where
    /// another request took the credit meanwhile.
    ///
    /// # Errors
    /// [`Error`] where the store fails, or the key was rotated away meanwhile; nothing was charged then.
    pub fn take(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        number: SegmentNumber,
        client: Client,
    ) -> Result<bool, Error> {
        let amount = price(session, stage, number)?;
        if let Some(amount) = amount {
            let live = self.streams.get(session.id);
            // A key is rotated under the same lock: from then on it draws nothing.
            let mut live = live.as_deref().map(lock);
            let _changes = live.is_none().then(|| lock(&self.changes));
            self.ensure_current(session)?;
            match self.draw(session, stage, number, amount)? {
                Draw::First => {
                    if let Some(live) = &mut live {
                        live.queue.served(number);
                    }
                }
                Draw::Again => return Ok(true),
                Draw::Short { .. } => return Ok(false),
            }
        }
        // Without room for the session nobody can follow it either, and what is paid plays all the same.
        if let Ok(live) = self.live(session, client) {
            self.follow_player(&live, number);
            // The next invoices; for what is free no more often than others look. That none can be made now must not keep from the viewer what
            // is paid.
            let now = self.paywall.parts.clock.now_ms();
            let due = amount.is_some() || lock(&live).needs_look(number, now);
            if due && let Err(error) = self.refresh(session, stage, &live) {
                tracing::debug!(%error, "nothing minted for a session");
            }
        }
        Ok(true)
    }

    /// Mints what is due and tells what changed; for the wallet's stream and after each ring.
    ///
    /// # Errors
    /// [`Error`] where nothing can be minted or the store fails.
    pub fn look(&self, session: &SessionToken, stage: Stage<'_>) -> Result<(), Error> {
        // Who follows it, or waits in it, has brought it into memory under a name; nobody else does here.
        let Some(live) = self.streams.get(session.id) else { return Ok(()) };
        self.refresh(session, stage, &live)
    }

    /// A wallet's view: what it missed since `last`, or a snapshot of open invoices, and the stream from there on.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn follow(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        last: Option<&str>,
        client: Client,
    ) -> Result<(Vec<Numbered>, Follower), Error> {
        let listener = self.paywall.parts.bells.listen(Wake::Session(session.id));
        let slot = self.place(&self.followers, session, client, "stream")?;
        let counted = self.paywall.parts.metrics.stream();
        let live = self.live(session, client)?;
        // A minting error is the players' concern; a wallet can still follow.
        if let Err(error) = self.refresh(session, stage, &live) {
            tracing::debug!(%error, "nothing minted for a session");
        }
        // Locked first: what is minted in between would be neither in the snapshot nor in the stream.
        let mut guard = lock(&live);
        let place = guard.take_place(FOLLOWERS_MAX);
        let stored = self.paywall.parts.store.session(session.id)?;
        let events = guard.events.subscribe();
        let kept_from = guard.log.front().map_or(guard.next, |(n, _)| *n);
        let known = last
            .and_then(|id| id.split_once('-'))
            .filter(|(boot, _)| boot.parse() == Ok(self.boot))
            .and_then(|(_, n)| n.parse::<u64>().ok())
            .map(|n| n.saturating_add(1))
            .filter(|from| (kept_from..=guard.next).contains(from));
        let before = guard.next.saturating_sub(1);
        let missed = match known {
            Some(from) => {
                let since = guard.log.iter().filter(|(n, _)| *n >= from);
                since.map(|(n, event)| self.number(*n, event.clone())).collect()
            }
            // Who follows is told the end next, when its time is found to be over.
            None if self.is_over(session) => Vec::new(),
            None if stored.as_ref().is_some_and(|state| state.record.ended) => {
                vec![self.number(before, Event::End {})]
            }
            None => {
                let now = self.paywall.parts.clock.now_s();
                let (invoices, failed) =
                    stored.map(|state| (state.invoices, state.record.failed)).unwrap_or_default();
                let open = invoices
                    .iter()
                    .filter(|invoice| is_open(invoice, now) && !failed.contains(&invoice.hash));
                let mut told: Vec<Numbered> = open
                    .filter_map(|invoice| announce(invoice, &stage.media.timeline, self.keys()))
                    .map(|event| Numbered { id: None, event })
                    .collect();
                if let Some(last) = told.last_mut() {
                    *last = self.number(before, last.event.clone());
                }
                told
            }
        };
        drop(guard);
        Ok((missed, Follower { events, listener, place, _counted: (slot, counted) }))
    }

    /// Names an event.
    pub fn number(&self, n: u64, event: Event) -> Numbered {
        Numbered { id: Some(format!("{}-{n}", self.boot)), event }
    }

    /// Drops sessions that nobody touched for a while from memory.
    pub fn forget_idle(&self) {
        self.streams.forget_idle(self.paywall.parts.clock.now_ms(), IDLE_MS);
    }

    /// How many sessions are in memory.
    pub fn open_sessions(&self) -> usize {
        self.streams.len()
    }

    /// A place among those of which there are so many; who has paid in this session before finds one first.
    fn place(
        &self,
        slots: &Slots<Client>,
        session: &SessionToken,
        client: Client,
        what: &'static str,
    ) -> Result<Slot<Client>, Error> {
        let paid = self.paywall.parts.store.has_paid(session.id)?;
        self.paywall.place(slots, client, paid, what)
    }

    fn keys(&self) -> &Keys {
        &self.paywall.parts.keys
    }

    /// What is in memory of a session, made from what is stored where it is not there.
    fn live(&self, session: &SessionToken, client: Client) -> Result<Arc<Mutex<Live>>, Error> {
        let parts = &self.paywall.parts;
        let now = parts.clock.now_ms();
        if let Some(live) = self.streams.get(session.id) {
            // Outside of the lock for all: one session's work must not hold up the others.
            lock(&live).touched_ms = now;
            return Ok(live);
        }
        let paid = parts.store.has_paid(session.id)?;
        let mut live = self.made_anew(session)?;
        live.client = Some(client);
        self.streams.insert(session.id, live, Some(client), paid).map_err(|full| {
            parts.metrics.refused("session");
            match full {
                Full::ForKey => Error::TooMany { retry_after: CROWDED },
                Full::InAll => Error::Crowded("session"),
            }
        })
    }

    /// What is in memory of a session, from what is stored.
    fn made_anew(&self, session: &SessionToken) -> Result<Live, Error> {
        let now = self.paywall.parts.clock.now_ms();
        let mut window = Window::new(session.ahead, session.bundle, now);
        let mut announced = BTreeSet::new();
        if let Some(state) = self.paywall.parts.store.session(session.id)? {
            for number in &state.served {
                window.served(*number);
            }
            window.restart_clock(now);
            announced = state.invoices.iter().map(|of| of.hash).collect();
        }
        Ok(Live::new(window, announced, now))
    }

    /// Moves the playhead to a segment that is neither served nor covered, if it is free to go there.
    fn want(&self, live: &Mutex<Live>, number: SegmentNumber) -> Ask {
        let now = self.paywall.parts.clock.now_ms();
        let mut live = lock(live);
        let others = live.queue.is_within(&live.window, number);
        let ask = live.window.ask(number, others, now);
        if ask == Ask::Seek {
            live.tell(Event::Segment { what: What::Seek, segment: number });
        }
        ask
    }

    /// Moves the playhead past what was served now: never back, and away from where others wait neither.
    fn follow_player(&self, live: &Mutex<Live>, number: SegmentNumber) {
        let now = self.paywall.parts.clock.now_ms();
        let mut live = lock(live);
        let ahead = number >= live.window.playhead();
        if ahead && (live.window.reaches(number) || !live.queue.is_within(&live.window, number)) {
            if live.window.ask(number, false, now) == Ask::Seek {
                live.tell(Event::Segment { what: What::Seek, segment: number });
            }
            live.window.served(number);
        }
        live.tell(Event::Segment { what: What::Served, segment: number });
    }

    fn draw(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        number: SegmentNumber,
        amount: Msat,
    ) -> Result<Draw, Error> {
        let parts = &self.paywall.parts;
        let segment = SegmentRef { video: session.video, version: session.version, number };
        let now = parts.clock.now_ms();
        let draw = parts.store.draw(session.id, segment, amount, &stage.split, now)?;
        if draw == Draw::First {
            parts.metrics.earned(amount);
            parts.earned.notify_one();
        }
        Ok(draw)
    }
}
