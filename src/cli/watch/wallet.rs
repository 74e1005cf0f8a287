//! The viewer's wallet, as watching sees it.

use async_trait::async_trait;

use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, Preimage};
use crate::lightning::Network;

pub(super) mod http;
pub(super) mod node;
pub(super) mod nwc;

/// A payment to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The BOLT 11 text.
    pub bolt11: String,
    /// Its hash.
    pub hash: PaymentHash,
    /// The most that the route may cost, where the wallet can hold to it.
    pub fee_max: Msat,
}

/// How a payment went.
#[derive(Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It arrived.
    Paid {
        /// The proof.
        preimage: Preimage,
        /// What the route cost, where the wallet tells.
        fee: Option<Msat>,
    },
    /// Nothing was and will be sent, for this reason.
    Failed(String),
    /// It may be under way or have arrived.
    Unknown(String),
}

/// Pays invoices that were checked before.
#[async_trait]
pub trait Wallet: Send + Sync {
    /// Its network, where it tells.
    async fn network(&self) -> Option<Network> {
        None
    }

    /// What it can spend, where it tells.
    async fn spendable(&self) -> Option<Msat> {
        None
    }

    /// Pays an invoice; called once for each.
    async fn pay(&self, payment: &Payment) -> Outcome;

    /// What became of a payment; sends nothing.
    async fn look_up(&self, payment: &Payment) -> Outcome;

    /// Lets go of what it holds.
    async fn close(&self) {}
}
