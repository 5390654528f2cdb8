//! Allocations per forwarded packet. Fails if there is one; prints those of timers and of a join.
//! The counting is in `src/cases/allocations.rs`.

use weir_benches::cases::allocations::{Row, join, rows};

fn main() {
    println!("| packets per turn | workers | forwarded packets | allocations | in timers |");
    println!("|---|---|---|---|---|");
    let rows = rows();
    for Row { frame_packets, workers, packets, forwarding, timers } in &rows {
        println!("| {frame_packets} | {workers} | {packets} | {forwarding} | {timers} |");
    }
    let join = join();
    println!(
        "\nA viewer that joins: {} allocations, {} bytes in all, {} bytes kept.",
        join.count_total, join.bytes_total, join.bytes_current
    );
    assert!(rows.iter().all(|row| row.forwarding == 0), "forwarding a packet must not allocate");
}
