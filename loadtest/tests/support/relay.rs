//! A UDP relay that does harm on purpose, to media only and always to the same packets: what is sent again under the same number
//! meets the same fate, so its losses are beyond repair.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

/// Clients served at once; more are ignored.
const CLIENTS_MAX: usize = 16;

/// A reordered packet comes so many packets late.
const REORDER_BY: usize = 4;

/// What to do to media packets on their way from the server, in packets of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Harm {
    /// Not passed on.
    pub(crate) drop: u32,
    /// One byte changed.
    pub(crate) corrupt: u32,
    /// Passed on late.
    pub(crate) reorder: u32,
}

/// Starts a relay to `to`; it lives as long as the test's runtime. Gives its address.
pub(crate) async fn start(to: SocketAddr, harm: Harm, seed: u32) -> SocketAddr {
    let listen = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
    let address = listen.local_addr().expect("is bound");
    tokio::spawn(async move {
        let mut upstreams: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = listen.recv_from(&mut buffer).await {
            if !upstreams.contains_key(&client) && upstreams.len() < CLIENTS_MAX {
                let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
                upstream.connect(to).await.expect("loopback is reachable");
                tokio::spawn(downstream(upstream.clone(), listen.clone(), client, harm, seed));
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
    harm: Harm,
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
            let fate = fate(u32::from(high) << 8 | u32::from(low), seed);
            if fate < harm.drop {
                passes = false;
            } else if fate < harm.drop + harm.corrupt {
                datagram[length - 20] ^= 0x10;
            } else if fate < harm.drop + harm.corrupt + harm.reorder {
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

/// A number below 1000 that depends on the sequence number and the seed alone.
fn fate(sequence: u32, seed: u32) -> u32 {
    let mut hash = (sequence ^ seed).wrapping_mul(0x9e37_79b1);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x85eb_ca77);
    (hash ^ (hash >> 13)) % 1000
}
