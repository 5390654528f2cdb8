//! What leaves a worker: datagrams, handed at once to whoever owns the socket.
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
    /// Arrival of the oldest packet in it that is forwarded for the first time; `None` if there is none, as in
    /// retransmissions and cached packets.
    pub arrived: Option<Instant>,
    /// What it carries.
    pub class: TransmitClass,
}

/// What a [`Transmit`] carries. A message of media may end with a sender report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransmitClass {
    /// STUN, DTLS, or RTCP alone.
    Control,
    /// Media and reports for a viewer.
    Media,
    /// Media and reports for a viewer that joined lately.
    JoiningMedia,
    /// Packets that a viewer asked for again.
    Retransmission,
}

impl<'a> Transmit<'a> {
    /// One datagram of STUN, DTLS or RTCP.
    pub fn control(path: FiveTuple, contents: &'a [u8]) -> Self {
        Self { path, contents, segment_size: None, arrived: None, class: TransmitClass::Control }
    }

    /// Media of which no arrival is told.
    #[cfg(feature = "internals")]
    pub fn media(path: FiveTuple, contents: &'a [u8], segment_size: Option<usize>) -> Self {
        Self { path, contents, segment_size, arrived: None, class: TransmitClass::Media }
    }

    /// Number of its datagrams.
    pub fn segments(&self) -> usize {
        self.segment_size.map_or(1, |size| self.contents.len().div_ceil(size.max(1)))
    }

    /// Its datagrams.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        self.contents.chunks(self.segment_size.unwrap_or(self.contents.len()).max(1))
    }
}

/// Takes datagrams. Errors of the send call are the implementor's to survive and count.
pub trait Egress {
    /// Sends, or drops and counts.
    fn send(&mut self, transmit: Transmit<'_>);
}
