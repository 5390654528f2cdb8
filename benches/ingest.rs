//! Cost of one incoming datagram, per codec and profile. The cases are in `src/cases/ingest.rs`.

use weir_benches::{cases::ingest, stopwatch};

fn main() {
    stopwatch::run(ingest::cases());
}
