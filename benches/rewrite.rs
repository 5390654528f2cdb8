//! Cost of deciding on a packet for one viewer and writing it, before the cipher. The cases are in
//! `src/cases/rewrite.rs`.

use weir_benches::{cases::rewrite, stopwatch};

fn main() {
    stopwatch::run(rewrite::cases());
}
