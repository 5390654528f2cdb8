//! Dispatch of what arrives: a datagram to its session, by address, by ICE ufrag, or on to another
//! worker; media of another worker to its stream here.
//!
//! Part of the worker's top layer: finds sessions, adopts them, passes datagrams on. Called by
//! `net/shell.rs`. Next: `claims.rs` (whose an address pair is). Packets are interpreted by `publisher.rs` and `subscriber.rs`; then `fanout.rs`
//! forwards what waits in the streams.

use std::time::Instant;

use super::Worker;
use super::claims::Arrival;
use super::demux::Home;
use super::keys::SessionKey;
use super::outbox::Outbox;
use super::session::{RoleState, Session};
use super::stream::LocalStream;
use super::warning::Warning;
use crate::error::DropReason;
use crate::ids::{Epoch, Role};
use crate::media::PacketPool;
use crate::media::packet::PACKET_BYTES_MAX;
use crate::router::{MediaItem, StreamId};
use crate::rtp::packet::{PacketClass, classify};
use crate::transport::FiveTuple;
use crate::transport::egress::{Egress, TransmitClass};
use crate::transport::peer::PeerState;

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
        if let Err(reason) = self.dispatch(now, path, datagram, Arrival::Socket, egress) {
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
            let Some(stray) = self.context.port.receive_stray(&mut buffer) else { break };
            let Some(datagram) = buffer.get_mut(..stray.len) else { continue };
            if let Err(reason) = self.take_stray(now, stray, datagram, egress) {
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
        arrival: Arrival,
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        if datagram.len() > PACKET_BYTES_MAX {
            self.on_oversized(now, path, datagram.len());
            return Err(DropReason::Oversized);
        }
        let class = classify(datagram);
        let key = match class {
            PacketClass::Unknown => return Err(DropReason::UnknownProtocol),
            PacketClass::Stun => self.session_of_stun(now, path, datagram, arrival, egress)?,
            PacketClass::Dtls => self.session_of_dtls(now, path, datagram, arrival, egress)?,
            PacketClass::Rtp | PacketClass::Rtcp => match self.demux.session_at(path) {
                Some(key) => Some(key),
                None => self.pass_on(path, datagram, arrival)?,
            },
        };
        let Some(key) = key else { return Ok(()) };
        let outcome = self.hand_to(now, key, path, class, datagram, egress);
        if matches!(class, PacketClass::Stun | PacketClass::Dtls) {
            self.tell_socket(now, path, key, arrival);
        }
        outcome
    }

    /// Hands a datagram to its session, now or, for the handshakes of viewers, in a later turn.
    pub(super) fn hand_to(
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
                    self.learn_path(now, path, key);
                    self.after_session(now, key, egress);
                }
                outcome?;
            }
            PacketClass::Dtls => {
                let outcome = session.peer.handle_dtls(now, path, datagram);
                self.after_session(now, key, egress);
                if self.demux.contenders(path).all().any(|home| home == Home::Here(key)) {
                    self.learn_path(now, path, key);
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
}
