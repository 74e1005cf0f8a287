//! Against a real server: the whole film, players, jumps, budgets, wallets that are slow, fail or fall silent.

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use sluice::cli::watch::{End, Order, Receipt, Screen as _, watch};
use sluice::domain::amount::Msat;
use sluice::lightning::Network;
use tempfile::TempDir;

use crate::server::{SEGMENT_MSAT, SEGMENTS, Server, WHOLE_MSAT, film, init, segment};
use crate::wallets::{Answer, Remembers, TestWallet};

const DEADLINE: Duration = Duration::from_secs(60);

struct Kept {
    _dir: TempDir,
    file: PathBuf,
}

fn kept() -> Kept {
    let dir = tempfile::tempdir().unwrap();
    Kept { file: dir.path().join("film.mp4"), _dir: dir }
}

fn saving(server: &Server, kept: &Kept) -> Order {
    Order { save: Some(kept.file.clone()), ..Order::new(&server.page()) }
}

async fn watched(order: &Order, wallet: &TestWallet) -> (Receipt, Remembers) {
    let screen = Remembers::default();
    let watched = tokio::time::timeout(DEADLINE, watch(order, wallet, &screen, pending())).await;
    (watched.expect("it ends").unwrap(), screen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_is_played_headless_paid_to_the_msat_and_kept_whole() {
    let (server, kept) = (Server::start().await, kept());
    let wallet = TestWallet::new(&server.node).charging(300);
    let (receipt, screen) = watched(&saving(&server, &kept), &wallet).await;
    assert_eq!(receipt.end, End::Film);
    assert!(receipt.whole);
    assert_eq!(receipt.paid_msat, Msat::new(WHOLE_MSAT));
    assert_eq!(receipt.fee_msat, Msat::new(300 * u64::from(SEGMENTS - 1)));
    assert_eq!(wallet.asked(), SEGMENTS as usize - 1);
    assert_eq!(std::fs::read(&kept.file).unwrap(), film("480p", 0..SEGMENTS));
    assert_eq!(server.credit_msat().await, 0, "all that was paid was served");
    let asked = screen.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.whole, asked.network), (Msat::new(WHOLE_MSAT), Network::Regtest));
    assert_eq!(asked.minute, Msat::new(300_000));
    assert_eq!(asked.title, "A film");
    for payment in &receipt.payments {
        assert_eq!(payment.preimage.unwrap().hash(), payment.payment_hash);
    }
    assert!(receipt.json(true).to_string().contains("preimage"));
    assert!(!receipt.json(false).to_string().contains("preimage"));
    assert!(receipt.text().contains("36 sat in 9 payments"), "{}", receipt.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_player_gets_the_film_behind_a_secret_path_of_this_machine() {
    let server = Server::start().await;
    let wallet = TestWallet::new(&server.node);
    let screen = Remembers::default();
    let order = Order::new(&server.page());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let player = async {
        let http = reqwest::Client::new();
        let url = screen.url().await;
        let get = async |url: &str| http.get(url).send().await.unwrap();
        let text = get(&url).await.text().await.unwrap();
        assert!(text.contains("480p/index.m3u8") && text.contains("240p/index.m3u8"), "{text}");
        let base = url.strip_suffix("index.m3u8").unwrap();
        let media = get(&format!("{base}240p/index.m3u8")).await.text().await.unwrap();
        assert_eq!(media.matches(".m4s").count(), SEGMENTS as usize, "{media}");
        let bytes = async |file: &str| {
            let answer = get(&format!("{base}{file}")).await;
            assert_eq!(answer.status(), 200, "{file}");
            answer.bytes().await.unwrap()
        };
        assert_eq!(bytes("240p/init.mp4").await, init("240p"));
        for n in 0..SEGMENTS {
            // The quality changes in between: a payment is for the number.
            let rendition = if n % 2 == 0 { "240p" } else { "480p" };
            assert_eq!(bytes(&format!("{rendition}/{n}.m4s")).await, segment(rendition, n));
        }
        assert_eq!(bytes("480p/3.m4s").await, segment("480p", 3), "again, for nothing");
        let wrong = url.replace("index", "0ndex");
        assert_eq!(get(&wrong).await.status(), 404);
        let (origin, _) = url.rsplit_once('/').unwrap().0.rsplit_once('/').unwrap();
        let guessed = format!("{origin}/{}/index.m3u8", "0".repeat(32));
        assert_eq!(get(&guessed).await.status(), 404);
        for host in ["evil.example", "127.0.0.1", "127.0.0.1:1"] {
            let request = http.get(&url).header("host", host);
            assert_eq!(request.send().await.unwrap().status(), 404, "{host}");
        }
        for bad in ["480p/x.m4s", "480p/99.mp4", "999p/0.m4s", "480p/..%2f..%2fx"] {
            assert_eq!(get(&format!("{base}{bad}")).await.status(), 404, "{bad}");
        }
        stop.send(()).unwrap();
    };
    let interrupted = async {
        let _ = stopped.await;
    };
    let (receipt, ()) = tokio::join!(watch(&order, &wallet, &screen, interrupted), player);
    let receipt = receipt.unwrap();
    assert_eq!(receipt.end, End::Interrupted);
    assert!(receipt.whole);
    assert_eq!(receipt.paid_msat, Msat::new(WHOLE_MSAT));
    assert_eq!(server.credit_msat().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_is_kept_in_order_and_in_one_rendition_although_the_viewer_jumps() {
    let (server, kept) = (Server::start().await, kept());
    let wallet = TestWallet::new(&server.node);
    let screen = Remembers::default();
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().join("address");
    // The player of this test asks for nothing itself: the test plays in its place.
    let player = format!("sh -c 'echo {{url}} > {}; sleep 1000'", address.display());
    let order = Order { player: Some(player), ..saving(&server, &kept) };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let play = async {
        let url = loop {
            match std::fs::read_to_string(&address) {
                Ok(url) if url.ends_with('\n') => break url,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let base = url.trim().strip_suffix("index.m3u8").unwrap().to_owned();
        for n in [0, 1, 7, 8, 2, 3] {
            let answer = reqwest::get(format!("{base}240p/{n}.m4s")).await.unwrap();
            assert_eq!(answer.status(), 200, "{n}");
        }
        stop.send(()).unwrap();
    };
    let interrupted = async {
        let _ = stopped.await;
    };
    let (receipt, ()) = tokio::join!(watch(&order, &wallet, &screen, interrupted), play);
    let receipt = receipt.unwrap();
    let saved = receipt.saved.unwrap();
    assert_eq!((saved.segments, saved.gaps), (6, 1));
    assert_eq!(std::fs::read(&kept.file).unwrap(), film("480p", [0, 1, 2, 3, 7, 8]));
    let worth = 5 * SEGMENT_MSAT;
    let paid = receipt.paid_msat.get();
    let left = u64::try_from(server.credit_msat().await).unwrap();
    assert_eq!(paid, worth + left);
    assert!(left <= 4 * SEGMENT_MSAT, "{left}");
    wallet.asked();
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_hold_and_what_was_paid_is_kept() {
    let (server, kept) = (Server::start().await, kept());
    let wallet = TestWallet::new(&server.node).charging(1_000);
    // Three segments with their fees, and the cap of one more.
    let order = Order { max: Some(Msat::new(17_000)), ..saving(&server, &kept) };
    let (receipt, _) = watched(&order, &wallet).await;
    assert!(matches!(receipt.end, End::Spent(_)), "{:?}", receipt.end);
    assert!(receipt.paid_msat.get() + receipt.fee_msat.get() <= 17_000);
    assert_eq!(receipt.paid_msat, Msat::new(12_000));
    assert_eq!(std::fs::read(&kept.file).unwrap(), film("480p", 0..4));
    assert_eq!(server.credit_msat().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_whose_fees_are_twice_above_the_cap_is_not_used_any_more() {
    let (server, kept) = (Server::start().await, kept());
    let wallet = TestWallet::new(&server.node).charging(5_000);
    let order = Order { max: Some(Msat::new(1_000_000)), ..saving(&server, &kept) };
    let (receipt, _) = watched(&order, &wallet).await;
    let end = format!("{:?}", receipt.end);
    assert!(matches!(receipt.end, End::Wallet(_)) && end.contains("5 sat"), "{end}");
    assert_eq!(wallet.asked(), 2);
    assert_eq!((receipt.paid_msat, receipt.fee_msat), (Msat::new(8_000), Msat::new(10_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_above_the_minutes_budget_is_not_even_asked_about() {
    let server = Server::start().await;
    let wallet = TestWallet::new(&server.node);
    let screen = Remembers::default();
    let order = Order { max_per_minute: Some(Msat::new(299_000)), ..Order::new(&server.page()) };
    let error = watch(&order, &wallet, &screen, pending()).await.err().unwrap().to_string();
    assert!(error.contains("nothing was paid"), "{error}");
    assert!(screen.asked.lock().unwrap().is_empty());
    let screen = Remembers { declines: true, ..Remembers::default() };
    let error =
        watch(&Order::new(&server.page()), &wallet, &screen, pending()).await.err().unwrap();
    assert!(error.to_string().contains("not accepted"), "{error}");
    let other = TestWallet::new(&server.node).on(Network::Mainnet);
    let error = watch(&Order::new(&server.page()), &other, &screen, pending()).await.err().unwrap();
    assert!(error.to_string().contains("network"), "{error}");
    assert_eq!(wallet.asked() + other.asked(), 0);
    screen.note("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_failed_is_replaced_and_five_in_a_row_end_the_paying() {
    let (server, first) = (Server::start().await, kept());
    let wallet = TestWallet::new(&server.node).script([Answer::Fails, Answer::Pays, Answer::Fails]);
    let (receipt, _) = watched(&saving(&server, &first), &wallet).await;
    assert_eq!(receipt.end, End::Film);
    assert_eq!(receipt.paid_msat, Msat::new(WHOLE_MSAT));
    assert_eq!(wallet.asked(), SEGMENTS as usize - 1 + 2);
    let second = kept();
    let wallet = TestWallet::that(&server.node, Answer::Fails);
    let (receipt, _) = watched(&saving(&server, &second), &wallet).await;
    assert!(matches!(receipt.end, End::Wallet(_)), "{:?}", receipt.end);
    assert_eq!((wallet.asked(), receipt.paid_msat), (5, Msat::ZERO));
    assert_eq!(std::fs::read(&second.file).unwrap(), film("480p", 0..1), "what is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_looked_up_and_never_paid_twice() {
    let (server, kept) = (Server::start().await, kept());
    let script = [Answer::Silent(1), Answer::Pays, Answer::Silent(2)];
    let wallet = TestWallet::new(&server.node).script(script);
    let (receipt, _) = watched(&saving(&server, &kept), &wallet).await;
    assert_eq!(receipt.end, End::Film);
    assert_eq!(wallet.asked(), SEGMENTS as usize - 1);
    assert_eq!(receipt.paid_msat, Msat::new(WHOLE_MSAT));
    assert_eq!(server.credit_msat().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_outcome_is_unknown_nothing_else_is_paid_and_the_receipt_names_it() {
    let visits = [Answer::Mute, Answer::LiesAboutTheProof].map(async |answer| {
        let server = Server::start().await;
        let wallet = TestWallet::that(&server.node, answer);
        let kept = kept();
        let settle_within = Duration::from_secs(2);
        let order = Order { settle_within, ..saving(&server, &kept) };
        let screen = Remembers::default();
        // Interrupted at last, after which payments under way are waited for.
        let interrupted = tokio::time::sleep(Duration::from_secs(3));
        let visit = watch(&order, &wallet, &screen, interrupted);
        let receipt = tokio::time::timeout(Duration::from_secs(90), visit).await.unwrap().unwrap();
        assert_eq!(receipt.end, End::Interrupted);
        assert_eq!((wallet.asked(), wallet.paid()), (1, 0));
        assert_eq!(receipt.payments.len(), 1);
        assert!(!receipt.payments[0].known && receipt.payments[0].preimage.is_none());
        assert_eq!(receipt.paid_msat, Msat::ZERO);
        assert!(receipt.text().contains("unknown"), "{}", receipt.text());
    });
    futures::future::join_all(visits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_wallet_with_bundles_and_several_payments_at_once_pays_the_same() {
    let (server, one) = (Server::start().await, kept());
    let slow = Answer::Slowly(Duration::from_millis(400));
    let wallet = TestWallet::that(&server.node, slow);
    let order = Order { bundle: 3, ..saving(&server, &one) };
    let (receipt, _) = watched(&order, &wallet).await;
    assert_eq!((receipt.end, receipt.paid_msat), (End::Film, Msat::new(WHOLE_MSAT)));
    assert!(wallet.asked() < SEGMENTS as usize - 1, "fewer invoices than segments");
    let two = kept();
    let wallet = TestWallet::that(&server.node, slow);
    let order = Order { in_flight: 3, rendition: Some("240p".to_owned()), ..saving(&server, &two) };
    let (receipt, _) = watched(&order, &wallet).await;
    assert_eq!((receipt.end, receipt.paid_msat), (End::Film, Msat::new(WHOLE_MSAT)));
    assert_eq!(std::fs::read(&two.file).unwrap(), film("240p", 0..SEGMENTS));
    assert_eq!(server.credit_msat().await, 0);
}
