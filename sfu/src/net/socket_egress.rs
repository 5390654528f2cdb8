//! The worker's way out: the socket, with a look at the clock for the forwarding latency.
//!
//! Made anew for each turn by `shell.rs`; owns nothing.

use std::time::Instant;

use super::latency::ForwardLatency;
use super::socket::MediaSocket;
use crate::transport::egress::{Egress, Transmit};

/// Sends on the socket and measures what belongs to a batch.
pub(super) struct SocketEgress<'a> {
    pub socket: &'a mut MediaSocket,
    pub forward_latency: &'a mut ForwardLatency,
}

impl Egress for SocketEgress<'_> {
    fn send(&mut self, transmit: Transmit<'_>) {
        let sent = self.socket.send(transmit);
        self.forward_latency.sent(sent, Instant::now);
    }

    fn begin_media(&mut self, arrivals: &mut dyn Iterator<Item = Instant>) {
        self.forward_latency.begin(arrivals);
    }

    fn mark_joining(&mut self) {
        self.forward_latency.mark_joining();
    }

    fn end_media(&mut self) {
        self.forward_latency.end(Instant::now);
    }
}
