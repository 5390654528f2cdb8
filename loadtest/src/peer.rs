//! One connection to the server: ICE, then DTLS, then SRTP both ways.
//!
//! Sans-IO: datagrams and time go in; datagrams to send and decrypted packets come out. Knows
//! nothing of codecs. Called by `media_session`. Next: `ice`, `dtls`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtc_rtcp::packet::Packet as RtcpPacket;

use crate::dtls::{Dtls, DtlsEvent, Identity, SrtpContexts};
use crate::ice::{Credentials, IceAgent, StunOutcome};
use crate::rtp::OutgoingPacket;
use crate::sdp::Answer;
use crate::session_error::SessionError;

/// Maximum time from the answer to the media keys. After it the connection has failed.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time without any datagram of the server once connected: three of our checks stay unanswered, and
/// there is no media or report either. After it the server is gone.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// What a received datagram was.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// STUN or DTLS, already handled; or a datagram of no known protocol.
    Handled,
    /// The datagram that completed the DTLS handshake: the media keys are known.
    Connected,
    /// A protected RTP packet. The caller decides whether to decrypt it.
    Rtp,
    /// A decrypted RTCP packet.
    Rtcp(Bytes),
}

/// One connection.
pub(crate) struct Peer {
    identity: Arc<Identity>,
    ice: IceAgent,
    dtls: Option<Dtls>,
    srtp: Option<Box<SrtpContexts>>,
    is_client: bool,
    fingerprints: Vec<String>,
    outbox: VecDeque<(BytesMut, SocketAddr)>,
    connect_deadline: Instant,
    /// When a datagram came last.
    heard: Instant,
}

impl Peer {
    /// A connection to the server that sent `answer`. With `via`, media goes through that address
    /// instead of the server's candidates.
    ///
    /// # Errors
    /// If the answer has no candidate.
    pub(crate) fn new(
        now: Instant,
        identity: Arc<Identity>,
        local: Credentials,
        answer: &Answer,
        via: Option<SocketAddr>,
    ) -> Result<Self, SessionError> {
        let candidates = via.map_or_else(|| answer.candidates.clone(), |via| vec![via]);
        if candidates.is_empty() {
            return Err(SessionError::Final("the answer has no UDP candidate".to_owned()));
        }
        Ok(Self {
            identity,
            ice: IceAgent::new(now, local, answer.credentials.clone(), candidates),
            dtls: None,
            srtp: None,
            is_client: answer.server_is_passive,
            fingerprints: answer.fingerprints.clone(),
            outbox: VecDeque::new(),
            connect_deadline: now + CONNECT_TIMEOUT,
            heard: now,
        })
    }

