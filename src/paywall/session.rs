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
use crate::domain::amount::Msat;
use crate::domain::id::{SegmentNumber, SegmentRef, SessionId};
use crate::domain::ledger::Split;
use crate::domain::session::{Ask, View, Window};
use crate::domain::video::{Media, Terms};
use crate::runtime::slots::{Full, Slot, Slots};
use crate::runtime::{lock, new_uuid};
use crate::store::{Draw, Invoice, Purpose};

mod claim;
mod control;
mod stream;
mod terms;

pub use control::Status;
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
/// Invoices of one session that can be paid at once: a window's, and those that a wallet reported as failed. So many more than it has paid are
/// kept, those that expired among them.
const UNPAID_MAX: usize = 128;
/// Unpaid invoices that are kept of a session which has paid, beside as many as it has paid: it is outside of the caps for others.
const UNPAID_KEPT: usize = 32;
/// Wallets that follow one session at once; a further one takes the place of the oldest, whose connection may be long dead.
const FOLLOWERS_MAX: usize = 4;
/// A held request looks this often without being rung.
const LOOK_EVERY: Duration = Duration::from_millis(250);
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Play {
    /// Preview, or a free title.
    Free,
    /// Paid, and drawn before or to be drawn now.
    Granted,
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

    /// The session of a key.
    ///
    /// # Errors
    /// [`Error::NoSession`] where the key is not ours, of the other kind, rotated away, or over.
    pub fn session(&self, kind: SessionKind, key: &str) -> Result<SessionToken, Error> {
        let parts = &self.paywall.parts;
        let token = parts.keys.verify_session(kind, key).ok_or(Error::NoSession)?;
        if token.expires_at < parts.clock.now_s() {
            return Err(Error::NoSession);
        }
        if kind == SessionKind::Play {
            let stored = parts.store.session_record(token.id)?;
            if stored.is_some_and(|record| record.generation > token.generation) {
                return Err(Error::NoSession);
            }
        }
        Ok(token)
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
        let store = &self.paywall.parts.store;
        let mut listener = self.paywall.parts.bells.listen(Wake::Session(session.id));
        let hold = Duration::from_millis(u64::from(session.hold_ms));
        let deadline = tokio::time::Instant::now() + hold;
        let (mut held, mut waits) = (None, true);
        let mut _kept;
        loop {
            if store.covers(session.id, number, amount)? {
                return Ok(Play::Granted);
            }
            // Looked at after the credit: what is paid plays, also where there is no room for another session.
            let live = self.live(session, Some(client))?;
            if held.is_none() {
                let place = self.place(&self.paywall.held, session, client, "hold")?;
                held = Some((place, self.paywall.parts.metrics.hold()));
                // Once: a request that is held must not pull the playhead back from where the viewer jumped since.
                self.note(&live, number, false);
                waits = false;
            }
            // Where an invoice is open for this segment its payment may be on its way: that none can be minted beside it ends nothing.
            if let Err(error) = self.refresh(session, stage, &live)
                && self.open_for(session, number)?.is_none()
            {
                return Err(error);
            }
            if !std::mem::replace(&mut waits, true) {
                lock(&live).tell(Event::Segment { what: What::Waiting, segment: number });
            }
            // Kept while this waits: a session with a request that is held is in use.
            _kept = live;
            // A seek is invoiced once it stands; the clock lets further invoices out; both need a look without a ring.
            tokio::select! {
                () = listener.rung() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        Ok(Play::Owed { invoice: self.open_for(session, number)?.map(Box::new), amount })
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
    /// [`Error`] where the store fails; nothing was charged then.
    pub fn take(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        number: SegmentNumber,
    ) -> Result<bool, Error> {
        let first = match price(session, stage, number)? {
            None => true,
            Some(amount) => match self.draw(session, stage, number, amount)? {
                Draw::First => true,
                Draw::Again => false,
                Draw::Short { .. } => return Ok(false),
            },
        };
        // Without room for the session nobody can follow it either, and what is paid plays all the same.
        if first && let Ok(live) = self.live(session, None) {
            self.note(&live, number, true);
            // The next invoices. That none can be made now must not keep from the viewer what is paid.
            if let Err(error) = self.refresh(session, stage, &live) {
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
        let live = self.live(session, Some(client))?;
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
            None if stored.as_ref().is_some_and(|state| state.record.ended) => {
                vec![self.number(before, Event::End {})]
            }
            None => {
                let now = self.paywall.parts.clock.now_s();
                let invoices = stored.map(|state| state.invoices).unwrap_or_default();
                let open = invoices.iter().filter(|invoice| {
                    is_open(invoice, now) && !guard.failed.contains(&invoice.hash)
                });
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

    /// How long a session has left.
    pub fn ends_in(&self, session: &SessionToken) -> Duration {
        let now = self.paywall.parts.clock.now_ms();
        Duration::from_millis(session.expires_at.saturating_mul(1_000).saturating_sub(now))
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
    fn live(
        &self,
        session: &SessionToken,
        client: Option<Client>,
    ) -> Result<Arc<Mutex<Live>>, Error> {
        let parts = &self.paywall.parts;
        let now = parts.clock.now_ms();
        if let Some(live) = self.streams.get(session.id) {
            // Outside of the lock for all: one session's work must not hold up the others.
            lock(&live).touched_ms = now;
            return Ok(live);
        }
        let paid = parts.store.has_paid(session.id)?;
        let mut live = self.made_anew(session)?;
        live.client = client;
        self.streams.insert(session.id, live, client, paid).map_err(|full| {
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

    /// Moves the playhead.
    fn note(&self, live: &Mutex<Live>, number: SegmentNumber, served: bool) {
        let now = self.paywall.parts.clock.now_ms();
        let mut live = lock(live);
        if live.window.ask(number, now) == Ask::Seek {
            live.tell(Event::Segment { what: What::Seek, segment: number });
        }
        if served {
            live.window.served(number);
            live.tell(Event::Segment { what: What::Served, segment: number });
        }
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

    /// Mints what is due, and tells the wallet what it has not heard of.
    fn refresh(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        live: &Mutex<Live>,
    ) -> Result<(), Error> {
        let parts = &self.paywall.parts;
        let timeline = &stage.media.timeline;
        // Locked first: who read before another minted would mint the same again.
        let mut live = lock(live);
        let stored = parts.store.session(session.id)?;
        let unpaid = stored.as_ref().map(|state| state.invoices.as_slice()).unwrap_or_default();
        let find = |hash: &_| parts.store.invoice(hash);
        let paid_now = live.announce_changes(unpaid, timeline, &parts.keys, find)?;
        if let Some(client) = live.client {
            self.paywall.forgive(client, paid_now);
        }
        let now = parts.clock.now_ms();
        let ended = stored.as_ref().is_some_and(|state| state.record.ended);
        // Nothing is asked for that could be paid after the end, when it plays no more.
        let options = &parts.options;
        let expiry = u64::from(options.invoice_expiry_seconds).min(options.session_seconds / 4);
        if live.paused || ended || session.expires_at <= (now / 1_000).saturating_add(expiry) {
            return Ok(());
        }
        let empty = BTreeSet::new();
        let mut open = BTreeSet::new();
        let mut committed = stored.as_ref().map_or(Msat::ZERO, |state| state.spent);
        let mut open_ones = 0_usize;
        for invoice in unpaid.iter().filter(|invoice| is_open(invoice, now / 1_000)) {
            open_ones = open_ones.saturating_add(1);
            if !live.failed.contains(&invoice.hash) {
                open.extend(planned(invoice));
                committed = committed.checked_add(invoice.amount).unwrap_or(session.max);
            }
        }
        let credit = stored.as_ref().map_or(Msat::ZERO, |state| state.credit);
        let committed = committed.checked_add(credit).unwrap_or(session.max);
        let due = live.window.due(
            &View {
                timeline,
                terms: terms(session),
                served: stored.as_ref().map_or(&empty, |state| &state.served),
                open: &open,
                credit,
                left: session.max.saturating_sub(committed),
            },
            now,
        )?;
        // A wallet that reports one failure after the other must not fill the disk.
        let paid = stored.as_ref().map_or(0, |state| state.paid);
        let kept = if paid == 0 { UNPAID_MAX } else { UNPAID_KEPT.saturating_add(paid) };
        let room = kept.saturating_sub(unpaid.len());
        for due in due.into_iter().take(UNPAID_MAX.saturating_sub(open_ones).min(room)) {
            // Who has paid here before is served first, and bounded by the window and by what it pays.
            let new = stored.as_ref().is_none_or(|state| state.paid == 0);
            if new {
                self.paywall.limit_in_all(live.client)?;
            }
            let minted = self.paywall.mint(due.amount)?;
            if new && let Some(client) = live.client {
                self.paywall.owe(client)?;
            }
            let purpose = Purpose::Session { session: session.id, segments: due.segments };
            let invoice = self.paywall.invoice(&minted, due.amount, purpose, stage.split);
            parts.store.open_invoice(&new_record(session, stage.split), &invoice)?;
            parts.metrics.challenge();
            live.announce(&invoice, timeline, &parts.keys);
        }
        Ok(())
    }
}
