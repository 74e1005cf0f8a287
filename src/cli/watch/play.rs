//! Fetches segments, for the player behind the local address and for the film that is kept; plays headless where there is no player.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Screen;
use super::receipt::End;
use super::save::Saver;
use super::session::{Media, Remote, is_init, is_segment};
use super::visit::Visit;
use crate::domain::amount::Msat;
use crate::domain::id::{RenditionName, SegmentNumber};

/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// What the server cannot give is asked for so often before the player hears of it.
const TRIES: u32 = 3;
/// A headless viewer waits so long for a server that gives nothing.
const AWAY_MAX: Duration = Duration::from_secs(120);
/// When paying has stopped, a payment of the last moment may still let a segment out.
const LAST_WORD: Duration = Duration::from_secs(2);
/// And what is paid then has this long to come.
const LAST_BYTES: Duration = Duration::from_secs(30);
/// A headless viewer is patient, but looks up now and then.
const LOOK_UP: Duration = Duration::from_secs(60);

/// What the parts of a visit work with.
pub(super) struct Stage<'a> {
    pub(super) visit: &'a Visit,
    pub(super) remote: &'a Remote,
    pub(super) screen: &'a dyn Screen,
    /// What is kept, and what is played headless.
    pub(super) rendition: &'a RenditionName,
    pub(super) keep: Option<mpsc::Sender<Kept>>,
}

/// A segment that arrived; without bytes where it came in another rendition than is kept.
pub(super) struct Kept(SegmentNumber, Option<Bytes>);

/// Why there is no segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denied {
    /// It was not paid in time.
    Unpaid,
    /// Nothing is paid any more.
    Stopped,
    /// The server does not give it.
    Failed(String),
}

/// A segment, once it is paid. Waits as long as `patience` says, or until paying stops.
pub(super) async fn segment(
    stage: &Stage<'_>,
    rendition: &RenditionName,
    n: SegmentNumber,
    patience: Option<Duration>,
) -> Result<Bytes, Denied> {
    let visit = stage.visit;
    let begun = Instant::now();
    let mut failures = 0;
    let mut not_coming = std::pin::pin!(not_coming(visit, n));
    loop {
        visit.asked();
        let covered = visit.with(|account, now| {
            account.awaited(n, now);
            account.covers(n)
        });
        let media = {
            let Ok(_place) = visit.requests.acquire().await else { return Err(Denied::Stopped) };
            let file = format!("{n}.m4s");
            tokio::select! {
                media = stage.remote.media(rendition.as_str(), &file) => media,
                () = &mut not_coming => return Err(Denied::Stopped),
            }
        };
        let broken = match media {
            Media::Bytes(bytes) if is_segment(&bytes) => {
                visit.with(|account, now| account.arrived(n, now));
                if let Some(keep) = &stage.keep {
                    let own = (rendition == stage.rendition).then(|| bytes.clone());
                    // Where nobody keeps it any more, the player gets it all the same.
                    let _ = keep.send(Kept(n, own)).await;
                }
                return Ok(bytes);
            }
            Media::Bytes(_) => Some("the server's bytes are no segment".to_owned()),
            Media::Unpaid => None,
            Media::Failed(words) => Some(words),
        };
        let late = patience.is_some_and(|patience| begun.elapsed() >= patience);
        match broken {
            Some(words) => {
                failures += 1;
                if failures >= TRIES {
                    broke(stage, n, covered);
                    return Err(Denied::Failed(words));
                }
            }
            None if late => {
                broke(stage, n, covered);
                return Err(Denied::Unpaid);
            }
            None => {}
        }
        tokio::select! {
            () = tokio::time::sleep(TRY_AGAIN) => {}
            () = &mut not_coming => return Err(Denied::Stopped),
        }
    }
}

fn broke(stage: &Stage<'_>, n: SegmentNumber, covered: bool) {
    if covered && let Err(words) = stage.visit.with(|account, _| account.broke(n)) {
        stage.screen.note(&format!("nothing more is paid: {words}"));
        stage.visit.stop(End::Lied(words));
    }
}

