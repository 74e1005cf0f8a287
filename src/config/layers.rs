//! The layers of the configuration, one over the other: file, environment, flags. The defaults lie
//! below them, in the types.

use std::path::Path;

use config::{ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::{Flags, chain};

/// Keys that hold lists; the environment writes these with commas.
pub(super) const LISTS: [&str; 3] = ["http.trusted_proxies", "lightning.listen", "media.ladder"];

/// Variables in place of the process's own.
pub(super) type Variables = Map<String, String>;

/// Everything that was said, the upper layer's word where two speak of one key.
pub(super) fn merge(
    file: Option<&Path>,
    variables: Option<Variables>,
    flags: &Flags,
) -> Result<config::Config, ConfigError> {
    let mut below = config::Config::builder();
    if let Some(file) = file {
        below = below.add_source(File::from(file).format(FileFormat::Toml).required(true));
    }
    let mut below = below.build()?;
    let environment = Environment::with_prefix("SLUICE").prefix_separator("__").separator("__");
    let environment = WithLists(environment.source(variables));
    let environment = config::Config::builder().add_source(environment).build()?;
    chain::drop_other_kind(&mut below, &environment);
    let mut builder = config::Config::builder().add_source(below).add_source(environment);
    if let Some(data_dir) = &flags.data_dir {
        builder = builder.set_override("data_dir", data_dir.display().to_string())?;
    }
    if let Some(listen) = flags.listen {
        builder = builder.set_override("http.listen", listen.to_string())?;
    }
    builder.build()
}

/// An environment whose lists are lists.
///
/// The crate's own way (`try_parsing`) guesses each variable's type from its text: it makes an alias
/// `007` the number 7, and takes one height for no list. Here all else stays text, which the types of
/// [`super::Config`] parse.
#[derive(Debug, Clone)]
struct WithLists(Environment);

impl Source for WithLists {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut found = self.0.collect()?;
        for key in LISTS {
            let Some(value) = found.get_mut(key) else { continue };
            if let ValueKind::String(text) = &value.kind {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                let items: Vec<String> = items.map(str::to_owned).collect();
                value.kind = items.into();
            }
        }
        Ok(found)
    }
}
