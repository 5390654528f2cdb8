//! The worker's way out: the socket, with a look at the clock for the forwarding latency.
//!
//! Made anew for each turn by `shell.rs`; owns nothing.

use std::time::Instant;

use super::latency::ForwardLatency;
use super::socket::MediaSocket;
use crate::transport::egress::{Egress, Transmit, TransmitClass};

/// Sends on the socket and measures what belongs to a batch.
pub(super) struct SocketEgress<'a> {
    pub socket: &'a mut MediaSocket,
    pub forward_latency: &'a mut ForwardLatency,
}

impl Egress for SocketEgress<'_> {
    fn send(&mut self, transmit: Transmit<'_>) {
        let sent = self.socket.send(transmit);
        if let Some(arrived) = transmit.arrived {
            let joining = transmit.class == TransmitClass::JoiningMedia;
            self.forward_latency.on_sent(arrived, joining, sent, Instant::now);
        }
    }
}
