//! The house keeps its order (docs/ARCHITECTURE.md, "Who may import whom"): read from the source text, so that breaking it fails here and
//! not in a review. A new module, or a new path between two, is a decision that is written down below.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file at most (STYLE.md, rule 13).
const LINES_MAX: usize = 600;

/// What each top-level module may import of the others. `domain` may be imported by all, `telemetry` by all but `domain`.
const LAYERS: [(&str, &[&str]); 20] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "app",
            "config",
            "lightning",
            "media",
            "paywall",
            "payout",
            "runtime",
            "settlement",
            "statements",
            "store",
        ],
    ),
    (
        "app",
        &[
            "blobs",
            "config",
            "http",
            "library",
            "lightning",
            "media",
            "operate",
            "payout",
            "paywall",
            "runtime",
            "settlement",
            "statements",
            "store",
        ],
    ),
    // Each module owns its `Options`.
    ("config", &["http", "library", "lightning", "media", "payout", "paywall"]),
    (
        "http",
        &["hls", "library", "operate", "payout", "paywall", "runtime", "settlement", "statements"],
    ),
    ("library", &["blobs", "media", "runtime", "store"]),
    ("paywall", &["lightning", "runtime", "store"]),
    ("settlement", &["lightning", "runtime", "store"]),
    ("payout", &["lightning", "runtime", "store"]),
    ("statements", &["lightning", "runtime", "store"]),
    ("operate", &["lightning", "runtime", "store"]),
    ("store", &["runtime"]),
    ("lightning", &["runtime"]),
    ("media", &["runtime"]),
    ("blobs", &["runtime"]),
    ("hls", &[]),
    ("telemetry", &[]),
    ("runtime", &[]),
    ("domain", &[]),
    ("lib", &[]),
];

/// Paths beyond the table, each with its reason. One that is no longer used must go.
const EXCEPTIONS: [(&str, &str, &str); 20] = [
    ("http", "store::Error", "http::error gives it a status code"),
    ("http", "store::Invoice", "a session's 402 shows the open invoice"),
    ("http", "store::Role", "whom a key belongs to"),
    ("http", "store::Creator", "plain data on the wire"),
    ("http", "store::Cause", "why a payout came back, as a creator reads it"),
    ("http", "store::Payout", "plain data on the wire"),
    ("http", "store::PayoutState", "plain data on the wire"),
    ("http", "blobs::Part", "names a part of a rendition; no store behind it"),
    ("http", "lightning::Network", "told to wallets when a session begins"),
    ("http", "lightning::NodeInfo", "plain data on the wire"),
    ("http", "lightning::Error", "http::error gives it a status code"),
    ("library", "hls::Error", "a playlist that cannot be written is the library's error"),
    ("settlement", "paywall::Suspension", "minting stops while booking fails"),
    ("settlement", "paywall::Wake", "wakes who waits for a payment"),
    ("operate", "paywall::Suspension", "readiness tells it"),
    ("payout", "paywall::token::derive", "one derivation of secrets from the seed"),
    ("lightning", "store::Durability", "the port NodeState"),
    ("lightning", "store::Error", "the port NodeState"),
    ("lightning", "store::NodeKey", "the port NodeState"),
    ("lightning", "store::NodeState", "the port NodeState"),
];

/// Implementations of ports: only the composition root and the commands name them.
const ADAPTERS: [&str; 9] = [
    "store::memory",
    "store::rocks",
    "store::engine",
    "lightning::fake",
    "lightning::kv",
    "lightning::ldk",
    "lightning::mint",
    "lightning::regtest",
    "media::worker",
];

/// A crate and the only places that may name it.
const CRATES: [(&str, &[&str]); 8] = [
    ("ldk_node::", &["src/lightning/kv.rs", "src/lightning/ldk", "src/lightning/mint.rs"]),
    (
        "lightning_invoice::",
        &[
            "src/lightning/bolt11.rs",
            "src/lightning/fake.rs",
            "src/lightning/ldk",
            "src/lightning/mint.rs",
        ],
    ),
    ("ffmpeg_next::", &["src/media/ffmpeg"]),
    ("rocksdb::", &["src/store/rocks.rs"]),
    ("object_store::", &["src/blobs.rs"]),
    ("hls_m3u8::", &["src/hls"]),
    ("prometheus_client::", &["src/telemetry.rs"]),
    ("landlock::", &["src/media/worker/sandbox.rs"]),
];

struct Source {
    path: String,
    /// Without comments and without the unit tests at the end.
    code: String,
    lines: usize,
    module: Vec<String>,
}

