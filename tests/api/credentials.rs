//! Which credentials open a segment, in which spellings, when, and what each does to the books; everything else gets a challenge that can
//! be paid. One table.

use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use sluice::domain::id::Preimage;
use sluice::paywall::token::parse_authorization;
use sluice::runtime::Clock as _;
use sluice::store::Ledger as _;

use crate::app::{Challenge, Film, Reply, TestApp};
use crate::transcoder::bytes;

/// A title, and the challenge of its segment 1 (2,000 msat).
struct Stand {
    app: TestApp,
    film: Film,
    challenge: Challenge,
}

/// What was asked for, and the answer.
type Shown = (String, Reply);

impl Stand {
    async fn new() -> Self {
        let app = TestApp::new();
        let film = app.film().await;
        let challenge = Challenge::of(&app.get(&film.segment(1)).await);
        Self { app, film, challenge }
    }

    /// The parts of the credential, its invoice paid: macaroon and 64 digits.
    async fn paid(&self) -> (&str, String) {
        (&self.challenge.macaroon, String::from(self.app.pay(&self.challenge.invoice).await))
    }

    async fn credential(&self) -> String {
        let (macaroon, preimage) = self.paid().await;
        format!("L402 {macaroon}:{preimage}")
    }

    async fn ask(&self, method: &str, path: String, headers: &[(&str, &str)]) -> Shown {
        let mut call = self.app.call(method, &path);
        for (name, value) in headers {
            call = call.with(name, value);
        }
        (path, call.send().await)
    }

    async fn show(&self, value: &str) -> Shown {
        self.ask("GET", self.film.segment(1), &[("authorization", value)]).await
    }

    /// Shows it with a `Range`.
    async fn range(&self, range: &str) -> Shown {
        let credential = self.credential().await;
        let headers = [("authorization", credential.as_str()), ("range", range)];
        self.ask("GET", self.film.segment(1), &headers).await
    }

    async fn head(&self, credential: &str) -> Shown {
        self.ask("HEAD", self.film.segment(1), &[("authorization", credential)]).await
    }

    /// Another challenge of the same segment, for somebody else.
    async fn others(&self) -> Challenge {
        Challenge::of(&self.app.get(&self.film.segment(1)).await)
    }

    fn later(&self, seconds: u64) {
        self.app.advance(Duration::from_secs(seconds));
    }

    /// Viewers' credit, what is earned by creator and operator, and what nobody claims.
    async fn books(&self) -> (u64, u64, u64) {
        let totals = self.app.ledger().await;
        let of = |name: &str| totals[name].as_u64().unwrap();
        let earned = of("payable_msat") + of("fee_msat");
        (of("viewer_credit_msat"), earned, of("unclaimed_msat"))
    }
}

/// What the answer must be.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// 200 and the whole segment.
    Served,
    /// 206, and this many bytes.
    Part(usize),
    /// 416.
    BadRange,
    /// 402 with a challenge that, once paid, opens what was asked for.
    Challenged,
    /// 200 without a body, and nothing redeemed.
    Told,
    /// 402 without a challenge.
    Refused,
}

type Books = (u64, u64, u64);

const NOTHING: Books = (0, 0, 0);
/// Paid, and not served.
const CREDIT: Books = (2_000, 0, 0);
/// Paid, served, earned: once.
const EARNED: Books = (0, 2_000, 0);

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

type Make = for<'a> fn(&'a Stand) -> BoxFuture<'a, Shown>;

