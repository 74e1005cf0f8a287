//! Each lie of a server, told to the command as a whole: it ends, in words, with nothing paid that was not agreed.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use sluice::cli::watch::{End, Order, Receipt, watch};
use sluice::domain::amount::Msat;
use sluice::lightning::Network;
use sluice::lightning::fake::FakeNode;
use tempfile::TempDir;

use crate::liar::{BREAK, Liar, SEGMENTS, event, invoice_by};
use crate::wallets::{Answer, Remembers, TestWallet};

const DEADLINE: Duration = Duration::from_secs(60);

struct Visit {
    result: anyhow::Result<Receipt>,
    wallet: TestWallet,
    dir: TempDir,
}

/// A headless visit of a server that lies.
async fn visit(liar: &Liar, change: impl FnOnce(&mut Order)) -> Visit {
    let dir = tempfile::tempdir().unwrap();
    let save = Some(dir.path().join("film.mp4"));
    let mut order = Order { save, max: Some(Msat::new(20_000)), ..Order::new(&liar.page()) };
    change(&mut order);
    let wallet = TestWallet::new(&liar.node);
    let screen = Remembers::default();
    let watched = tokio::time::timeout(DEADLINE, watch(&order, &wallet, &screen, pending())).await;
    Visit { result: watched.expect("it ends by itself"), wallet, dir }
}

