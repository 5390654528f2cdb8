//! One connection to the server: ICE, then DTLS, then SRTP both ways.
//!
//! Sans-IO: datagrams and time come in, datagrams to send and media in the clear come out. Knows nothing of codecs. Driven by
//! `seat`; below it: `ice`, `dtls`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtc_rtcp::packet::Packet as RtcpPacket;

use crate::dtls::{Dtls, Identity, Progress, Srtp};
use crate::ice::{Agent, Credentials, Heard};
use crate::rtp::OutgoingPacket;
use crate::sdp::Answer;

/// From the answer to media keys; past it the connection has failed.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a datagram was.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// STUN or DTLS, dealt with; or nothing useful.
    Handled,
    /// The media keys are there now.
    Connected,
    /// A media packet, still protected: the caller decides whether to open it.
    Rtp,
    /// Feedback or reports, in the clear.
    Rtcp(Bytes),
}

/// Why a connection is over, for the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Over(pub(crate) String);

impl<E: std::fmt::Display> From<E> for Over {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// One connection.
pub(crate) struct Peer {
    identity: Arc<Identity>,
    ice: Agent,
    dtls: Option<Dtls>,
    srtp: Option<Box<Srtp>>,
    is_client: bool,
    fingerprints: Vec<String>,
    outbox: VecDeque<(BytesMut, SocketAddr)>,
    give_up: Instant,
}

impl Peer {
    /// A connection to the server that gave `answer`; media goes `via` another address if that is given.
    ///
    /// # Errors
    /// If the answer has no candidate.
    pub(crate) fn new(
        now: Instant,
        identity: Arc<Identity>,
        local: Credentials,
        answer: &Answer,
        via: Option<SocketAddr>,
    ) -> Result<Self, Over> {
        let candidates = via.map_or_else(|| answer.candidates.clone(), |via| vec![via]);
        if candidates.is_empty() {
            return Err(Over("the answer has no UDP candidate".to_owned()));
        }
        Ok(Self {
            identity,
            ice: Agent::new(now, local, answer.credentials.clone(), candidates),
            dtls: None,
            srtp: None,
            is_client: answer.server_is_passive,
            fingerprints: answer.fingerprints.clone(),
            outbox: VecDeque::new(),
            give_up: now + CONNECT_TIMEOUT,
        })
    }

    /// The address the first datagram goes to; the socket must be able to reach its family.
    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.ice.remote_addr()
    }

    /// The next datagram to send and where to.
    pub(crate) fn poll_transmit(&mut self) -> Option<(BytesMut, SocketAddr)> {
        self.outbox.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Instant {
        if self.srtp.is_some() {
            // After the handshake DTLS repeats nothing by itself, and this is asked for every batch of packets.
            return self.ice.deadline();
        }
        let dtls = self.dtls.as_ref().and_then(Dtls::deadline);
        dtls.into_iter().fold(self.ice.deadline().min(self.give_up), Instant::min)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// If the connection is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), Over> {
        if self.srtp.is_none() && now >= self.give_up {
            let at = if self.dtls.is_some() {
                "DTLS handshake not finished"
            } else {
                "no answer to ICE checks"
            };
            return Err(Over(format!("{at} within {} s", CONNECT_TIMEOUT.as_secs())));
        }
        if self.ice.is_dead(now) {
            return Err(Over("the server stopped answering ICE checks".to_owned()));
        }
        if let Some(check) = self.ice.handle_timeout(now, self.identity.provider.crypto())? {
            self.outbox.push_back((check.as_slice().into(), self.ice.remote_addr()));
        }
        if self.srtp.is_none() {
            if let Some(dtls) = &mut self.dtls {
                dtls.handle_timeout(now)?;
            }
            self.flush_dtls();
        }
        Ok(())
    }

    /// Takes a datagram.
    ///
    /// # Errors
    /// If the connection is over. Anything merely wrong with a single datagram is ignored, as anyone could have sent it.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<Incoming, Over> {
        // RFC 7983: the first byte tells the protocol.
        match datagram {
            [0..=3, ..] => {
                let crypto = self.identity.provider.crypto();
                let Ok((heard, answer)) = self.ice.handle(now, from, datagram, crypto) else {
                    return Ok(Incoming::Handled);
                };
                if let Some(answer) = answer {
                    self.outbox.push_back((answer.as_slice().into(), from));
                }
                if heard == Heard::Connected && self.dtls.is_none() {
                    self.start_dtls(now)?;
                }
                Ok(Incoming::Handled)
            }
            [20..=63, ..] => {
                if self.dtls.is_none() {
                    // A server that is DTLS client may be faster than the answer to our check.
                    self.start_dtls(now)?;
                }
                let Some(dtls) = &mut self.dtls else { return Ok(Incoming::Handled) };
                let progress = dtls.handle(now, datagram);
                self.flush_dtls();
                match progress? {
                    Progress::Nothing => Ok(Incoming::Handled),
                    Progress::Closed => Err(Over("the server closed the connection".to_owned())),
                    Progress::Keys(srtp) => {
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
                let opened = srtp.incoming.decrypt_rtcp(datagram);
                Ok(opened.map_or(Incoming::Handled, |rtcp| Incoming::Rtcp(rtcp.freeze())))
            }
            _ => Ok(Incoming::Handled),
        }
    }

    /// Authenticates and opens a media packet; `None` if it is not authentic.
    pub(crate) fn open(&mut self, packet: &[u8]) -> Option<Bytes> {
        Some(self.srtp.as_mut()?.incoming.decrypt_rtp(packet).ok()?.freeze())
    }

    /// Protects and sends a media packet; returns its length in the clear.
    ///
    /// # Errors
    /// If the keys are used up or not there.
    pub(crate) fn send_rtp(&mut self, packet: &OutgoingPacket) -> Result<usize, Over> {
        let to = self.ice.remote_addr();
        let srtp = self.srtp.as_mut().ok_or_else(|| Over("not connected".to_owned()))?;
        let clear = packet.bytes()?;
        self.outbox.push_back((srtp.outgoing.encrypt_rtp_with_header(&clear, &packet.header)?, to));
        Ok(clear.len())
    }

    /// Protects and sends a compound RTCP packet.
    ///
    /// # Errors
    /// If the keys are used up or not there.
    pub(crate) fn send_rtcp(&mut self, packets: &[Box<dyn RtcpPacket>]) -> Result<(), Over> {
        self.send_rtcp_bytes(&rtc_rtcp::packet::marshal(packets)?)
    }

    /// Protects and sends RTCP that is already bytes.
    ///
    /// # Errors
    /// If the keys are used up or not there.
    pub(crate) fn send_rtcp_bytes(&mut self, clear: &[u8]) -> Result<(), Over> {
        let to = self.ice.remote_addr();
        let srtp = self.srtp.as_mut().ok_or_else(|| Over("not connected".to_owned()))?;
        self.outbox.push_back((srtp.outgoing.encrypt_rtcp(clear)?, to));
        Ok(())
    }

    /// Says goodbye; the datagrams are in the outbox.
    pub(crate) fn close(&mut self, now: Instant) {
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now);
        }
        self.flush_dtls();
    }

    fn start_dtls(&mut self, now: Instant) -> Result<(), Over> {
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
