//! BOLT 11 minting with the node's own keys, beside the node: no write, no lock, no await.
//!
//! LDK derives the preimage of an invoice from the payment secret and a key of the seed
//! (`lightning::ln::inbound_payment`), so that an invoice signed here is claimed by the unmodified
//! node without a record of it. The keys are derived exactly as in `ldk_node::Builder`;
//! [`Mint::node_id`] is compared with the running node's at each start.

use std::convert::Infallible;
use std::time::Duration;

use ldk_node::bitcoin::bip32::Xpriv;
use ldk_node::bitcoin::hashes::{Hash, sha256};
use lightning::ln::channelmanager::MIN_FINAL_CLTV_EXPIRY_DELTA;
use lightning::ln::inbound_payment::{self, ExpandedKey};
use lightning::routing::router::RouteHint;
use lightning::sign::{EntropySource, KeysManager, NodeSigner, Recipient};
use lightning::types::payment::{PaymentHash as LdkPaymentHash, PaymentSecret};
use lightning_invoice::{Currency, InvoiceBuilder};

use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, PaymentHash, Preimage};

use super::{Error, MintError, Minted, Network};

/// What every invoice says it is for: the same for all, so that an invoice tells nobody what is
/// watched.
pub const DESCRIPTION: &str = "Sluice";

/// The keys that sign invoices and open their payment secrets.
pub struct Mint {
    keys: KeysManager,
    expanded: ExpandedKey,
    node_id: NodeId,
    currency: Currency,
}

impl Mint {
    /// From the seed that the node is started with.
    ///
    /// # Errors
    /// [`Error::Start`] for a seed that gives no key.
    pub fn new(network: Network, seed: &[u8; 64]) -> Result<Self, Error> {
        let no_key = || Error::Start("the node's seed gives no key: restore it".to_owned());
        let master = Xpriv::new_master(network.bitcoin(), seed).map_err(|_| no_key())?;
        // The starting time makes only the keys of new channels unique, which are never derived
        // here.
        let keys = KeysManager::new(&master.private_key.secret_bytes(), 0, 0, true);
        let node_id = keys.get_node_id(Recipient::Node).map_err(|()| no_key())?;
        let expanded = keys.get_expanded_key();
        let node_id = NodeId::new(node_id.serialize());
        Ok(Self { keys, expanded, node_id, currency: network.bitcoin().into() })
    }

    /// The node that the keys belong to.
    pub const fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// An invoice whose preimage only this node can compute, with [`DESCRIPTION`] or with the hash of what it is for (field `h`). `now` counts
    /// from the Unix epoch.
    ///
    /// # Errors
    /// [`MintError::Refused`] where BOLT 11 cannot express it or the operating system gives no
    /// randomness.
    pub fn invoice(
        &self,
        amount: Msat,
        expiry: Duration,
        hints: Vec<RouteHint>,
        now: Duration,
        described: Option<[u8; 32]>,
    ) -> Result<Minted, MintError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| refused(&format!("no randomness: {e}")))?;
        let expiry_secs = seconds(expiry)?;
        let (hash, secret) = inbound_payment::create(
            &self.expanded,
            Some(amount.get()),
            expiry_secs,
            &&Drawn(bytes),
            now.as_secs(),
            None,
        )
        .map_err(|()| refused("the amount or the expiry is out of range"))?;
        let hash = PaymentHash::new(hash.0);
        self.sign((hash, secret), amount, expiry_secs, hints, now, described)
    }

    /// An invoice for a preimage that the caller chose; LDK does not know it, so that only a fake
    /// node can receive it.
    ///
    /// # Errors
    /// As for [`Mint::invoice`].
    pub fn invoice_for(
        &self,
        preimage: &Preimage,
        amount: Msat,
        expiry: Duration,
        now: Duration,
    ) -> Result<Minted, MintError> {
        let (hash, expiry_secs) = (preimage.hash(), seconds(expiry)?);
        let secret = inbound_payment::create_from_hash(
            &self.expanded,
            Some(amount.get()),
            LdkPaymentHash(*hash.as_bytes()),
            expiry_secs,
            now.as_secs(),
            None,
        )
        .map_err(|()| refused("the amount or the expiry is out of range"))?;
        self.sign((hash, secret), amount, expiry_secs, Vec::new(), now, None)
    }

    /// As `ChannelManager::create_bolt11_invoice` does, but without the field `n`: the signature
    /// tells the payee.
    fn sign(
        &self,
        (hash, secret): (PaymentHash, PaymentSecret),
        amount: Msat,
        expiry_secs: u32,
        hints: Vec<RouteHint>,
        now: Duration,
        described: Option<[u8; 32]>,
    ) -> Result<Minted, MintError> {
        if amount.is_zero() {
            return Err(refused("an invoice over nothing"));
        }
        let builder = InvoiceBuilder::new(self.currency.clone());
        let builder = match described {
            Some(hash) => builder.description_hash(sha256::Hash::from_byte_array(hash)),
            None => builder.description(DESCRIPTION.to_owned()),
        };
        let mut builder = builder
            .duration_since_epoch(now)
            .payment_hash(sha256::Hash::from_byte_array(*hash.as_bytes()))
            .payment_secret(secret)
            .basic_mpp()
            .min_final_cltv_expiry_delta(MIN_FINAL_CLTV_EXPIRY_DELTA.into())
            .expiry_time(Duration::from_secs(expiry_secs.into()))
            .amount_milli_satoshis(amount.get());
        for hint in hints {
            builder = builder.private_route(hint);
        }
        let raw = builder.build_raw().map_err(|e| refused(&e.to_string()))?;
        let signature = self
            .keys
            .sign_invoice(&raw, Recipient::Node)
            .map_err(|()| refused("the key refused to sign"))?;
        let Ok(signed) = raw.sign(|_| Ok::<_, Infallible>(signature));
        let expires_at = now.as_secs().saturating_add(expiry_secs.into());
        Ok(Minted { bolt11: signed.to_string(), hash, expires_at })
    }
}

