//! Dispatch of what arrives: a datagram to its session, by address, by ICE ufrag, or on to another
//! worker; media of another worker to its stream here.
//!
//! Part of the worker's top layer: finds sessions, adopts them, passes datagrams on. Called by
//! `net/shell.rs`. Packets are interpreted by `publisher.rs` and `subscriber.rs`; then `fanout.rs`
//! forwards what waits in the streams.

use std::time::{Duration, Instant};

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

/// Time since its last sign of life in which a session keeps its address pair.
const PATH_HELD: Duration = Duration::from_secs(7);

/// Maximum strays handled per turn; the others wait in their ring.
const STRAYS_PER_TURN: usize = 256;

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
                    Some(key) => Some(key),
                    None => self.pass_on(path, datagram, stray)?,
                }
            }
        };
        let Some(key) = key else { return Ok(()) };
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
            if let Some(key) = self.demux.session_at(path) {
                return Ok(Some(key));
            }
            if self.demux.stray_owner(path.remote).is_some() {
                return self.pass_on(path, datagram, stray);
            }
            if !self.demux.allow_plain_stun(now) {
                return Err(DropReason::StunRateLimited);
            }
            let mut reply = [0; 64];
            let len = stun::plain_binding_reply(datagram, path.remote, &mut reply)
                .ok_or(DropReason::StunMalformed)?;
            let contents = reply.get(..len).ok_or(DropReason::StunMalformed)?;
            egress.send(Transmit::control(path, contents));
            return Ok(None);
        };
        if let Some(key) = self.demux.session_named(ufrag) {
            return Ok(Some(key));
        }
        // A flood of made-up ufrags must not use up the budget of honest checks. So the cheap
        // look-up comes first, and a check from an address of that very worker is passed on at
        // once. An address that another session had before proves nothing.
        let home = self.lobby.owner(ufrag).ok_or(DropReason::StunUnknownUfrag)?;
        let known = self.demux.stray_owner(path.remote).map(Owner::Worker) == Some(home);
        if !stray && known && self.demux.session_at(path).is_none() {
            return self.pass_on(path, datagram, stray);
        }
        if !self.demux.allow_foreign_check(now) {
            return Err(DropReason::StunRateLimited);
        }
        let view = StunView::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        match self.lobby.check(ufrag, &view, self.context.port.index) {
            CheckOutcome::Adopt(session) => {
                let id = session.id;
                let key = self.adopt(now, *session, egress);
                self.events.push(Event::Adopted { id, from: path.remote.ip() });
                Ok(Some(key))
            }
            CheckOutcome::Elsewhere(worker) if !stray && worker != self.context.port.index => {
                if !self.release_path(now, path) {
                    self.demux.learn_stray(path.remote, worker);
                }
                self.send_stray(worker, path, datagram)?;
                Ok(None)
            }
            CheckOutcome::Elsewhere(_) | CheckOutcome::Unknown => Err(DropReason::StunUnknownUfrag),
            CheckOutcome::BadIntegrity => Err(DropReason::StunBadIntegrity),
        }
    }

    /// Passes a datagram of another worker's session on, once.
    pub(super) fn pass_on(
        &mut self,
        path: FiveTuple,
        datagram: &[u8],
        stray: bool,
    ) -> Result<Option<SessionKey>, DropReason> {
        let owner = self.demux.stray_owner(path.remote).filter(|_| !stray);
        let owner = owner.ok_or(DropReason::UnvalidatedAddress)?;
        self.send_stray(owner, path, datagram)?;
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
                session.peer.handle_stun(now, path, datagram, egress)?;
                self.learn_path(now, path, key);
                self.after_session(now, key, egress);
            }
            PacketClass::Dtls => {
                let outcome = session.peer.handle_dtls(now, path, datagram);
                self.after_session(now, key, egress);
                outcome?;
            }
            PacketClass::Rtp => {
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

    /// Takes a pair from a session that fell silent on it; true if another session still keeps it.
    /// A session that is alive there keeps the pair: a valid check of another client from a spoofed
    /// address must not cut it off.
    fn release_path(&mut self, now: Instant, path: FiveTuple) -> bool {
        let Some(owner) = self.demux.session_at(path) else { return false };
        let held = |session: &Session| session.peer.holds(path, now, PATH_HELD);
        if self.sessions.get(owner).is_some_and(held) {
            return true;
        }
        self.demux.forget_path(path, owner);
        false
    }

    /// Records that a session's check was valid on this pair.
    fn learn_path(&mut self, now: Instant, path: FiveTuple, key: SessionKey) {
        let validated = |session: &Session| session.peer.is_validated(path);
        if self.demux.session_at(path) == Some(key)
            || !self.sessions.get(key).is_some_and(validated)
            || self.release_path(now, path)
        {
            return;
        }
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
