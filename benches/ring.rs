//! What does it cost to hand a packet to another worker, and to wake it? The cases are in
//! `src/cases/ring.rs`.

use weir_benches::{cases::ring, stopwatch};

fn main() {
    stopwatch::run(ring::cases());
}