/// Waits until paying has stopped and this segment does not come any more.
async fn not_coming(visit: &Visit, n: SegmentNumber) {
    visit.stopped.cancelled().await;
    tokio::time::sleep(LAST_WORD).await;
    let comes = visit.read(|account, _| {
        let free = account.tariff().price_of(n) == Some(Msat::ZERO);
        free || account.covers(n) || account.pays(n) || account.came(n)
    });
    if comes {
        tokio::time::sleep(LAST_BYTES).await;
    }
}

/// The init segment of a rendition.
pub(super) async fn init(stage: &Stage<'_>, rendition: &RenditionName) -> Result<Bytes, Denied> {
    for _ in 0..TRIES {
        match stage.remote.media(rendition.as_str(), "init.mp4").await {
            Media::Bytes(bytes) if is_init(&bytes) => return Ok(bytes),
            Media::Bytes(_) | Media::Unpaid => break,
            Media::Failed(_) => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
    Err(Denied::Failed("the server gives no init segment".to_owned()))
}

/// Plays the whole film without a player, paced by the payments.
pub(super) async fn headless(stage: &Stage<'_>) -> End {
    let visit = stage.visit;
    let segments = visit.read(|account, _| account.tariff().timeline.segments());
    for n in (0..segments).map(SegmentNumber) {
        let mut away: Option<Instant> = None;
        loop {
            let denied = match segment(stage, stage.rendition, n, Some(LOOK_UP)).await {
                Ok(_) => break,
                Err(denied) => denied,
            };
            if let Some(end) = visit.ended() {
                return end;
            }
            let since = *away.get_or_insert_with(Instant::now);
            match denied {
                Denied::Failed(words) if since.elapsed() > AWAY_MAX => {
                    return End::Server(format!("segment {n} does not come: {words}"));
                }
                Denied::Unpaid if visit.read(|account, _| account.covers(n)) => {
                    return End::Lied(format!("segment {n} is paid and does not come"));
                }
                Denied::Failed(_) | Denied::Unpaid | Denied::Stopped => {}
            }
        }
    }
    End::Film
}

/// Writes down what arrives, until all is over; what came in another rendition is fetched once more, which a session gives for nothing.
pub(super) async fn save(stage: &Stage<'_>, saver: &mut Saver, mut kept: mpsc::Receiver<Kept>) {
    let mut failed = false;
    loop {
        let Kept(n, bytes) = tokio::select! {
            biased;
            some = kept.recv() => match some {
                Some(kept) => kept,
                None => return,
            },
            () = stage.visit.over.cancelled() => return,
        };
        if failed || saver.has(n) {
            continue;
        }
        if let Err(error) = keep(stage, saver, n, bytes).await {
            failed = true;
            stage.screen.note(&format!("the film can no longer be kept: {error:#}"));
        }
    }
}

async fn keep(
    stage: &Stage<'_>,
    saver: &mut Saver,
    n: SegmentNumber,
    bytes: Option<Bytes>,
) -> anyhow::Result<()> {
    if !saver.has_init() {
        let init = init(stage, stage.rendition).await;
        let init = init.map_err(|_| anyhow::anyhow!("the server gives no init segment"))?;
        saver.init(&init).await?;
    }
    if let Some(bytes) = bytes {
        return saver.segment(n, &bytes).await;
    }
    for _ in 0..TRIES {
        let file = format!("{n}.m4s");
        match stage.remote.media(stage.rendition.as_str(), &file).await {
            Media::Bytes(bytes) if is_segment(&bytes) => return saver.segment(n, &bytes).await,
            _ => tokio::time::sleep(TRY_AGAIN).await,
        }
    }
    stage
        .screen
        .note(&format!("segment {n} is missing in the file: the server did not give it again"));
    Ok(())
}
