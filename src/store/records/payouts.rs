//! What is kept of payouts.

use serde::{Deserialize, Serialize};

use crate::domain::amount::Msat;
use crate::domain::destination::Destination;
use crate::domain::id::{CreatorId, PaymentHash, PayoutId, Preimage};

/// Why a payout came back, or was not made: what a creator is told. The details are in the operator's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was sent and did not arrive, or no way to the destination was found.
    #[default]
    Undelivered,
    /// The destination's service did not answer, or not as LNURL-pay does.
    Unreachable,
    /// The destination's service said no.
    ServiceRefused,
    /// The destination's service takes more at a time than there is.
    BelowLeast,
    /// What came is no BOLT 11 invoice.
    NoInvoice,
    /// The invoice names no amount.
    NoAmount,
    /// The invoice is of another network.
    OtherNetwork,
    /// The invoice asks for another amount.
    OtherAmount,
    /// The invoice does not commit to what the service described (LUD-06).
    OtherDescription,
    /// The invoice would pay this server's own node.
    OwnPayee,
    /// The invoice has expired, or is about to.
    Expired,
    /// A payout of this payment hash was made before.
    SeenBefore,
}

impl Cause {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Undelivered => "undelivered",
            Self::Unreachable => "unreachable",
            Self::ServiceRefused => "service_refused",
            Self::BelowLeast => "below_least",
            Self::NoInvoice => "no_invoice",
            Self::NoAmount => "no_amount",
            Self::OtherNetwork => "other_network",
            Self::OtherAmount => "other_amount",
            Self::OtherDescription => "other_description",
            Self::OwnPayee => "own_payee",
            Self::Expired => "expired",
            Self::SeenBefore => "seen_before",
        }
    }

    /// What a creator reads, with the mend.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Undelivered => "The payment could not be delivered; the amount is payable again.",
            Self::Unreachable => {
                "The wallet's service could not be reached, or did not answer as LNURL-pay does. Check the destination."
            }
            Self::ServiceRefused => {
                "The wallet's service refused the payment. Ask whoever runs it."
            }
            Self::BelowLeast => {
                "The wallet's service takes no payment as small as this; it is paid once more is payable."
            }
            Self::NoInvoice => "This is not a BOLT 11 invoice. Make one in your wallet.",
            Self::NoAmount => "The invoice names no amount. Make one over the amount to be paid.",
            Self::OtherNetwork => {
                "The invoice is of another network than this server's. Use a wallet on the same network."
            }
            Self::OtherAmount => "The invoice asks for another amount than was agreed.",
            Self::OtherDescription => {
                "The invoice does not belong to what the wallet's service described (LUD-06). Ask whoever runs it."
            }
            Self::OwnPayee => {
                "The invoice would pay this server's own node. Make one in your own wallet."
            }
            Self::Expired => "The invoice has expired, or will in a moment. Make a fresh one.",
            Self::SeenBefore => {
                "An invoice of this payment hash was used before. Make a fresh one."
            }
        }
    }
}

/// Where a payout stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PayoutState {
    /// Intended, and perhaps sent: the node is asked before anything is sent again.
    Pending,
    /// It arrived.
    Arrived {
        /// What the route cost.
        fee: Msat,
        /// The proof.
        preimage: Option<Preimage>,
    },
    /// It came back; the amount is payable again.
    Returned {
        /// Why, for the operator.
        reason: String,
        /// Why, for the creator.
        #[serde(default)]
        cause: Cause,
    },
}

/// The invoice that a payout pays. One payout has one invoice for ever: another is another payout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayoutInvoice {
    /// The BOLT 11 text.
    pub bolt11: String,
    /// When it expires, in seconds since the Unix epoch.
    pub expires_at: u64,
    /// Where its service tells whether it was paid (LUD-21).
    pub verify: Option<String>,
    /// It was, or was about to be, handed to the node: until then it was certainly never sent.
    pub sending: bool,
}

/// A payment to a creator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// Its identity.
    pub id: PayoutId,
    /// To whom.
    pub creator: CreatorId,
    /// Where; `None` for a withdrawal, whose invoice says so.
    pub destination: Option<Destination>,
    /// What left the payable balance.
    pub planned: Msat,
    /// What is sent.
    pub amount: Msat,
    /// The payment hash under which it is sent; `None` until there is an invoice.
    pub hash: Option<PaymentHash>,
    /// What is paid, where it is no keysend.
    #[serde(default)]
    pub invoice: Option<PayoutInvoice>,
    /// Where it stands.
    pub state: PayoutState,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// Whether a payout was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It was.
    Made,
    /// Another one of this creator is in flight.
    InFlight,
    /// Less than that is payable.
    Short,
    /// Its payment hash was seen before.
    Seen,
}

/// Whether an invoice became a payout's.
#[derive(Clone, PartialEq, Eq)]
pub enum Attach {
    /// It did: the payout as it is now.
    Done(Box<Payout>),
    /// Its payment hash was seen before.
    Seen,
    /// The payout is not one that waits for an invoice of this amount.
    Refused,
}

/// How a payout ended.
#[derive(Clone, PartialEq, Eq)]
pub enum Settle {
    /// It arrived.
    Arrived {
        /// What the route cost.
        fee: Msat,
        /// The proof.
        preimage: Option<Preimage>,
    },
    /// It came back.
    Returned {
        /// Why, for the operator.
        reason: String,
    },
}

/// Payouts that came back one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setbacks {
    /// How many.
    pub count: u32,
    /// When the last one did, in milliseconds since the Unix epoch.
    pub last_ms: u64,
    /// Why the last one did.
    #[serde(default)]
    pub cause: Cause,
}
