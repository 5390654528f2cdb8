//! Cost of reading a packet's route, and of changing it. The cases are in
//! `src/cases/router_snapshot.rs`.

use weir_benches::{cases::router_snapshot, stopwatch};

fn main() {
    stopwatch::run(router_snapshot::cases());
}
