//! Dispatch of what arrives: a datagram to its session, by address, by ICE ufrag, or on to another
//! worker; media of another worker to its stream here.
//!
//! Part of the worker's top layer: finds sessions, adopts them, passes datagrams on. Called by
//! `net/shell.rs`. Packets are interpreted by `publisher.rs` and `subscriber.rs`; then `fanout.rs`
//! forwards what waits in the streams.

use std::time::{Duration, Instant};

use super::demux::Home;
use super::keys::SessionKey;
use super::outbox::Outbox;
use super::session::{RoleState, Session};
use super::stream::LocalStream;
use super::warning::Warning;
use super::{CheckOutcome, Event, Owner, Worker};
use crate::error::DropReason;
use crate::ids::{Epoch, Role};
use crate::media::PacketPool;
use crate::media::packet::PACKET_BYTES_MAX;
use crate::router::{MediaItem, StreamId};
use crate::rtp::packet::{PacketClass, classify};
use crate::transport::FiveTuple;
use crate::transport::egress::{Egress, Transmit, TransmitClass};
use crate::transport::peer::PeerState;
use crate::transport::stun::{self, StunView};

/// Time since a connected session proved to be on its address pair in which it keeps the pair.
const PATH_HELD: Duration = Duration::from_secs(7);

/// Time since the last datagram of a handshake in which its session keeps the pair. Datagrams of a
/// client that has just gone may still be under way. In the handshake of the next client there they
/// would end it, and a late check would take the pair from it.
const HANDSHAKE_HELD: Duration = Duration::from_millis(500);

/// Maximum strays handled per turn; the others wait in their ring.
const STRAYS_PER_TURN: usize = 256;

/// Why a session keeps its address pair when a check of another one is valid there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// It is connected and proved lately to be there. A check with a forged source must not cut it
    /// off, so the other claims the pair until it proves by an answer or a handshake to be there.
    Connected,
    /// It was heard there just now. The other gets no answer, so that its client begins no handshake
    /// on this pair yet.
    Handshake,
}

