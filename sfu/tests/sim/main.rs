//! Stories about the real `Worker`, played in memory under a virtual clock.
//!
//! `cargo test --release -p weir-sfu --test sim`; one test per scenario, named by what a viewer,
//! a publisher or an attacker would tell. The stage is `tests/support/world`.

#[path = "../support/world/mod.rs"]
mod world;

mod basics;

use std::time::Duration;

/// Milliseconds.
fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
