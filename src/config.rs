//! The configuration: defaults, then the file, then the environment, then flags; merged once, read
//! once, and wrong keys or values stop the start with the key and the mend. Each module owns its
//! section; `config/sluice.toml` is the reference, pinned to this by a test.

use std::path::{Path, PathBuf};

use directories::{BaseDirs, ProjectDirs};
use serde::{Deserialize, Serialize};

use crate::lightning::{self, ChainSource, Network};
use crate::{http, library, media, payout, paywall};

mod chain;
mod check;
mod layers;

/// The commented reference, which `sluice init` writes.
pub const REFERENCE: &str = include_str!("../config/sluice.toml");

/// Everything that an operator can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything is kept: seed, database, segments, sources. Not in the checkout.
    pub data_dir: PathBuf,
    /// What is logged.
    pub log: Log,
    /// How the server is reached.
    pub http: http::Options,
    /// The embedded Lightning node.
    pub lightning: Lightning,
    /// How segments are sold.
    pub payment: paywall::Options,
    /// How creators are paid.
    pub payout: payout::Options,
    /// How sources are taken.
    pub library: library::Options,
    /// How uploads are bounded.
    pub uploads: library::upload::Options,
    /// How media is made.
    pub media: media::Options,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(),
            log: Log::default(),
            http: http::Options::default(),
            lightning: Lightning::default(),
            payment: paywall::Options::default(),
            payout: payout::Options::default(),
            library: library::Options::default(),
            uploads: library::upload::Options::default(),
            media: media::Options::default(),
        }
    }
}

/// What is logged, to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Which lines, in the syntax of `RUST_LOG`.
    pub filter: String,
    /// JSON instead of text.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

/// The embedded Lightning node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lightning {
    /// Which network.
    pub network: Network,
    /// The addresses that peers connect to.
    pub listen: Vec<String>,
    /// The name told to the network; empty for none.
    pub alias: String,
    /// Where the chain is read.
    #[serde(deserialize_with = "chain::read")]
    pub chain: ChainSource,
}

impl Default for Lightning {
    fn default() -> Self {
        Self {
            network: Network::Signet,
            listen: vec!["0.0.0.0:9735".to_owned()],
            alias: String::new(),
            chain: chain::usual(),
        }
    }
}

impl Lightning {
    /// As the adapter takes it.
    pub fn options(&self) -> lightning::Options {
        let alias = Some(self.alias.clone()).filter(|alias| !alias.is_empty());
        let chain = match self.chain.clone() {
            ChainSource::Bitcoind { host, port, cookie_file } => {
                ChainSource::Bitcoind { host, port, cookie_file: at_home(&cookie_file) }
            }
            other @ (ChainSource::Esplora { .. } | ChainSource::Electrum { .. }) => other,
        };
        lightning::Options { network: self.network, chain, listen: self.listen.clone(), alias }
    }
}

/// A configuration that cannot be used: one line that names the key and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// What the command line sets over everything else.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The data directory.
    pub data_dir: Option<PathBuf>,
    /// The HTTP address.
    pub listen: Option<std::net::SocketAddr>,
}

impl Config {
    /// Reads and checks everything. A file that was named must be there.
    ///
    /// # Errors
    /// [`Error`]: one line.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, Error> {
        Self::read(file, None, flags)
    }

    /// As [`Config::load`], with other variables than the process's own.
    fn read(
        file: Option<&Path>,
        variables: Option<layers::Variables>,
        flags: &Flags,
    ) -> Result<Self, Error> {
        if let Some(file) = file.filter(|file| !file.is_file()) {
            let path = file.display();
            return Err(Error(format!("{path} is no file: write one with `sluice init {path}`")));
        }
        let merged = layers::merge(file, variables, flags).map_err(|error| explain(&error))?;
        let config: Self = merged.try_deserialize().map_err(|error| explain(&error))?;
        let config = Self { data_dir: at_home(&config.data_dir), ..config };
        config.check()?;
        Ok(config)
    }
}

/// The crate's message already names key and type; one line of it is enough.
fn explain(error: &config::ConfigError) -> Error {
    let line = error.to_string().replace('\n', " ");
    Error(format!(
        "the configuration cannot be used: {line}. The reference is `sluice init --print`"
    ))
}

fn default_data_dir() -> PathBuf {
    ProjectDirs::from("", "", "sluice")
        .map_or_else(|| PathBuf::from("sluice-data"), |dirs| dirs.data_dir().to_path_buf())
}

