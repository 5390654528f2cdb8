//! Cost of one forwarded packet with the kernel, against the floor of the same run.
//!
//! `cargo run --release -p weir-benches --bin egress [WORD]`, as root. Prints one table of CPU
//! nanoseconds (user and system) per forwarded packet; with a word only the settings in which a
//! row contains it, such as `"1.0 Mbps"` or `"9 subscriptions"`. Fails where the kernel has no
//! network namespaces, no `ifb` device or no UDP segmentation offload. Builds itself again with the
//! profile of the shipped binary (`shipped.rs`).

use weir_benches::egress::{self, Found};
use weir_benches::{netns, shipped};

fn main() -> Result<(), String> {
    shipped::run_as_shipped("egress")?;
    netns::enter()?;
    print!("{}", Found::HEAD);
    let word = std::env::args().nth(1).unwrap_or_default();
    for setting in egress::settings().filter(|setting| setting.is_named(&word)) {
        print!("{}", egress::measure(setting)?);
    }
    println!();
    Ok(())
}
