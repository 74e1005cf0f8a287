//! Players that know nothing of payment play a whole film through sessions, beside wallets of different speed, and miss no frame.
//!
//! `SLUICE_PLAYERS="vlc:6:3:8000"` (player, the wallet's seconds, `ahead`, `hold_ms`; several with commas) tries other settings and tells
//! what came of them: so the table in docs/PLAYERS.md was made.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use reqwest::Response;
use serde_json::{Value, json};

use crate::world::server::{Settings, run_within, utf8};
use crate::world::wallet::Wallet;
use crate::world::{World, number};

/// 24 seconds at 25 frames a second, in 12 segments of 2 seconds, the first of them free.
const FRAMES: u32 = 600;
const SECONDS: u32 = 24;
const SEGMENT_MSAT: i128 = 4_000;
const PAID_MSAT: i128 = 11 * SEGMENT_MSAT;
/// A player takes the film's length and, at the slowest wallet, some waits.
const WITHIN: Duration = Duration::from_secs(150);
/// VLC refuses to run as root.
pub const NOBODY: &str = "65534";

/// What plays, how long its wallet takes for a payment, and the session's settings.
#[derive(Debug, Clone)]
struct Case {
    player: String,
    wallet_s: u64,
    ahead: u8,
    hold_ms: u16,
}

impl Case {
    fn new(player: &str, wallet_s: u64, ahead: u8, hold_ms: u16) -> Self {
        Self { player: player.to_owned(), wallet_s, ahead, hold_ms }
    }

    /// As docs/PLAYERS.md says.
    fn all() -> Vec<Self> {
        let of = |player| {
            [
                // The defaults.
                Self::new(player, 0, 3, 8_000),
                Self::new(player, 2, 3, 8_000),
                // A wallet of six seconds, for segments of two.
                Self::new(player, 6, 6, 25_000),
            ]
        };
        ["ffmpeg", "mpv", "vlc"].into_iter().flat_map(of).collect()
    }

    fn read(text: &str) -> Self {
        let parts: Vec<_> = text.trim().split(':').collect();
        let [player, wallet_s, ahead, hold_ms] = parts[..] else { panic!("player:s:ahead:ms") };
        let (wallet_s, ahead) = (wallet_s.parse().unwrap(), ahead.parse().unwrap());
        Self::new(player, wallet_s, ahead, hold_ms.parse().unwrap())
    }

    /// Plays it to its end; the frames that were shown, what was drawn for them, and what the wallet spent.
    async fn play(&self, world: &World, video: &str) -> (u32, i128, i128) {
        let anybody = world.server.anybody();
        let wish = json!({ "video": video, "ahead": self.ahead, "hold_ms": self.hold_ms });
        let session = anybody.post("/api/v1/sessions", &wish).await;
        let control = session["control"].as_str().unwrap();
        let playlist = session["playlist"].as_str().unwrap();
        let playlist = format!("{}{playlist}", world.server.base_url());
        let stream = anybody.get(&format!("{control}/invoices"), None).await;
        let play = async {
            let frames = match self.player.as_str() {
                "ffmpeg" => ffmpeg(&playlist).await,
                "mpv" => mpv(&playlist).await,
                "vlc" => vlc(&playlist).await,
                other => panic!("no player {other}"),
            };
            let drawn = number(&anybody.json(control).await, "/spent_msat");
            anybody.delete(control).await;
            (frames, drawn)
        };
        let wallet = pay_slowly(stream, &world.viewer, Duration::from_secs(self.wallet_s));
        let ((frames, drawn), spent) = tokio::join!(play, wallet);
        (frames, drawn, spent)
    }
}

/// Follows a session and pays all that it asks, side by side, each payment so long after its invoice; what was spent.
async fn pay_slowly(stream: Response, wallet: &Wallet, each: Duration) -> i128 {
    let (mut spent, mut text, mut ended) = (0, String::new(), false);
    let mut chunks = stream.bytes_stream();
    let mut paying = FuturesUnordered::new();
    while !ended {
        tokio::select! {
            chunk = chunks.next() => {
                let chunk = chunk.expect("the stream ended before the session").unwrap();
                text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
            Some(()) = paying.next(), if !paying.is_empty() => {}
        }
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            match field("event:").map(str::trim) {
                Some("end") => ended = true,
                Some("invoice") => {
                    let invoice: Value = serde_json::from_str(field("data:").unwrap()).unwrap();
                    spent += number(&invoice, "/amount_msat");
                    paying.push(async move {
                        tokio::time::sleep(each).await;
                        wallet.pay(invoice["invoice"].as_str().unwrap()).await;
                    });
                }
                _ => {}
            }
            text = rest.to_owned();
        }
    }
    while paying.next().await.is_some() {}
    spent
}