/// Replaces a leading `~/`.
fn at_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), BaseDirs::new()) {
        (Ok(rest), Some(dirs)) => dirs.home_dir().join(rest),
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn load(text: &str) -> Result<Config, Error> {
        load_with(text, &[])
    }

    /// With the process's own variables, tests would depend on where they run.
    fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables = variables.iter().map(own).collect();
        Config::read(Some(file.path()), Some(variables), &Flags::default())
    }

    fn url_of(source: &ChainSource) -> &str {
        match source {
            ChainSource::Esplora { url } | ChainSource::Electrum { url } => url,
            ChainSource::Bitcoind { .. } => panic!("{source:?}"),
        }
    }

    fn bitcoind(port: u16) -> ChainSource {
        let ChainSource::Bitcoind { host, cookie_file, .. } = chain::usual() else { panic!() };
        ChainSource::Bitcoind { host, port, cookie_file }
    }

    #[test]
    fn the_reference_holds_every_key_with_its_default() {
        assert_eq!(load(REFERENCE).unwrap(), Config::default());
        let keys: toml_like::Keys = toml_like::keys(REFERENCE);
        let value = serde_json::to_value(Config::default()).unwrap();
        let mut missing = Vec::new();
        for (section, fields) in value.as_object().unwrap() {
            for key in fields.as_object().into_iter().flatten().map(|(key, _)| key) {
                if key != "chain" && !keys.contains(&(section.clone(), key.clone())) {
                    missing.push(format!("{section}.{key}"));
                }
            }
        }
        assert!(missing.is_empty(), "config/sluice.toml lacks {missing:?}");
    }

    /// Section and key of each line that sets one.
    mod toml_like {
        pub type Keys = std::collections::BTreeSet<(String, String)>;

        pub fn keys(text: &str) -> Keys {
            let mut section = String::new();
            let mut keys = Keys::new();
            for line in text.lines() {
                if let Some(name) = line.strip_prefix('[') {
                    section = name.trim_end_matches(']').to_owned();
                } else if let Some((key, _)) =
                    line.split_once(" = ").filter(|_| !line.starts_with('#'))
                {
                    keys.insert((section.clone(), key.to_owned()));
                }
            }
            keys
        }
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        for (text, named) in [
            ("[payment]\nfee_pmm = 1", "fee_pmm"),
            ("[payment]\nfee_ppm = \"much\"", "fee_ppm"),
            ("[payment]\nfee_ppm = 2000000", "fee_ppm"),
            ("[payment]\ngranularity_msat = 0", "granularity_msat"),
            ("[http]\nlisten = \"0.0.0.0:80\"", "http.listen"),
            ("[lightning]\nnetwork = \"moon\"", "moon"),
            ("[media]\nladder = []", "media.ladder"),
            ("[log]\nfilter = \"sluice=loud\"", "log.filter"),
            ("[lightning.chain]\nurl = \"http://x\"", "lightning.chain.kind"),
            ("[lightning.chain]\nkind = \"esplora\"", "lightning.chain.url"),
            ("[lightning.chain]\nkind = \"electrum\"\nurl = \"x\"\nport = 1", ".port"),
            ("[lightning.chain]\nkind = \"moon\"", "moon"),
            ("[lightning.chain]\nprot = 1", "prot"),
            ("[lightning.chain]\nport = 65536", "65536"),
        ] {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains(named) && !error.contains('\n'), "{text}: {error}");
        }
        let missing = Config::load(Some(Path::new("/nowhere/x.toml")), &Flags::default());
        assert!(missing.unwrap_err().to_string().contains("/nowhere/x.toml"));
    }

    #[test]
    fn a_chain_source_keeps_the_defaults_of_what_is_not_said() {
        let config = load("[lightning.chain]\nport = 18443").unwrap();
        assert_eq!(config.lightning.chain, bitcoind(18_443));
        let config = load("[lightning.chain]\nkind = \"electrum\"\nurl = \"tcp://x:1\"").unwrap();
        assert_eq!(url_of(&config.lightning.chain), "tcp://x:1");
    }

    #[test]
    fn the_environment_sets_a_key_of_every_type() {
        let set = |name: &str, value: &str| {
            load_with(REFERENCE, &[(&format!("SLUICE__{name}"), value)]).expect(name)
        };
        assert_eq!(set("DATA_DIR", "/x").data_dir, PathBuf::from("/x"));
        // What looks like another type stays the text that it is.
        for alias in ["Ada", "007", "1e3", "TRUE", "inf", "a,b", ""] {
            assert_eq!(set("LIGHTNING__ALIAS", alias).lightning.alias, alias);
        }
        assert_eq!(set("LOG__FILTER", "sluice=debug,info").log.filter, "sluice=debug,info");
        assert!(set("LOG__JSON", "true").log.json);
        assert_eq!(set("PAYMENT__FEE_PPM", "5000").payment.fee_ppm, 5_000);
        assert_eq!(
            set("PAYMENT__CHALLENGES_PER_SECOND", "7").payment.challenges_per_second.get(),
            7
        );
        assert_eq!(set("LIGHTNING__NETWORK", "regtest").lightning.network, Network::Regtest);
        assert_eq!(set("HTTP__LISTEN", "127.0.0.1:1").http.listen.port(), 1);
        assert_eq!(set("MEDIA__LADDER", "480").media.ladder, [480]);
        assert_eq!(set("MEDIA__LADDER", "720, 480,240").media.ladder, [720, 480, 240]);
        let proxies: [std::net::IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(set("HTTP__TRUSTED_PROXIES", "127.0.0.1,::1").http.trusted_proxies, proxies);
        assert!(set("LIGHTNING__LISTEN", "").lightning.listen.is_empty());
        assert_eq!(set("LIGHTNING__CHAIN__PORT", "18443").lightning.chain, bitcoind(18_443));
    }

    #[test]
    fn the_environment_chooses_another_chain_source_than_the_file() {
        let esplora = [
            ("SLUICE__LIGHTNING__CHAIN__KIND", "esplora"),
            ("SLUICE__LIGHTNING__CHAIN__URL", "http://x"),
        ];
        let port = [("SLUICE__LIGHTNING__CHAIN__PORT", "18443")];
        let electrum = "[lightning.chain]\nkind = \"electrum\"\nurl = \"tcp://x:1\"";
        for text in ["", "[lightning.chain]\nport = 1", REFERENCE, electrum] {
            let config = load_with(text, &esplora).unwrap();
            assert_eq!(config.lightning.chain, ChainSource::Esplora { url: "http://x".to_owned() });
        }
        assert_eq!(load_with("", &port).unwrap().lightning.chain, bitcoind(18_443));
        let other = [("SLUICE__LIGHTNING__CHAIN__URL", "tcp://y:2")];
        assert_eq!(url_of(&load_with(electrum, &other).unwrap().lightning.chain), "tcp://y:2");
        let back = [("SLUICE__LIGHTNING__CHAIN__KIND", "bitcoind")];
        assert_eq!(load_with(electrum, &back).unwrap().lightning.chain, chain::usual());
        // One key of another kind is a mistake, and is named.
        let line = load_with(electrum, &port).unwrap_err().to_string();
        assert!(line.contains("lightning.chain.host, .port"), "{line}");
    }

    #[test]
    fn a_wrong_variable_is_named() {
        for (name, value, named) in [
            ("SLUICE__PAYMENT__FEE_PMM", "1", "fee_pmm"),
            ("SLUICE__PAYMENT__FEE_PPM", "much", "fee_ppm"),
            ("SLUICE__MEDIA__LADDER", "480,high", "high"),
            ("SLUICE__LIGHTNING__CHAIN__PORT", "front", "lightning.chain.port"),
        ] {
            let line = load_with("", &[(name, value)]).expect_err(name).to_string();
            assert!(line.contains(named) && !line.contains('\n'), "{name}: {line}");
        }
        // Commands have variables of their own, with one underscore.
        assert_eq!(load_with("", &[("SLUICE_KEY", "x")]), load(""));
    }

    #[test]
    fn every_list_is_one_in_the_environment_too() {
        let value = serde_json::to_value(Config::default()).unwrap();
        let mut lists = Vec::new();
        for (section, fields) in value.as_object().unwrap() {
            for (key, value) in fields.as_object().into_iter().flatten() {
                if value.is_array() {
                    lists.push(format!("{section}.{key}"));
                }
            }
        }
        lists.sort();
        assert_eq!(lists, layers::LISTS);
    }

    #[test]
    fn flags_come_last() {
        let flags = Flags { data_dir: Some("/x".into()), listen: Some(([127, 0, 0, 1], 1).into()) };
        let variables = [
            ("SLUICE__DATA_DIR".to_owned(), "/y".to_owned()),
            ("SLUICE__HTTP__LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ];
        let config = Config::read(None, Some(variables.into()), &flags).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("/x"));
        assert_eq!(config.http.listen.port(), 1);
    }
}
