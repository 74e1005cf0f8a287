//! A credential and its preimage prove a payment that the server does not know of yet, or not any more.

use super::token::Bound;
use super::{Error, Offer, Paywall, Standing, Wake};
use crate::domain::amount::Msat;
use crate::domain::ledger::IncomingPayment;
use crate::store::{Credit, Invoice, Origin, Progress, Purpose};

impl Paywall {
    /// What a good credential's payment is good for now. The credential holds all that was in an invoice's record, where a power cut took
    /// that. What was served, or expired, so long ago that its record is gone is not waited for.
    pub(super) fn recalled(&self, bound: &Bound, offer: &Offer) -> Result<Standing, Error> {
        let found = self.parts.store.invoice(&bound.hash)?;
        if found.is_some() {
            return Ok(self.standing_of(found));
        }
        self.restore(bound, offer)?;
        let restored = self.parts.store.invoice(&bound.hash)?;
        Ok(if restored.is_none() { Standing::Over } else { self.standing_of(restored) })
    }

    /// Waits until a good credential's payment is booked, by its event or by proof; what it is good for then.
    pub(super) async fn booked(
        &self,
        bound: &Bound,
        offer: &Offer,
        deadline: tokio::time::Instant,
    ) -> Result<Standing, Error> {
        let mut listener = self.parts.bells.listen(Wake::Payment(bound.hash));
        loop {
            match self.standing(&bound.hash)? {
                Standing::Unpaid => {}
                known => return Ok(known),
            }
            tokio::select! {
                () = listener.rung() => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.prove(bound, offer)?;
        self.standing(&bound.hash)
    }

    /// Writes an invoice's record anew from its credential, where it is gone and its payment was not used.
    fn restore(&self, bound: &Bound, offer: &Offer) -> Result<(), Error> {
        let invoice = Invoice {
            hash: bound.hash,
            amount: bound.amount,
            purpose: Purpose::Segment { segment: bound.segment },
            split: offer.split,
            bolt11: None,
            expires_at: bound.pay_before,
            minted_ms: None,
            progress: Progress::Open,
            credited: Msat::ZERO,
            claimed: false,
        };
        Ok(self.parts.store.restore(None, &invoice)?)
    }

    /// Books a payment by its preimage.
    fn prove(&self, bound: &Bound, offer: &Offer) -> Result<(), Error> {
        self.restore(bound, offer)?;
        let now = self.parts.clock.now_ms();
        let payment = IncomingPayment { hash: bound.hash, received: bound.amount, boot: 0 };
        let outcome = self.parts.store.credit(payment, Origin::Proof, now)?;
        tracing::info!(payment_hash = %bound.hash, ?outcome, "credited by proof");
        if matches!(outcome, Credit::Applied(_)) {
            self.parts.metrics.payment("proof");
            self.parts.metrics.credited(bound.amount);
        }
        Ok(())
    }
}