/// Bytes drawn from the operating system for one invoice: LDK's trait cannot fail, drawing can. A
/// generator seeded by the clock, such as LDK's own, would repeat preimages after a roll-back of
/// the machine.
struct Drawn([u8; 32]);

impl EntropySource for Drawn {
    fn get_secure_random_bytes(&self) -> [u8; 32] {
        self.0
    }
}

fn seconds(expiry: Duration) -> Result<u32, MintError> {
    u32::try_from(expiry.as_secs()).map_err(|_| refused("the expiry is out of range"))
}

fn refused(why: &str) -> MintError {
    MintError::Refused(why.to_owned())
}

impl Network {
    /// The same in the types of rust-bitcoin.
    pub(super) const fn bitcoin(self) -> ldk_node::bitcoin::Network {
        match self {
            Self::Mainnet => ldk_node::bitcoin::Network::Bitcoin,
            Self::Testnet => ldk_node::bitcoin::Network::Testnet,
            Self::Signet => ldk_node::bitcoin::Network::Signet,
            Self::Regtest => ldk_node::bitcoin::Network::Regtest,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use lightning_invoice::Bolt11Invoice;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_790_000_000);
    const EXPIRY: Duration = Duration::from_secs(600);

    #[test]
    fn a_thousand_invoices_parse_name_the_node_and_differ() {
        let mint = Mint::new(Network::Regtest, &[7; 64]).unwrap();
        let mut hashes = HashSet::new();
        for n in 1..=1_000 {
            let minted = mint.invoice(Msat::new(n * 1_000), EXPIRY, Vec::new(), NOW, None).unwrap();
            let invoice: Bolt11Invoice = minted.bolt11.parse().unwrap();
            assert_eq!(invoice.recover_payee_pub_key().serialize(), *mint.node_id().as_bytes());
            assert_eq!(invoice.payment_hash().as_byte_array(), minted.hash.as_bytes());
            assert_eq!(invoice.amount_milli_satoshis(), Some(n * 1_000));
            assert_eq!(invoice.expires_at(), Some(Duration::from_secs(minted.expires_at)));
            assert_eq!(invoice.min_final_cltv_expiry_delta(), 42);
            assert!(invoice.features().unwrap().supports_basic_mpp());
            assert_eq!(invoice.description().to_string(), DESCRIPTION);
            assert!(minted.bolt11.starts_with("lnbcrt"));
            hashes.insert(minted.hash);
        }
        assert_eq!(hashes.len(), 1_000);
    }

    #[test]
    fn each_network_has_its_prefix() {
        for (network, prefix) in [
            (Network::Mainnet, "lnbc10n1"),
            (Network::Testnet, "lntb10n1"),
            (Network::Signet, "lntbs10n1"),
            (Network::Regtest, "lnbcrt10n1"),
        ] {
            let mint = Mint::new(network, &[7; 64]).unwrap();
            let minted = mint.invoice(Msat::new(1_000), EXPIRY, Vec::new(), NOW, None).unwrap();
            assert!(minted.bolt11.starts_with(prefix), "{}", minted.bolt11);
        }
    }

    #[test]
    fn a_chosen_preimage_opens_its_invoice() {
        let mint = Mint::new(Network::Regtest, &[7; 64]).unwrap();
        let preimage = Preimage::new([3; 32]);
        let minted = mint.invoice_for(&preimage, Msat::new(1), EXPIRY, NOW).unwrap();
        assert_eq!(minted.hash, preimage.hash());
        assert!(minted.bolt11.parse::<Bolt11Invoice>().is_ok());
    }

    #[test]
    fn nothing_and_far_too_much_are_refused() {
        let mint = Mint::new(Network::Regtest, &[7; 64]).unwrap();
        for amount in [0, u64::MAX] {
            assert!(mint.invoice(Msat::new(amount), EXPIRY, Vec::new(), NOW, None).is_err());
        }
        assert!(mint.invoice(Msat::new(1), Duration::MAX, Vec::new(), NOW, None).is_err());
    }
}
