//! `weir-loadtest relay`: a UDP relay between clients and a server that behaves like an impaired
//! network.
//!
//! It owns the sockets and the clock for [`weir_netsim::Link`], which has neither. Each client
//! address gets its own socket to the server, so that the server sees as many addresses as there
//! are clients. It never parses datagrams. Timers of the runtime have a resolution of 1 ms, so a
//! datagram may arrive that much later than the model says. Called by `command`. Next: `clients`.

mod clients;
mod options;
mod summary;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use clients::{Clients, DATAGRAM_BYTES_MAX};
pub(crate) use options::RelayOptions;
use summary::Summary;

/// Relays until the duration is over or the process is interrupted. `ready` is called with the
/// address that it listens on.
///
/// # Errors
/// If the profiles contradict each other, or if a socket cannot be opened.
pub(crate) async fn run(
    options: &RelayOptions,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<Summary> {
    let (up, down) = options.profiles()?;
    let listen = UdpSocket::bind(options.listen)
        .await
        .map_err(|error| anyhow::anyhow!("--listen {}: {error}", options.listen))?;
    let began = Instant::now();
    let (mut clients, mut inbox) = Clients::new(options, up, down);
    ready(listen.local_addr()?);

    let end = options.duration.map(|seconds| began + Duration::from_secs(seconds));
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let next = clients.next_timeout();
        tokio::select! {
            _ = &mut interrupted => break,
            () = sleep_until(end) => break,
            () = sleep_until(next) => {}
            received = listen.recv_from(&mut buffer) => {
                // An error is about an earlier datagram that a client did not receive.
                if let Ok((length, client)) = received {
                    clients.on_client_datagram(Instant::now(), client, &buffer[..length]).await?;
                }
            }
            Some((client, datagram)) = inbox.recv() => {
                clients.on_server_datagram(Instant::now(), client, datagram);
            }
        }
        clients.deliver(Instant::now(), &listen).await;
    }
    Ok(clients.summary(options.seed, began.elapsed()))
}

/// Sleeps until `at`; without it for ever.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
