//! Use case: the operator's node and the server's health.

use std::sync::Arc;

use serde::Serialize;

use crate::lightning::{self, Channel, NodeInfo, Operator};
use crate::paywall::Suspension;

/// Looks after the node.
#[derive(Clone)]
pub struct Operations {
    /// The node.
    pub node: Arc<dyn Operator>,
    /// Set while payments cannot be booked.
    pub suspension: Suspension,
}

/// Whether the server can do all that it is for, and what is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// All is well.
    pub ready: bool,
    /// What is missing, in words.
    pub missing: Vec<String>,
}

/// What the usable channels hold together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sides {
    /// How many can be used.
    pub usable: usize,
    /// What can be received.
    pub inbound_msat: u64,
    /// What can be sent.
    pub outbound_msat: u64,
    /// What is on its way.
    pub pending_msat: u64,
}

impl Sides {
    /// Of a node's channels.
    pub fn of(channels: &[Channel]) -> Self {
        let mut sides = Self::default();
        for channel in channels.iter().filter(|channel| channel.usable) {
            let add = |sum: u64, more: u64| sum.saturating_add(more);
            sides.usable = sides.usable.saturating_add(1);
            sides.inbound_msat = add(sides.inbound_msat, channel.inbound_msat);
            sides.outbound_msat = add(sides.outbound_msat, channel.outbound_msat);
            let pending = channel.pending_msat.unwrap_or_default();
            sides.pending_msat = add(sides.pending_msat, pending);
        }
        sides
    }
}

impl Operations {
    /// Identity, balances and channels.
    pub fn info(&self) -> NodeInfo {
        self.node.info()
    }

    /// A fresh address of the on-chain wallet, which holds the reserve of every channel that a peer opens.
    ///
    /// # Errors
    /// [`lightning::Error`] where the node is not running.
    pub fn address(&self) -> Result<String, lightning::Error> {
        self.node.address()
    }

    /// Whether invoices can be made and paid now.
    pub fn readiness(&self) -> Readiness {
        let mut missing = Vec::new();
        if self.suspension.is_set() {
            missing.push("payments cannot be booked: see the log".to_owned());
        }
        let info = self.node.info();
        let receives = |inbound: u64| inbound > 0;
        if !info.channels.iter().any(|channel| channel.usable && receives(channel.inbound_msat)) {
            missing.push(
                "no usable channel can receive: ask a peer to open one to this node".to_owned(),
            );
        }
        Readiness { ready: missing.is_empty(), missing }
    }
}
