//! Receipts: what a session's invoice was for, signed, so that a payer can show what a server lost.
//!
//! A power cut may take the record of an invoice that was paid in the same second. With its receipt and the preimage the payer restores
//! the credit; neither alone is worth anything, and both work for one session only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{Keys, Read, hmac};
use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, SegmentNumber, SessionId};

/// The first byte, so that no other signed text is taken for a receipt.
const KIND: u8 = 3;

/// What an invoice of a session was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Whose credit it becomes.
    pub session: SessionId,
    /// The payment.
    pub hash: PaymentHash,
    /// What it asked.
    pub amount: Msat,
    /// When it expired, in seconds since the Unix epoch.
    pub expires_at: u64,
    /// The segments that it was planned for.
    pub segments: Vec<SegmentNumber>,
}

impl Keys {
    /// A receipt as the wallet gets it: base64url without padding.
    pub fn issue_receipt(&self, receipt: &Receipt) -> String {
        let mut bytes = vec![KIND];
        bytes.extend_from_slice(receipt.session.as_bytes());
        bytes.extend_from_slice(receipt.hash.as_bytes());
        bytes.extend_from_slice(&receipt.amount.get().to_be_bytes());
        bytes.extend_from_slice(&receipt.expires_at.to_be_bytes());
        for segment in &receipt.segments {
            bytes.extend_from_slice(&segment.0.to_be_bytes());
        }
        let mac = self.receipt_mac(&bytes);
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a receipt says; `None` where it is not ours.
    pub fn verify_receipt(&self, text: &str) -> Option<Receipt> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, mac) = bytes.split_last_chunk::<32>()?;
        let good: bool = self.receipt_mac(body).ct_eq(mac).into();
        if !good {
            return None;
        }
        let mut read = Read(body);
        let [kind] = read.take::<1>()?;
        let mut receipt = Receipt {
            session: SessionId::new(Uuid::from_bytes(read.take()?)),
            hash: PaymentHash::new(read.take()?),
            amount: Msat::new(u64::from_be_bytes(read.take()?)),
            expires_at: u64::from_be_bytes(read.take()?),
            segments: Vec::new(),
        };
        while let Some(segment) = read.take() {
            receipt.segments.push(SegmentNumber(u32::from_be_bytes(segment)));
        }
        (kind == KIND && read.0.is_empty()).then_some(receipt)
    }

    fn receipt_mac(&self, body: &[u8]) -> [u8; 32] {
        hmac(&self.secret, &[b"receipt", &self.epoch.to_be_bytes(), body])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_read_back_and_no_changed_one_is() {
        let keys = Keys::derive(&[5; 64], 0);
        let receipt = Receipt {
            session: SessionId::new(Uuid::from_u128(1)),
            hash: PaymentHash::new([2; 32]),
            amount: Msat::new(3_000),
            expires_at: 1_700_000_000,
            segments: vec![SegmentNumber(4), SegmentNumber(5)],
        };
        let text = keys.issue_receipt(&receipt);
        assert_eq!(keys.verify_receipt(&text), Some(receipt));
        assert_eq!(Keys::derive(&[6; 64], 0).verify_receipt(&text), None);
        assert_eq!(Keys::derive(&[5; 64], 1).verify_receipt(&text), None);
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(keys.verify_receipt(&URL_SAFE_NO_PAD.encode(changed)), None, "byte {at}");
            assert_eq!(keys.verify_receipt(&URL_SAFE_NO_PAD.encode(&bytes[..at])), None);
        }
    }
}
