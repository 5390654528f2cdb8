//! Cost of sealing and opening one packet, per profile and size. The cases are in
//! `src/cases/srtp.rs`.

use weir_benches::{cases::srtp, stopwatch};

fn main() {
    stopwatch::run(srtp::cases());
}
