//! Credit that the server lost and the payer can prove.

use super::{SessionGate, new_record};
use crate::domain::amount::Msat;
use crate::domain::id::Preimage;
use crate::domain::ledger::{IncomingPayment, Split};
use crate::paywall::token::SessionToken;
use crate::paywall::{Client, Error, PROOF_AFTER, Wake};
use crate::store::{Credit, Invoice, Origin, Progress, Purpose};

impl SessionGate {
    /// Restores credit from a receipt and the preimage of its payment. What is booked already is not booked again; a payment whose event may
    /// still be on its way is waited for first. `split` is of the title that it plays: where that was removed, what is stored of the session tells
    /// who earns, and where nothing is the payment stays unclaimed.
    ///
    /// # Errors
    /// [`Error::NoReceipt`] where the two are not one payment of this session.
    pub async fn claim(
        &self,
        session: &SessionToken,
        split: Option<Split>,
        receipt: &str,
        preimage: &Preimage,
        client: Client,
    ) -> Result<(), Error> {
        self.paywall.limit_rate(client)?;
        let parts = &self.paywall.parts;
        let receipt = parts.keys.verify_receipt(receipt).ok_or(Error::NoReceipt)?;
        if receipt.session != session.id || preimage.hash() != receipt.hash {
            return Err(Error::NoReceipt);
        }
        let mut listener = parts.bells.listen(Wake::Session(session.id));
        let deadline = tokio::time::Instant::now() + PROOF_AFTER;
        let mut held = None;
        loop {
            match parts.store.invoice(&receipt.hash)? {
                None => break,
                Some(invoice) if invoice.progress != Progress::Open => return Ok(()),
                Some(_) if held.is_none() => {
                    let place = self.place(&self.paywall.held, session, client, "hold")?;
                    held = Some((place, parts.metrics.hold()));
                }
                Some(_) => {}
            }
            tokio::select! {
                () = listener.rung() => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        drop(held);
        let split = match split {
            Some(split) => split,
            None => match parts.store.session_record(session.id)? {
                Some(record) => record.split,
                None => return Ok(()),
            },
        };
        let invoice = Invoice {
            hash: receipt.hash,
            amount: receipt.amount,
            purpose: Purpose::Session { session: session.id, segments: receipt.segments },
            split,
            bolt11: None,
            expires_at: receipt.expires_at,
            minted_ms: None,
            progress: Progress::Open,
            credited: Msat::ZERO,
            claimed: false,
        };
        parts.store.restore(Some(&new_record(session, split)), &invoice)?;
        let payment = IncomingPayment { hash: receipt.hash, received: receipt.amount, boot: 0 };
        let outcome = parts.store.credit(payment, Origin::Proof, parts.clock.now_ms())?;
        tracing::info!(payment_hash = %receipt.hash, ?outcome, "claimed by receipt");
        if matches!(outcome, Credit::Applied(_)) {
            parts.metrics.payment("claimed");
            parts.metrics.credited(receipt.amount);
        }
        parts.bells.ring(&Wake::Session(session.id));
        Ok(())
    }
}
