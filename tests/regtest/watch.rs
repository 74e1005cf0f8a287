//! `sluice watch`, the executable itself: its own node is funded, opens a channel, and pays a real server for films that real players play.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::ffmpeg;
use crate::players::{NOBODY, frames_of};
use crate::world::server::{Settings, output, run_within, sluice, utf8};
use crate::world::{World, number, until};

/// A node starts, finds its peer, and a film of five seconds plays.
const WATCHED_WITHIN: Duration = Duration::from_secs(120);
const CHANNEL_SAT: &str = "500000";
/// 4.28 s at 2 sat a second.
const CLIP_MSAT: i128 = 9_000;
const CLIP_FRAMES: u32 = 132;

/// The command with its own wallet, on the world's chain.
fn watch(world: &World, arguments: &[&str]) -> Command {
    let mut command = sluice(&["watch", "--network", "regtest"]);
    let address = format!("127.0.0.1:{}", world.bitcoind.rpc_port());
    command.args(["--bitcoind", &address, "--bitcoind-cookie"]).arg(world.bitcoind.cookie_file());
    command.arg("--wallet-dir").arg(wallet_dir(world)).args(arguments);
    command
}

fn wallet_dir(world: &World) -> PathBuf {
    world.dir.path().join("watcher")
}

async fn done(command: Command) -> String {
    let Output { status, stdout, stderr } = run_within(command, WATCHED_WITHIN).await;
    assert!(status.success(), "{status}: {}", utf8(&stderr));
    utf8(&stdout)
}

/// The world, with a wallet of the watcher's own that has a channel to the server; and the film's page.
async fn world() -> (World, String) {
    let (world, video, _) = World::with_the_clip(&Settings::default()).await;
    let page = format!("{}/watch/{video}", world.server.base_url());
    let said = done(watch(&world, &[])).await;
    assert!(said.contains("Next: send some bitcoin"), "{said}");
    let address = said.lines().find_map(|line| line.strip_prefix("address")).unwrap().trim();
    let refused = run_within(watch(&world, &[&page, "--yes"]), WATCHED_WITHIN).await;
    let wrong = utf8(&refused.stderr);
    assert!(!refused.status.success() && wrong.contains("has no channel"), "{wrong}");

    world.bitcoind.mine(1, address).await.unwrap();
    world.bitcoind.mine(101, &world.viewer.node.address().unwrap()).await.unwrap();
    let id = world.server.operator().json("/api/v1/node").await["id"].as_str().unwrap().to_owned();
    let peer = format!("{id}@{}", world.server.lightning);
    let said = done(watch(&world, &["--open-channel", &peer, "--sat", CHANNEL_SAT])).await;
    assert!(said.contains("is on its way"), "{said}");
    world.bitcoind.mine(6, &world.viewer.node.address().unwrap()).await.unwrap();
    (world, page)
}

fn mode(file: &Path) -> u32 {
    file.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_funds_a_wallet_watches_and_keeps_a_film_that_decodes() {
    let (world, page) = world().await;
    let film = world.dir.path().join("kept.mp4");
    let receipt = world.dir.path().join("receipt.json");
    let (film_text, receipt_text) = (film.to_str().unwrap(), receipt.to_str().unwrap());
    let keeping =
        [&page, "--save", film_text, "--receipt", receipt_text, "--json", "--max-sat", "100"];
    let said: Value = serde_json::from_str(&done(watch(&world, &keeping)).await).unwrap();
    assert_eq!((&said["end"], &said["whole"]), (&"film".into(), &true.into()), "{said}");
    assert_eq!(number(&said, "/paid_msat"), CLIP_MSAT);
    assert!(!said.to_string().contains("preimage"));
    ffmpeg::decodes(&film).await;
    assert_eq!(ffmpeg::frames_and_height(&film).await.0, CLIP_FRAMES);
    assert_eq!(mode(&receipt), 0o600);
    let private: Value = serde_json::from_slice(&std::fs::read(&receipt).unwrap()).unwrap();
    let payments = private["payments"].as_array().unwrap();
    assert!(payments.iter().all(|payment| payment["preimage"].as_str().unwrap().len() == 64));
    assert_eq!(world.server.payments("applied").await, payments.len() as u64);

    // A player that cannot pay, over the local address.
    let frames = world.dir.path().join("frames");
    let player = format!(
        "ffprobe -v error -count_frames -select_streams v:0 -show_entries stream=nb_read_frames -of csv=p=0 -o {} {{url}}",
        frames.display()
    );
    let said = done(watch(&world, &[&page, "--player", &player, "--yes", "--json"])).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["end"], number(&said, "/paid_msat")), (&"film".into(), CLIP_MSAT), "{said}");
    let counted = std::fs::read_to_string(&frames).unwrap();
    let counted = counted.lines().find(|line| !line.is_empty()).unwrap().trim_end_matches(',');
    assert_eq!(counted.parse(), Ok(CLIP_FRAMES));

    world.rest().await;
    let books = world.server.totals().await;
    assert_eq!((books.viewer_credit, books.unclaimed, books.verified), (0, 0, true));
    let said = done(watch(&world, &[])).await;
    assert!(said.contains("channels") && said.contains("can pay"), "{said}");
}

