//! A UDP relay that impairs media packets. A sequence number always meets the same impairment, so a
//! retransmission under the same number is lost again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

/// Maximum clients. Datagrams from other clients are dropped.
const CLIENTS_MAX: usize = 16;

/// Number of packets by which a reordered packet is late.
const REORDER_BY: usize = 4;

/// Impairments of media packets from the server, in packets of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Impairment {
    /// Packets dropped.
    pub(crate) drop: u32,
    /// Packets with one byte changed.
    pub(crate) corrupt: u32,
    /// Packets delivered late.
    pub(crate) reorder: u32,
}

/// Starts a relay to `to`, which runs until the test's runtime ends. Returns its address.
pub(crate) async fn start(to: SocketAddr, impairment: Impairment, seed: u32) -> SocketAddr {
    let listen = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
    let address = listen.local_addr().expect("is bound");
    tokio::spawn(async move {
        let mut upstreams: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = listen.recv_from(&mut buffer).await {
            if !upstreams.contains_key(&client) && upstreams.len() < CLIENTS_MAX {
                let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
                upstream.connect(to).await.expect("loopback is reachable");
                tokio::spawn(downstream(
                    upstream.clone(),
                    listen.clone(),
                    client,
                    impairment,
                    seed,
                ));
                upstreams.insert(client, upstream);
            }
            if let Some(upstream) = upstreams.get(&client) {
                let _ = upstream.send(&buffer[..length]).await;
            }
        }
    });
    address
}

async fn downstream(
    upstream: Arc<UdpSocket>,
    listen: Arc<UdpSocket>,
    client: SocketAddr,
    impairment: Impairment,
    seed: u32,
) {
    let mut buffer = [0; 2048];
    let mut late: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut count = 0;
    while let Ok(length) = upstream.recv(&mut buffer).await {
        count += 1;
        let datagram = &mut buffer[..length];
        let mut passes = true;
        if let [128..=191, kind, high, low, ..] = *datagram
            && !(192..=223).contains(&kind)
        {
            let draw = draw(u32::from(high) << 8 | u32::from(low), seed);
            if draw < impairment.drop {
                passes = false;
            } else if draw < impairment.drop + impairment.corrupt {
                datagram[length - 20] ^= 0x10;
            } else if draw < impairment.drop + impairment.corrupt + impairment.reorder {
                late.push((count + REORDER_BY, datagram.to_vec()));
                passes = false;
            }
        }
        if passes {
            let _ = listen.send_to(datagram, client).await;
        }
        for (_, datagram) in late.extract_if(.., |(due, _)| *due <= count) {
            let _ = listen.send_to(&datagram, client).await;
        }
    }
}

/// A number below 1000 that depends on the sequence number and the seed only.
fn draw(sequence: u32, seed: u32) -> u32 {
    let mut hash = (sequence ^ seed).wrapping_mul(0x9e37_79b1);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x85eb_ca77);
    (hash ^ (hash >> 13)) % 1000
}
