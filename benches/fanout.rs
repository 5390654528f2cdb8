//! What does one forwarded packet cost, from the publisher's datagram to sealed bytes for N viewers?
//! The scenes are in `src/cases/fanout.rs`. Ends with a table that sets each against its floor.

use weir_benches::cases::fanout::{self, Row};
use weir_benches::stopwatch;

fn main() {
    stopwatch::run(fanout::cases());
    // Not when arguments ask for something else: a filter, a profile.
    if std::env::args().skip(1).all(|arg| arg == "--bench" || arg == "--test") {
        println!("{}", Row::HEAD);
        fanout::scenes().into_iter().for_each(|scene| println!("{}", Row::measure(scene)));
    }
}
