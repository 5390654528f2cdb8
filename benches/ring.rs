//! Cost of handing a packet to another worker, and of waking it. The cases are in
//! `src/cases/ring.rs`.

use weir_benches::{cases::ring, stopwatch};

fn main() {
    stopwatch::run(ring::cases());
}