/// The name of a row, how its answer comes about, what that must be, and what the books say afterwards.
type Row = (&'static str, Make, Answer, Books);

macro_rules! row {
    ($name:literal, |$stand:ident| $make:expr, $answer:expr, $books:expr) => {
        ($name, (|$stand| Box::pin(async move { $make })) as Make, $answer, $books)
    };
}

use Answer::{BadRange, Challenged, Part, Refused, Served, Told};

/// What opens nothing.
fn bad() -> Vec<Row> {
    vec![
        row!("missing", |s| s.ask("GET", s.film.segment(1), &[]).await, Challenged, NOTHING),
        row!("a scheme alone", |s| s.show("L402").await, Challenged, NOTHING),
        row!("garbled", |s| s.show("L402 \u{1f4b8}!:x").await, Challenged, NOTHING),
        row!("a macaroon of zeros", |s| s.show(&zeros(1_000)).await, Challenged, NOTHING),
        row!(
            "64 KiB of header",
            |s| {
                let (macaroon, preimage) = s.paid().await;
                let long = format!("L402 {}{macaroon}:{preimage}", "A".repeat(64 << 10));
                assert!(parse_authorization(long.as_bytes()).is_none());
                assert!(parse_authorization(&[b' '; 64 << 10]).is_none());
                assert!(parse_authorization(&b"L402 ".repeat(13_108)).is_none());
                s.show(&long).await
            },
            Challenged,
            CREDIT
        ),
        row!(
            "garbled macaroon",
            |s| {
                let (macaroon, preimage) = s.paid().await;
                let turned: String = macaroon.chars().rev().collect();
                s.show(&format!("L402 {turned}:{preimage}")).await
            },
            Challenged,
            CREDIT
        ),
        row!(
            "truncated macaroon",
            |s| {
                let (macaroon, preimage) = s.paid().await;
                s.show(&format!("L402 {}:{preimage}", &macaroon[..macaroon.len() - 8])).await
            },
            Challenged,
            CREDIT
        ),
        row!(
            "truncated preimage",
            |s| s.show(s.credential().await.strip_suffix(|_: char| true).unwrap()).await,
            Challenged,
            CREDIT
        ),
        row!(
            "no macaroon",
            |s| s.show(&format!("L402 :{}", s.paid().await.1)).await,
            Challenged,
            CREDIT
        ),
        row!(
            "no preimage",
            |s| s.show(&format!("L402 {}", s.paid().await.0)).await,
            Challenged,
            CREDIT
        ),
        row!(
            "another scheme",
            |s| s.show(&s.credential().await.replace("L402", "Bearer")).await,
            Challenged,
            CREDIT
        ),
        row!(
            "a scheme thrice",
            |s| s.show(&format!("L402 L402 {}", s.credential().await)).await,
            Challenged,
            CREDIT
        ),
        row!(
            "wrong preimage",
            |s| {
                let (macaroon, _) = s.paid().await;
                s.show(&format!("L402 {macaroon}:{}", "00".repeat(32))).await
            },
            Challenged,
            CREDIT
        ),
        row!(
            "foreign segment",
            |s| {
                let credential = s.credential().await;
                s.ask("GET", s.film.segment(2), &[("authorization", &credential)]).await
            },
            Challenged,
            CREDIT
        ),
        row!(
            "foreign title",
            |s| {
                let credential = s.credential().await;
                let other = s.app.film().await;
                s.ask("GET", other.segment(1), &[("authorization", &credential)]).await
            },
            Challenged,
            CREDIT
        ),
        row!(
            "right preimage with somebody else's token",
            |s| {
                let (_, preimage) = s.paid().await;
                s.show(&format!("L402 {}:{preimage}", s.others().await.macaroon)).await
            },
            Challenged,
            CREDIT
        ),
    ]
}

/// What opens its segment, however it is written.
fn spelled() -> Vec<Row> {
    vec![
        row!("as issued", |s| s.show(&s.credential().await).await, Served, EARNED),
        row!(
            "LSAT",
            |s| s.show(&s.credential().await.replace("L402", "LSAT")).await,
            Served,
            EARNED
        ),
        row!(
            "lower case",
            |s| s.show(&s.credential().await.replace("L402", "l402")).await,
            Served,
            EARNED
        ),
        row!(
            "doubled scheme",
            |s| s.show(&format!("L402 {}", s.credential().await)).await,
            Served,
            EARNED
        ),
        row!(
            "both schemes",
            |s| s.show(&format!("lsat {}", s.credential().await)).await,
            Served,
            EARNED
        ),
        row!(
            "two spaces",
            |s| s.show(&s.credential().await.replace(' ', "  ")).await,
            Served,
            EARNED
        ),
        row!(
            "upper-case hex",
            |s| {
                let (macaroon, preimage) = s.paid().await;
                s.show(&format!("L402 {macaroon}:{}", preimage.to_uppercase())).await
            },
            Served,
            EARNED
        ),
        row!(
            "without padding",
            |s| s.show(&s.credential().await.replace('=', "")).await,
            Served,
            EARNED
        ),
        row!(
            "the URL-safe alphabet",
            |s| {
                let (macaroon, preimage) = s.paid().await;
                let macaroon = macaroon.replace('+', "-").replace('/', "_").replace('=', "");
                s.show(&format!("L402 {macaroon}:{preimage}")).await
            },
            Served,
            EARNED
        ),
        row!(
            "two headers, the good one last",
            |s| {
                let good = s.credential().await;
                let wrong = s.others().await.credential(Preimage::new([9; 32]));
                let headers = [("authorization", wrong.as_str()), ("authorization", &good)];
                s.ask("GET", s.film.segment(1), &headers).await
            },
            Served,
            EARNED
        ),
        row!(
            "two headers, the good one first",
            |s| {
                let good = s.credential().await;
                let headers = [("authorization", good.as_str()), ("authorization", "Bearer x")];
                s.ask("GET", s.film.segment(1), &headers).await
            },
            Served,
            EARNED
        ),
        row!(
            "another rendition",
            |s| {
                let (path, value) = (s.film.segment(1), s.credential().await);
                s.ask("GET", path.replace("480p", "240p"), &[("authorization", &value)]).await
            },
            Served,
            EARNED
        ),
        row!("a range", |s| s.range("bytes=2-5").await, Part(4), EARNED),
        row!("the first bytes of a player", |s| s.range("bytes=0-").await, Part(140), EARNED),
        row!("several ranges", |s| s.range("bytes=0-1,4-5").await, Served, EARNED),
        row!("a range beyond the end", |s| s.range("bytes=9999-").await, BadRange, CREDIT),
        row!("HEAD, paid", |s| s.head(&s.credential().await).await, Told, CREDIT),
        row!("HEAD, unpaid", |s| s.head("L402 x:y").await, Refused, NOTHING),
    ]
}

/// What opens its segment at some times and not at others.
fn timed() -> Vec<Row> {
    vec![
        row!(
            "unpaid and expired",
            |s| {
                s.later(11 * MINUTE);
                s.show(&format!("L402 {}:{}", s.challenge.macaroon, "00".repeat(32))).await
            },
            Challenged,
            NOTHING
        ),
        row!(
            "unpaid, expired, and its record forgotten",
            |s| {
                s.later(4 * HOUR);
                let now = s.app.clock.now_s();
                let swept = s.app.store.sweep(now - 2 * HOUR, 0, now * 1_000).unwrap();
                assert_eq!(swept.forgotten, 1);
                s.show(&format!("L402 {}:{}", s.challenge.macaroon, "00".repeat(32))).await
            },
            Challenged,
            NOTHING
        ),
        row!(
            "paid after the invoice's expiry",
            |s| {
                s.later(2 * HOUR);
                s.show(&s.credential().await).await
            },
            Served,
            EARNED
        ),
        row!(
            "paid and first shown a day later",
            |s| {
                let credential = s.credential().await;
                s.later(DAY);
                s.show(&credential).await
            },
            Served,
            EARNED
        ),
        row!(
            "paid and shown when its time was over",
            |s| {
                let credential = s.credential().await;
                s.later(8 * DAY);
                let now = s.app.clock.now_ms();
                let swept = s.app.store.sweep(0, now - 7 * DAY * 1_000, now).unwrap();
                assert_eq!(swept.expired, 1);
                s.show(&credential).await
            },
            Challenged,
            EARNED
        ),
        row!(
            "shown before the node's event, which comes while it waits",
            |s| {
                let preimage = s.app.node.pay_silently(&s.challenge.invoice).unwrap();
                let credential = s.challenge.credential(preimage);
                let told = async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    s.app.node.tell();
                };
                futures::join!(s.show(&credential), told).0
            },
            Served,
            EARNED
        ),
        row!(
            "shown before the node's event, which comes long after",
            |s| {
                let preimage = s.app.node.pay_silently(&s.challenge.invoice).unwrap();
                let shown = s.show(&s.challenge.credential(preimage)).await;
                assert_eq!(s.books().await, EARNED);
                s.app.node.tell();
                s.app.settled().await;
                shown
            },
            Served,
            EARNED
        ),
        row!(
            "again within the grace",
            |s| {
                let credential = s.credential().await;
                s.show(&credential).await;
                s.later(MINUTE);
                s.show(&credential).await
            },
            Served,
            EARNED
        ),
        row!(
            "again after the grace",
            |s| {
                let credential = s.credential().await;
                s.show(&credential).await;
                s.later(MINUTE + 1);
                s.show(&credential).await
            },
            Challenged,
            EARNED
        ),
        row!(
            "again with HEAD after the grace",
            |s| {
                let credential = s.credential().await;
                s.show(&credential).await;
                s.later(MINUTE + 1);
                s.head(&credential).await
            },
            Refused,
            EARNED
        ),
        row!(
            "paid twice, served, and shown again long after its record is gone",
            |s| {
                let credential = s.credential().await;
                s.app.pay(&s.challenge.invoice).await;
                s.show(&credential).await;
                s.later(8 * DAY);
                let now = s.app.clock.now_ms();
                let swept = s.app.store.sweep(0, now - 7 * DAY * 1_000, now).unwrap();
                assert_eq!(swept.forgotten, 1);
                // The second payment is nobody's, and this its proof.
                s.show(&credential).await
            },
            Served,
            (0, 4_000, 0)
        ),
        row!(
            "paid twice and shown twice",
            |s| {
                let credential = s.credential().await;
                s.app.pay(&s.challenge.invoice).await;
                s.show(&credential).await;
                s.show(&credential).await
            },
            Served,
            (0, 2_000, 2_000)
        ),
    ]
}

