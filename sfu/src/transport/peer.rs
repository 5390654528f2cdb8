//! Connection of one peer: ICE-lite, DTLS and SRTP together.
//!
//! Owns how far the connection is, its deadline and its keys. Takes no DTLS, SRTP or SRTCP from an
//! address that has not passed an authenticated check (quality B1). Never knows tracks:
//! `worker/publisher.rs` and `worker/subscriber.rs` do. Called by `worker` for each datagram and
//! timeout. Next: `ice/mod.rs`, `dtls/mod.rs`, `srtp/mod.rs`.

use std::time::{Duration, Instant};

use super::dtls::{Dtls, DtlsBackend, DtlsEvent, DtlsFailure};
use super::egress::{Egress, Transmit};
use super::ice::{IceAgent, IceConfig, Policy};
use super::srtp::{Opened, SrtpKeys, SrtpProfile, SrtpReceiver, SrtpSender, Tail};
use super::stun::TransactionId;
use super::{Entropy, FiveTuple};
use crate::error::{CloseReason, DropReason};
use crate::forward::Plaintext;
use crate::ids::Role;
use crate::rtp::packet::RtpHeader;
use crate::sdp::{DtlsRole, IceCredentials, RemoteTransport};
use crate::warm::warm;

/// Time for the first valid check after the answer; then the session is ended (quality B2). A
/// browser may first ask its user whether the page may reach the local network.
pub const ICE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for DTLS after the first valid check; then the session is ended, so that it does not count
/// among the half-open sessions for long (quality B2).
pub const DTLS_TIMEOUT: Duration = Duration::from_secs(15);

/// Bytes of the largest STUN message that we write: a check with two user fragments of 256 bytes.
const STUN_BYTES_MAX: usize = 700;

/// State of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// No valid check yet.
    WaitingIce,
    /// The path is validated and the handshake runs.
    WaitingDtls,
    /// Keys are known.
    Connected,
}

impl PeerState {
    /// Name of the state in the API.
    pub fn label(self) -> &'static str {
        match self {
            Self::WaitingIce => "waiting_ice",
            Self::WaitingDtls => "waiting_dtls",
            Self::Connected => "connected",
        }
    }
}

/// Event that the worker must react to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// Keys are known: media may flow.
    Connected,
    /// The handshake failed, and the connection is over.
    HandshakeFailed(DtlsFailure),
    /// The connection is over.
    Closed(CloseReason),
}

/// Connection of one peer. The fields that each packet needs stand together at the end.
#[repr(C)]
pub struct Peer {
    dtls: Box<dyn Dtls>,
    dtls_role: DtlsRole,
    flights: FlightTimes,
    ice: IceAgent,
    stage: Stage,
}

/// Times from a DTLS flight to its answer: the only sign of the round trip of a client that answers
/// no checks (FFmpeg), until it answers a NACK.
#[derive(Debug, Default)]
struct FlightTimes {
    /// When the flight that waits for an answer was sent first.
    sent: Option<Instant>,
    least: Option<Duration>,
}

impl FlightTimes {
    fn on_sent(&mut self, now: Instant) {
        // A repeat changes nothing: the answer may be to the first.
        self.sent.get_or_insert(now);
    }

    fn on_received(&mut self, now: Instant) {
        let Some(sent) = self.sent.take() else { return };
        let took = now.saturating_duration_since(sent);
        self.least = Some(self.least.map_or(took, |least| least.min(took)));
    }
}

/// How far the connection is, and what it has there.
#[repr(C)]
enum Stage {
    /// No valid check yet.
    WaitingIce { deadline: Instant },
    /// The path is validated and the handshake runs.
    WaitingDtls { deadline: Instant },
    /// Keys are known.
    Connected(Srtp),
}

/// Both directions of SRTP. Only sending is kept inline, next to the pair that we send on: a visit
/// to a viewer needs nothing else.
#[repr(C)]
struct Srtp {
    sender: SrtpSender,
    receiver: Box<SrtpReceiver>,
    profile: SrtpProfile,
}

