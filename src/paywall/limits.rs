//! How many invoices may be asked for: by one client, by all, and how many of them may be unpaid.
//!
//! A rate bounds the work, a debt bounds what is kept: an invoice that is not paid stays on disk for hours, because Lightning accepts its
//! payment that long. Who pays is not in debt.

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
/// When there is no room.
const LATER: Duration = Duration::from_secs(30);

/// The limits and who is how near to them.
pub(super) struct Limits {
    per_client: DefaultKeyedRateLimiter<Client>,
    in_all: DefaultDirectRateLimiter,
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
        let weight_ms = window_ms / u64::from(options.unpaid_per_client_max.get());
        Self {
            per_client: RateLimiter::keyed(rate(options.challenges_per_client_per_minute)),
            in_all: RateLimiter::direct(Quota::per_second(options.challenges_per_second)),
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

    /// Counts an invoice against what all may ask for, where there is room for one that is not paid.
    pub(super) fn in_all(&self, unpaid: u64) -> Result<(), Error> {
        if unpaid >= self.unpaid_max {
            return Err(Error::TooMany { retry_after: LATER });
        }
        self.in_all.check().map_err(too_many)
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
    pub(super) fn paid(&self, client: Client) {
        if let Some(until) = lock(&self.debts).get_mut(&client) {
            *until = until.saturating_sub(self.weight_ms);
        }
    }

    /// Forgets clients that have been quiet.
    pub(super) fn forget_quiet(&self, now_ms: u64) {
        self.per_client.retain_recent();
        self.per_client.shrink_to_fit();
        let mut debts = lock(&self.debts);
        debts.retain(|_, until| *until > now_ms);
        debts.shrink_to_fit();
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
        limits.paid(ME);
        limits.owe(ME, now_ms).unwrap();
    }

    #[test]
    fn the_number_of_unpaid_invoices_is_bounded() {
        let limits = limits();
        assert!(limits.in_all(9).is_ok());
        assert!(limits.in_all(10).is_err());
    }

    #[test]
    fn the_quiet_are_forgotten() {
        let limits = limits();
        limits.owe(ME, 0).unwrap();
        limits.forget_quiet(limits.window_ms);
        assert!(lock(&limits.debts).is_empty());
    }
}
