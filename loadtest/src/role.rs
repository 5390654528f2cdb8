//! What a light session does with its connection: the part that differs between publishers and
//! viewers.
//!
//! Implemented by `publisher` and `viewer`, called by `media_session`.

use std::time::Instant;

use bytes::Bytes;

use crate::peer::Peer;
use crate::phase::Phase;
use crate::session_error::SessionError;

/// A publisher or a viewer. For packets, `now` is the time of arrival, which may lie a little
/// before that of the last call.
pub(crate) trait Role: Send + 'static {
    /// The media keys are known.
    fn on_connected(&mut self, now: Instant);

    /// Takes a protected RTP packet.
    ///
    /// # Errors
    /// If the session must end.
    fn on_rtp(
        &mut self,
        now: Instant,
        peer: &mut Peer,
        datagram: &[u8],
    ) -> Result<(), SessionError>;

    /// Takes a decrypted RTCP packet.
    ///
    /// # Errors
    /// If the session must end.
    fn on_rtcp(&mut self, now: Instant, peer: &mut Peer, rtcp: Bytes) -> Result<(), SessionError>;

    /// When [`Self::handle_timeout`] is due.
    fn deadline(&self) -> Option<Instant>;

    /// Does what is due.
    ///
    /// # Errors
    /// If the session must end.
    fn handle_timeout(&mut self, now: Instant, peer: &mut Peer) -> Result<(), SessionError>;

    /// The run has a new phase.
    fn set_phase(&mut self, now: Instant, phase: Phase);
}
