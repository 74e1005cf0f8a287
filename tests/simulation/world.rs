//! The actors: viewers by L402 and thieves among them, sessions and the wallets beside them. Each step is drawn from the seed; what really
//! happened is noted here, apart from the server's books.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use sluice::domain::id::PaymentHash;
use sluice::runtime::Clock as _;

use crate::chance::Chance;
use crate::server::{Machine, Process, Reply};
use crate::transcoder::{RENDITIONS, SEGMENTS};

/// What a segment costs; the first is free, the last is short.
pub fn price(segment: u32) -> u64 {
    match segment {
        0 => 0,
        last if last + 1 == SEGMENTS => 1_000,
        _ => 2_000,
    }
}

/// A challenge that a viewer got.
pub struct Purchase {
    pub hash: PaymentHash,
    pub macaroon: String,
    pub segment: u32,
    /// When it was served, in milliseconds.
    pub grants: Vec<u64>,
}

/// A session and all that its wallet saw.
pub struct Session {
    pub id: sluice::domain::id::SessionId,
    pub play: String,
    pub control: String,
    pub position: u32,
    pub keys_end_ms: u64,
    pub invoices: BTreeMap<PaymentHash, Told>,
    /// Paid segments that were served.
    pub served: BTreeSet<u32>,
}

/// An invoice that a session's wallet was told of.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub receipt: String,
    pub failed: bool,
}

pub struct World {
    pub machine: Machine,
    pub process: Process,
    pub chance: Chance,
    pub purchases: Vec<Purchase>,
    pub sessions: Vec<Session>,
    /// Starts of a process on this disk, without the first.
    pub starts: u32,
    /// Power cuts that took something.
    pub cuts: u32,
    /// The price of what was served and, since a power cut took that, stands as not served: its money is credit again.
    pub given: u64,
    /// Whether the process that is dead lost power.
    powerless: bool,
    /// Invoices whose record was taken by a power cut.
    pub forgotten: BTreeSet<PaymentHash>,
    /// Waits for the eight seconds of a proof that are left to this run.
    pub proofs: u32,
    /// Writes that had failed before this step.
    failed: u32,
    /// What was done, for who repeats it; the same for the same seed.
    pub trace: Vec<String>,
}

pub const GRACE_MS: u64 = 60_000;
pub const REDEEM_MS: u64 = 7 * 86_400_000;

