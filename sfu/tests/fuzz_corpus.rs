//! Replays the committed fuzz corpora as an ordinary test, so that a machine without a nightly
//! toolchain still guards every finding. Search for new ones: `sfu/fuzz/README.md`.

#[path = "support/fuzz_entry.rs"]
mod fuzz_entry;

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_seed_and_every_past_finding_is_survived() {
    for (target, run) in fuzz_entry::TARGETS {
        let seeds = corpus(target);
        assert!(seeds.len() >= 8, "{target}: only {} seeds, is the corpus gone?", seeds.len());
        for (path, bytes) in &seeds {
            println!("{target}: {}", path.display());
            run(bytes);
        }
    }
}

#[test]
fn a_seed_cut_short_anywhere_is_survived() {
    for (target, run) in fuzz_entry::TARGETS {
        for (path, bytes) in corpus(target) {
            println!("{target}: {} cut short", path.display());
            let step = (bytes.len() / 512).max(1);
            (0..bytes.len()).step_by(step).for_each(|end| run(&bytes[..end]));
        }
    }
}

/// The files of one target. Real offers are kept once, as test data of `sdp/`.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![home.join("fuzz/corpus").join(target)];
    if target == "sdp" {
        folders.push(home.join("tests/data/offers"));
    }
    let files = folders.iter().flat_map(|folder| {
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    });
    let mut paths: Vec<_> = files.map(|file| file.expect("readable folder").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).expect("readable seed");
            (path, bytes)
        })
        .collect()
}
