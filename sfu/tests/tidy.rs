//! Checks of the repository that no lint can make: import directions, engine types, clocks, file
//! headers.
//!
//! Reads the sources as text. The code of a file ends at its `#[cfg(test)] mod` (tests come last),
//! so a rule never applies to a test. A new module gets its layer in [`LAYERS`] first.

#[path = "tidy/rule_references.rs"]
mod rule_references;

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `weir-sfu` with their layer, as in the table of `ARCHITECTURE.md`.
const LAYERS: &[(&str, u8)] = &[
    ("codec", 0),
    ("client_network", 0),
    ("ids", 0),
    ("limiter", 0),
    ("warm", 0),
    ("units", 0),
    ("error", 0),
    ("config", 0),
    ("rtp", 0),
    ("media", 0),
    ("forward", 1),
    ("repair", 1),
    ("congestion", 1),
    ("router", 2),
    ("transport", 2),
    ("sdp", 2),
    ("worker", 3),
    ("net", 4),
];

/// Modules of one layer do not import each other above the lowest layer, except these (importer,
/// imported).
const IMPORT_EXCEPTIONS: &[(&str, &str)] =
    &[("transport", "sdp"), ("router", "sdp"), ("router", "transport")];

/// Modules that may name the webrtc-rs protocol crates; those types do not leave these modules.
const ENGINE_MODULES: &[&str] = &["transport", "sdp"];

#[test]
fn every_file_has_a_header() {
    let bare: Vec<_> = ["sfu/src", "api/src", "loadtest/src", "loadtest/netsim/src"]
        .into_iter()
        .flat_map(|module| files(&root().join(module), "rs"))
        .filter(|path| !read(path).starts_with("//! "))
        .collect();
    assert!(bare.is_empty(), "no `//!` header on the first line of {bare:#?}");
}