impl Worker {
    /// Handles one datagram from the socket.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) {
        if let Err(reason) = self.dispatch(now, path, datagram, false, egress) {
            self.context.report.dropped.count(reason);
        }
    }

    /// Handles items in our rings: media for our viewers, datagrams of our sessions.
    pub fn handle_rings(&mut self, now: Instant, egress: &mut dyn Egress) {
        for _ in 0..crate::router::ring::MEDIA_RING_ITEMS {
            let Some(item) = self.context.port.receive_media() else { break };
            self.take_media(now, item, egress);
        }
        let mut buffer = std::mem::take(&mut self.stray_buffer);
        for _ in 0..STRAYS_PER_TURN {
            let Some((path, len)) = self.context.port.receive_stray(&mut buffer) else { break };
            let Some(datagram) = buffer.get_mut(..len) else { continue };
            if let Err(reason) = self.dispatch(now, path, datagram, true, egress) {
                self.context.report.dropped.count(reason);
            }
        }
        self.stray_buffer = buffer;
    }

    /// Takes what another worker sent of its publisher.
    fn take_media(&mut self, now: Instant, item: MediaItem, egress: &mut dyn Egress) {
        match item {
            MediaItem::Packet { stream: id, layer, packet } => {
                let reader = self.reader(now, id, layer.epoch, egress);
                match reader.and_then(|(stream, pool)| stream.take_packet(layer, packet, pool)) {
                    Ok(()) => self.mark_dirty(id),
                    Err(reason) => self.context.report.dropped.count(reason),
                }
            }
            MediaItem::Prefill { stream: id, layer, packet } => {
                // Already here, or too old by now: nothing is lost.
                _ = self.reader(now, id, layer.epoch, egress).and_then(|(stream, pool)| {
                    stream.keep(layer, packet, pool)?;
                    stream.mark_prefilled(layer);
                    Ok(())
                });
            }
            MediaItem::ParameterSet { stream: id, layer, ext_seq, packet } => {
                if let Ok((stream, _)) = self.reader(now, id, layer.epoch, egress) {
                    stream.learn_sets(layer, &packet, ext_seq);
                }
            }
            MediaItem::Evict { stream: id, epoch, until } => {
                let pool = &mut self.context.pool;
                let stream = self.streams.get_mut(id);
                if let Some(stream) = stream.filter(|s| !s.is_owned() && s.epoch() == Some(epoch)) {
                    match until {
                        Some(until) => while stream.evict_slice(now, until, pool).is_some() {},
                        None => stream.forget_keyframes(),
                    }
                }
            }
            MediaItem::Layer { stream: id, layer, update } => {
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.update_layer_info(layer, update);
                }
            }
        }
    }

    /// The stream here that reads another worker's publisher.
    fn reader(
        &mut self,
        now: Instant,
        id: StreamId,
        epoch: Epoch,
        egress: &mut dyn Egress,
    ) -> Result<(&mut LocalStream, &mut PacketPool), DropReason> {
        if self.streams.get(id).is_some_and(|stream| stream.epoch() < Some(epoch)) {
            // The first packet of a new publisher came before the order that announces it.
            self.refresh(now, id, egress);
        }
        // The packet is of a publisher that one here replaced: the buffer is another worker's and
        // must not come into our pool.
        let stream = self.streams.get_mut(id).filter(|stream| !stream.is_owned());
        Ok((stream.ok_or(DropReason::UnknownTrack)?, &mut self.context.pool))
    }

    pub(super) fn dispatch(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &mut [u8],
        stray: bool,
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        if datagram.len() > PACKET_BYTES_MAX {
            self.on_oversized(now, path, datagram.len());
            return Err(DropReason::Oversized);
        }
        let class = classify(datagram);
        let key = match class {
            PacketClass::Unknown => return Err(DropReason::UnknownProtocol),
            PacketClass::Stun => self.session_of_stun(now, path, datagram, stray, egress)?,
            PacketClass::Dtls | PacketClass::Rtp | PacketClass::Rtcp => {
                match self.demux.session_at(path) {
                    Some(owner) if class == PacketClass::Dtls => {
                        self.session_of_dtls(now, path, owner, datagram, stray, egress)?
                    }
                    Some(key) => Some(key),
                    None => {
                        if class == PacketClass::Dtls {
                            self.demux.hear_stray(now, path.remote);
                        }
                        self.pass_on(path, datagram, stray)?
                    }
                }
            }
        };
        let Some(key) = key else { return Ok(()) };
        self.hand_to(now, key, path, class, datagram, egress)
    }

    /// Hands a datagram to its session, now or, for the handshakes of viewers, in a later turn.
    fn hand_to(
        &mut self,
        now: Instant,
        key: SessionKey,
        path: FiveTuple,
        class: PacketClass,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        let waits = |session: &Session| {
            session.kind() == Role::Subscriber && session.peer.state() != PeerState::Connected
        };
        if class == PacketClass::Dtls && self.sessions.get(key).is_some_and(waits) {
            return self.postpone_handshake(now, key, path, datagram);
        }
        let mut outcome = Ok(());
        self.guarded(now, key, egress, |worker, egress| {
            outcome = worker.session_datagram(now, key, path, class, datagram, egress);
        });
        if class == PacketClass::Rtcp {
            self.collect_requests_of(now, key, egress);
        }
        outcome
    }

    /// Warns of datagrams that no publisher's packet may be as large as. Nothing in them is
    /// authenticated; the address is.
    fn on_oversized(&mut self, now: Instant, path: FiveTuple, bytes: usize) {
        let key = self.demux.session_at(path);
        let session = key.and_then(|key| self.sessions.get_mut(key));
        if let Some(RoleState::Publisher(publisher)) = session.map(|session| &mut session.role) {
            publisher.dropped.note(now, Warning::Oversized { bytes });
        }
    }

    /// Finds (or adopts) the session of a STUN message. `None` if the message was answered or
    /// passed on.
    pub(super) fn session_of_stun(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        stray: bool,
        egress: &mut dyn Egress,
    ) -> Result<Option<SessionKey>, DropReason> {
        let Some(ufrag) = stun::server_ufrag(datagram) else {
            // A response to a check of ours, or a plain Binding request (whip-whep H1, H3).
            if let Some(owner) = self.demux.session_at(path) {
                return self.session_of_answer(path, owner, datagram, stray);
            }
            if self.demux.stray(path.remote).is_some() {
                return self.pass_on_stun(now, path, datagram, stray);
            }
            if !self.check_budget.allow_plain(now, path.remote.ip()) {
                return Err(DropReason::PlainStunLimited);
            }
            let mut reply = [0; 64];
            let len = stun::plain_binding_reply(datagram, path.remote, &mut reply)
                .ok_or(DropReason::StunMalformed)?;
            let contents = reply.get(..len).ok_or(DropReason::StunMalformed)?;
            egress.send(Transmit::control(path, contents));
            return Ok(None);
        };
        if let Some(key) = self.demux.session_named(ufrag) {
            let is_own = self.demux.session_at(path) == Some(key);
            return match self.keeper(now, path) {
                Some(Keeper::Handshake) if !is_own => Err(DropReason::PairTaken),
                _ => Ok(Some(key)),
            };
        }
        // A flood of made-up ufrags must not use up the budget of honest checks. So the cheap
        // look-up comes first, and a check from an address of that very worker is passed on at
        // once. An address that another session had before proves nothing.
        let home = self.lobby.owner(ufrag).ok_or(DropReason::StunUnknownUfrag)?;
        let stray_home = self.demux.stray(path.remote).map(|known| Owner::Worker(known.worker));
        if !stray && stray_home == Some(home) && self.demux.session_at(path).is_none() {
            return self.pass_on_stun(now, path, datagram, stray);
        }
        if let Some(Keeper::Handshake) = self.keeper(now, path) {
            return Err(DropReason::PairTaken);
        }
        let view = StunView::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        let (source, here) = (path.remote.ip(), self.context.port.index);
        let budget = &mut self.check_budget;
        let shared = || budget.allow_shared(now, source);
        match self.lobby.check(now, ufrag, &view, here, shared) {
            CheckOutcome::Adopt(session) => {
                let id = session.id;
                let key = self.adopt(now, *session, egress);
                self.events.push(Event::Adopted { id, from: path.remote.ip() });
                Ok(Some(key))
            }
            CheckOutcome::Elsewhere(worker) if worker != here => {
                match self.keeper(now, path) {
                    Some(_) => self.demux.contend(path, Home::Worker(worker)),
                    None => self.take_path(path),
                }
                if stray {
                    // The worker at whose socket it arrived tells us that the address is no more ours.
                    return Ok(None);
                }
                if self.demux.session_at(path).is_none() {
                    self.tell_former_owner(path, Some(worker), datagram);
                    self.demux.learn_stray(now, path.remote, worker);
                }
                self.send_stray(worker, path, datagram)?;
                Ok(None)
            }
            CheckOutcome::Elsewhere(_) | CheckOutcome::Unknown => Err(DropReason::StunUnknownUfrag),
            CheckOutcome::Limited => Err(DropReason::StunRateLimited),
            CheckOutcome::BadIntegrity => {
                self.check_budget.charge_forged(now, source);
                Err(DropReason::StunBadIntegrity)
            }
        }
    }

    /// The session that a STUN message without our ufrag belongs to, on a pair of `owner`. An answer
    /// that the owner does not wait for is one to a session that claims the pair.
    fn session_of_answer(
        &mut self,
        path: FiveTuple,
        owner: SessionKey,
        datagram: &[u8],
        stray: bool,
    ) -> Result<Option<SessionKey>, DropReason> {
        let Some(contender) = self.demux.contender(path) else { return Ok(Some(owner)) };
        let id = stun::transaction_id(datagram).ok_or(DropReason::StunMalformed)?;
        let awaits = |session: &Session| session.peer.awaits(path, &id);
        if self.sessions.get(owner).is_some_and(awaits) {
            return Ok(Some(owner));
        }
        self.contender_of(path, contender, datagram, stray)
    }

    /// The session that a DTLS datagram belongs to, on a pair of `owner`, which is connected if
    /// another session claims the pair. Then it takes no plaintext handshake any more: that is the
    /// other's. What is encrypted may be of either.
    fn session_of_dtls(
        &mut self,
        now: Instant,
        path: FiveTuple,
        owner: SessionKey,
        datagram: &mut [u8],
        stray: bool,
        egress: &mut dyn Egress,
    ) -> Result<Option<SessionKey>, DropReason> {
        let Some(contender) = self.demux.contender(path) else { return Ok(Some(owner)) };
        if datagram.get(3..5) == Some(&[0, 0]) {
            return self.contender_of(path, contender, datagram, stray);
        }
        if let Home::Here(key) = contender {
            // A drop is no loss: the owner's outcome is counted.
            _ = self.hand_to(now, key, path, PacketClass::Dtls, datagram, egress);
        }
        Ok(Some(owner))
    }

    fn contender_of(
        &mut self,
        path: FiveTuple,
        contender: Home,
        datagram: &[u8],
        stray: bool,
    ) -> Result<Option<SessionKey>, DropReason> {
        match contender {
            Home::Here(key) => Ok(Some(key)),
            Home::Worker(_) if stray => Err(DropReason::UnvalidatedAddress),
            Home::Worker(worker) => self.send_stray(worker, path, datagram).map(|()| None),
        }
    }

    /// Passes STUN of another worker's session on, once, and no more than the session would take.
    fn pass_on_stun(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        stray: bool,
    ) -> Result<Option<SessionKey>, DropReason> {
        if !self.demux.allow_stray_stun(now, path.remote) {
            return Err(DropReason::StunRateLimited);
        }
        self.pass_on(path, datagram, stray)
    }

    /// Passes a datagram of another worker's session on, once.
    pub(super) fn pass_on(
        &mut self,
        path: FiveTuple,
        datagram: &[u8],
        stray: bool,
    ) -> Result<Option<SessionKey>, DropReason> {
        let owner = self.demux.stray(path.remote).filter(|_| !stray);
        let owner = owner.ok_or(DropReason::UnvalidatedAddress)?;
        self.send_stray(owner.worker, path, datagram)?;
        Ok(None)
    }

    pub(super) fn send_stray(
        &mut self,
        worker: usize,
        path: FiveTuple,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        match self.context.port.send_stray(worker, path, datagram) {
            true => Ok(()),
            false => Err(DropReason::StrayLimited),
        }
    }

    pub(super) fn session_datagram(
        &mut self,
        now: Instant,
        key: SessionKey,
        path: FiveTuple,
        class: PacketClass,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(key).ok_or(DropReason::UnvalidatedAddress)?;
        match class {
            PacketClass::Stun => {
                let outcome = session.peer.handle_stun(now, path, datagram, egress);
                if matches!(outcome, Ok(()) | Err(DropReason::UnconfirmedEgress)) {
                    self.learn_path(now, path, key, datagram);
                    self.after_session(now, key, egress);
                }
                outcome?;
            }
            PacketClass::Dtls => {
                let outcome = session.peer.handle_dtls(now, path, datagram);
                self.after_session(now, key, egress);
                if self.demux.contender(path) == Some(Home::Here(key)) {
                    self.learn_path(now, path, key, datagram);
                }
                outcome?;
            }
            PacketClass::Rtp => {
                self.relieve_pool(now, datagram.len());
                let session = self.sessions.get_mut(key).ok_or(DropReason::UnvalidatedAddress)?;
                let RoleState::Publisher(publisher) = &mut session.role else {
                    return Err(DropReason::WrongDirection);
                };
                let id = session.stream.id;
                let stream = self.streams.get_mut(id).ok_or(DropReason::UnknownTrack)?;
                let first = self.publishers_with_media.last() != Some(&key);
                if first {
                    // With many publishers no state of this one is in the near CPU caches. All that
                    // its packet needs is read pointer after pointer, as for viewers (`fanout.rs`).
                    self.context.pool.warm(datagram.len());
                    publisher.warm();
                    session.peer.warm_receiver();
                    stream.warm();
                    publisher.warm_layers();
                    stream.warm_layers();
                    stream.warm_packets();
                }
                publisher.handle_rtp(
                    now,
                    path,
                    datagram,
                    &mut session.peer,
                    stream,
                    &mut self.context,
                )?;
                self.mark_dirty(id);
                self.serve_if_full(now, id, egress);
                if first {
                    self.publishers_with_media.push(key);
                }
            }
            PacketClass::Rtcp => self.session_rtcp(now, key, path, datagram, egress)?,
            PacketClass::Unknown => return Err(DropReason::UnknownProtocol),
        }
        Ok(())
    }

    pub(super) fn session_rtcp(
        &mut self,
        now: Instant,
        key: SessionKey,
        path: FiveTuple,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(key).ok_or(DropReason::UnvalidatedAddress)?;
        // Only authentic packets count, and once the limit is reached none is decrypted.
        if session.rtcp_limit.is_spent(now) {
            return Err(DropReason::RtcpRateLimited);
        }
        let len = session.peer.open_rtcp(now, path, datagram)?;
        if !session.rtcp_limit.take(now) {
            return Err(DropReason::RtcpRateLimited);
        }
        let compound = datagram.get(..len).ok_or(DropReason::RtcpMalformed)?;
        let Session { peer, sending, role, .. } = session;
        match role {
            RoleState::Publisher(publisher) => {
                publisher.handle_rtcp(now, compound, &mut self.context);
            }
            RoleState::Subscriber(subscriber) => {
                let class = TransmitClass::Retransmission;
                let shared = (&mut self.batch, &mut self.context);
                let outbox = Outbox::open(now, class, (peer, sending), shared, egress);
                let mut outbox = outbox.ok_or(DropReason::NotConnected)?;
                subscriber.handle_rtcp(compound, &self.streams, &mut outbox);
                outbox.finish();
            }
        }
        Ok(())
    }

    /// What keeps a pair although a check of another session is valid there.
    fn keeper(&self, now: Instant, path: FiveTuple) -> Option<Keeper> {
        let is_late = |heard| now.saturating_duration_since(heard) < HANDSHAKE_HELD;
        let Some(owner) = self.demux.session_at(path) else {
            let heard = self.demux.stray(path.remote)?.heard;
            return is_late(heard).then_some(Keeper::Handshake);
        };
        let peer = &self.sessions.get(owner)?.peer;
        if peer.holds(path, now, PATH_HELD) {
            return Some(Keeper::Connected);
        }
        peer.heard_at(path).is_some_and(is_late).then_some(Keeper::Handshake)
    }

    /// Takes a pair from its owner here. It must not send there any more, so that its handshake
    /// meets no other client.
    fn take_path(&mut self, path: FiveTuple) {
        let Some(owner) = self.demux.session_at(path) else { return };
        self.demux.forget_path(path, owner);
        if let Some(session) = self.sessions.get_mut(owner) {
            session.paths.retain(|known| *known != path);
            session.peer.forget_pair(path);
        }
    }

    /// Tells the worker that owned this address that a check of another session is valid there. When
    /// the ring is full, the next check does it.
    fn tell_former_owner(&mut self, path: FiveTuple, new: Option<usize>, datagram: &[u8]) {
        let former = self.demux.stray(path.remote).map(|stray| stray.worker);
        if let Some(former) = former.filter(|former| Some(*former) != new) {
            self.context.port.send_stray(former, path, datagram);
        }
    }

    /// Records that a session's check was valid on this pair, or that it proved to be there.
    fn learn_path(&mut self, now: Instant, path: FiveTuple, key: SessionKey, datagram: &[u8]) {
        let owner = self.demux.session_at(path);
        let Some(session) = self.sessions.get(key) else { return };
        if owner == Some(key) || !session.peer.is_validated(path) {
            return;
        }
        if !session.peer.proves(path, now)
            && let Some(Keeper::Connected) = self.keeper(now, path)
        {
            self.demux.contend(path, Home::Here(key));
            return;
        }
        self.take_path(path);
        self.tell_former_owner(path, None, datagram);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (peer, demux) = (&session.peer, &mut self.demux);
        session.paths.retain(|known| {
            let kept = peer.is_validated(*known) && *known != path;
            if !kept {
                demux.forget_path(*known, key);
            }
            kept
        });
        session.paths.push(path);
        self.demux.learn_path(path, key);
    }
}
