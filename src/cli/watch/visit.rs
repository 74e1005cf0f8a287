//! A visit: a session, the wallet that pays it, and the player, from the first question to the receipt.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::account::{Account, State, Totals};
use super::check::{Budget, fee_cap};
use super::play::{self, Stage};
use super::receipt::{End, Payment, Receipt, Saved, sat};
use super::save::Saver;
use super::session::{Opened, Place, Remote, Title, plain};
use super::tariff::{Tariff, add, times};
use super::{Asked, Order, Screen, Wallet};
use super::{follow, local, payer, playlist};
use crate::domain::amount::Msat;
use crate::domain::id::SegmentNumber;
use crate::runtime::{Clock as _, SystemClock, lock};

/// Media requests to the server at once: players ask for one, some for a whole film.
const REQUESTS_MAX: usize = 8;
/// Segments that wait to be written down.
const SAVES_MAX: usize = 16;
/// What is saved and was not fetched yet is fetched in this time, once all else is over.
const SAVED_WITHIN: Duration = Duration::from_secs(120);

/// What the parts of a visit share.
pub(super) struct Visit {
    account: Mutex<Account>,
    ended: Mutex<Option<End>>,
    /// Something changed that the payer has to look at.
    pub(super) changed: Notify,
    /// Nothing further is paid from here on.
    pub(super) stopped: CancellationToken,
    /// The player is gone: what is under way is settled, and then all ends.
    pub(super) over: CancellationToken,
    pub(super) requests: Semaphore,
    last_request_ms: AtomicU64,
}

impl Visit {
    fn new(tariff: Tariff, budget: Budget) -> Self {
        let now = SystemClock.now_ms();
        Self {
            account: Mutex::new(Account::new(tariff, budget, now)),
            ended: Mutex::new(None),
            changed: Notify::new(),
            stopped: CancellationToken::new(),
            over: CancellationToken::new(),
            requests: Semaphore::new(REQUESTS_MAX),
            last_request_ms: AtomicU64::new(now),
        }
    }

    /// Works on the account with the time of now, and wakes the payer.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Account, u64) -> T) -> T {
        let done = work(&mut lock(&self.account), SystemClock.now_ms());
        self.changed.notify_one();
        done
    }

    /// Reads the account.
    pub(super) fn read<T>(&self, work: impl FnOnce(&mut Account, u64) -> T) -> T {
        work(&mut lock(&self.account), SystemClock.now_ms())
    }

    /// Nothing more is paid, for this reason; the first one counts. True where it is the first.
    pub(super) fn stop(&self, end: End) -> bool {
        let mut ended = lock(&self.ended);
        let first = ended.is_none();
        ended.get_or_insert(end);
        drop(ended);
        self.stopped.cancel();
        self.changed.notify_one();
        first
    }

    /// Why it stopped, where it has.
    pub(super) fn ended(&self) -> Option<End> {
        lock(&self.ended).clone()
    }

    /// The player asks for something.
    pub(super) fn asked(&self) {
        self.last_request_ms.store(SystemClock.now_ms(), Ordering::Relaxed);
    }

    /// For how long the player has asked for nothing.
    pub(super) fn idle(&self) -> Duration {
        let last = self.last_request_ms.load(Ordering::Relaxed);
        Duration::from_millis(SystemClock.now_ms().saturating_sub(last))
    }

    /// Sums of now.
    pub(super) fn totals(&self) -> Totals {
        self.read(|account, now| account.totals(now))
    }
}

/// Watches a film to its end, or until `interrupted`.
///
/// # Errors
/// A line that names what is wrong and the mend, where nothing was paid yet. What happens later is told by the receipt.
pub async fn watch(
    order: &Order,
    wallet: &dyn Wallet,
    screen: &dyn Screen,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<Receipt> {
    order.check()?;
    let place = Place::parse(&order.url, order.insecure)?;
    let saver = order.save.as_deref().map(Saver::create).transpose()?;
    let (remote, title, opened) = Remote::open(&place, order).await?;
    let begun_ms = SystemClock.now_ms();
    let mut interrupted = std::pin::pin!(interrupted);
    let prepared = tokio::select! {
        prepared = prepare(order, wallet, screen, &remote, &title, opened) => prepared,
        () = &mut interrupted => Err(anyhow!("interrupted before anything was paid")),
    };
    let (visit, variants) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // Nobody pays it: the server need not keep it.
            let _ = remote.end().await;
            return Err(error);
        }
    };
    let rendition = match &order.rendition {
        Some(name) => variants.iter().find(|variant| variant.name.as_str() == name),
        None => variants.first(),
    };
    let names: Vec<_> = variants.iter().map(|variant| variant.name.as_str()).collect();
    let rendition = rendition
        .map(|variant| variant.name.clone())
        .with_context(|| format!("there is no such rendition: choose of {}", names.join(", ")));
    let rendition = match rendition {
        Ok(rendition) => rendition,
        Err(error) => {
            let _ = remote.end().await;
            return Err(error);
        }
    };
    let (keep, kept) = mpsc::channel(SAVES_MAX);
    let stage = Stage {
        visit: &visit,
        remote: &remote,
        screen,
        rendition: &rendition,
        keep: saver.is_some().then_some(keep),
    };
    let saved = play_and_pay(order, wallet, &stage, variants, saver, kept, interrupted).await;
    let mut receipt = receipt(&visit, &place, title, begun_ms, order.save.is_some());
    receipt.saved = saved;
    Ok(receipt)
}

