//! What does it cost to know where a packet goes, and to change it? The cases are in
//! `src/cases/router_snapshot.rs`.

use weir_benches::{cases::router_snapshot, stopwatch};

fn main() {
    stopwatch::run(router_snapshot::cases());
}
