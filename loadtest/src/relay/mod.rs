//! `weir-loadtest relay`: a UDP relay between clients and a server that is as bad as a real network.
//!
//! It owns the sockets and the clock that [`weir_netsim::Link`] does without. Every client address gets an upstream
//! socket of its own, so that the server sees as many addresses as there are clients; it never looks into datagrams.
//! Timers of the runtime have 1 ms, so datagrams may come up to that much later than the model says. Called by `main.rs`;
//! next: `options.rs`, `flows.rs`.

mod flows;
mod options;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::net::UdpSocket;
use weir_netsim::Counts;

use flows::Flows;
pub use options::RelayOptions;

/// The largest datagram.
const DATAGRAM_MAX: usize = 65_535;

/// What happened while the relay ran.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The seed of all chance; the same one loses the same datagrams of the same traffic.
    pub seed: u64,
    /// How long it ran, in seconds.
    pub duration_s: f64,
    /// Client addresses served.
    pub clients: usize,
    /// Datagrams of clients beyond [`flows::CLIENTS_MAX`].
    pub refused: u64,
    /// Datagrams that the kernel did not take.
    pub unsent: u64,
    /// From the clients to the server.
    pub up: Way,
    /// From the server to the clients.
    pub down: Way,
}

/// What happened in one direction, in datagrams; `offered + duplicated` is the sum of `delivered`, the drops and `queued`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Way {
    /// Came in.
    pub offered: u64,
    /// Their bytes, without headers.
    pub offered_bytes: u64,
    /// Went out.
    pub delivered: u64,
    /// Their bytes, without headers.
    pub delivered_bytes: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Above the MTU.
    pub too_large: u64,
    /// Dropped by the policer.
    pub policed: u64,
    /// Dropped at the tail of the queue.
    pub overflowed: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Still under way at the end.
    pub queued: u64,
}

impl Way {
    fn new(counts: &Counts, queued: u64) -> Self {
        Self {
            offered: counts.offered,
            offered_bytes: counts.offered_bytes,
            delivered: counts.delivered,
            delivered_bytes: counts.delivered_bytes,
            duplicated: counts.duplicated,
            too_large: counts.too_large,
            policed: counts.policed,
            overflowed: counts.overflowed,
            lost: counts.lost,
            queued,
        }
    }
}

/// Relays until the duration is over or the process is interrupted. `ready` is called with the address it listens on.
///
/// # Errors
/// If the profiles do not fit together or a socket could not be opened.
pub async fn run(
    options: &RelayOptions,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<Summary> {
    let (up, down) = options.profiles()?;
    let listen = UdpSocket::bind(options.listen)
        .await
        .map_err(|error| anyhow::anyhow!("--listen {}: {error}", options.listen))?;
    let began = Instant::now();
    let (mut flows, mut inbox) = Flows::new(options, up, down);
    ready(listen.local_addr()?);

    let end = options.duration.map(|seconds| began + Duration::from_secs(seconds));
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let next = flows.next_timeout();
        tokio::select! {
            _ = &mut interrupted => break,
            () = sleep_until(end) => break,
            () = sleep_until(next) => {}
            received = listen.recv_from(&mut buffer) => {
                // An error here is about an earlier datagram that nobody took.
                if let Ok((length, client)) = received {
                    flows.on_client(Instant::now(), client, &buffer[..length]).await?;
                }
            }
            Some((client, datagram)) = inbox.recv() => {
                flows.on_server(Instant::now(), client, datagram);
            }
        }
        flows.deliver(Instant::now(), &listen).await;
    }
    Ok(flows.summary(options.seed, began.elapsed()))
}

/// Sleeps until then, or for ever.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
