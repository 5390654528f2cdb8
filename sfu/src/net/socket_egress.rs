//! Egress of a worker: its socket, with clock readings for the forwarding latency.
//!
//! Owns nothing. Made by `shell.rs` for each call of the worker.

use std::time::Instant;

use super::latency::ForwardLatency;
use super::socket::MediaSocket;
use crate::transport::egress::{Egress, Transmit, TransmitClass};

/// Sends on the socket and measures the datagrams of a batch.
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
