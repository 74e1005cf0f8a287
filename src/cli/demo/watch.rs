//! `sluice demo --watch`: a headless viewer over public HTTP alone, and the statement that must agree with every node to the millisatoshi.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use reqwest::{Response, StatusCode, Url, header};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::network::owned;
use super::{Demo, output};
use crate::lightning::SharedNode;
use crate::media::Transcoder as _;
use crate::statements::Totals;

/// Payouts of the last sats wait for the interval and a route.
const SETTLE_WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(250);
/// One frame of AAC at 48 kHz, in ticks: what lengths are rounded to where there is no picture.
const SOUND_TICKS: u64 = 1_920;

/// What the viewer paid.
#[derive(Default)]
struct Paid {
    segments: u32,
    free: u32,
    msat: u64,
    fees: u64,
    hashes: HashSet<String>,
    waits: Vec<Duration>,
}

/// What the four nodes own in their channels.
#[derive(Clone, Copy)]
struct Owned {
    viewer: i128,
    server: i128,
    router: i128,
    creator: i128,
}

impl Owned {
    fn read(demo: &Demo) -> Self {
        let of = |node: &SharedNode| owned(&**node);
        Self {
            viewer: of(demo.wallets.viewer.node()),
            server: of(demo.server.node()),
            router: of(demo.wallets.router.node()),
            creator: of(demo.wallets.creator.node()),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            viewer: self.viewer - before.viewer,
            server: self.server - before.server,
            router: self.router - before.router,
            creator: self.creator - before.creator,
        }
    }
}

pub(super) async fn run(demo: &Demo) -> anyhow::Result<ExitCode> {
    // What an earlier run left must be settled first, so that the differences are this run's.
    settle(demo).await?;
    let (before, books_before) = (Owned::read(demo), demo.server.shared.statements.totals()?);
    let file = demo.data_dir.join("watched.mp4");
    let paid = play(demo, &file).await?;
    let decoded = demo.worker.decode(file.clone()).await?;
    let source = demo.worker.decode(demo.film.clone()).await?;
    let _ = std::fs::remove_file(&file);
    settle(demo).await?;
    let books = demo.server.shared.statements.totals()?;
    let change = Owned::read(demo).since(before);

    let mut wrong = Vec::new();
    let media = demo.server.shared.library.published(demo.video, None)?.media;
    // A source of varying frame rate is encoded at a steady one, and sound that outlasts the picture is played over the last: the title may have
    // another number of frames than its source, but never end a frame earlier.
    let frame = media.timeline.duration().get().checked_div(media.frames).unwrap_or_default();
    let lacks = decoded.duration.get().abs_diff(media.timeline.duration().get()) > frame
        || source.duration.get() > decoded.duration.get() + frame.max(SOUND_TICKS);
    if decoded.frames != media.frames || decoded.errors > 0 || lacks {
        wrong.push(format!(
            "the bytes decode to {} frames and {} ms with {} errors; the title has {} frames and {} ms, its source {} ms",
            decoded.frames,
            decoded.duration.millis(),
            decoded.errors,
            media.frames,
            media.timeline.duration().millis(),
            source.duration.millis()
        ));
    }
    print(&paid, &decoded, &books_before, &books, change);
    check(&paid, &books_before, &books, change, &mut wrong);
    let found = demo.server.shared.statements.verify()?;
    if !found.holds() {
        wrong.push(format!("the books do not verify: {found:?}"));
    }
    if wrong.is_empty() {
        output::line("\nEvery node agrees with the ledger to the millisatoshi.");
        return Ok(ExitCode::SUCCESS);
    }
    for line in wrong {
        output::error(&line);
    }
    Ok(ExitCode::FAILURE)
}