    /// The address for the first datagram. The socket must be of its address family.
    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.ice.remote_addr()
    }

    /// The next datagram to send, and its destination.
    pub(crate) fn poll_transmit(&mut self) -> Option<(BytesMut, SocketAddr)> {
        self.outbox.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn deadline(&self) -> Instant {
        if self.srtp.is_some() {
            // After the handshake DTLS has no timers, and this is called for every batch of
            // packets.
            return self.ice.deadline();
        }
        let dtls = self.dtls.as_ref().and_then(Dtls::deadline);
        dtls.into_iter().fold(self.ice.deadline().min(self.connect_deadline), Instant::min)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// If the connection is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        if self.srtp.is_none() && now >= self.connect_deadline {
            let at = if self.dtls.is_some() {
                "DTLS handshake not finished"
            } else {
                "no answer to ICE checks"
            };
            return Err(SessionError::lost(format!("{at} within {} s", CONNECT_TIMEOUT.as_secs())));
        }
        if self.ice.consent_expired(now) {
            return Err(SessionError::lost("the server stopped answering ICE checks"));
        }
        if self.srtp.is_some() && now.saturating_duration_since(self.heard) > SILENCE_MAX {
            let silence_s = SILENCE_MAX.as_secs();
            return Err(SessionError::lost(format!("nothing from the server for {silence_s} s")));
        }
        if let Some(check) = self.ice.handle_timeout(now, self.identity.provider.crypto())? {
            self.outbox.push_back((check.as_slice().into(), self.ice.remote_addr()));
        }
        if self.srtp.is_none() {
            if let Some(dtls) = &mut self.dtls {
                dtls.handle_timeout(now).map_err(|error| SessionError::lost(error.to_string()))?;
            }
            self.flush_dtls();
        }
        Ok(())
    }

    /// Takes a datagram.
    ///
    /// # Errors
    /// If the connection is over. A wrong datagram is ignored, because anyone could have sent it.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<Incoming, SessionError> {
        self.heard = now;
        // RFC 7983: the first byte identifies the protocol.
        match datagram {
            [0..=3, ..] => {
                let crypto = self.identity.provider.crypto();
                let Ok((outcome, answer)) = self.ice.handle(now, from, datagram, crypto) else {
                    return Ok(Incoming::Handled);
                };
                if let Some(answer) = answer {
                    self.outbox.push_back((answer.as_slice().into(), from));
                }
                if outcome == StunOutcome::Connected && self.dtls.is_none() {
                    self.start_dtls(now)?;
                }
                Ok(Incoming::Handled)
            }
            [20..=63, ..] => {
                if self.dtls.is_none() {
                    // If the server is the DTLS client, its ClientHello may arrive before the
                    // answer to the ICE check.
                    self.start_dtls(now)?;
                }
                let Some(dtls) = &mut self.dtls else { return Ok(Incoming::Handled) };
                let event = dtls.handle(now, datagram);
                self.flush_dtls();
                match event? {
                    DtlsEvent::Nothing => Ok(Incoming::Handled),
                    DtlsEvent::Closed => {
                        Err(SessionError::lost("the server closed the connection"))
                    }
                    DtlsEvent::Keys(srtp) => {
                        self.srtp = Some(srtp);
                        Ok(Incoming::Connected)
                    }
                }
            }
            [128..=191, kind, ..] => {
                let Some(srtp) = &mut self.srtp else { return Ok(Incoming::Handled) };
                if !(192..=223).contains(kind) {
                    return Ok(Incoming::Rtp);
                }
                let decrypted = srtp.incoming.decrypt_rtcp(datagram);
                Ok(decrypted.map_or(Incoming::Handled, |rtcp| Incoming::Rtcp(rtcp.freeze())))
            }
            _ => Ok(Incoming::Handled),
        }
    }

    /// Authenticates and decrypts an RTP packet; `None` if it is not authentic.
    pub(crate) fn decrypt_rtp(&mut self, packet: &[u8]) -> Option<Bytes> {
        Some(self.srtp.as_mut()?.incoming.decrypt_rtp(packet).ok()?.freeze())
    }

    /// Protects and sends an RTP packet.
    ///
    /// # Errors
    /// If the keys are used up or not yet known.
    pub(crate) fn send_rtp(&mut self, packet: &OutgoingPacket) -> Result<(), SessionError> {
        let to = self.ice.remote_addr();
        let srtp =
            self.srtp.as_mut().ok_or_else(|| SessionError::Final("not connected".to_owned()))?;
        let bytes = packet.bytes()?;
        self.outbox.push_back((srtp.outgoing.encrypt_rtp_with_header(&bytes, &packet.header)?, to));
        Ok(())
    }

    /// Protects and sends a compound RTCP packet.
    ///
    /// # Errors
    /// If the keys are used up or not yet known.
    pub(crate) fn send_rtcp(
        &mut self,
        packets: &[Box<dyn RtcpPacket>],
    ) -> Result<(), SessionError> {
        self.send_rtcp_bytes(&rtc_rtcp::packet::marshal(packets)?)
    }

    /// Protects and sends RTCP that is already serialized.
    ///
    /// # Errors
    /// If the keys are used up or not yet known.
    pub(crate) fn send_rtcp_bytes(&mut self, rtcp: &[u8]) -> Result<(), SessionError> {
        let to = self.ice.remote_addr();
        let srtp =
            self.srtp.as_mut().ok_or_else(|| SessionError::Final("not connected".to_owned()))?;
        self.outbox.push_back((srtp.outgoing.encrypt_rtcp(rtcp)?, to));
        Ok(())
    }

    /// Closes the connection with a DTLS alert, which [`Self::poll_transmit`] returns.
    pub(crate) fn close(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now);
        }
        self.flush_dtls();
    }

    fn start_dtls(&mut self, now: Instant) -> Result<(), SessionError> {
        let remote = self.ice.remote_addr();
        let fingerprints = std::mem::take(&mut self.fingerprints);
        self.dtls = Some(Dtls::new(now, &self.identity, self.is_client, remote, fingerprints)?);
        self.flush_dtls();
        Ok(())
    }

    fn flush_dtls(&mut self) {
        let to = self.ice.remote_addr();
        if let Some(dtls) = &mut self.dtls {
            self.outbox
                .extend(std::iter::from_fn(|| dtls.poll_transmit()).map(|datagram| (datagram, to)));
        }
    }
}
