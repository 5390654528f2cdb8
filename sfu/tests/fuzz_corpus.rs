//! Replays the committed fuzz corpora as an ordinary test, so that a machine without a nightly
//! toolchain still guards every finding. Search for new ones: `sfu/fuzz/README.md`.

#[path = "support/fuzz_entry.rs"]
mod fuzz_entry;

use std::fs;
use std::path::{Path, PathBuf};

use fuzz_entry::run;

#[test]
fn every_seed_and_every_past_finding_passes() {
    for target in targets() {
        let seeds = corpus(&target);
        assert!(seeds.len() >= 8, "{target}: only {} seeds, is the corpus gone?", seeds.len());
        for (path, bytes) in &seeds {
            println!("{target}: {}", path.display());
            run(&target, bytes);
        }
    }
}

#[test]
fn truncated_seed_passes() {
    for target in targets() {
        for (path, bytes) in corpus(&target) {
            println!("{target}: {} cut short", path.display());
            let step = (bytes.len() / 512).max(1);
            (0..bytes.len()).step_by(step).for_each(|end| run(&target, &bytes[..end]));
        }
    }
}

/// The fuzz targets (which `.ci/test` asks the package for) are those with a corpus, and the other
/// way round.
#[test]
fn targets_of_the_package_are_those_with_a_corpus() {
    let manifest = fs::read_to_string(home().join("fuzz/Cargo.toml")).expect("a manifest");
    let bins = manifest.split("[[bin]]").skip(1);
    let name = |bin: &str| Some(bin.split_once("name = \"")?.1.split_once('"')?.0.to_owned());
    let mut built: Vec<_> = bins.map(|bin| name(bin).expect("a target has a name")).collect();
    built.sort();
    assert_eq!(built, targets());
}

/// The targets are the folders of the corpus.
fn targets() -> Vec<String> {
    let folders = entries(&home().join("fuzz/corpus"));
    let names = folders.iter().filter_map(|folder| folder.file_name()?.to_str());
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() >= 4, "only {names:?}");
    names
}

/// The files of one target. Real offers are kept once, as test data of `sdp/`.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = entries(&home().join("fuzz/corpus").join(target));
    if target == "sdp" {
        let offers = entries(&home().join("tests/data/offers"));
        paths
            .extend(offers.into_iter().filter(|path| path.extension().is_some_and(|e| e == "sdp")));
    }
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable seed");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Entries of a folder, sorted.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let found =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<_> = found.map(|entry| entry.expect("readable folder").path()).collect();
    found.sort();
    found
}
