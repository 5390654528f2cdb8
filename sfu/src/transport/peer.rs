//! One connection: ICE-lite, DTLS and SRTP of one peer glued together.
//!
//! No byte of DTLS, SRTP or SRTCP is taken from an address that has not passed an authenticated
//! check (quality B1). Knows no tracks: `worker/publisher.rs` and `worker/subscriber.rs` do.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::dtls::{Dtls, DtlsBackend, DtlsEvent};
use super::egress::{Egress, Transmit};
use super::ice::{IceAgent, IceConfig};
use super::srtp::{Opened, SrtpProfile, SrtpReceiver, SrtpSender, Tail};
use super::{Entropy, FiveTuple};
use crate::error::{CloseReason, DropReason};
use crate::forward::Plaintext;
use crate::ids::Role;
use crate::rtp::packet::RtpHeader;
use crate::sdp::{DtlsRole, IceCredentials, RemoteTransport};

/// A session whose peer sends no valid check for this long after the answer is ended (quality B2).
pub const ICE_TIMEOUT: Duration = Duration::from_secs(10);

/// DTLS must be done this long after the first valid check, or the session is ended: nobody holds a
/// half-open place for long (quality B2).
pub const DTLS_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest STUN message we write: a check with two user fragments of 256 bytes.
const STUN_BYTES_MAX: usize = 700;

/// How far the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// No valid check yet.
    WaitingIce,
    /// The path is validated, the handshake runs.
    WaitingDtls,
    /// Keys are known.
    Connected,
}

impl PeerState {
    /// The state as the API shows it.
    pub fn label(self) -> &'static str {
        match self {
            Self::WaitingIce => "waiting_ice",
            Self::WaitingDtls => "waiting_dtls",
            Self::Connected => "connected",
        }
    }
}

/// What the worker must react to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    /// Keys are known: media may flow.
    Connected,
    /// The connection is over.
    Closed(CloseReason),
}

/// One connection. What each packet needs stands together at the end.
#[repr(C)]
pub struct Peer {
    dtls: Box<dyn Dtls>,
    dtls_role: DtlsRole,
    state: PeerState,
    deadline: Option<(Instant, CloseReason)>,
    profile: Option<SrtpProfile>,
    ice: IceAgent,
    receiver: Option<SrtpReceiver>,
    sender: Option<SrtpSender>,
}

impl Peer {
    /// A connection that waits for its first check.
    pub fn new(
        role: Role,
        local: IceCredentials,
        remote: &RemoteTransport,
        dtls: &dyn DtlsBackend,
        now: Instant,
    ) -> Self {
        let config = IceConfig { local, remote: remote.ice.clone(), kind: role };
        Self {
            ice: IceAgent::new(config, now),
            dtls: dtls.associate(remote.dtls_role, remote.fingerprints.clone()),
            dtls_role: remote.dtls_role,
            state: PeerState::WaitingIce,
            deadline: Some((now + ICE_TIMEOUT, CloseReason::NoIce)),
            profile: None,
            receiver: None,
            sender: None,
        }
    }

    /// How far the connection is.
    pub fn state(&self) -> PeerState {
        self.state
    }

    /// The SRTP profile, once connected.
    pub fn profile(&self) -> Option<SrtpProfile> {
        self.profile
    }

    /// Where we send now.
    pub fn selected(&self) -> Option<FiveTuple> {
        self.ice.selected()
    }

    /// Reads what sealing and sending need, so that it is in the caches by then.
    pub fn warm(&self) {
        self.ice.warm();
        black_box(self.sender.is_some());
    }

    /// The same of what lies behind it.
    pub fn warm_sender(&self) {
        if let Some(sender) = &self.sender {
            sender.warm();
        }
    }

    /// Reads what opening needs.
    pub fn warm_receiver(&self) {
        self.ice.warm_pairs();
        if let Some(receiver) = &self.receiver {
            receiver.warm();
        }
    }

    /// Whether this pair is one of the session's, and the session proved to be alive within `span`.
    pub fn holds(&self, path: FiveTuple, now: Instant, span: Duration) -> bool {
        self.ice.is_validated(path) && now.saturating_duration_since(self.ice.last_life()) < span
    }

    /// Whether a valid check came from this pair.
    pub fn is_validated(&self, path: FiveTuple) -> bool {
        self.ice.is_validated(path)
    }

    /// Round-trip time of our own checks.
    pub fn check_rtt(&self) -> Option<Duration> {
        self.ice.rtt()
    }

    /// Begins an ICE restart; media keeps flowing on the old pair (whip-whep B9).
    pub fn restart_ice(&mut self, local: IceCredentials, remote: IceCredentials, now: Instant) {
        self.ice.restart(local, remote, now);
    }

