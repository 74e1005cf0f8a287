//! How many invoices may be asked for: by one client, by all, and how many of them may be unpaid.
//!
//! A rate bounds the work, a debt bounds what is kept: an invoice that is not paid stays on disk for hours, because Lightning accepts its
//! payment that long. Who pays is not in debt, and finds room that is kept for those who pay.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::{Client, Error, Options};
use crate::runtime::lock;

/// Lightning accepts a payment for two hours of block time after an invoice expired, and block time lags by up to two: so long is the
/// record of an unpaid invoice kept after its expiry.
pub const LATE_SECONDS: u64 = 4 * 3_600;
/// Clients remembered at once. Beyond it those that are quiet are forgotten at once, and new ones wait.
const CLIENTS_MAX: usize = 100_000;
/// A quarter of both bounds for all is kept for those who have paid.
const KEPT_FOR_PAYERS: u32 = 4;
/// A payment is good for so many invoices out of what is kept, and many payments for so many at once: to take it up one must have paid an
/// eighth of it.
const INVOICES_PER_PAYMENT: u32 = 8;
const INVOICES_KEPT_MAX: u32 = 64;
/// Who has not paid for this long has not paid; it is remembered for half of it at least.
const REMEMBERED_MS: u64 = 6 * 3_600 * 1_000;
/// When there is no room.
const LATER: Duration = Duration::from_secs(30);

/// The limits and who is how near to them.
pub(super) struct Limits {
    per_client: DefaultKeyedRateLimiter<Client>,
    in_all: DefaultDirectRateLimiter,
    /// What of it those may take who have not paid.
    strangers: DefaultDirectRateLimiter,
    payers: Mutex<Payers>,
    /// Until when each client's unpaid invoices weigh on it, in milliseconds since the Unix epoch: each adds `weight_ms`, time and payments
    /// take it off.
    debts: Mutex<HashMap<Client, u64>>,
    weight_ms: u64,
    window_ms: u64,
    unpaid_max: u64,
}

impl Limits {
    pub(super) fn new(options: &Options) -> Self {
        let window_s = LATE_SECONDS.saturating_add(u64::from(options.invoice_expiry_seconds));
        let window_ms = window_s.saturating_mul(1_000);
        let per_second = options.challenges_per_second.get();
        let strangers = NonZeroU32::new(per_second.saturating_sub(per_second / KEPT_FOR_PAYERS));
        let strangers = strangers.unwrap_or(NonZeroU32::MIN);
        let weight_ms = window_ms / u64::from(options.unpaid_per_client_max.get());
        Self {
            per_client: RateLimiter::keyed(rate(options.challenges_per_client_per_minute)),
            in_all: RateLimiter::direct(Quota::per_second(options.challenges_per_second)),
            strangers: RateLimiter::direct(Quota::per_second(strangers)),
            payers: Mutex::default(),
            debts: Mutex::default(),
            weight_ms,
            window_ms,
            unpaid_max: options.unpaid_max,
        }
    }

    /// Counts a request of a client that leads to an invoice.
    pub(super) fn client(&self, client: Client) -> Result<(), Error> {
        if self.per_client.len() >= CLIENTS_MAX {
            self.per_client.retain_recent();
            if self.per_client.len() >= CLIENTS_MAX {
                return Err(Error::TooMany { retry_after: LATER });
            }
        }
        self.per_client.check_key(&client).map_err(too_many)
    }

    /// Counts an invoice against what all may ask for, where there is room for one that is not paid. Who has paid finds room where others find
    /// none.
    pub(super) fn in_all(
        &self,
        client: Option<Client>,
        unpaid: u64,
        now_ms: u64,
    ) -> Result<(), Error> {
        let full = Error::TooMany { retry_after: LATER };
        if unpaid >= self.unpaid_max {
            return Err(full);
        }
        let kept = self.unpaid_max / u64::from(KEPT_FOR_PAYERS);
        let open = if unpaid < self.unpaid_max.saturating_sub(kept) {
            self.strangers.check().map_err(too_many)
        } else {
            Err(full)
        };
        match open {
            Ok(()) => self.in_all.check().map_err(too_many),
            Err(full) => {
                let Some(client) = client else { return Err(full) };
                let mut payers = lock(&self.payers);
                if payers.left(client, now_ms).unwrap_or_default() == 0 {
                    return Err(full);
                }
                // Taken last: what is refused uses up nothing.
                self.in_all.check().map_err(too_many)?;
                payers.take(client, now_ms);
                Ok(())
            }
        }
    }

