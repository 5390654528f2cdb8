//! Cost of one forwarded packet, from the publisher's datagram to sealed bytes for N viewers. The
//! scenes are in `src/cases/fanout.rs`. Ends with a table that compares each with its floor.

use weir_benches::cases::fanout::{self, Row};
use weir_benches::stopwatch;

fn main() {
    stopwatch::run(fanout::cases());
    // Not with arguments such as a filter or a profile.
    if std::env::args().skip(1).all(|arg| arg == "--bench" || arg == "--test") {
        println!("{}", Row::HEAD);
        fanout::scenes().into_iter().for_each(|scene| println!("{}", Row::measure(scene)));
    }
}