    /// One STUN datagram that names this session or answers it.
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
        let event = self.ice.handle_stun(now, path, datagram, &mut reply)?;
        if let Some(reply) = reply.get(..event.reply_len).filter(|reply| !reply.is_empty()) {
            egress.send(Transmit::control(path, reply));
        }
        if self.state == PeerState::WaitingIce {
            self.state = PeerState::WaitingDtls;
            self.deadline = Some((now + DTLS_TIMEOUT, CloseReason::DtlsTimeout));
            if self.dtls_role == DtlsRole::Client {
                self.dtls.start(now);
            }
        }
        Ok(())
    }

    /// One DTLS datagram.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn handle_dtls(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        self.admit(path, datagram.len())?;
        self.dtls.handle(now, datagram)
    }

    /// Authenticates and decrypts one RTP packet into `out`.
    ///
    /// # Errors
    /// Why it was dropped; nothing changed then.
    pub fn open_rtp(
        &mut self,
        now: Instant,
        path: FiveTuple,
        packet: &[u8],
        header: &RtpHeader,
        out: &mut [u8],
    ) -> Result<Opened, DropReason> {
        self.admit(path, packet.len())?;
        let receiver = self.receiver.as_mut().ok_or(DropReason::NoKeys)?;
        let opened =
            receiver.open_rtp(packet, header.header_len, header.ssrc, header.sequence, out)?;
        self.ice.on_authenticated(now, path);
        Ok(opened)
    }

    /// Authenticates and decrypts one RTCP packet in place; returns its plaintext length.
    ///
    /// # Errors
    /// Why it was dropped; nothing changed then.
    pub fn open_rtcp(
        &mut self,
        now: Instant,
        path: FiveTuple,
        packet: &mut [u8],
    ) -> Result<usize, DropReason> {
        self.admit(path, packet.len())?;
        let receiver = self.receiver.as_mut().ok_or(DropReason::NoKeys)?;
        let len = receiver.open_rtcp(packet)?;
        self.ice.on_authenticated(now, path);
        Ok(len)
    }

    /// Seals a packet that a line wrote; returns the length on the wire. The only way to seal RTP.
    pub fn seal(&mut self, plaintext: Plaintext<'_>) -> Option<usize> {
        let Plaintext { out, header_len, prefix_len, rest, padding, ssrc, index } = plaintext;
        let tail = Tail { shared: rest, padding };
        self.sender.as_mut()?.seal_rtp(out, header_len, prefix_len, tail, ssrc, index)
    }

    /// Seals the RTCP in `buffer[..len]`; the length on the wire. Nothing is counted yet: see [`Self::may_send`].
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], len: usize, ssrc: u32) -> Option<usize> {
        self.sender.as_mut()?.seal_rtcp(buffer, len, ssrc)
    }

    /// Seals the RTCP in `buffer[..len]` and sends it, if we may.
    pub fn send_rtcp(&mut self, buffer: &mut [u8], len: usize, ssrc: u32, egress: &mut dyn Egress) {
        if len == 0 {
            return;
        }
        let Some(sealed) = self.seal_rtcp(buffer, len, ssrc) else { return };
        let Some(path) = self.ice.selected().filter(|_| self.ice.may_send(sealed)) else { return };
        if let Some(contents) = buffer.get(..sealed) {
            egress.send(Transmit::control(path, contents));
        }
    }

    /// Whether `bytes` may go to the selected path now (the 3 x rule of architecture D3).
    pub fn may_send(&mut self, bytes: usize) -> bool {
        self.ice.may_send(bytes)
    }

    /// Whether any number of bytes may go to the selected path: the peer has answered us from there.
    /// Say with [`Self::count_sent`] how many went.
    pub fn is_confirmed(&self) -> bool {
        self.ice.allowance() == u64::MAX
    }

    /// Bytes went to the selected path.
    pub fn count_sent(&mut self, bytes: u64) {
        self.ice.count_sent(bytes);
    }

    /// Sends what ICE and DTLS have to send, and tells what happened. Call after each datagram and
    /// timeout, until it returns `None`.
    pub fn poll(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        egress: &mut dyn Egress,
    ) -> Option<PeerEvent> {
        self.send_dtls(egress);
        let mut stun = [0; STUN_BYTES_MAX];
        while let Some((path, len)) = self.ice.poll_transmit(now, entropy, &mut stun) {
            let contents = stun.get(..len)?;
            egress.send(Transmit::control(path, contents));
        }
        match self.dtls.poll_event()? {
            DtlsEvent::Connected { profile, keys } => {
                self.receiver = Some(SrtpReceiver::new(profile, &keys.remote));
                self.sender = Some(SrtpSender::new(profile, &keys.local));
                self.profile = Some(profile);
                self.state = PeerState::Connected;
                self.deadline = None;
                Some(PeerEvent::Connected)
            }
            DtlsEvent::Failed(reason) => Some(PeerEvent::Closed(reason)),
            DtlsEvent::PeerClosed => Some(PeerEvent::Closed(CloseReason::PeerClosed)),
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let deadline = self.deadline.map(|(at, _)| at);
        [self.ice.next_timeout(), self.dtls.next_timeout(), deadline].into_iter().flatten().min()
    }

    /// Drives timers; returns why the connection is over, if it is.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<CloseReason> {
        if let Some((_, reason)) = self.deadline.filter(|(at, _)| *at <= now) {
            return Some(reason);
        }
        self.ice.handle_timeout(now);
        if self.dtls.next_timeout().is_some_and(|at| at <= now) {
            self.dtls.handle_timeout(now);
        }
        let expired = self.state == PeerState::Connected && self.ice.is_expired(now);
        expired.then_some(CloseReason::ConsentExpired)
    }

    /// Says goodbye: DTLS close_notify (whip-whep C61).
    pub fn close(&mut self, now: Instant, egress: &mut dyn Egress) {
        self.dtls.close(now);
        self.send_dtls(egress);
    }

    fn admit(&mut self, path: FiveTuple, bytes: usize) -> Result<(), DropReason> {
        if !self.ice.is_validated(path) {
            return Err(DropReason::UnvalidatedAddress);
        }
        self.ice.on_datagram(path, bytes);
        Ok(())
    }

    fn send_dtls(&mut self, egress: &mut dyn Egress) {
        while let Some(datagram) = self.dtls.poll_transmit() {
            let Some(path) = self.ice.selected() else { continue };
            if self.ice.may_send(datagram.len()) {
                egress.send(Transmit::control(path, &datagram));
            }
        }
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("state", &self.state).finish_non_exhaustive()
    }
}
