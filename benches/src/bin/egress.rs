//! What does one forwarded packet cost with the kernel, against the floor of the same run?
//!
//! `cargo run --release -p weir-benches --bin egress`, as root. Prints one table; fails where the kernel
//! has no network namespaces, no `ifb` device or no UDP segmentation offload.

use weir_benches::egress;
use weir_benches::netns::{self, Device};

fn main() -> Result<(), String> {
    netns::enter()?;
    println!(
        "CPU ns (user and system) per forwarded packet, from the publisher's datagram to the send call"
    );
    println!("| device | frames | viewers | worker | floor | ratio | datagrams per message |");
    println!("|---|---|---|---|---|---|---|");
    for device in [Device::Ifb, Device::Loopback] {
        for frames in egress::FRAMES {
            println!("{}", egress::measure(device, frames)?);
        }
    }
    Ok(())
}
