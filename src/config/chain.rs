//! The section `lightning.chain`: which keys there are depends on one of them, and each of the others
//! has a default of its own or none.

use std::path::PathBuf;

use config::{Value, ValueKind};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::lightning::ChainSource;

/// All keys of the section, whatever the kind.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    kind: Kind,
    host: Option<String>,
    port: Option<u16>,
    cookie_file: Option<PathBuf>,
    url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Bitcoind,
    Esplora,
    Electrum,
}

/// [`Kind::default`], as it is written.
const KIND: &str = "bitcoind";

/// A bitcoind on this machine, on signet, where nothing else is said.
fn bitcoind(host: Option<String>, port: Option<u16>, cookie_file: Option<PathBuf>) -> ChainSource {
    ChainSource::Bitcoind {
        host: host.unwrap_or_else(|| "127.0.0.1".to_owned()),
        port: port.unwrap_or(38_332),
        cookie_file: cookie_file.unwrap_or_else(|| "~/.bitcoin/signet/.cookie".into()),
    }
}

/// The source where the section is missing.
pub(super) fn usual() -> ChainSource {
    bitcoind(None, None, None)
}

/// The source that a section names, however few of its keys are there.
pub(super) fn read<'de, D: Deserializer<'de>>(section: D) -> Result<ChainSource, D::Error> {
    let Keys { kind, host, port, cookie_file, url } = Keys::deserialize(section)?;
    // The crate adds " for key `lightning.chain`" to these.
    let refuse = |line| Err(D::Error::custom(line));
    let of_bitcoind = host.is_some() || port.is_some() || cookie_file.is_some();
    match (kind, url) {
        (Kind::Bitcoind, None) => Ok(bitcoind(host, port, cookie_file)),
        (Kind::Bitcoind, Some(_)) => refuse(
            "lightning.chain.url is not of the kind bitcoind: set lightning.chain.kind, or remove \
             the url",
        ),
        (Kind::Esplora | Kind::Electrum, _) if of_bitcoind => refuse(
            "lightning.chain.host, .port and .cookie_file are of the kind bitcoind alone: set \
             lightning.chain.kind, or remove them",
        ),
        (Kind::Esplora | Kind::Electrum, None) => refuse(
            "lightning.chain.url is missing: the kinds esplora and electrum need a server's \
             address",
        ),
        (Kind::Esplora, Some(url)) => Ok(ChainSource::Esplora { url }),
        (Kind::Electrum, Some(url)) => Ok(ChainSource::Electrum { url }),
    }
}

/// Drops what the lower layer says of its chain source where the upper one chooses another kind: the
/// keys of the one are wrong for the other.
pub(super) fn drop_other_kind(lower: &mut config::Config, upper: &config::Config) {
    let kind = |layer: &config::Config| layer.get_string("lightning.chain.kind").ok();
    let Some(chosen) = kind(upper) else { return };
    if kind(lower).unwrap_or_else(|| KIND.to_owned()) == chosen {
        return;
    }
    if let ValueKind::Table(root) = &mut lower.cache.kind
        && let Some(Value { kind: ValueKind::Table(lightning), .. }) = root.get_mut("lightning")
    {
        lightning.remove("chain");
    }
}