/// The terms, the viewer's consent, and the account that both begin.
async fn prepare(
    order: &Order,
    wallet: &dyn Wallet,
    screen: &dyn Screen,
    remote: &Remote,
    title: &Title,
    opened: Opened,
) -> anyhow::Result<(Visit, Vec<playlist::Variant>)> {
    let words = |words: String| anyhow!("{words}: this server cannot be watched");
    let variants = playlist::multivariant(&remote.playlist(None).await?).map_err(words)?;
    let first = variants.first().context("the film has no rendition")?;
    let media = remote.playlist(Some(first.name.as_str())).await?;
    let tariff = Tariff::new(Tariff {
        payee: opened.payee,
        network: opened.network,
        msat_per_second: opened.msat_per_second,
        granularity_msat: opened.granularity_msat,
        first_paid: opened.first_paid_segment,
        timeline: Tariff::timeline(&media).map_err(words)?,
        ahead: order.ahead,
        bundle: order.bundle,
    })
    .map_err(words)?;
    let paid = !tariff.whole().is_zero();
    if paid
        && let Some(network) = wallet.network().await
        && network != tariff.network
    {
        bail!(
            "the wallet is on {network:?}, the server on {:?}: use a wallet on its network",
            tariff.network
        );
    }
    let minute = tariff.of_minute();
    if let Some(max) = order.max_per_minute.filter(|max| minute > *max) {
        bail!(
            "a minute costs {}, more than the {} of --max-sat-per-minute: nothing was paid",
            sat(minute),
            sat(max)
        );
    }
    let max = order.max.unwrap_or_else(|| whole_film(&tariff));
    let free_from = tariff.first_paid.and_then(|first| tariff.timeline.span(first));
    let asked = Asked {
        title: plain(&title.title),
        network: tariff.network,
        duration_ms: tariff.timeline.duration().millis(),
        preview_ms: free_from.map_or(0, |(start, _)| start.millis()),
        minute,
        whole: tariff.whole(),
        at_most: max,
        spendable: if paid { wallet.spendable().await } else { None },
    };
    if !screen.accept(&asked).await {
        bail!("the price was not accepted: nothing was paid");
    }
    let budget = Budget { max, max_per_minute: order.max_per_minute };
    Ok((Visit::new(tariff, budget), variants))
}

/// What was accepted where no other bound is named: every segment once, a window that a seek may leave behind, and a route's cap for each.
fn whole_film(tariff: &Tariff) -> Msat {
    let segments = tariff.timeline.segments().saturating_add(tariff.reach());
    let fees = times(fee_cap(tariff.dearest()), segments);
    add(add(tariff.whole(), tariff.window()), fees)
}

/// Plays until the player, the film or the viewer ends it; then settles what is under way.
async fn play_and_pay(
    order: &Order,
    wallet: &dyn Wallet,
    stage: &Stage<'_>,
    variants: Vec<playlist::Variant>,
    saver: Option<Saver>,
    kept: mpsc::Receiver<play::Kept>,
    interrupted: impl Future<Output = ()>,
) -> Option<Saved> {
    let visit = stage.visit;
    let played = async {
        let playing = async {
            if order.player.is_none() && order.save.is_some() {
                play::headless(stage).await
            } else {
                local::run(order, stage, &variants).await
            }
        };
        let end = tokio::select! {
            end = playing => end,
            () = interrupted => End::Interrupted,
        };
        visit.stop(end);
        // No further invoice, before the last payments are waited for.
        if let Err(error) = stage.remote.end().await {
            tracing::debug!(%error, "the session ends by itself");
        }
        visit.over.cancel();
    };
    let paying = async {
        payer::run(stage, wallet, order).await;
    };
    let following = async {
        tokio::select! {
            () = follow::run(stage) => {}
            () = visit.over.cancelled() => {}
        }
    };
    let telling = async {
        while !visit.over.is_cancelled() {
            stage.screen.tally(&visit.totals());
            tokio::select! {
                () = visit.over.cancelled() => {}
                () = tokio::time::sleep(super::TALLY_EVERY) => {}
            }
        }
        stage.screen.tally(&visit.totals());
    };
    let saving = async {
        let mut saver = saver?;
        play::save(stage, &mut saver, kept).await;
        let finished = tokio::time::timeout(SAVED_WITHIN, saver.finish()).await;
        match finished {
            Ok(Ok(saved)) => saved,
            Ok(Err(error)) => {
                stage.screen.note(&format!("what was paid for could not be kept: {error:#}"));
                None
            }
            Err(_) => None,
        }
    };
    let ((), (), (), (), saved) = tokio::join!(played, paying, following, telling, saving);
    saved
}

fn receipt(visit: &Visit, place: &Place, title: Title, begun_ms: u64, saves: bool) -> Receipt {
    let totals = visit.totals();
    let has_all = visit.read(|account, _| account.has_all());
    let end = match visit.ended() {
        // The player or the viewer closed the window on a film that was over.
        Some(End::Spent(_)) if has_all => End::Film,
        Some(end) => end,
        None => End::Film,
    };
    let payments = visit.read(|account, _| {
        let sent = |state| matches!(state, State::Paid | State::Paying);
        let bills = account.bills().iter().filter(|bill| sent(bill.state));
        let of = |bill: &super::account::Bill| Payment {
            payment_hash: bill.offer.payment_hash,
            preimage: bill.preimage,
            amount_msat: bill.offer.amount_msat,
            fee_msat: bill.fee,
            segments: bill.offer.segments.iter().map(|SegmentNumber(n)| *n).collect(),
            known: bill.state == State::Paid,
        };
        bills.map(of).collect()
    });
    Receipt {
        title: plain(&title.title),
        url: format!("{}watch/{}", place.base, place.video),
        begun_ms,
        ended_ms: SystemClock.now_ms(),
        watched_ms: totals.watched_ms,
        segments: totals.arrived,
        whole: has_all,
        paid_msat: totals.paid,
        fee_msat: totals.fees,
        payments,
        saved: None,
        saves,
        end,
    }
}