/// At the speed of the film.
async fn ffmpeg(playlist: &str) -> u32 {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-re", "-i", playlist, "-map", "0:v:0"]);
    command.args(["-fps_mode", "passthrough", "-progress", "-", "-f", "null", "-"]);
    let output = run_within(command, WITHIN).await;
    assert!(output.status.success(), "ffmpeg: {}", utf8(&output.stderr));
    let text = utf8(&output.stdout);
    let mut frames = text.lines().filter_map(|line| line.strip_prefix("frame="));
    frames.next_back().unwrap_or("0").trim().parse().unwrap()
}

/// As fast as the segments come: mpv then keeps every frame that it would show.
async fn mpv(playlist: &str) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen.mkv");
    let mut command = Command::new("mpv");
    command.args(["--no-config", "--no-audio", "--really-quiet", "--of=matroska"]);
    command.args(["--ovc=libx264", "--ovcopts=preset=ultrafast"]);
    command.arg(format!("--o={}", seen.display())).arg(playlist);
    let output = run_within(command, WITHIN).await;
    assert!(output.status.success(), "mpv: {}", utf8(&output.stderr));
    frames_of(&seen).await
}

/// As fast as the segments come, written as it would play.
async fn vlc(playlist: &str) -> u32 {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // Its own muxers (ts, mp4) leave out the last frames of whatever they write.
    let seen = dir.path().join("seen.mkv");
    let mut command = if dir.path().metadata().unwrap().uid() == 0 {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "vlc"]);
        command
    } else {
        Command::new("vlc")
    };
    command.env("HOME", dir.path()).env("XDG_RUNTIME_DIR", dir.path());
    command.args(["-I", "dummy", "--quiet", "--no-sout-audio", "--play-and-exit", "--sout"]);
    command.arg(format!("#std{{access=file,mux=mkv,dst={}}}", seen.display()));
    command.args([playlist, "vlc://quit"]);
    let output = run_within(command, WITHIN).await;
    assert!(output.status.success(), "vlc: {}", utf8(&output.stderr));
    frames_of(&seen).await
}

/// The pictures of the film that a player wrote.
pub async fn frames_of(file: &Path) -> u32 {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "quiet", "-count_frames", "-select_streams", "v:0"]);
    command.args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]).arg(file);
    let text = utf8(&run_within(command, WITHIN).await.stdout);
    let line = text.lines().find(|line| !line.is_empty()).unwrap_or("0");
    line.trim_end_matches(',').parse().unwrap_or(0)
}

/// A moving picture with a tone, made here.
async fn film(directory: &Path) -> PathBuf {
    let file = directory.join("film.mp4");
    let mut command = Command::new("ffmpeg");
    let picture = format!("testsrc2=size=320x180:rate=25:duration={SECONDS}");
    let tone = format!("sine=frequency=440:duration={SECONDS}");
    command.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi"]);
    command.args(["-i", &tone, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]);
    command.args(["-c:a", "aac"]).arg(&file);
    let output = run_within(command, WITHIN).await;
    assert!(output.status.success(), "{}", utf8(&output.stderr));
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_mpv_and_vlc_play_a_whole_film_beside_wallets_that_take_0_2_and_6_seconds() {
    let settings = Settings { segment_ms: 2_000, ..Settings::default() };
    let world = World::new(&settings).await;
    world.add_creator().await;
    let video = world.upload(&film(world.dir.path()).await, 2_000, 1).await;
    let others = std::env::var("SLUICE_PLAYERS").ok();
    let cases = match &others {
        Some(text) => text.split(',').map(Case::read).collect(),
        None => Case::all(),
    };
    let played = join_all(cases.iter().map(async |case| {
        let begun = Instant::now();
        let (frames, drawn, spent) = case.play(&world, &video).await;
        let seconds = begun.elapsed().as_secs();
        println!("{case:?}: {frames} of {FRAMES} frames, {spent} msat spent, {seconds} s");
        (case, frames, drawn, spent)
    }));
    let played = played.await;
    if others.is_none() {
        for (case, frames, drawn, spent) in played {
            assert_eq!((frames, drawn), (FRAMES, PAID_MSAT), "{case:?}");
            // Payments that arrive in another order than they were asked for leave credit over, never more than the window.
            let most = PAID_MSAT + i128::from(case.ahead) * SEGMENT_MSAT;
            assert!((PAID_MSAT..=most).contains(&spent), "{case:?}: {spent} msat");
        }
    }
    world.rest().await;
    let books = world.server.totals().await;
    assert!(books.verified && books.unclaimed == 0, "{books:?}");
}
