//! The worker's way out: the socket, with a look at the clock for the forwarding latency.
//!
//! Made anew for each turn by `shell.rs`; owns nothing.

use std::time::Instant;

use super::latency::Departures;
use super::socket::MediaSocket;
use crate::transport::egress::{Egress, Transmit};

/// Sends on the socket and measures what belongs to a batch.
pub(super) struct Outlet<'a> {
    pub socket: &'a mut MediaSocket,
    pub departures: &'a mut Departures,
}

impl Egress for Outlet<'_> {
    fn send(&mut self, transmit: Transmit<'_>) {
        let sent = self.socket.send(transmit);
        self.departures.sent(sent, Instant::now);
    }

    fn begin_media(&mut self, arrivals: &mut dyn Iterator<Item = Instant>) {
        self.departures.begin(arrivals);
    }

    fn mark_newcomers(&mut self) {
        self.departures.mark_newcomers();
    }

    fn end_media(&mut self) {
        self.departures.end(Instant::now);
    }
}