impl Srtp {
    fn new(profile: SrtpProfile, keys: &SrtpKeys) -> Self {
        Self {
            sender: SrtpSender::new(profile, &keys.local),
            receiver: Box::new(SrtpReceiver::new(profile, &keys.remote)),
            profile,
        }
    }
}

impl Stage {
    /// When the session ends if the connection stays at this stage, and why.
    fn deadline(&self) -> Option<(Instant, CloseReason)> {
        match *self {
            Self::WaitingIce { deadline } => Some((deadline, CloseReason::NoIce)),
            Self::WaitingDtls { deadline } => Some((deadline, CloseReason::DtlsTimeout)),
            Self::Connected(_) => None,
        }
    }

    fn connected(&self) -> Option<&Srtp> {
        match self {
            Self::Connected(srtp) => Some(srtp),
            Self::WaitingIce { .. } | Self::WaitingDtls { .. } => None,
        }
    }

    fn connected_mut(&mut self) -> Option<&mut Srtp> {
        match self {
            Self::Connected(srtp) => Some(srtp),
            Self::WaitingIce { .. } | Self::WaitingDtls { .. } => None,
        }
    }
}

impl Peer {
    /// Connection that waits for its first check.
    pub fn new(
        role: Role,
        local: IceCredentials,
        remote: &RemoteTransport,
        dtls: &dyn DtlsBackend,
        now: Instant,
    ) -> Self {
        let policy = Policy::for_role(role);
        let config = IceConfig { local, remote: remote.ice.clone(), policy };
        Self {
            ice: IceAgent::new(config, now),
            dtls: dtls.associate(remote.dtls_role, remote.fingerprints.clone()),
            dtls_role: remote.dtls_role,
            flights: FlightTimes::default(),
            stage: Stage::WaitingIce { deadline: now + ICE_TIMEOUT },
        }
    }

    /// State of the connection.
    pub fn state(&self) -> PeerState {
        match self.stage {
            Stage::WaitingIce { .. } => PeerState::WaitingIce,
            Stage::WaitingDtls { .. } => PeerState::WaitingDtls,
            Stage::Connected(_) => PeerState::Connected,
        }
    }

    /// SRTP profile, once connected.
    pub fn profile(&self) -> Option<SrtpProfile> {
        self.stage.connected().map(|srtp| srtp.profile)
    }

    /// Path that we send on now.
    pub fn selected(&self) -> Option<FiveTuple> {
        self.ice.selected()
    }

    /// Reads what sealing and sending need, so that it is in the caches by then.
    pub fn warm(&self) {
        self.ice.warm();
        warm!(self.stage.connected().map(|srtp| srtp.sender.rtcp_index()));
    }

    /// Reads what sealing needs behind [`warm`](Self::warm): the keys.
    pub fn warm_sender(&self) {
        if let Some(srtp) = self.stage.connected() {
            srtp.sender.warm();
        }
    }

    /// Reads what opening needs, so that it is in the caches by then.
    pub fn warm_receiver(&self) {
        self.ice.warm_pairs();
        if let Some(srtp) = self.stage.connected() {
            srtp.receiver.warm();
        }
    }

    /// Whether the peer proved within `span` that it sends and receives on this pair.
    pub fn holds(&self, path: FiveTuple, now: Instant, span: Duration) -> bool {
        self.ice.holds(path, now, span)
    }

    /// Whether the peer proved right now, by an answer or a handshake, that it receives on this pair.
    pub fn proves(&self, path: FiveTuple, now: Instant) -> bool {
        self.ice.proves(path, now)
    }

    /// Whether the peer began on this pair within `span`, or showed that it receives there.
    pub fn is_new_on(&self, path: FiveTuple, now: Instant, span: Duration) -> bool {
        self.ice.is_new_on(path, now, span)
    }

    /// Another session keeps the pair until this peer proves to be there.
    pub fn claim(&mut self, now: Instant, path: FiveTuple) {
        self.ice.claim(now, path);
    }

    /// The pair belongs to another session now.
    pub fn forget_pair(&mut self, path: FiveTuple) {
        self.ice.forget_pair(path);
    }