/// Fetches and pays every segment of the first rendition, in order, and writes the film to a file.
async fn play(demo: &Demo, file: &std::path::Path) -> anyhow::Result<Paid> {
    let http = reqwest::Client::new();
    let start = Url::parse(&format!("{}/hls/{}/index.m3u8", demo.base_url, demo.video))?;
    let multivariant = text(&http, start.clone()).await?;
    let first =
        uris(&multivariant).next().context("the multivariant playlist names no rendition")?;
    let playlist_url = start.join(first)?;
    let playlist = text(&http, playlist_url.clone()).await?;
    let init = playlist
        .lines()
        .find_map(|line| line.strip_prefix("#EXT-X-MAP:URI=\""))
        .and_then(|rest| rest.split('"').next())
        .context("the playlist names no init segment")?;

    let mut out = tokio::fs::File::create(file).await?;
    out.write_all(
        &http.get(playlist_url.join(init)?).send().await?.error_for_status()?.bytes().await?,
    )
    .await?;
    let mut paid = Paid::default();
    let wallet = demo.wallet_url("viewer");
    for uri in uris(&playlist) {
        let url = playlist_url.join(uri)?;
        let begun = Instant::now();
        let answer = http.get(url.clone()).send().await?;
        let bytes = if answer.status() == StatusCode::PAYMENT_REQUIRED {
            let challenge = Challenge::of(&answer)?;
            let (preimage, msat, fee) = pay(&http, &wallet, &challenge.invoice).await?;
            let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(hex::decode(&preimage)?));
            ensure!(paid.hashes.insert(hash.clone()), "the payment hash {hash} came twice");
            ensure!(msat > 0, "an invoice asked for nothing");
            let credential = format!("L402 {}:{preimage}", challenge.macaroon);
            let answer = http.get(url).header(header::AUTHORIZATION, credential).send().await?;
            let bytes = answer.error_for_status()?.bytes().await?;
            paid.waits.push(begun.elapsed());
            paid.segments += 1;
            paid.msat += msat;
            paid.fees += fee;
            bytes
        } else {
            paid.free += 1;
            answer.error_for_status()?.bytes().await?
        };
        out.write_all(&bytes).await?;
    }
    out.flush().await?;
    Ok(paid)
}

/// The two parts of an L402 challenge that a client needs.
struct Challenge {
    macaroon: String,
    invoice: String,
}

impl Challenge {
    fn of(answer: &Response) -> anyhow::Result<Self> {
        let value =
            answer.headers().get(header::WWW_AUTHENTICATE).context("402 without a challenge")?;
        let value = value.to_str()?;
        let field = |name: &str| {
            let (_, rest) = value.split_once(&format!("{name}=\""))?;
            rest.split('"').next().map(str::to_owned)
        };
        let missing = || anyhow!("the challenge is not L402: {value}");
        Ok(Self {
            macaroon: field("macaroon").ok_or_else(missing)?,
            invoice: field("invoice").ok_or_else(missing)?,
        })
    }
}

async fn pay(
    http: &reqwest::Client,
    wallet: &str,
    invoice: &str,
) -> anyhow::Result<(String, u64, u64)> {
    let body = json!({ "invoice": invoice });
    let answer = http.post(format!("{wallet}/pay")).json(&body).send().await?;
    let status = answer.status();
    let paid: Value = answer.json().await?;
    ensure!(status.is_success(), "the wallet did not pay: {paid}");
    let number = |name: &str| paid.get(name).and_then(Value::as_u64);
    let preimage = paid.get("preimage").and_then(Value::as_str).context("no preimage")?;
    let amount = number("amount_msat").context("no amount")?;
    Ok((preimage.to_owned(), amount, number("fee_msat").unwrap_or_default()))
}

async fn text(http: &reqwest::Client, url: Url) -> anyhow::Result<String> {
    Ok(http.get(url).send().await?.error_for_status()?.text().await?)
}

