//! What does one forwarded packet cost with the kernel, against the floor of the same run?
//!
//! `cargo run --release -p weir-benches --bin egress`, as root. Prints one table, CPU nanoseconds (user and
//! system) per forwarded packet; fails where the kernel has no network namespaces, no `ifb` device or no UDP
//! segmentation offload.

use weir_benches::egress::{self, Found};
use weir_benches::netns;

fn main() -> Result<(), String> {
    netns::enter()?;
    print!("{}", Found::HEAD);
    for setting in egress::settings() {
        print!("{}", egress::measure(setting)?);
    }
    println!();
    Ok(())
}