    /// Whether a STUN response with this transaction id answers a check of ours on this pair.
    pub fn awaits(&self, path: FiveTuple, id: &TransactionId) -> bool {
        self.ice.awaits(path, id)
    }

    /// When the peer last proved to be alive: by a packet that was authenticated.
    pub fn last_alive(&self) -> Instant {
        self.ice.last_alive()
    }

    /// Whether a valid check came from this pair.
    pub fn is_validated(&self, path: FiveTuple) -> bool {
        self.ice.is_validated(path)
    }

    /// Round-trip time of our own checks.
    pub fn check_rtt(&self) -> Option<Duration> {
        self.ice.rtt()
    }

    /// Begins an ICE restart. Media keeps flowing on the old pair (whip-whep B9).
    pub fn restart_ice(&mut self, local: IceCredentials, remote: IceCredentials, now: Instant) {
        self.ice.restart(local, remote, now);
    }

    /// Takes one STUN datagram that names this session or answers a check of it.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        let mut reply = [0; STUN_BYTES_MAX];
        let len = self.ice.handle_stun(now, path, datagram, &mut reply)?;
        if let Some(reply) = reply.get(..len).filter(|reply| !reply.is_empty()) {
            egress.send(Transmit::control(path, reply));
        }
        if matches!(self.stage, Stage::WaitingIce { .. }) && self.ice.selected().is_some() {
            self.stage = Stage::WaitingDtls { deadline: now + DTLS_TIMEOUT };
            if self.dtls_role == DtlsRole::Client {
                self.dtls.start(now);
            }
        }
        Ok(())
    }

    /// Least time in which the peer answered a flight of the handshake, its cryptography included:
    /// the round trip is no longer.
    pub fn handshake_rtt(&self) -> Option<Duration> {
        self.flights.least
    }

    /// Takes one DTLS datagram.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn handle_dtls(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        self.check_validated(path)?;
        self.ice.count_received(path, datagram.len());
        self.dtls.handle(now, datagram)?;
        self.ice.on_handshake(now, path, self.dtls.is_answered());
        // What is refused answers no flight.
        self.flights.on_received(now);
        Ok(())
    }

    /// Authenticates and decrypts one RTP packet into `out`.
    ///
    /// # Errors
    /// Why it was dropped. Then only the bytes received from a validated path are counted.
    pub fn open_rtp(
        &mut self,
        now: Instant,
        path: FiveTuple,
        packet: &[u8],
        header: &RtpHeader,
        out: &mut [u8],
    ) -> Result<Opened, DropReason> {
        self.check_validated(path)?;
        self.ice.count_received(path, packet.len());
        let srtp = self.stage.connected_mut().ok_or(DropReason::NoKeys)?;
        let opened =
            srtp.receiver.open_rtp(packet, header.header_len, header.ssrc, header.sequence, out)?;
        self.ice.on_authenticated(now, path);
        Ok(opened)
    }

    /// Authenticates and decrypts one RTCP packet in place; returns its plaintext length.
    ///
    /// # Errors
    /// Why it was dropped. Then only the bytes received from a validated path are counted.
    pub fn open_rtcp(
        &mut self,
        now: Instant,
        path: FiveTuple,
        packet: &mut [u8],
    ) -> Result<usize, DropReason> {
        self.check_validated(path)?;
        self.ice.count_received(path, packet.len());
        let srtp = self.stage.connected_mut().ok_or(DropReason::NoKeys)?;
        let len = srtp.receiver.open_rtcp(packet)?;
        self.ice.on_authenticated(now, path);
        Ok(len)
    }

    /// Seals a packet that an `RtpSender` wrote; returns the length on the wire. This is the only way
    /// to seal RTP.
    pub fn seal(&mut self, plaintext: Plaintext<'_>) -> Option<usize> {
        let Plaintext { out, header_len, prefix_len, rest, padding, ssrc, index, .. } = plaintext;
        let tail = Tail { shared: rest, padding };
        let srtp = self.stage.connected_mut()?;
        srtp.sender.seal_rtp(out, header_len, prefix_len, tail, ssrc, index)
    }

    /// Seals the RTCP in `buffer[..len]`; returns the length on the wire. Counts nothing: see
    /// [`Self::reserve`].
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], len: usize, ssrc: u32) -> Option<usize> {
        self.stage.connected_mut()?.sender.seal_rtcp(buffer, len, ssrc)
    }

    /// Seals the RTCP in `buffer[..len]` and sends it, if we may.
    pub fn send_rtcp(&mut self, buffer: &mut [u8], len: usize, ssrc: u32, egress: &mut dyn Egress) {
        if len == 0 {
            return;
        }
        let Some(sealed) = self.seal_rtcp(buffer, len, ssrc) else { return };
        let Some(path) = self.ice.selected().filter(|_| self.ice.reserve(sealed)) else { return };
        if let Some(contents) = buffer.get(..sealed) {
            egress.send(Transmit::control(path, contents));
        }
    }

    /// Counts `bytes` as sent on the selected path if they may go there now. An unconfirmed path gets
    /// at most 3 times the bytes that came from it (architecture D3).
    pub fn reserve(&mut self, bytes: usize) -> bool {
        self.ice.reserve(bytes)
    }

    /// Whether any number of bytes may go to the selected path: the peer has answered our check from
    /// there, or a publisher has finished a handshake that only went there.
    pub fn is_confirmed(&self) -> bool {
        self.ice.is_confirmed()
    }

    /// Sends what ICE and DTLS have to send, and returns what happened. Call after each datagram and
    /// timeout, until it returns `None`.
    pub fn poll(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        egress: &mut dyn Egress,
    ) -> Option<PeerEvent> {
        if self.send_dtls(egress) && self.stage.connected().is_none() {
            self.flights.on_sent(now);
        }
        let mut stun = [0; STUN_BYTES_MAX];
        while let Some((path, len)) = self.ice.poll_transmit(now, entropy, &mut stun) {
            let contents = stun.get(..len)?;
            egress.send(Transmit::control(path, contents));
        }
        match self.dtls.poll_event()? {
            DtlsEvent::Connected { profile, keys } => {
                self.stage = Stage::Connected(Srtp::new(profile, &keys));
                self.ice.on_connected(now);
                Some(PeerEvent::Connected)
            }
            DtlsEvent::Failed(failure) => Some(PeerEvent::HandshakeFailed(failure)),
            DtlsEvent::PeerClosed => Some(PeerEvent::Closed(CloseReason::PeerClosed)),
        }
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let ice = Some(self.ice.next_timeout());
        let deadline = self.stage.deadline().map(|(at, _)| at);
        [ice, self.dtls.next_timeout(), deadline].into_iter().flatten().min()
    }

    /// Runs what is due; returns why the connection is over, if it is.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<CloseReason> {
        if let Some((_, reason)) = self.stage.deadline().filter(|(at, _)| *at <= now) {
            return Some(reason);
        }
        self.ice.handle_timeout(now);
        if self.dtls.next_timeout().is_some_and(|at| at <= now) {
            self.dtls.handle_timeout(now);
        }
        let expired = self.stage.connected().is_some() && self.ice.is_expired(now);
        expired.then_some(CloseReason::ConsentExpired)
    }

    /// Ends the association and sends DTLS close_notify (whip-whep C61).
    pub fn close(&mut self, now: Instant, egress: &mut dyn Egress) {
        self.dtls.close(now);
        self.send_dtls(egress);
    }

    fn check_validated(&self, path: FiveTuple) -> Result<(), DropReason> {
        if self.ice.is_validated(path) { Ok(()) } else { Err(DropReason::UnvalidatedAddress) }
    }

    /// Sends what DTLS has to send; true if something was sent.
    fn send_dtls(&mut self, egress: &mut dyn Egress) -> bool {
        let mut sent = false;
        while let Some(datagram) = self.dtls.poll_transmit() {
            let Some(path) = self.ice.selected() else { continue };
            if self.ice.reserve_handshake(datagram.len()) {
                egress.send(Transmit::control(path, &datagram));
                sent = true;
            }
        }
        sent
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("state", &self.state()).finish_non_exhaustive()
    }
}
