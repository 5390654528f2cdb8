//! Cost of sending to few viewers after a sleep, by the kernel and the machine alone.
//!
//! `cargo run --release -p weir-benches --bin wake`. A worker of one stream sleeps between frames:
//! what it does after each wake finds cold caches, and each send wakes a receiver. Few viewers
//! share that cost. This program does nothing but sleep and send messages of three segments over
//! loopback, so its ratio is the lower bound for a server's ratio on the same machine. It needs no
//! root and takes about 20 s.

#![expect(clippy::disallowed_methods, reason = "the sleep is what is measured")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn_udp::{Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weir_benches::stopwatch::cpu_time;

/// Viewers of each row; the last is what the others are compared with.
const VIEWERS: [usize; 4] = [1, 20, 100, 300];

/// Time between two wakes: 30 frames and 50 packets of sound per second.
const WAKE_INTERVAL: Duration = Duration::from_micros(12_500);

/// Wakes per measurement.
const WAKES: u32 = 240;

/// Measurements per row, in turn; the median is printed.
const ROUNDS: usize = 5;

/// Segments of one message, and bytes of each.
const SEGMENTS: usize = 3;
const SEGMENT_BYTES: usize = 1100;

fn main() -> std::io::Result<()> {
    let mut found = VIEWERS.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (viewers, costs) in VIEWERS.into_iter().zip(&mut found) {
            costs.push(measure(viewers)?);
        }
    }
    let medians = found.map(|mut costs| {
        costs.sort_unstable();
        costs[ROUNDS / 2]
    });
    let most = medians[VIEWERS.len() - 1].as_nanos() as f64;
    println!(
        "| viewers | µs of CPU per packet | ratio to {} viewers |",
        VIEWERS[VIEWERS.len() - 1]
    );
    println!("|---|---|---|");
    for (viewers, cost) in VIEWERS.into_iter().zip(medians) {
        let ns = cost.as_nanos() as f64;
        println!("| {viewers} | {:.1} | {:.2} |", ns / 1000.0, ns / most);
    }
    Ok(())
}

/// CPU time per packet of a thread that sleeps and sends, the wake included.
fn measure(viewers: usize) -> std::io::Result<Duration> {
    let sockets = (0..viewers)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true).map(|()| socket)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let addresses =
        sockets.iter().map(UdpSocket::local_addr).collect::<Result<Vec<SocketAddr>, _>>()?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| receive(&sockets, &ended));
        let cost = send(&addresses);
        ended.store(true, Ordering::Relaxed);
        cost
    })
}

/// Sends one message to each address per wake.
fn send(addresses: &[SocketAddr]) -> std::io::Result<Duration> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let state = UdpSocketState::new((&socket).into())?;
    let contents = vec![0; SEGMENTS * SEGMENT_BYTES];
    let before = cpu_time();
    let start = Instant::now();
    for wake in 1..=WAKES {
        std::thread::sleep(
            (start + WAKE_INTERVAL * wake).saturating_duration_since(Instant::now()),
        );
        for &destination in addresses {
            let segment_size = Some(SEGMENT_BYTES);
            let (ecn, src_ip) = (None, None);
            let message = Transmit { destination, ecn, contents: &contents, segment_size, src_ip };
            state.try_send((&socket).into(), &message)?;
        }
    }
    Ok((cpu_time() - before) / (WAKES * (addresses.len() * SEGMENTS) as u32))
}

/// Takes what arrives until the sender has ended.
fn receive(sockets: &[UdpSocket], ended: &AtomicBool) {
    let mut waited: Vec<_> = sockets
        .iter()
        .map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
        .collect();
    let mut datagram = [0; SEGMENT_BYTES];
    let most = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    while !ended.load(Ordering::Relaxed) {
        let _ = poll(&mut waited, Some(&most));
        for socket in sockets {
            while socket.recv(&mut datagram).is_ok() {}
        }
    }
}
