//! What leaves a worker: datagrams as values, handed to whoever owns the socket.
//!
//! `net/` implements [`Egress`] with a real socket, tests and the simulator with a list.

use std::time::Instant;

use super::FiveTuple;

/// One or several datagrams for one destination.
#[derive(Debug, Clone, Copy)]
pub struct Transmit<'a> {
    /// From which of our addresses to whom.
    pub path: FiveTuple,
    /// The bytes; several datagrams lie back to back.
    pub contents: &'a [u8],
    /// Size of each datagram but the last, which may be smaller; `None` for a single one.
    pub segment_size: Option<usize>,
}

impl Transmit<'_> {
    /// How many datagrams it holds.
    pub fn segments(&self) -> usize {
        self.segment_size.map_or(1, |size| self.contents.len().div_ceil(size.max(1)))
    }

    /// Its datagrams. A report may be the last of a message of media.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.contents.chunks(self.segment_size.unwrap_or(self.contents.len()).max(1))
    }
}

/// Takes datagrams. Errors of the send call are the implementor's to survive and count.
pub trait Egress {
    /// Sends, or drops and counts.
    fn send(&mut self, transmit: Transmit<'_>);

    /// What follows, until [`Self::end_media`], is media that arrived at these times and goes to one
    /// viewer after the other: whoever measures forwarding measures it here.
    fn begin_media(&mut self, _arrivals: &mut dyn Iterator<Item = Instant>) {}

    /// The media just announced goes to viewers that came only lately.
    fn mark_joining(&mut self) {}

    /// The media announced by [`Self::begin_media`] is out.
    fn end_media(&mut self) {}
}
