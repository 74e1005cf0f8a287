//! What a visit came to: how it ended, what was watched, and each payment with its proof.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, Preimage};

/// How a visit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The film or the player came to its end.
    Film,
    /// The viewer interrupted it.
    Interrupted,
    /// The budget is used up.
    Spent(String),
    /// The server asked for what it must not, or gave nothing for the money.
    Lied(String),
    /// The wallet could not pay, or it is not known whether it did.
    Wallet(String),
    /// The server went away.
    Server(String),
    /// The player failed.
    Player(String),
}

impl End {
    /// What a script sees: 0 the end of the film, 1 trouble, 3 the budget, 4 the server lied, 5 the wallet, 130 interrupted.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Film => 0,
            Self::Server(_) | Self::Player(_) => 1,
            Self::Spent(_) => 3,
            Self::Lied(_) => 4,
            Self::Wallet(_) => 5,
            Self::Interrupted => 130,
        })
    }

    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Film => "the film is over".to_owned(),
            Self::Interrupted => "interrupted".to_owned(),
            Self::Spent(why) => format!("the budget is used up: {why}"),
            Self::Lied(why) => format!("the server does not keep to what was agreed: {why}"),
            Self::Wallet(why) | Self::Server(why) | Self::Player(why) => why.clone(),
        }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Film => "film",
            Self::Interrupted => "interrupted",
            Self::Spent(_) => "budget",
            Self::Lied(_) => "server_lied",
            Self::Wallet(_) => "wallet",
            Self::Server(_) => "server",
            Self::Player(_) => "player",
        }
    }
}

/// One payment.
#[derive(Clone, PartialEq, Eq)]
pub struct Payment {
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// Its proof, where the wallet gave one.
    pub preimage: Option<Preimage>,
    /// What the invoice asked.
    pub amount_msat: Msat,
    /// What the route cost, where the wallet tells.
    pub fee_msat: Option<Msat>,
    /// What it was for.
    pub segments: Vec<u32>,
    /// False where it is not known whether it arrived.
    pub known: bool,
}

/// The file that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Saved {
    /// Where.
    pub file: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its segments.
    pub segments: u32,
    /// How often it jumps.
    pub gaps: u32,
}

/// A visit's receipt.
#[derive(Clone)]
pub struct Receipt {
    /// The title.
    pub title: String,
    /// Its page.
    pub url: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub begun_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// How long was watched, pauses left out.
    pub watched_ms: u64,
    /// Segments that arrived.
    pub segments: u32,
    /// Whether that is the whole film.
    pub whole: bool,
    /// What was paid, without fees.
    pub paid_msat: Msat,
    /// Fees, as far as the wallet tells.
    pub fee_msat: Msat,
    /// Each payment.
    pub payments: Vec<Payment>,
    /// The file.
    pub saved: Option<Saved>,
    /// Whether one was asked for.
    pub saves: bool,
    /// How it ended.
    pub end: End,
}

impl Receipt {
    /// Lines for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<10} {value}");
        };
        line("watched", self.title.clone());
        line("from", self.url.clone());
        let part = if self.whole { ", the whole film" } else { "" };
        line("segments", format!("{}{part}", self.segments));
        let known = self.payments.iter().filter(|payment| payment.known);
        let (count, fees) =
            (known.clone().count(), known.filter(|of| of.fee_msat.is_none()).count());
        line("paid", format!("{} in {count} payments", sat(self.paid_msat)));
        let more = if fees > 0 {
            format!(", and what the wallet does not tell of {fees} payments")
        } else {
            String::new()
        };
        line("fees", format!("{}{more}", sat(self.fee_msat)));
        for payment in self.payments.iter().filter(|payment| !payment.known) {
            line("unknown", format!("{} for {}", sat(payment.amount_msat), payment.payment_hash));
        }
        match &self.saved {
            Some(saved) => {
                let gaps = match saved.gaps {
                    0 => String::new(),
                    gaps => format!(", {gaps} gaps"),
                };
                let file = saved.file.display();
                line("kept", format!("{} segments{gaps} in {file}", saved.segments));
            }
            None if self.saves => line("kept", "nothing".to_owned()),
            None => {}
        }
        line("ended", self.end.words());
        text.trim_end().to_owned()
    }

    /// As JSON; with the proofs only where it goes to a private file.
    pub fn json(&self, proofs: bool) -> Value {
        let payments = self.payments.iter().map(|payment| {
            let mut told = json!({
                "payment_hash": payment.payment_hash,
                "amount_msat": payment.amount_msat,
                "fee_msat": payment.fee_msat,
                "segments": payment.segments,
                "outcome": if payment.known { "paid" } else { "unknown" },
            });
            if let (true, Some(told)) = (proofs, told.as_object_mut()) {
                told.insert("preimage".to_owned(), json!(payment.preimage));
            }
            told
        });
        json!({
            "title": self.title,
            "url": self.url,
            "begun_ms": self.begun_ms,
            "ended_ms": self.ended_ms,
            "watched_ms": self.watched_ms,
            "segments": self.segments,
            "whole": self.whole,
            "paid_msat": self.paid_msat,
            "fee_msat": self.fee_msat,
            "payments": payments.collect::<Vec<_>>(),
            "saved": self.saved,
            "end": self.end.word(),
            "reason": self.end.words(),
        })
    }
}

/// An amount in satoshi, exact.
pub(super) fn sat(amount: Msat) -> String {
    let (whole, rest) = (amount.get() / 1_000, amount.get() % 1_000);
    if rest == 0 { format!("{whole} sat") } else { format!("{whole}.{rest:03} sat") }
}