/// Players that are started by their names take no further arguments: their own configuration has them open no window, and write what they would
/// show into this directory: mpv a file for each picture (it takes no file for a film from there), VLC a film.
fn headless(command: &mut Command, home: &Path) {
    let (mpv, vlc, bin) = (home.join("mpv"), home.join(".config/vlc"), home.join("bin"));
    for directory in [&mpv, &vlc, &bin] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let pictures = home.join("mpv-shows");
    let pictures = pictures.display();
    let shows = "vo=image\nvo-image-format=jpg\nuntimed=yes\naid=no";
    let text = format!("{shows}\nvo-image-outdir={pictures}\n");
    std::fs::write(mpv.join("mpv.conf"), text).unwrap();
    let film = home.join("vlc.mkv");
    let sout = format!("#std{{access=file,mux=mkv,dst={}}}", film.display());
    let text = format!("[core]\nintf=dummy\nsout={sout}\nsout-audio=0\n");
    std::fs::write(vlc.join("vlcrc"), text).unwrap();
    command.env("MPV_HOME", mpv).env("HOME", home).env("XDG_RUNTIME_DIR", home);
    for name in ["XDG_CONFIG_HOME", "DISPLAY", "WAYLAND_DISPLAY"] {
        command.env_remove(name);
    }
    if home.metadata().unwrap().uid() == 0 {
        // VLC refuses to run as root.
        std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o777)).unwrap();
        let path = std::env::var("PATH").unwrap();
        let drop = format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups");
        let script = format!("#!/bin/sh\nPATH='{path}'\nexport PATH\nexec {drop} vlc \"$@\"\n");
        std::fs::write(bin.join("vlc"), script).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bin.join("vlc"), mode).unwrap();
        command.env("PATH", format!("{}:{path}", bin.display()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mpv_and_vlc_are_started_by_their_names_and_play_the_film_to_its_end() {
    let (world, page) = world().await;
    let home = tempfile::tempdir().unwrap();
    for player in ["mpv", "vlc"] {
        // In one size: what VLC writes takes no other after the first.
        let arguments = [&page, "--player", player, "--rendition", "240p", "--yes", "--json"];
        let mut command = watch(&world, &arguments);
        headless(&mut command, home.path());
        let said: Value = serde_json::from_str(&done(command).await).unwrap();
        let paid = number(&said, "/paid_msat");
        assert_eq!((&said["end"], paid), (&"film".into(), CLIP_MSAT), "{player}: {said}");
    }
    let pictures = std::fs::read_dir(home.path().join("mpv-shows")).unwrap().count();
    assert_eq!(pictures, usize::try_from(CLIP_FRAMES).unwrap(), "mpv");
    assert_eq!(frames_of(&home.path().join("vlc.mkv")).await, CLIP_FRAMES, "VLC");
    world.rest().await;
    let books = world.server.totals().await;
    assert_eq!((books.viewer_credit, books.unclaimed, books.verified), (0, 0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_visit_settles_what_is_under_way_and_ends_the_session() {
    let (world, page) = world().await;
    let receipt = world.dir.path().join("receipt.json");
    let mut command = watch(&world, &[&page, "--yes", "--listen", "127.0.0.1:0"]);
    command.arg("--receipt").arg(&receipt);
    command.args(["--player", "ffmpeg -nostdin -v error -re -stream_loop -1 -i {url} -f null -"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let paid = async || world.server.payments("applied").await >= 2;
    until("two payments", paid).await;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let ended = output(child).await;
    assert_eq!(ended.status.code(), Some(130), "{}", utf8(&ended.stderr));
    let private: Value = serde_json::from_slice(&std::fs::read(&receipt).unwrap()).unwrap();
    assert_eq!(private["end"], "interrupted");
    let payments = private["payments"].as_array().unwrap();
    assert!(payments.iter().all(|payment| payment["outcome"] == "paid"), "{private}");
    world.rest().await;
    assert_eq!(world.server.payments("applied").await, payments.len() as u64);
}
