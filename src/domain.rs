//! The rules of the house, pure: no tokio, no axum, no files, no clock. Everything above asks these types to decide.

// Tests may count plainly: an overflow in one is its failure.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod amount;
pub mod destination;
pub mod id;
pub mod ledger;
pub mod session;
pub mod subtitle;
pub mod video;