impl Source {
    fn top(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// All paths into this crate that it names, from the crate's root.
    fn paths(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (start, keyword) in ["crate::", "super::"]
            .iter()
            .flat_map(|keyword| self.code.match_indices(keyword).map(move |(at, _)| (at, *keyword)))
        {
            let before = self.code[..start].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                continue;
            }
            let mut base = if keyword == "crate::" { Vec::new() } else { self.module.clone() };
            let mut rest = &self.code[start..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            expand(rest.strip_prefix("crate::").unwrap_or(rest), &base.join("::"), &mut found);
        }
        // A module that is imported as such: its parts are named with it.
        let whole: Vec<_> = found.iter().filter(|path| !path.contains("::")).cloned().collect();
        for module in whole {
            for (at, _) in self.code.match_indices(&format!("{module}::")) {
                let before = self.code[..at].chars().next_back();
                if !before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                    expand(&self.code[at..], "", &mut found);
                    found.remove(&module);
                }
            }
        }
        found
    }
}

/// Adds a path, or each path of a `{...}` group, and gives what comes after it.
fn expand<'a>(text: &'a str, base: &str, found: &mut BTreeSet<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = expand(rest, base, found).trim_start();
            match rest.strip_prefix(',') {
                Some(more) if more.trim_start().starts_with('}') => {
                    return more.trim_start().trim_start_matches('}');
                }
                Some(more) => rest = more,
                None => return rest.strip_prefix('}').unwrap_or(rest),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = match (base, name) {
        (base, "self") => base.to_owned(),
        ("", name) => name.to_owned(),
        (base, name) => format!("{base}::{name}"),
    };
    match rest.strip_prefix("::") {
        Some(deeper) if !name.is_empty() && !deeper.starts_with('<') => {
            expand(deeper, &path, found)
        }
        _ => {
            found.insert(path);
            rest
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn source(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let code: Vec<_> =
        text[..tests].lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let name = path.trim_start_matches("src/").trim_end_matches(".rs");
    let module = name.split('/').map(str::to_owned).filter(|part| part != "lib").collect();
    Source { lines: text.lines().count(), code: code.join("\n"), path, module }
}

fn sources() -> Vec<Source> {
    files("src").iter().map(|path| source(path)).collect()
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let layers: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let mut broken = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources() {
        let top = source.top().to_owned();
        let Some(below) = layers.get(top.as_str()) else {
            broken.push(format!("{} is in no layer: decide in LAYERS", source.path));
            continue;
        };
        for path in source.paths() {
            let to = path.split("::").next().unwrap().to_owned();
            // The macro lies at the root, because macros do.
            let to = if to == "failpoint" { "runtime".to_owned() } else { to };
            let own = to == top || to == "domain" || (to == "telemetry" && top != "domain");
            if own
                || below.contains(&to.as_str())
                || to.is_empty()
                || !layers.contains_key(to.as_str())
            {
                continue;
            }
            match EXCEPTIONS.iter().find(|(from, allowed, _)| {
                *from == top && (path == *allowed || path.starts_with(&format!("{allowed}::")))
            }) {
                Some((from, allowed, _)) => {
                    used.insert((*from, *allowed));
                }
                None => broken.push(format!("{} imports {path}", source.path)),
            }
        }
    }
    assert_none("against docs/ARCHITECTURE.md, \"Who may import whom\"", &broken);
    let unused = EXCEPTIONS.iter().filter(|(from, path, _)| !used.contains(&(*from, *path)));
    let unused: Vec<_> = unused.map(|(from, path, _)| format!("{from} -> {path}")).collect();
    assert_none("take these from EXCEPTIONS", &unused);
}

#[test]
fn no_module_depends_on_itself_by_way_of_others() {
    let known: BTreeSet<_> = LAYERS.iter().map(|(name, _)| *name).collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let top = source.top().to_owned();
        let to = source
            .paths()
            .into_iter()
            .filter_map(|path| path.split("::").next().map(str::to_owned));
        let to = to.filter(|to| *to != top && known.contains(to.as_str()));
        edges.entry(top.clone()).or_default().extend(to);
    }
    // Take away what depends on nothing that is left, until nothing is left.
    while !edges.is_empty() {
        let free: Vec<_> = edges
            .iter()
            .filter(|(_, to)| to.iter().all(|to| !edges.contains_key(to)))
            .map(|(name, _)| name.clone())
            .collect();
        assert!(!free.is_empty(), "a cycle is among {edges:?}");
        for name in free {
            edges.remove(&name);
        }
    }
}

#[test]
fn only_the_root_and_the_commands_name_adapters() {
    let mut broken = Vec::new();
    for source in sources() {
        if ["app", "cli", "main"].contains(&source.top()) {
            continue;
        }
        for path in source.paths() {
            for adapter in ADAPTERS {
                let inside = adapter.split("::").next() == Some(source.top());
                if path.starts_with(adapter) && !inside {
                    broken.push(format!("{} names {path}", source.path));
                }
            }
        }
    }
    assert_none("use cases see ports, never adapters", &broken);
}

#[test]
fn adapters_of_one_port_do_not_know_each_other() {
    let mut broken = Vec::new();
    for source in sources() {
        let module = source.module.join("::");
        for path in source.paths() {
            let pairs = [
                ("store::memory", "store::rocks"),
                ("store::rocks", "store::memory"),
                ("lightning::fake", "lightning::ldk"),
                ("lightning::ldk", "lightning::fake"),
                ("media::ffmpeg", "media::worker"),
            ];
            for (one, other) in pairs {
                if module.starts_with(one) && path.starts_with(other) {
                    broken.push(format!("{} names {path}", source.path));
                }
            }
        }
    }
    assert_none("adapters never import each other", &broken);
}

#[test]
fn a_foreign_crate_is_named_in_its_adapter_alone() {
    let mut broken = Vec::new();
    for source in sources() {
        for (name, places) in CRATES {
            let named = source.code.match_indices(name).any(|(at, _)| {
                !source.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            });
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            if named && !allowed {
                broken.push(format!("{} names {name}", source.path));
            }
        }
        // The crate `lightning` shares its name with our module: its own modules tell them apart.
        for part in [
            "util",
            "ln",
            "offers",
            "events",
            "routing",
            "chain",
            "bitcoin",
            "blinded_path",
            "sign",
        ] {
            let places = ["src/lightning/kv.rs", "src/lightning/ldk", "src/lightning/mint.rs"];
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            if !allowed && source.code.contains(&format!("lightning::{part}::")) {
                broken.push(format!("{} names the crate lightning", source.path));
            }
        }
    }
    assert_none("a crate behind a port", &broken);
}

#[test]
fn unsafe_code_is_in_one_place() {
    let mut broken = Vec::new();
    for source in sources() {
        let unsafe_code =
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe(", "unsafe_code)"];
        if !source.path.starts_with("src/media/ffmpeg/raw")
            && unsafe_code.iter().any(|word| source.code.contains(word))
        {
            broken.push(source.path);
        }
    }
    assert_none("unsafe code beyond src/media/ffmpeg/raw", &broken);
}

#[test]
fn one_file_decides_status_codes() {
    const SUCCESS: [&str; 5] = ["OK", "CREATED", "ACCEPTED", "NO_CONTENT", "PARTIAL_CONTENT"];
    let mut broken = Vec::new();
    for source in sources() {
        if source.path == "src/http/error.rs" || source.top() == "cli" {
            continue;
        }
        for (at, word) in source.code.match_indices("StatusCode::") {
            let code = &source.code[at + word.len()..];
            let end = code.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap();
            let code = &code[..end];
            let ready = source.path == "src/http/operate.rs" && code == "SERVICE_UNAVAILABLE";
            let success = source.top() == "http" && SUCCESS.contains(&code);
            if !success && !ready {
                broken.push(format!("{} decides {code}", source.path));
            }
        }
    }
    assert_none("status codes are decided in src/http/error.rs", &broken);
}

#[test]
fn the_domain_knows_no_runtime_no_files_and_no_clock() {
    let words =
        ["tokio", "axum", "std::fs", "std::time", "SystemTime", "Instant", "async fn", "getrandom"];
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| ["domain", "hls"].contains(&source.top())) {
        let pure = |word: &&&str| source.code.contains(**word);
        for word in words.iter().filter(pure) {
            if !(source.top() == "hls" && *word == "std::time") {
                broken.push(format!("{} names {word}", source.path));
            }
        }
    }
    assert_none("the domain is pure", &broken);
}

#[test]
fn every_task_ends_with_the_program() {
    let mut broken = Vec::new();
    for source in sources() {
        let exits = source.code.contains("std::process::exit") && source.top() != "cli";
        if source.code.contains("tokio::spawn(") || exits {
            broken.push(source.path);
        }
    }
    assert_none("a bare spawn or exit: use Tasks", &broken);
}

#[test]
fn files_can_be_held_in_mind() {
    let mut broken = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for path in files(folder) {
            let source = source(&path);
            if path.file_name().is_some_and(|name| name == "mod.rs") {
                broken.push(format!("{}: write `foo.rs` and `foo/`", source.path));
            }
            if source.lines > LINES_MAX {
                broken
                    .push(format!("{}: {} lines, at most {LINES_MAX}", source.path, source.lines));
            }
        }
    }
    assert_none("STYLE.md, rule 13", &broken);
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[igno", "re"),
    ];
    let mut broken = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for path in files(folder) {
            let source = source(&path);
            for word in words.iter().filter(|word| source.code.contains(**word)) {
                broken.push(format!("{} holds {word}", source.path));
            }
        }
    }
    assert_none("unfinished", &broken);
}
