//! What the viewer sees beside the film: the price, a question, a tally that lives, and notes. All of it on standard error.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::receipt::sat;
use super::{Asked, Screen, Totals};
use crate::cli::output;
use crate::runtime::lock;

/// Without a terminal, a line this often is enough.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The terminal, or what takes its place.
pub(super) struct Terminal {
    bar: Option<ProgressBar>,
    asks: bool,
    last: Mutex<(Option<Instant>, Totals)>,
}

impl Terminal {
    /// `asks` where the price is to be accepted by hand.
    pub(super) fn new(asks: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, asks, last: Mutex::new((None, Totals::default())) }
    }

    /// Takes the tally away, so that what comes next stands alone.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[async_trait]
impl Screen for Terminal {
    async fn accept(&self, asked: &Asked) -> bool {
        self.note(&asked.words());
        if !self.asks || asked.whole.is_zero() {
            return true;
        }
        if !std::io::stdin().is_terminal() {
            self.note("say --yes or --max-sat N to accept this without being asked");
            return false;
        }
        self.note("Pay that, segment by segment? [y/N]");
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).map(|_| answer)
        });
        matches!(answer.await, Ok(Ok(answer)) if matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }

    fn url(&self, url: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::line(url)),
            None => output::line(url),
        }
    }

    fn tally(&self, totals: &Totals) {
        if let Some(bar) = &self.bar {
            bar.set_message(line(totals));
            bar.tick();
            return;
        }
        let mut last = lock(&self.last);
        let due = last.0.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        let same = Totals { watched_ms: 0, ..last.1 } == Totals { watched_ms: 0, ..*totals };
        if due && !same {
            *last = (Some(Instant::now()), *totals);
            drop(last);
            output::note(&line(totals));
        }
    }
}

fn line(totals: &Totals) -> String {
    let spent = totals.paid.checked_add(totals.fees).unwrap_or(totals.paid);
    let minute =
        u128::from(spent.get()).saturating_mul(60_000) / u128::from(totals.watched_ms.max(1));
    let minute = if totals.watched_ms < 1_000 { 0 } else { minute / 1_000 };
    let flying = match totals.under_way {
        0 => String::new(),
        n => format!(", {n} under way"),
    };
    format!(
        "segment {} · {} paid + {} fees in {} payments{flying} · {minute} sat/min · {} left",
        totals.position,
        sat(totals.paid),
        sat(totals.fees),
        totals.payments,
        sat(totals.left),
    )
}