#[test]
fn modules_import_only_lower_layers() {
    let broken = violations(|module, line| {
        let target = paths_after(line, "crate::").find(|target| !may_import(module, target))?;
        Some(format!("`{module}` must not import `{target}`"))
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn only_transport_and_sdp_name_the_engine() {
    let broken = violations(|module, line| {
        let engine = paths_after(line, "rtc_").next()?;
        (!ENGINE_MODULES.contains(&module)).then(|| format!("`{module}` names rtc_{engine}"))
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn only_the_shell_reads_a_clock() {
    let broken = violations(|module, line| {
        let reads = line.contains("Instant::now") || line.contains("SystemTime::now");
        (reads && module != "net").then(|| format!("`{module}` reads a clock; take `now` instead"))
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn documents_link_to_existing_files() {
    let mut links = 0;
    for paper in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
        .into_iter()
        .chain(["sfu/ARCHITECTURE.md", "sfu/fuzz/README.md"])
        .map(|name| root().join(name))
        .chain(files(&root().join("docs"), "md"))
    {
        let folder = paper.parent().expect("a file has a folder").to_owned();
        for link in read(&paper).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                let exists = folder.join(target).exists();
                assert!(exists, "{} links to {target}, which does not exist", paper.display());
                links += 1;
            }
        }
    }
    assert!(links > 10, "only {links} links found");
}

#[test]
fn every_promise_of_the_security_page_has_its_test() {
    let sources: String = ["sfu/src", "sfu/tests", "api/src", "api/tests"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), "rs"))
        .map(|file| read(&file))
        .collect();
    let page = read(&root().join("docs/SECURITY.md"));
    // Rows of the tables, without their heads.
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut promises = 0;
    for row in rows {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "a promise without a test: {row}");
        for name in names {
            let scenario = root().join("api/tests/scenarios").join(name);
            let exists = scenario.exists() || sources.contains(&format!("fn {name}("));
            assert!(exists, "docs/SECURITY.md names the test {name}, which does not exist");
        }
        promises += 1;
    }
    assert!(promises > 20, "only {promises} promises found");
}

#[test]
fn every_dependency_has_a_written_reason() {
    let papers = read(&root().join("docs/DEPENDENCIES.md"));
    for package in [".", "sfu", "api", "loadtest", "loadtest/netsim", "benches"] {
        let manifest = read(&root().join(package).join("Cargo.toml"));
        let sections = manifest.split("\n[").filter_map(|section| section.split_once("]\n"));
        for (_, section) in sections.filter(|(title, _)| title.ends_with("dependencies")) {
            let names = section.lines().filter_map(|line| line.split_once(['.', ' ', '=']));
            for (name, _) in
                names.filter(|(name, _)| !["", "#", "weir-netsim", "weir-sfu"].contains(name))
            {
                assert!(papers.contains(&format!("| `{name}` ")), "{package} uses {name}: why?");
            }
        }
    }
}

#[test]
fn rules_report_a_violation() {
    assert!(may_import("worker", "rtp") && may_import("rtp", "media"));
    assert!(may_import("transport", "sdp") && !may_import("sdp", "transport"));
    assert!(!may_import("rtp", "forward") && !may_import("repair", "forward"));
    assert!(!may_import("worker", "net") && !may_import("worker", "attic"));
    let group = "use crate::{ids::Role, net::{Sfu, Created}, rtp};";
    assert_eq!(paths_after(group, "crate::").collect::<Vec<_>>(), ["ids", "net", "rtp"]);
    let inline = "fn f(r: &crate::sdp::Offer) -> rtc_dtls::Endpoint { mycrate::x() }";
    assert_eq!(paths_after(inline, "crate::").collect::<Vec<_>>(), ["sdp"]);
    assert_eq!(paths_after(inline, "rtc_").collect::<Vec<_>>(), ["dtls"]);
}

/// Whether `module` may import `target`: the same module, a lower layer, or an exception.
fn may_import(module: &str, target: &str) -> bool {
    let layer = |name| LAYERS.iter().find(|(module, _)| *module == name).map(|(_, layer)| *layer);
    match (layer(module), layer(target)) {
        (Some(0), Some(0)) => true,
        (Some(own), Some(other)) => {
            module == target || other < own || IMPORT_EXCEPTIONS.contains(&(module, target))
        }
        _ => false,
    }
}

/// The names that follow `prefix` in a line of code: `crate::a`, or each head of `crate::{a, b}`.
fn paths_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(prefix)
        .filter(move |(at, _)| !line[..*at].ends_with(word))
        .flat_map(move |(at, _)| {
            let rest = &line[at + prefix.len()..];
            let mut depth = 0;
            let heads = rest.strip_prefix('{').unwrap_or(rest).split_inclusive(['{', '}', ',']);
            let heads = heads.filter_map(move |piece| {
                let head = (depth == 0).then_some(piece);
                depth += i32::from(piece.ends_with('{')) - i32::from(piece.ends_with('}'));
                head
            });
            let count = if rest.starts_with('{') { usize::MAX } else { 1 };
            heads.take(count).map(move |head| {
                let head = head.trim_start();
                head.split_once(|c: char| !word(c)).map_or(head, |(name, _)| name)
            })
        })
        .filter(|name| !name.is_empty())
}

/// Applies a rule to every code statement of `weir-sfu`; one message per violation, with its
/// position.
fn violations(rule: impl Fn(&str, &str) -> Option<String>) -> Vec<String> {
    let src = root().join("sfu/src");
    let mut found = Vec::new();
    for path in files(&src, "rs") {
        let relative = path.strip_prefix(&src).expect("found below src");
        let module = relative.iter().next().and_then(|first| Path::new(first).file_stem());
        let module = module.and_then(|name| name.to_str()).expect("source names are UTF-8");
        if module == "lib" || relative.ends_with("tests.rs") {
            continue;
        }
        for (number, statement) in statements(&read(&path)) {
            if let Some(message) = rule(module, &statement) {
                found.push(format!("{}:{number}: {message}", relative.display()));
            }
        }
    }
    found
}

/// Lines of code with their number: no comments, no tests, and a `use` of many lines as one.
fn statements(source: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside_use = false;
    for (index, line) in source[..code_len(source)].lines().enumerate() {
        let code = line.split_once("//").map_or(line, |(code, _)| code).trim();
        match found.last_mut() {
            Some((_, statement)) if inside_use => statement.push_str(code),
            _ => found.push((index + 1, code.to_owned())),
        }
        let opens = code.starts_with("use ") || code.starts_with("pub use ");
        inside_use = (inside_use || opens) && !code.ends_with(';');
    }
    found
}

/// Length of the code before the test module; other attributes may stand between it and its `cfg`.
fn code_len(source: &str) -> usize {
    let is_module = |at: &usize| {
        let item = source[*at..].lines().skip(2).find(|line| line.starts_with(char::is_alphabetic));
        item.is_some_and(|item| item.starts_with("mod "))
    };
    let mut tests = source.match_indices("\n#[cfg(test)]\n").map(|(at, _)| at);
    tests.find(is_module).unwrap_or(source.len())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("sfu/ has a parent").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `dir` whose name ends in `.extension`, sorted.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("readable directory").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|ending| ending == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}