impl World {
    pub async fn new(seed: u64, proofs: u32) -> Self {
        let chance = Chance::new(seed);
        let (machine, process) = Machine::new(chance.clone()).await;
        Self {
            machine,
            process,
            chance,
            purchases: Vec::new(),
            sessions: Vec::new(),
            starts: 0,
            cuts: 0,
            given: 0,
            powerless: false,
            forgotten: BTreeSet::new(),
            proofs,
            failed: 0,
            trace: Vec::new(),
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        let line = format!("{} {}", self.machine.clock.now_ms(), what.into());
        self.trace.push(line);
    }

    pub async fn step(&mut self) {
        self.failed = self.machine.disk.failed();
        match self.chance.below(100) {
            0..12 => self.want().await,
            12..24 => self.pay_one(),
            24..38 => self.deliver().await,
            38..52 => self.show().await,
            52..58 => self.steal().await,
            58..61 => self.race().await,
            61..64 => self.open_session().await,
            64..76 => self.play().await,
            76..86 => self.wallet().await,
            86..88 => self.manage().await,
            88..93 => self.wait(),
            93..95 => self.sweep(),
            95..97 => self.fail_some(),
            97..99 => self.kill().await,
            _ => self.cut_power().await,
        }
        if self.machine.disk.is_dead() {
            self.restart().await;
        }
    }

    /// A viewer asks for a segment without a credential.
    async fn want(&mut self) {
        let segment = self.chance.below(SEGMENTS as usize) as u32;
        let path = self.segment_path(segment);
        let reply = self.process.send("GET", &path, &[], None).await;
        self.note(format!("want {segment}: {}", reply.status));
        match reply.status {
            200 => assert_eq!(segment, 0, "only the preview is free"),
            402 => self.challenged(segment, &reply),
            _ => self.is_excused(&reply),
        }
    }

    fn segment_path(&self, segment: u32) -> String {
        let rendition = RENDITIONS[self.chance.below(RENDITIONS.len())];
        format!("/hls/{}/1/{rendition}/{segment}.m4s", self.machine.video)
    }

    fn challenged(&mut self, segment: u32, reply: &Reply) {
        if self.machine.disk.is_dead() {
            return;
        }
        let header = reply.headers["www-authenticate"].to_str().unwrap();
        let macaroon = header.split('"').nth(1).unwrap().to_owned();
        let hash = reply.json()["payment_hash"].as_str().unwrap().parse().unwrap();
        self.purchases.push(Purchase { hash, macaroon, segment, grants: Vec::new() });
    }

    /// What a server may say beside what it should: that a write failed, that it makes no invoices while payments cannot be booked, or that
    /// it is asked too often.
    fn is_excused(&self, reply: &Reply) {
        let disk = &self.machine.disk;
        let excused = match reply.status {
            429 => true,
            503 if reply.json()["code"] == "storage" => {
                disk.is_dead() || disk.failed() > self.failed
            }
            503 => disk.is_dead() || self.process.shared.operations.suspension.is_set(),
            _ => false,
        };
        assert!(excused, "{reply:?}");
    }

    /// Somebody pays: mostly once and what was asked, perhaps much later.
    fn pay_one(&mut self) {
        let unpaid = |purchase: &&Purchase| !self.is_paid(&purchase.hash);
        let open: Vec<_> = self.purchases.iter().filter(unpaid).map(|of| of.hash).collect();
        let all: Vec<_> = self.purchases.iter().map(|of| of.hash).collect();
        let twice = self.chance.percent(7);
        let Some(hash) = self.chance.one(if twice { &all } else { &open }).copied() else { return };
        self.pay(hash);
    }

    fn pay(&mut self, hash: PaymentHash) -> bool {
        let (_, _, amount, _) = *self.machine.reality.lock().unwrap().invoice(&hash);
        let more = if self.chance.percent(5) { self.chance.within(1..=3_000) } else { 0 };
        let amount = sluice::domain::amount::Msat::new(amount.get() + more);
        let arrived = self.process.node.claim(hash, amount);
        self.note(format!("pay {hash} {amount}: {arrived}"));
        arrived
    }

    pub fn is_paid(&self, hash: &PaymentHash) -> bool {
        !self.machine.reality.lock().unwrap().payments(hash).is_empty()
    }

    /// The node tells some of what waits.
    async fn deliver(&mut self) {
        let count = 1 + self.chance.below(4);
        self.deliver_up_to(count).await;
    }

    pub async fn deliver_up_to(&mut self, count: usize) {
        self.process.node.permit(count);
        let begun = std::time::Instant::now();
        while !self.process.node.is_quiet() && !self.machine.disk.is_dead() {
            assert!(begun.elapsed() < Duration::from_secs(60), "an event is never acknowledged");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.note(format!("deliver {count}, {} wait", self.process.node.waiting()));
    }

    fn credential(&self, purchase: &Purchase) -> Option<String> {
        let reality = self.machine.reality.lock().unwrap();
        // The proof comes with the payment.
        let paid = !reality.payments(&purchase.hash).is_empty();
        let preimage = String::from(reality.invoice(&purchase.hash).1);
        paid.then(|| format!("L402 {}:{preimage}", purchase.macaroon))
    }

    fn paid_ones(&self) -> Vec<usize> {
        let paid = |n: &usize| self.is_paid(&self.purchases[*n].hash);
        (0..self.purchases.len()).filter(paid).collect()
    }

    /// A viewer shows what he bought. One whose payment is not booked would wait eight seconds: only some do.
    async fn show(&mut self) {
        let paid = self.paid_ones();
        let Some(&n) = self.chance.one(&paid) else { return };
        if !self.is_open(n) {
            if self.proofs == 0 {
                return;
            }
            self.proofs -= 1;
        }
        self.show_one(n).await;
    }

    /// Whether a look at the credential decides, without a wait.
    fn is_open(&self, n: usize) -> bool {
        use sluice::store::{Ledger as _, Progress};
        let invoice = self.process.store.invoice(&self.purchases[n].hash).ok().flatten();
        invoice.is_some_and(|of| of.progress != Progress::Open)
    }

    pub async fn show_one(&mut self, n: usize) -> u16 {
        let purchase = &self.purchases[n];
        let Some(credential) = self.credential(purchase) else { return 0 };
        let (segment, hash) = (purchase.segment, purchase.hash);
        let path = self.segment_path(segment);
        let mut headers = vec![("authorization", credential)];
        if self.chance.percent(20) {
            headers.push(("range", "bytes=3-9".to_owned()));
        }
        let reply = self.process.send("GET", &path, &headers, None).await;
        self.note(format!("show {hash}: {}", reply.status));
        self.served(n, &reply);
        reply.status
    }

    fn served(&mut self, n: usize, reply: &Reply) {
        if self.machine.disk.is_dead() {
            return;
        }
        let (segment, hash) = (self.purchases[n].segment, self.purchases[n].hash);
        match reply.status {
            200 | 206 => {
                assert!(self.is_paid(&hash), "{hash} was served and never paid");
                assert!(self.has_entry(&format!("earn:{hash}")), "{hash} was served, not earned");
                let now = self.machine.clock.now_ms();
                self.purchases[n].grants.push(now);
            }
            402 => self.challenged(segment, reply),
            _ => self.is_excused(reply),
        }
    }

    fn has_entry(&self, id: &str) -> bool {
        use sluice::store::Ledger as _;
        // The greatest key below it that an entry could have.
        let (head, last) = id.split_at(id.len() - 1);
        let before = format!("{head}{}", char::from(last.as_bytes()[0] - 1));
        let found = self.process.store.entries(Some(&before), 1).unwrap();
        found.first().is_some_and(|entry| entry.id == id)
    }

    /// Somebody shows what he has no right to.
    async fn steal(&mut self) {
        let paid = self.paid_ones();
        let Some(&n) = self.chance.one(&paid) else { return };
        let purchase = &self.purchases[n];
        let mut good = self.credential(purchase).unwrap();
        let segment = purchase.segment;
        let other =
            1 + (segment + self.chance.below(SEGMENTS as usize - 2) as u32) % (SEGMENTS - 1);
        let path = match self.chance.below(3) {
            // Another segment with it.
            0 if other != segment => self.segment_path(other),
            // Somebody else's token with this preimage, which every hop has seen.
            1 => {
                let preimage = good.rsplit(':').next().unwrap().to_owned();
                let stranger = &self.purchases[self.chance.below(self.purchases.len())];
                if stranger.hash == purchase.hash {
                    return;
                }
                good = format!("L402 {}:{preimage}", stranger.macaroon);
                self.segment_path(stranger.segment)
            }
            // A token with a byte changed.
            _ => {
                let at = 5 + self.chance.below(purchase.macaroon.len() - 8);
                let changed = if &good[at..=at] == "A" { "B" } else { "A" };
                good.replace_range(at..=at, changed);
                self.segment_path(segment)
            }
        };
        let reply = self.process.send("GET", &path, &[("authorization", good)], None).await;
        let what = path.rsplit_once('/').unwrap().1;
        self.note(format!("steal {what}: {}", reply.status));
        match reply.status {
            402 if !self.machine.disk.is_dead() => {
                let segment = reply.json()["segment"].as_u64().unwrap() as u32;
                self.challenged(segment, &reply);
            }
            402 => {}
            _ => self.is_excused(&reply),
        }
    }

    /// Two requests with one credential at once.
    async fn race(&mut self) {
        let paid: Vec<_> = self.paid_ones().into_iter().filter(|n| self.is_open(*n)).collect();
        let Some(&n) = self.chance.one(&paid) else { return };
        let headers = [("authorization", self.credential(&self.purchases[n]).unwrap())];
        let path = self.segment_path(self.purchases[n].segment);
        let one = self.process.send("GET", &path, &headers, None);
        let (one, other) = futures::join!(one, self.process.send("GET", &path, &headers, None));
        self.note(format!("race {}: {} {}", self.purchases[n].hash, one.status, other.status));
        self.served(n, &one);
        self.served(n, &other);
    }

    async fn open_session(&mut self) {
        let max = if self.chance.percent(20) { self.chance.within(2_000..=9_000) } else { 1 << 40 };
        let ahead = 1 + self.chance.below(4);
        let wish = json!({
            "video": self.machine.video, "hold_ms": 0, "max_msat": max, "ahead": ahead,
            "bundle": if self.chance.percent(30) { 1 + self.chance.below(4) } else { 1 },
        });
        let reply = self.process.send("POST", "/api/v1/sessions", &[], Some(wish)).await;
        self.note(format!("session: {}", reply.status));
        if reply.status != 201 {
            return self.is_excused(&reply);
        }
        let body = reply.json();
        let field = |name: &str| body[name].as_str().unwrap().to_owned();
        self.sessions.push(Session {
            id: field("id").parse().unwrap(),
            play: field("playlist").replace("/index.m3u8", ""),
            control: field("control"),
            position: 0,
            keys_end_ms: body["expires_at"].as_u64().unwrap() * 1_000,
            invoices: BTreeMap::new(),
            served: BTreeSet::new(),
        });
    }

    /// A player asks for the next segment, sometimes for another, sometimes twice at once.
    async fn play(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let n = self.chance.below(self.sessions.len());
        if self.chance.percent(15) {
            self.sessions[n].position = self.chance.below(SEGMENTS as usize) as u32;
        }
        let number = self.sessions[n].position;
        let rendition = RENDITIONS[self.chance.below(RENDITIONS.len())];
        let path = format!("{}/{rendition}/{number}.m4s", self.sessions[n].play);
        let one = self.process.send("GET", &path, &[], None);
        let replies = if self.chance.percent(10) {
            let other = self.process.send("GET", &path, &[], None);
            let (one, other) = futures::join!(one, other);
            vec![one, other]
        } else {
            vec![one.await]
        };
        for reply in replies {
            self.note(format!("play {n} {number}: {}", reply.status));
            if self.machine.disk.is_dead() {
                return;
            }
            match reply.status {
                200 => {
                    if number > 0 {
                        let drawn = self.has_drawn(n, number);
                        assert!(drawn, "segment {number} of session {n} was served, not drawn");
                        self.sessions[n].served.insert(number);
                    }
                    self.sessions[n].position = (number + 1) % SEGMENTS;
                }
                402 => assert!(number > 0, "{reply:?}"),
                // Its keys ended, or were rotated.
                404 => {}
                _ => self.is_excused(&reply),
            }
        }
    }

    fn has_drawn(&self, n: usize, number: u32) -> bool {
        use sluice::store::Sessions as _;
        let state = self.process.store.session(self.sessions[n].id).unwrap();
        state.is_some_and(|state| state.served.iter().any(|of| of.0 == number))
    }

    /// A wallet hears what is asked and pays: some of it, late, twice, too much, after its expiry.
    async fn wallet(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let n = self.chance.below(self.sessions.len());
        let path = format!("{}/invoices", self.sessions[n].control);
        let told = self.process.told(&path).await;
        if self.machine.disk.is_dead() {
            return;
        }
        for (name, data) in told {
            if name == "invoice" {
                let hash = data["payment_hash"].as_str().unwrap().parse().unwrap();
                let told = self.sessions[n].invoices.entry(hash).or_default();
                told.receipt = data["receipt"].as_str().unwrap().to_owned();
            }
        }
        self.note(format!("wallet {n}: {} invoices", self.sessions[n].invoices.len()));
        let all: Vec<_> = self.sessions[n].invoices.keys().copied().collect();
        for hash in all {
            let again = self.is_paid(&hash);
            if self.chance.percent(if again { 2 } else { 45 }) {
                self.pay(hash);
            }
        }
    }

    /// The payer of a session shows the receipt of an invoice that he paid.
    pub async fn claim(&mut self, n: usize, hash: PaymentHash) {
        let preimage = self.machine.reality.lock().unwrap().invoice(&hash).1;
        let receipt = self.sessions[n].invoices[&hash].receipt.clone();
        let claim = json!({ "receipt": receipt, "preimage": String::from(preimage) });
        let path = format!("{}/claims", self.sessions[n].control);
        let reply = self.process.send("POST", &path, &[], Some(claim)).await;
        self.note(format!("claim {n} {hash}: {}", reply.status));
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// What else a payer may ask of a session.
    async fn manage(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let n = self.chance.below(self.sessions.len());
        let control = self.sessions[n].control.clone();
        let open = self.sessions[n].invoices.keys().copied().collect::<Vec<_>>();
        let unpaid: Vec<_> = open.into_iter().filter(|hash| !self.is_paid(hash)).collect();
        let failed = self.chance.one(&unpaid).copied();
        let patch = match (self.chance.below(4), failed) {
            (0, Some(hash)) => {
                // A wallet may be wrong about that, and pay it later all the same.
                self.sessions[n].invoices.get_mut(&hash).unwrap().failed = true;
                json!({ "failed": hash.to_string() })
            }
            (1, _) => json!({ "paused": self.chance.percent(50) }),
            (2, _) => {
                let reply = self.process.send("DELETE", &control, &[], None).await;
                self.note(format!("end {n}: {}", reply.status));
                return;
            }
            _ => json!({ "rotate_play": true }),
        };
        let reply = self.process.send("PATCH", &control, &[], Some(patch.clone())).await;
        self.note(format!("manage {n} {patch}: {}", reply.status));
        if reply.status == 200
            && let Some(play) = reply.json()["playlist"].as_str()
        {
            self.sessions[n].play = play.replace("/index.m3u8", "");
        }
    }

    fn wait(&mut self) {
        let ms = match self.chance.below(20) {
            0 => self.chance.within(1..=3) * 86_400_000,
            1 | 2 => self.chance.within(700..=9_000) * 1_000,
            3..8 => self.chance.within(30_000..=120_000),
            _ => self.chance.within(100..=6_000),
        };
        self.machine.clock.advance(Duration::from_millis(ms));
        self.note("wait");
    }

    fn sweep(&mut self) {
        // Records of unpaid invoices go once the node's events are drained (docs/PROTOCOL.md): one of those may be a payment.
        if self.process.node.waiting() > 0 {
            return;
        }
        let swept = self.process.sweep(&self.machine.clock, REDEEM_MS);
        self.note(format!("sweep: {swept:?}"));
    }

    fn fail_some(&mut self) {
        let count = self.chance.within(1..=2) as u32;
        self.machine.disk.fail_writes(count);
        self.note(format!("the next {count} writes fail"));
    }

    /// SIGKILL: at once, between two writes some time later, or between a credit and its acknowledgement.
    async fn kill(&mut self) {
        match self.chance.below(3) {
            0 => self.machine.disk.kill(),
            1 => {
                let writes = self.chance.below(6) as u32;
                self.machine.disk.die_after(writes);
                self.note(format!("dies after {writes} writes"));
            }
            _ => {
                self.process.node.hang();
                self.deliver_up_to(1).await;
                self.machine.disk.kill();
            }
        }
    }

    async fn cut_power(&mut self) {
        let gone = self.machine.disk.cut_power(&self.chance);
        self.cuts += u32::from(gone > 0);
        self.powerless = gone > 0;
        self.note(format!("power cut: {gone} batches gone"));
    }

    /// A new process on the disk that the dead one left.
    pub async fn restart(&mut self) {
        let next = self.machine.start();
        std::mem::replace(&mut self.process, next).abandon();
        // Tasks of the old one that were woken see their end now.
        tokio::task::yield_now().await;
        self.starts += 1;
        self.note(format!("start, {} wait", self.process.node.waiting()));
        self.note_forgotten();
        self.take_back();
        self.powerless = false;
    }

    /// What was served stays served and earned, but where the power was cut.
    fn take_back(&mut self) {
        let mut lost = 0;
        for n in 0..self.sessions.len() {
            // One that had ended, with no credit left, is forgotten as a whole.
            let over = self.machine.clock.now_ms() > self.sessions[n].keys_end_ms;
            if over && !self.powerless {
                continue;
            }
            for number in self.sessions[n].served.clone() {
                if !self.has_drawn(n, number) {
                    self.sessions[n].served.remove(&number);
                    lost += price(number);
                }
            }
        }
        for purchase in &self.purchases {
            let earned = self.has_entry(&format!("earn:{}", purchase.hash));
            if !purchase.grants.is_empty() && !earned {
                assert!(self.cuts > 0, "{} was earned before a SIGKILL", purchase.hash);
            }
        }
        assert!(lost == 0 || self.powerless, "a SIGKILL took draws of {lost} msat");
        self.given += lost;
    }

    fn note_forgotten(&mut self) {
        use sluice::store::Ledger as _;
        let all = self.purchases.iter().map(|of| of.hash);
        let all: Vec<_> =
            all.chain(self.sessions.iter().flat_map(|of| of.invoices.keys().copied())).collect();
        for hash in all {
            if self.process.store.invoice(&hash).unwrap().is_none() {
                self.forgotten.insert(hash);
            }
        }
    }
}