    /// Counts what leads to invoices and costs nothing yet: who has paid lately finds room where others do not.
    pub(super) fn rate_in_all(&self, client: Client, now_ms: u64) -> Result<(), Error> {
        if let Err(full) = self.strangers.check().map_err(too_many)
            && !self.has_paid(client, now_ms)
        {
            return Err(full);
        }
        self.in_all.check().map_err(too_many)
    }

    /// Whether a client has paid lately.
    pub(super) fn has_paid(&self, client: Client, now_ms: u64) -> bool {
        lock(&self.payers).left(client, now_ms).is_some()
    }

    /// A client gets an invoice, and owes it.
    pub(super) fn owe(&self, client: Client, now_ms: u64) -> Result<(), Error> {
        let mut debts = lock(&self.debts);
        if debts.len() >= CLIENTS_MAX && !debts.contains_key(&client) {
            debts.retain(|_, until| *until > now_ms);
            if debts.len() >= CLIENTS_MAX {
                return Err(Error::TooMany { retry_after: LATER });
            }
        }
        let until = debts.get(&client).copied().unwrap_or_default().max(now_ms);
        let next = until.saturating_add(self.weight_ms);
        let latest = now_ms.saturating_add(self.window_ms);
        if next > latest {
            let wait = Duration::from_millis(next.saturating_sub(latest));
            return Err(Error::TooMany { retry_after: wait });
        }
        debts.insert(client, next);
        Ok(())
    }

    /// A client was served what it paid.
    pub(super) fn paid(&self, client: Client, now_ms: u64) {
        lock(&self.payers).paid(client, now_ms);
        if let Some(until) = lock(&self.debts).get_mut(&client) {
            *until = until.saturating_sub(self.weight_ms);
        }
    }

    /// Forgets clients that have been quiet.
    pub(super) fn forget_quiet(&self, now_ms: u64) {
        self.per_client.retain_recent();
        self.per_client.shrink_to_fit();
        lock(&self.payers).turn_over(now_ms);
        let mut debts = lock(&self.debts);
        debts.retain(|_, until| *until > now_ms);
        debts.shrink_to_fit();
    }
}

/// Who has paid lately, and for how many invoices of what is kept that is good. Two generations: a payment brings a client into the younger one,
/// and when that is full or half the time is over, the older one is forgotten whole.
#[derive(Debug, Default)]
struct Payers {
    young: HashMap<Client, u32>,
    old: HashMap<Client, u32>,
    since_ms: u64,
}

impl Payers {
    fn paid(&mut self, client: Client, now_ms: u64) {
        self.turn_over(now_ms);
        let before = self.left(client, now_ms).unwrap_or_default();
        if self.young.len() >= CLIENTS_MAX / 2 && !self.young.contains_key(&client) {
            self.next_generation(now_ms);
        }
        let left = before.saturating_add(INVOICES_PER_PAYMENT).min(INVOICES_KEPT_MAX);
        self.young.insert(client, left);
    }

    fn left(&mut self, client: Client, now_ms: u64) -> Option<u32> {
        self.turn_over(now_ms);
        self.young.get(&client).or_else(|| self.old.get(&client)).copied()
    }

    /// One invoice of what is kept, where the client has paid for it.
    fn take(&mut self, client: Client, now_ms: u64) -> bool {
        self.turn_over(now_ms);
        let of_young = self.young.get_mut(&client);
        let Some(left) = of_young.or_else(|| self.old.get_mut(&client)) else { return false };
        let taken = left.checked_sub(1);
        *left = taken.unwrap_or_default();
        taken.is_some()
    }

    fn turn_over(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) >= REMEMBERED_MS {
            self.next_generation(now_ms);
            self.old = HashMap::new();
        } else if now_ms.saturating_sub(self.since_ms) >= REMEMBERED_MS / 2 {
            self.next_generation(now_ms);
        }
    }

    fn next_generation(&mut self, now_ms: u64) {
        self.old = std::mem::take(&mut self.young);
        self.since_ms = now_ms;
    }
}

