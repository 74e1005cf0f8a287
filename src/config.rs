//! The configuration: defaults, then the file, then the environment, then flags; merged once, read once, and wrong keys or values stop the
//! start with the key and the mend. Each module owns its section; `config/sluice.toml` is the reference, pinned to this by a test.

use std::path::{Path, PathBuf};

use directories::{BaseDirs, ProjectDirs};
use serde::{Deserialize, Serialize};

use crate::lightning::{self, ChainSource, Network};
use crate::{http, library, media, payout, paywall};

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
    pub chain: ChainSource,
}

impl Default for Lightning {
    fn default() -> Self {
        Self {
            network: Network::Signet,
            listen: vec!["0.0.0.0:9735".to_owned()],
            alias: String::new(),
            chain: ChainSource::Bitcoind {
                host: "127.0.0.1".to_owned(),
                port: 38_332,
                cookie_file: "~/.bitcoin/signet/.cookie".into(),
            },
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
        let mut builder = config::Config::builder();
        if let Some(file) = file {
            if !file.is_file() {
                let path = file.display();
                return Err(Error(format!(
                    "{path} is no file: write one with `sluice init {path}`"
                )));
            }
            builder = builder.add_source(
                config::File::from(file).format(config::FileFormat::Toml).required(true),
            );
        }
        builder = builder.add_source(
            config::Environment::with_prefix("SLUICE").prefix_separator("__").separator("__"),
        );
        if let Some(data_dir) = &flags.data_dir {
            let text = data_dir.display().to_string();
            builder = builder.set_override("data_dir", text).map_err(|error| explain(&error))?;
        }
        if let Some(listen) = flags.listen {
            let set = builder.set_override("http.listen", listen.to_string());
            builder = set.map_err(|error| explain(&error))?;
        }
        let merged = builder.build().map_err(|error| explain(&error))?;
        let config: Self = merged.try_deserialize().map_err(|error| explain(&error))?;
        let config = Self { data_dir: at_home(&config.data_dir), ..config };
        config.check()?;
        Ok(config)
    }

    /// What no type can say.
    ///
    /// # Errors
    /// [`Error`]: one line that names the key and the mend.
    pub fn check(&self) -> Result<(), Error> {
        let stop = |line: &str| Err(Error(line.to_owned()));
        self.payment.granularity().map_err(Error)?;
        self.payment.fee().map_err(Error)?;
        if !self.http.listen.ip().is_loopback() && self.http.trusted_proxies.is_empty() {
            return stop(
                "http.listen is not a loopback address: keys and payments would travel in the clear. Listen on \
                 127.0.0.1 behind a proxy that speaks HTTPS, or name that proxy in http.trusted_proxies",
            );
        }
        if !(1_000..=60_000).contains(&self.media.segment_ms) {
            return stop("media.segment_ms must lie between 1000 and 60000 (default 4000)");
        }
        if self.media.ladder.is_empty() {
            return stop(
                "media.ladder must name one height at least (default [1080, 720, 480, 240])",
            );
        }
        if self.payment.invoice_expiry_seconds < 30 {
            return stop("payment.invoice_expiry_seconds must be 30 at least (default 600)");
        }
        if self.media.memory_max_bytes < 1 << 30 {
            return stop("media.memory_max_bytes must be 1073741824 at least (default 4294967296)");
        }
        Ok(())
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
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::load(Some(file.path()), &Flags::default())
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
        ] {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains(named) && !error.contains('\n'), "{text}: {error}");
        }
        let missing = Config::load(Some(Path::new("/nowhere/x.toml")), &Flags::default());
        assert!(missing.unwrap_err().to_string().contains("/nowhere/x.toml"));
    }

    #[test]
    fn flags_come_last() {
        let flags = Flags { data_dir: Some("/x".into()), listen: Some(([127, 0, 0, 1], 1).into()) };
        let config = Config::load(None, &flags).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("/x"));
        assert_eq!(config.http.listen.port(), 1);
    }
}