#[track_caller]
fn lied(visit: &Visit, paid: usize, why: &str) {
    match &visit.result.as_ref().unwrap().end {
        End::Lied(words) => assert!(words.contains(why), "{words}"),
        end => panic!("{why}: {end:?}"),
    }
    assert_eq!(visit.wallet.asked(), paid, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_invoices_are_never_paid() {
    let other = FakeNode::numbered(Network::Regtest, 9).unwrap();
    let testnet = FakeNode::new(Network::Testnet).unwrap();
    type Lie<'a> = (&'a str, Box<dyn Fn(&Liar) -> Bytes + Send + 'a>);
    let lies: [Lie<'_>; 12] = [
        ("not signed", Box::new(|_| invoice_by(&other, 0, 2_000, |_| {}))),
        ("another network", Box::new(|_| invoice_by(&testnet, 0, 2_000, |_| {}))),
        ("agreed price", Box::new(|liar| liar.invoice(0, 2_001, |_| {}))),
        ("agreed price", Box::new(|liar| liar.invoice(0, 1_999, |_| {}))),
        ("agreed price", Box::new(|liar| liar.invoice(0, 20_000, |_| {}))),
        (
            "than announced",
            Box::new(|liar| liar.invoice(0, 20_000, |of| of["amount_msat"] = json!(2_000))),
        ),
        (
            "more segments",
            Box::new(|liar| {
                let all: Vec<u32> = (0..5_000).collect();
                liar.invoice(0, 2_000, |of| of["segments"] = json!(all))
            }),
        ),
        (
            "more segments",
            Box::new(|liar| liar.invoice(0, 2_000, |of| of["segments"] = json!([0, 0]))),
        ),
        ("no segment", Box::new(|liar| liar.invoice(0, 2_000, |of| of["segments"] = json!([])))),
        ("does not have", Box::new(|liar| liar.invoice(SEGMENTS, 2_000, |_| {}))),
        (
            "payment hash",
            Box::new(|liar| {
                liar.invoice(0, 2_000, |of| of["payment_hash"] = json!("00".repeat(32)))
            }),
        ),
        (
            "expires at",
            Box::new(|liar| {
                liar.invoice(0, 2_000, |of| of["expires_at"] = json!(4_000_000_000_u64))
            }),
        ),
    ];
    let visits = lies.iter().map(async |(why, lie)| {
        let liar = Liar::start(|lies| lies.bytes = |_| None).await;
        liar.tell(lie(&liar));
        lied(&visit(&liar, |_| {}).await, 0, why);
        assert_eq!(liar.ended.load(Ordering::SeqCst), 1, "the session is ended");
    });
    futures::future::join_all(visits).await;
    let liar = Liar::start(|lies| lies.bytes = |_| None).await;
    liar.node.set_time(1_700_000_000);
    liar.tell(liar.invoice(0, 2_000, |_| {}));
    lied(&visit(&liar, |_| {}).await, 0, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn money_for_nothing_ends_after_as_many_segments_as_may_be_ahead() {
    // It takes the money and holds back the bytes; and: it gives bytes that are no film.
    for bytes in [|_| None, |n| Some(format!("<html>{n}</html>").into_bytes())] {
        let liar = Liar::start(|lies| lies.bytes = bytes).await;
        for n in 0..SEGMENTS {
            liar.tell(liar.invoice(n, 2_000, |_| {}));
        }
        let fetch = async {
            // A player that goes on after an error, as ffmpeg does, and asks for one segment after the other.
            let screen = Remembers::default();
            let wallet = TestWallet::new(&liar.node);
            let order =
                Order { hold_ms: 1_500, max: Some(Msat::new(100_000)), ..Order::new(&liar.page()) };
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let play = async {
                let url = screen.url().await;
                let base = url.strip_suffix("index.m3u8").unwrap();
                for n in 0..6 {
                    let answer = reqwest::get(format!("{base}240p/{n}.m4s")).await.unwrap();
                    assert!(!answer.status().is_success());
                }
                let _ = stop.send(());
            };
            let interrupted = async {
                let _ = stopped.await;
            };
            let (receipt, ()) = tokio::join!(watch(&order, &wallet, &screen, interrupted), play);
            (receipt.unwrap(), wallet)
        };
        let (receipt, wallet) = tokio::time::timeout(DEADLINE, fetch).await.unwrap();
        assert!(
            matches!(&receipt.end, End::Lied(words) if words.contains("without valid bytes")),
            "{:?}",
            receipt.end
        );
        assert!(wallet.asked() <= 4, "a window, and one more: {}", wallet.asked());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invoices_that_come_too_fast_wait_for_the_watching() {
    let liar = Liar::start(|lies| lies.gives = true).await;
    for n in 0..SEGMENTS {
        liar.tell(liar.invoice(n, 2_000, |_| {}));
    }
    let begun = Instant::now();
    let screen = Remembers::default();
    let wallet = TestWallet::new(&liar.node);
    let order = Order { max: Some(Msat::new(1_000_000)), ..Order::new(&liar.page()) };
    let interrupted = tokio::time::sleep(Duration::from_secs(3));
    let receipt = watch(&order, &wallet, &screen, interrupted).await.unwrap();
    let elapsed = begun.elapsed().as_millis() as u64;
    let most = 2 * elapsed * 500 / 1_000 + 3 * 2_000;
    assert!(receipt.paid_msat.get() <= most, "{} of {most}", receipt.paid_msat);
    assert!(receipt.paid_msat.get() >= 6_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_segment_is_not_sold_twice_nor_a_served_one_again() {
    let liar = Liar::start(|lies| lies.bytes = |_| None).await;
    let first = liar.invoice(0, 2_000, |_| {});
    for _ in 0..3 {
        liar.tell(first.clone());
    }
    for _ in 0..20 {
        liar.tell(liar.invoice(0, 2_000, |_| {}));
    }
    liar.tell(event("end", &json!({})));
    let once = visit(&liar, |_| {}).await;
    assert!(once.result.is_ok());
    assert_eq!(once.wallet.asked(), 1);
    let liar = Liar::start(|lies| lies.bytes = |_| None).await;
    liar.tell(event("served", &json!({ "segment": 0 })));
    for _ in 0..20 {
        liar.tell(liar.invoice(0, 2_000, |_| {}));
    }
    lied(&visit(&liar, |_| {}).await, 0, "already delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_and_endless_answers_are_cut_off() {
    let liar = Liar::start(|lies| lies.bytes = |_| None).await;
    liar.tell(vec![b'x'; 1 << 20]);
    lied(&visit(&liar, |_| {}).await, 0, "larger than any");
    let liar = Liar::start(|lies| lies.bytes = |_| None).await;
    let flood = event("waiting", &json!({ "segment": 1 })).repeat(20_000);
    for _ in 0..4 {
        liar.tell(flood.clone());
    }
    lied(&visit(&liar, |_| {}).await, 0, "floods");
    let liar = Liar::start(|lies| lies.bytes = |_| None).await;
    liar.tell("event: invoice\ndata: {\"segments\": \"all\"}\n\n");
    lied(&visit(&liar, |_| {}).await, 0, "cannot be read");
    let endless = |lies: &mut Vec<u8>| lies.resize(8 << 20, b'#');
    for change in [
        Box::new(move |lies: &mut crate::liar::Lies| endless(&mut lies.title))
            as Box<dyn Fn(&mut crate::liar::Lies)>,
        Box::new(move |lies| endless(&mut lies.multivariant)),
        Box::new(move |lies| endless(&mut lies.media)),
    ] {
        let liar = Liar::start(change).await;
        let visit = visit(&liar, |_| {}).await;
        let error = visit.result.err().unwrap().to_string();
        assert!(error.contains("too large"), "{error}");
        assert!(!visit.dir.path().join("film.mp4").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_and_playlists_that_make_no_sense_open_nothing() {
    type Change = fn(&mut crate::liar::Lies);
    let changes: [(&str, Change); 8] = [
        ("rounds", |lies| lies.session["granularity_msat"] = json!(1_000_000)),
        ("rounds", |lies| lies.session["granularity_msat"] = json!(0)),
        ("bounds", |lies| lies.session["msat_per_second"] = json!(u64::MAX)),
        ("unknown way", |lies| {
            lies.session["playlist"] = json!("https://elsewhere/s/play/index.m3u8")
        }),
        ("unknown way", |lies| lies.session["control"] = json!("/api/v1/sessions/../../x")),
        ("not Sluice's", |lies| {
            lies.multivariant = b"#EXTM3U\n#EXT-X-STREAM-INF:A=1\nhttp://x/y\n".to_vec()
        }),
        ("not Sluice's", |lies| {
            lies.media = b"#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:4,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n".to_vec();
        }),
        ("out of", |lies| lies.session["msat_per_second"] = json!(u64::MAX - 1)),
    ];
    for (why, change) in changes {
        let liar = Liar::start(change).await;
        let visit = visit(&liar, |_| {}).await;
        let error = format!("{:#}", visit.result.err().unwrap());
        assert!(error.contains(why), "{error}");
        assert_eq!(visit.wallet.asked(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_paid_or_failed_by_the_server_costs_the_viewer_nothing() {
    let liar = Liar::start(|lies| lies.gives = true).await;
    for n in 0..3 {
        let invoice = liar.invoice(n, 2_000, |_| {});
        let text = String::from_utf8(invoice.to_vec()).unwrap();
        let (_, hash) = text.split_once("\"payment_hash\":\"").unwrap();
        let hash = &hash[..64];
        liar.tell(event("paid", &json!({ "payment_hash": hash })));
        liar.tell(invoice);
        liar.tell(event("paid", &json!({ "payment_hash": "11".repeat(32) })));
    }
    liar.tell(event("end", &json!({})));
    let visit = visit(&liar, |_| {}).await;
    let receipt = visit.result.unwrap();
    assert!(receipt.paid_msat <= Msat::new(6_000));
    // What was given before its payment began is not wanted any more, and is told as failed; what was paid is not.
    let told = liar.failed.lock().unwrap().len();
    assert!(told + visit.wallet.asked() <= 3, "{told} of those that were paid are called failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_resumed_after_its_last_event_and_pays_nothing_twice() {
    let liar = Liar::start(|lies| lies.bytes = |_| None).await;
    let invoice = liar.invoice(0, 2_000, |_| {});
    let numbered = [b"id: 7-1\n".as_slice(), &invoice].concat();
    liar.tell(numbered);
    liar.tell(BREAK);
    // Open ones are told again after a reconnection.
    liar.tell(invoice);
    liar.tell(BREAK);
    liar.tell(event("end", &json!({})));
    let visit = visit(&liar, |_| {}).await;
    assert!(matches!(visit.result.unwrap().end, End::Server(_)));
    assert_eq!(visit.wallet.asked(), 1);
    let resumed = liar.resumed.lock().unwrap().clone();
    let last = Some("7-1".to_owned());
    assert_eq!(resumed, [None, last.clone(), last]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_payment_is_reported_until_the_server_hears_of_it_and_others_are_paid_meanwhile() {
    const DEAF: u32 = 3;
    let liar = Liar::start(|lies| (lies.bytes, lies.deaf) = (|_| None, DEAF)).await;
    let wallet = TestWallet::new(&liar.node).script([Answer::Fails]);
    liar.tell(liar.invoice(0, 2_000, |_| {}));
    liar.tell(liar.invoice(1, 2_000, |_| {}));
    let dir = tempfile::tempdir().unwrap();
    let save = Some(dir.path().join("film.mp4"));
    let order = Order { save, max: Some(Msat::new(20_000)), ..Order::new(&liar.page()) };
    let heard = async {
        let begun = Instant::now();
        let mut paid_before = false;
        while liar.failed.lock().unwrap().is_empty() {
            paid_before |= wallet.paid() > 0;
            assert!(begun.elapsed() < DEADLINE, "the report never arrives");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(paid_before, "a report that waits holds no payment up");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let screen = Remembers::default();
    let receipt = watch(&order, &wallet, &screen, heard).await.unwrap();
    assert_eq!(receipt.end, End::Interrupted);
    assert_eq!(liar.failed.lock().unwrap().len(), 1, "once heard it is not told again");
    assert_eq!(wallet.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visit_that_never_began_leaves_no_file() {
    let liar = Liar::start(|lies| lies.session = json!({})).await;
    let visit = visit(&liar, |_| {}).await;
    assert!(visit.result.is_err());
    assert_eq!(std::fs::read_dir(visit.dir.path()).unwrap().count(), 0);
}