fn rate(per_minute: NonZeroU32) -> Quota {
    Quota::per_minute(per_minute)
}

fn too_many(not_until: governor::NotUntil<governor::clock::QuantaInstant>) -> Error {
    let now = governor::clock::DefaultClock::default().now();
    Error::TooMany { retry_after: not_until.wait_time_from(now) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Client = Client(1);

    fn limits() -> Limits {
        let four = NonZeroU32::new(4).unwrap();
        Limits::new(&Options { unpaid_per_client_max: four, unpaid_max: 10, ..Options::default() })
    }

    #[test]
    fn who_does_not_pay_is_in_debt_until_time_or_a_payment_takes_it_off() {
        let limits = limits();
        for _ in 0..4 {
            limits.owe(ME, 0).unwrap();
        }
        let Err(Error::TooMany { retry_after }) = limits.owe(ME, 0) else { panic!("in debt") };
        let now_ms = u64::try_from(retry_after.as_millis()).unwrap();
        assert!(limits.owe(ME, now_ms - 1).is_err());
        limits.owe(Client(2), 0).unwrap();
        limits.owe(ME, now_ms).unwrap();
        assert!(limits.owe(ME, now_ms).is_err());
        limits.paid(ME, now_ms);
        limits.owe(ME, now_ms).unwrap();
    }

    #[test]
    fn the_number_of_unpaid_invoices_is_bounded_and_a_quarter_is_kept_for_who_paid() {
        let limits = limits();
        assert!(limits.in_all(Some(ME), 7, 0).is_ok());
        assert!(limits.in_all(Some(ME), 8, 0).is_err());
        limits.paid(ME, 0);
        assert!(limits.in_all(Some(ME), 9, 0).is_ok());
        assert!(limits.in_all(Some(ME), 10, 0).is_err());
        assert!(limits.in_all(Some(Client(2)), 8, 0).is_err());
        assert!(limits.in_all(None, 8, 0).is_err());
    }

    #[test]
    fn a_payment_is_good_for_so_many_invoices_of_what_is_kept_and_for_so_long() {
        let limits = limits();
        let got = |payments: u32, now_ms| {
            (0..payments).for_each(|_| limits.paid(ME, 0));
            (0..1_000).filter(|_| limits.in_all(Some(ME), 9, now_ms).is_ok()).count()
        };
        assert_eq!(got(1, 0), 8);
        assert_eq!(got(0, 0), 0);
        assert_eq!(got(20, REMEMBERED_MS / 2), 64);
        assert_eq!(got(1, REMEMBERED_MS * 3 / 2), 0, "long ago");
        assert!(!limits.has_paid(ME, REMEMBERED_MS * 3 / 2));
    }

    #[test]
    fn a_quarter_of_the_rate_is_kept_for_who_paid() {
        let eight = NonZeroU32::new(8).unwrap();
        let limits = Limits::new(&Options { challenges_per_second: eight, ..Options::default() });
        let stranger = Some(Client(2));
        let got = (0..20).filter(|_| limits.in_all(stranger, 0, 0).is_ok()).count();
        assert!((6..8).contains(&got), "{got}");
        limits.paid(ME, 0);
        assert!(limits.in_all(Some(ME), 0, 0).is_ok(), "what is kept");
        assert!(limits.in_all(stranger, 0, 0).is_err());
    }

    #[test]
    fn who_paid_is_remembered_within_a_bound_and_the_latest_are() {
        let mut payers = Payers::default();
        let last = 3 * CLIENTS_MAX as u64;
        for client in 0..=last {
            payers.paid(Client(client), 0);
            assert!(payers.young.len() + payers.old.len() <= CLIENTS_MAX);
        }
        assert_eq!(payers.left(Client(last - CLIENTS_MAX as u64 / 2 + 1), 0), Some(8));
        assert_eq!(payers.left(Client(0), 0), None);
    }

    #[test]
    fn the_quiet_are_forgotten() {
        let limits = limits();
        limits.owe(ME, 0).unwrap();
        limits.forget_quiet(limits.window_ms);
        assert!(lock(&limits.debts).is_empty());
    }
}