fn zeros(len: usize) -> String {
    format!("L402 {}:{}", "A".repeat(len), "00".repeat(32))
}

async fn check((name, make, answer, books): Row) {
    let stand = Stand::new().await;
    let (path, reply) = make(&stand).await;
    assert_eq!(stand.books().await, books, "{name}: {reply:?}");
    let status = reply.status.as_u16();
    match answer {
        Served => {
            let rendition = if path.contains("240p") { "240p" } else { "480p" };
            assert_eq!((status, &reply.body[..]), (200, &bytes(rendition, Some(1))[..]), "{name}");
        }
        Part(len) => assert_eq!((status, reply.body.len()), (206, len), "{name}"),
        BadRange => assert_eq!(status, 416, "{name}"),
        Told => assert_eq!((status, reply.body.len()), (200, 0), "{name}"),
        Refused => {
            assert_eq!((status, reply.header("www-authenticate")), (402, None), "{name}");
        }
        Challenged => {
            let fresh = Challenge::of(&reply);
            assert_ne!(fresh.invoice, stand.challenge.invoice, "{name}");
            let credential = fresh.credential(stand.app.pay(&fresh.invoice).await);
            let call = stand.app.call("GET", &path).with("authorization", &credential);
            assert_eq!(call.send().await.status, 200, "{name}: the fresh challenge, paid");
        }
    }
}

#[tokio::test]
async fn every_credential_gets_the_answer_that_the_table_says_and_leaves_the_books_so() {
    // Side by side, because one of them waits for its eight seconds.
    join_all([bad(), spelled(), timed()].into_iter().flatten().map(check)).await;
}
