//! What of a BOLT 11 invoice a payer needs before it pays.

use std::str::FromStr as _;

use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef, Currency, RouteHint};

use super::{Error, Network};
use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, PaymentHash};

/// Longer than any invoice that a QR code carries: nothing above is parsed.
const TEXT_BYTES_MAX: usize = 7_089;

/// What a payer holds an invoice against. Its signature is good, and by the payee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The network; `None` for one that Sluice does not run on.
    pub network: Option<Network>,
    /// Who signed it, and is paid.
    pub payee: NodeId,
    /// The payment hash.
    pub hash: PaymentHash,
    /// The amount; `None` where the payer chooses.
    pub amount: Option<Msat>,
    /// When it expires, in seconds since the Unix epoch.
    pub expires_at: u64,
    /// What the dearest of its route hints charges for the amount.
    pub hint_fee: Msat,
    /// The SHA-256 of its description (field `h`), where it holds no description itself.
    pub description_hash: Option<[u8; 32]>,
}

/// Reads an invoice whole.
///
/// # Errors
/// [`Error::Malformed`], also where the signature is not good.
pub fn facts(bolt11: &str) -> Result<Facts, Error> {
    let invoice = parse(bolt11)?;
    let network = match invoice.currency() {
        Currency::Bitcoin => Some(Network::Mainnet),
        Currency::BitcoinTestnet => Some(Network::Testnet),
        Currency::Signet => Some(Network::Signet),
        Currency::Regtest => Some(Network::Regtest),
        Currency::Simnet => None,
    };
    let amount = invoice.amount_milli_satoshis().map(Msat::new);
    let expires = invoice.duration_since_epoch().checked_add(invoice.expiry_time());
    let hints = invoice.route_hints();
    let fees = hints.iter().map(|hint| hint_fee(hint, amount.unwrap_or_default()));
    let hash: &[u8; 32] = invoice.payment_hash().as_ref();
    let description_hash = match invoice.description() {
        Bolt11InvoiceDescriptionRef::Hash(hash) => {
            let hash: &[u8; 32] = hash.0.as_ref();
            Some(*hash)
        }
        Bolt11InvoiceDescriptionRef::Direct(_) => None,
    };
    Ok(Facts {
        network,
        payee: NodeId::new(invoice.recover_payee_pub_key().serialize()),
        hash: PaymentHash::new(*hash),
        amount,
        expires_at: expires.map_or(u64::MAX, |expires| expires.as_secs()),
        hint_fee: fees.max().unwrap_or_default(),
        description_hash,
    })
}

/// The payment hash and the amount of an invoice; one without an amount is refused.
///
/// # Errors
/// [`Error::Malformed`].
pub fn read(bolt11: &str) -> Result<(PaymentHash, Msat), Error> {
    let invoice = parse(bolt11)?;
    let amount = invoice.amount_milli_satoshis().map(Msat::new);
    let amount = amount.ok_or_else(|| malformed("the invoice names no amount"))?;
    let hash: &[u8; 32] = invoice.payment_hash().as_ref();
    Ok((PaymentHash::new(*hash), amount))
}

fn parse(bolt11: &str) -> Result<Bolt11Invoice, Error> {
    if bolt11.len() > TEXT_BYTES_MAX {
        return Err(malformed("this is too long for a BOLT 11 invoice"));
    }
    Bolt11Invoice::from_str(bolt11).map_err(|_| malformed("this is not a BOLT 11 invoice"))
}

fn malformed(line: &str) -> Error {
    Error::Malformed(line.to_owned())
}

/// Each hop charges on what it forwards, so fees compound from the payee backwards (BOLT 7, "HTLC Fees").
fn hint_fee(hint: &RouteHint, amount: Msat) -> Msat {
    let whole = u128::from(amount.get());
    let total = hint.0.iter().rev().fold(whole, |sum, hop| {
        let share = sum.saturating_mul(hop.fees.proportional_millionths.into()) / 1_000_000;
        sum.saturating_add(hop.fees.base_msat.into()).saturating_add(share)
    });
    Msat::new(u64::try_from(total.saturating_sub(whole)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_invoice_says_is_read_from_its_signed_text() {
        // The first example of BOLT 11 with an amount.
        let text = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
        let facts = facts(text).unwrap();
        let payee = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad";
        assert_eq!(facts.network, Some(Network::Mainnet));
        assert_eq!(facts.payee.to_string(), payee);
        assert_eq!(facts.amount, Some(Msat::new(250_000_000)));
        assert_eq!(facts.expires_at, 1_496_314_658 + 60);
        assert_eq!(facts.hint_fee, Msat::ZERO);
        let forged = text.replace("2500u", "2501u");
        assert!(
            super::facts(&forged).is_ok_and(|of| of.payee.to_string() != payee)
                || super::facts(&forged).is_err()
        );
        assert!(super::facts(&"l".repeat(8_000)).is_err());
    }

    #[test]
    fn the_fees_of_a_route_hint_compound_from_the_payee_backwards() {
        // BOLT 11's example with two hops: 1 msat and 20 ppm, then 2 msat and 30 ppm.
        let text = "lnbc20m1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqhp58yjmdan79s6qqdhdzgynm4zwqd5d7xmw5fk98klysy043l2ahrqsfpp3qjmp7lwpagxun9pygexvgpjdc4jdj85fr9yq20q82gphp2nflc7jtzrcazrra7wwgzxqc8u7754cdlpfrmccae92qgzqvzq2ps8pqqqqqqpqqqqq9qqqvpeuqafqxu92d8lr6fvg0r5gv0heeeqgcrqlnm6jhphu9y00rrhy4grqszsvpcgpy9qqqqqqgqqqqq7qqzq9qrsgqdfjcdk6w3ak5pca9hwfwfh63zrrz06wwfya0ydlzpgzxkn5xagsqz7x9j4jwe7yj7vaf2k9lqsdk45kts2fd0fkr28am0u4w95tt2nsq76cqw0";
        let facts = facts(text).unwrap();
        assert_eq!(facts.amount, Some(Msat::new(2_000_000_000)));
        assert_eq!(facts.hint_fee, Msat::new(60_002 + 40_002));
    }
}
