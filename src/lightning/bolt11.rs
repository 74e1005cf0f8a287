//! What of a BOLT 11 invoice a payer needs before it pays.

use std::str::FromStr as _;

use lightning_invoice::Bolt11Invoice;

use super::Error;
use crate::domain::amount::Msat;
use crate::domain::id::PaymentHash;

/// The payment hash and the amount of an invoice; one without an amount is refused.
///
/// # Errors
/// [`Error::Malformed`].
pub fn read(bolt11: &str) -> Result<(PaymentHash, Msat), Error> {
    let malformed = |line: &str| Error::Malformed(line.to_owned());
    let invoice =
        Bolt11Invoice::from_str(bolt11).map_err(|_| malformed("this is not a BOLT 11 invoice"))?;
    let amount = invoice.amount_milli_satoshis().map(Msat::new);
    let amount = amount.ok_or_else(|| malformed("the invoice names no amount"))?;
    let hash: &[u8; 32] = invoice.payment_hash().as_ref();
    Ok((PaymentHash::new(*hash), amount))
}