/// The lines of a playlist that are no tags.
fn uris(playlist: &str) -> impl Iterator<Item = &str> {
    playlist.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Waits until nothing is in flight, what is payable is too small to be sent, and the server's node owns what the ledger says: after a kill
/// LDK tells again, some seconds into the next start, what it had claimed and nobody had acknowledged.
async fn settle(demo: &Demo) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLE_WITHIN;
    let mut last = None;
    loop {
        let totals = demo.server.shared.statements.totals()?;
        let owned = Owned::read(demo);
        let now = (totals, owned.viewer, owned.server, owned.router, owned.creator);
        let smallest = i128::from(demo.smallest_payout_msat());
        let rests = totals.in_flight_msat == 0
            && totals.payable_msat < smallest
            && totals.channels_msat == owned.server;
        if rests && last == Some(now) {
            return Ok(());
        }
        last = Some(now);
        if Instant::now() > deadline {
            bail!(
                "no rest within {} s: {} msat payable, {} msat in flight; the server's channels hold {} msat, the ledger says {}",
                SETTLE_WITHIN.as_secs(),
                totals.payable_msat,
                totals.in_flight_msat,
                owned.server,
                totals.channels_msat
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

fn print(
    paid: &Paid,
    decoded: &crate::media::Decoded,
    before: &Totals,
    books: &Totals,
    change: Owned,
) {
    let mut waits = paid.waits.clone();
    waits.sort();
    let median = waits.get(waits.len() / 2).copied().unwrap_or_default();
    let fee = books.fee_msat - before.fee_msat;
    let routing = books.routing_msat - before.routing_msat;
    let share = if paid.msat > 0 { change.creator as f64 / paid.msat as f64 } else { 0.0 };
    let rest = books.payable_msat - before.payable_msat;
    output::line("\nStatement");
    for (what, value) in [
        ("segments free", i128::from(paid.free)),
        ("segments paid", i128::from(paid.segments)),
        ("different payment hashes", paid.hashes.len() as i128),
        ("frames decoded", i128::from(decoded.frames)),
        ("viewer paid, msat", i128::from(paid.msat)),
        ("viewer's routing fees, msat", i128::from(paid.fees)),
        ("operator's fee, msat", fee),
        ("routing fees of payouts, msat", routing),
        ("reached the creator, msat", change.creator),
        ("still payable, msat", rest),
    ] {
        output::line(&format!("  {what:<30} {value:>12}"));
    }
    output::line(&format!("  {:<30} {:>12.4}", "the creator's share", share));
    output::line(&format!("  {:<30} {:>9} ms", "402 to 200, median", median.as_millis()));
    output::line("  change of what each node owns in its channels, msat");
    for (who, value) in [
        ("viewer", change.viewer),
        ("server", change.server),
        ("router", change.router),
        ("creator", change.creator),
    ] {
        output::line(&format!("    {who:<28} {value:>+12}"));
    }
}

/// What the nodes themselves say, against the ledger and the viewer's own count.
fn check(paid: &Paid, before: &Totals, books: &Totals, change: Owned, wrong: &mut Vec<String>) {
    let spent = i128::from(paid.msat) + i128::from(paid.fees);
    let routing = books.routing_msat - before.routing_msat;
    let fee = books.fee_msat - before.fee_msat;
    let kept = fee
        + (books.payable_msat - before.payable_msat)
        + (books.viewer_credit_msat - before.viewer_credit_msat)
        + (books.unclaimed_msat - before.unclaimed_msat);
    let mut same = |what: &str, node: i128, ledger: i128| {
        if node != ledger {
            wrong.push(format!("{what}: the node says {node} msat, the ledger {ledger} msat"));
        }
    };
    same("the viewer's channels", change.viewer, -spent);
    same("the server's channels", change.server, books.channels_msat - before.channels_msat);
    same("what the server keeps", change.server, kept);
    same("the router's channels", change.router, routing);
    same("the creator's channels", change.creator, i128::from(paid.msat) - kept - routing);
    if paid.segments == 0 || paid.hashes.len() != paid.segments as usize {
        wrong.push("no segment was paid, or two by one invoice".to_owned());
    }
}
