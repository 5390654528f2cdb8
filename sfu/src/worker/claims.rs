//! Claims to address pairs: which session gets the STUN and DTLS of a pair that several name.
//!
//! A pair belongs to one session, the newest valid check wins it, and its owner keeps it only while
//! it is shown to be there (`docs/decisions/064`). The worker of the owner decides. An address whose
//! datagrams arrive here may be another worker's: that one is asked with the check itself, and
//! answers with it. Part of the worker's top layer, called by `dispatch.rs`. Next: `demux.rs`
//! (the maps), `transport/ice` (what a session has proved), `lobby.rs` (whose a check is).

use std::time::{Duration, Instant};

use super::demux::{Contenders, Home};
use super::keys::SessionKey;
use super::{CheckOutcome, CheckRefusal, Event, Owner, Worker};
use crate::error::DropReason;
use crate::router::{StrayItem, StrayKind};
use crate::rtp::packet::PacketClass;
use crate::transport::FiveTuple;
use crate::transport::egress::{Egress, Transmit};
use crate::transport::peer::PeerState;
use crate::transport::stun::{self, StunView, TransactionId};

/// Time since a session proved to be on its address pair in which it keeps the pair against all that do not.
const PATH_HELD: Duration = Duration::from_secs(7);

/// Time in which others get no answer: from a session's first check on a pair, and again from all that
/// shows that it receives there. Datagrams of a client that has just gone may still be
/// under way. In the handshake of the next client there they would end it, and a late check would
/// take the pair from it. Checks that are repeated do not count: their source may be forged.
const HANDSHAKE_HELD: Duration = Duration::from_millis(500);

/// How a datagram came to this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// At its socket.
    Socket,
    /// At this other worker's, which passed it on as ours.
    PassedOn(usize),
    /// At its socket. It is a check of a session that another worker's session does not let have the
    /// address.
    Refused,
}

/// Why a session here keeps its address pair when a check of another one is valid there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// It proved lately to be there, by an answer or connected. A check with a forged source must not cut
    /// it off, so the other claims the pair until it proves by an answer or a handshake to be there.
    Proved,
    /// It began there or proved to be there just now. The other gets no answer, so that its client
    /// begins no handshake on this pair yet.
    Handshake,
}

impl Worker {
    /// Takes what another worker sent.
    pub(super) fn take_stray(
        &mut self,
        now: Instant,
        stray: StrayItem,
        datagram: &mut [u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        let StrayItem { from, kind, path, .. } = stray;
        let arrival = match kind {
            StrayKind::Yours => Arrival::PassedOn(from),
            StrayKind::Claim => {
                let kind = match self.keeper(now, path) {
                    Some(Keeper::Handshake) => return Err(DropReason::PairTaken),
                    Some(Keeper::Proved) => StrayKind::Kept,
                    None => {
                        self.take_path(path);
                        StrayKind::Granted
                    }
                };
                return self.send_stray(from, kind, path, datagram);
            }
            StrayKind::Granted => {
                if self.demux.stray(path.remote) == Some(from) {
                    self.demux.forget_stray(path.remote);
                }
                Arrival::Socket
            }
            StrayKind::Kept => Arrival::Refused,
            StrayKind::Taken => {
                self.take_path(path);
                self.demux.learn_stray(path.remote, from);
                return Ok(());
            }
        };
        self.dispatch(now, path, datagram, arrival, egress)
    }

    /// Finds (or adopts) the session of a STUN message. `None` if the message was answered or
    /// passed on.
    pub(super) fn session_of_stun(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        arrival: Arrival,
        egress: &mut dyn Egress,
    ) -> Result<Option<SessionKey>, DropReason> {
        let owner = self.demux.session_at(path);
        let stray = self.demux.stray(path.remote).filter(|_| owner.is_none());
        let Some(ufrag) = stun::server_ufrag(datagram) else {
            // A response to a check of ours, or a plain Binding request (whip-whep H1, H3).
            return match (owner, stray) {
                (Some(owner), _) => self.session_of_answer(path, owner, datagram, arrival),
                (None, Some(_)) => self.pass_on_answer(now, path, datagram, arrival),
                (None, None) => self.answer_plain(now, path, datagram, egress).map(|()| None),
            };
        };
        let named = self.demux.session_named(ufrag);
        if named.is_some() && named == owner {
            return Ok(named);
        }
        // A flood of made-up ufrags must not use up the budget of honest checks, so this look-up is
        // the cheap one.
        let home = match named {
            Some(_) => Owner::Worker(self.context.port.index),
            None => self.lobby.owner(ufrag).ok_or(DropReason::StunUnknownUfrag)?,
        };
        match (arrival, stray) {
            (Arrival::Socket, Some(worker)) if home == Owner::Worker(worker) => {
                if !self.demux.allow_stray_check(now, path.remote) {
                    return Err(DropReason::StunRateLimited);
                }
                return self.pass_on(path, datagram, arrival);
            }
            (Arrival::Socket, Some(worker)) => {
                self.verify(now, path, ufrag, datagram)?;
                return self.send_stray(worker, StrayKind::Claim, path, datagram).map(|()| None);
            }
            // The worker at whose socket it arrived knows better whose the address is.
            (Arrival::PassedOn(_), Some(_)) => self.demux.forget_stray(path.remote),
            (Arrival::Refused, Some(_)) | (_, None) => {}
        }
        if let Some(Keeper::Handshake) = self.keeper(now, path) {
            return Err(DropReason::PairTaken);
        }
        match named {
            Some(_) => Ok(named),
            None => self.session_of_new_check(now, path, ufrag, datagram, arrival, egress),
        }
    }

    /// Adopts the session of a check that names none of ours, or passes the check on.
    fn session_of_new_check(
        &mut self,
        now: Instant,
        path: FiveTuple,
        ufrag: &str,
        datagram: &[u8],
        arrival: Arrival,
        egress: &mut dyn Egress,
    ) -> Result<Option<SessionKey>, DropReason> {
        let view = StunView::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        let (source, here) = (path.remote.ip(), self.context.port.index);
        let budget = &mut self.check_budget;
        let shared = || budget.allow_shared(now, source);
        let checked = self.lobby.check(now, ufrag, &view, here, shared);
        match checked.map_err(|refusal| self.refused(now, path, refusal))? {
            CheckOutcome::Adopt(session) => {
                let id = session.id;
                let key = self.adopt(now, *session, egress);
                self.events.push(Event::Adopted { id, from: source });
                Ok(Some(key))
            }
            CheckOutcome::Elsewhere(worker)
                if worker != here && !matches!(arrival, Arrival::PassedOn(_)) =>
            {
                match self.keeper(now, path) {
                    Some(_) => self.demux.contend(path, Home::Worker(worker)),
                    None if arrival == Arrival::Refused => {
                        self.demux.contend(path, Home::Worker(worker));
                    }
                    None => {
                        self.take_path(path);
                        self.demux.learn_stray(path.remote, worker);
                    }
                }
                self.send_stray(worker, StrayKind::Yours, path, datagram).map(|()| None)
            }
            // It was ours a moment ago, or the other worker's.
            CheckOutcome::Elsewhere(_) => Err(DropReason::StunUnknownUfrag),
        }
    }

    /// Verifies a check of a session that another worker is asked about.
    fn verify(
        &mut self,
        now: Instant,
        path: FiveTuple,
        ufrag: &str,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let view = StunView::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        let budget = &mut self.check_budget;
        let shared = || budget.allow_shared(now, path.remote.ip());
        let verified = self.lobby.verify(now, ufrag, &view, shared);
        verified.map_err(|refusal| self.refused(now, path, refusal))
    }

    fn refused(&mut self, now: Instant, path: FiveTuple, refusal: CheckRefusal) -> DropReason {
        match refusal {
            CheckRefusal::Unknown => DropReason::StunUnknownUfrag,
            CheckRefusal::Limited => DropReason::StunRateLimited,
            CheckRefusal::BadIntegrity => {
                self.check_budget.charge_forged(now, path.remote.ip());
                DropReason::StunBadIntegrity
            }
        }
    }

    fn answer_plain(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        egress: &mut dyn Egress,
    ) -> Result<(), DropReason> {
        if !self.check_budget.allow_plain(now, path.remote.ip()) {
            return Err(DropReason::PlainStunLimited);
        }
        let mut reply = [0; 64];
        let len = stun::plain_binding_reply(datagram, path.remote, &mut reply)
            .ok_or(DropReason::StunMalformed)?;
        let contents = reply.get(..len).ok_or(DropReason::StunMalformed)?;
        egress.send(Transmit::control(path, contents));
        Ok(())
    }

    /// The session that a STUN message without our ufrag belongs to, on a pair of `owner`. An answer
    /// that the owner does not wait for is one to a session that claims the pair.
    fn session_of_answer(
        &mut self,
        path: FiveTuple,
        owner: SessionKey,
        datagram: &[u8],
        arrival: Arrival,
    ) -> Result<Option<SessionKey>, DropReason> {
        let contenders = self.demux.contenders(path);
        if contenders.latest().is_none() {
            return Ok(Some(owner));
        }
        let id = stun::transaction_id(datagram).ok_or(DropReason::StunMalformed)?;
        if self.awaits(owner, path, &id) {
            return Ok(Some(owner));
        }
        let offered = self.offer_answer(path, contenders, &id, datagram, arrival);
        offered.ok_or(DropReason::StunUnexpectedResponse)
    }

    /// Passes a STUN message without our ufrag on, from an address of another worker's session. That
    /// worker, and those of sessions that claim the pair, each know what theirs wait for.
    fn pass_on_answer(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        arrival: Arrival,
    ) -> Result<Option<SessionKey>, DropReason> {
        if !self.demux.allow_stray_answer(now, path.remote) {
            return Err(DropReason::StunRateLimited);
        }
        let contenders = self.demux.contenders(path);
        if contenders.latest().is_some() {
            let id = stun::transaction_id(datagram).ok_or(DropReason::StunMalformed)?;
            if let Some(Some(key)) = self.offer_answer(path, contenders, &id, datagram, arrival) {
                return Ok(Some(key));
            }
        }
        self.pass_on(path, datagram, arrival)
    }

    /// Finds the session among those that claim the pair which waits for this answer, or passes it on to the
    /// workers of those that are elsewhere. `None` if there is neither.
    fn offer_answer(
        &mut self,
        path: FiveTuple,
        contenders: Contenders,
        id: &TransactionId,
        datagram: &[u8],
        arrival: Arrival,
    ) -> Option<Option<SessionKey>> {
        let mut is_passed_on = false;
        for home in contenders.all() {
            match home {
                Home::Here(key) if self.awaits(key, path, id) => return Some(Some(key)),
                Home::Here(_) => {}
                Home::Worker(worker) if arrival == Arrival::Socket => {
                    // Without room it is lost to that session, whose next check is answered, too.
                    let sent = self.send_stray(worker, StrayKind::Yours, path, datagram);
                    is_passed_on |= sent.is_ok();
                }
                Home::Worker(_) => {}
            }
        }
        is_passed_on.then_some(None)
    }

    fn awaits(&self, key: SessionKey, path: FiveTuple, id: &TransactionId) -> bool {
        self.sessions.get(key).is_some_and(|session| session.peer.awaits(path, id))
    }

    /// The session that a DTLS datagram belongs to. A connected session takes no plaintext handshake
    /// any more: on a pair that another one claims, it is the other's. What is encrypted may be of
    /// either.
    pub(super) fn session_of_dtls(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &mut [u8],
        arrival: Arrival,
        egress: &mut dyn Egress,
    ) -> Result<Option<SessionKey>, DropReason> {
        let owner = self.demux.session_at(path);
        if let Some(contender) = self.demux.contenders(path).latest() {
            let state = owner.and_then(|owner| self.sessions.get(owner)).map(|it| it.peer.state());
            if datagram.get(3..5) == Some(&[0, 0]) {
                match state {
                    Some(PeerState::Connected) => {
                        return self.contender_of(path, contender, datagram, arrival);
                    }
                    // It is in its handshake, and has proved to be there.
                    Some(_) => return Ok(owner),
                    // Another worker's may still be connected, or not.
                    None => {}
                }
            }
            // A drop is no loss: the owner's outcome is counted.
            _ = match contender {
                Home::Here(key) => {
                    self.hand_to(now, key, path, PacketClass::Dtls, datagram, egress)
                }
                Home::Worker(worker) if owner.is_none() && arrival == Arrival::Socket => {
                    self.send_stray(worker, StrayKind::Yours, path, datagram)
                }
                Home::Worker(_) => Ok(()),
            };
        }
        match owner {
            Some(owner) => Ok(Some(owner)),
            None => self.pass_on(path, datagram, arrival),
        }
    }

    fn contender_of(
        &mut self,
        path: FiveTuple,
        contender: Home,
        datagram: &[u8],
        arrival: Arrival,
    ) -> Result<Option<SessionKey>, DropReason> {
        match contender {
            Home::Here(key) => Ok(Some(key)),
            Home::Worker(worker) if arrival == Arrival::Socket => {
                self.send_stray(worker, StrayKind::Yours, path, datagram).map(|()| None)
            }
            Home::Worker(_) => Err(DropReason::UnvalidatedAddress),
        }
    }

    /// Passes a datagram of another worker's session on, once.
    pub(super) fn pass_on(
        &mut self,
        path: FiveTuple,
        datagram: &[u8],
        arrival: Arrival,
    ) -> Result<Option<SessionKey>, DropReason> {
        let owner = self.demux.stray(path.remote).filter(|_| arrival == Arrival::Socket);
        let owner = owner.ok_or(DropReason::UnvalidatedAddress)?;
        self.send_stray(owner, StrayKind::Yours, path, datagram).map(|()| None)
    }

    fn send_stray(
        &mut self,
        worker: usize,
        kind: StrayKind,
        path: FiveTuple,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        match self.context.port.send_stray(worker, kind, path, datagram) {
            true => Ok(()),
            false => Err(DropReason::StrayLimited),
        }
    }

    /// What keeps a pair of a session here although a check of another session is valid there.
    fn keeper(&self, now: Instant, path: FiveTuple) -> Option<Keeper> {
        let owner = self.demux.session_at(path)?;
        let peer = &self.sessions.get(owner)?.peer;
        let is_proved = peer.holds(path, now, PATH_HELD);
        let is_new = || peer.is_new_on(path, now, HANDSHAKE_HELD);
        match peer.state() {
            PeerState::Connected if is_proved => Some(Keeper::Proved),
            _ if is_new() => Some(Keeper::Handshake),
            _ => is_proved.then_some(Keeper::Proved),
        }
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

    /// Tells the worker at whose socket a datagram arrived that its session here has proved by it to be there:
    /// that worker may think that another session is. Without room the next proof does it.
    pub(super) fn tell_socket(
        &mut self,
        now: Instant,
        path: FiveTuple,
        key: SessionKey,
        arrival: Arrival,
    ) {
        if let Arrival::PassedOn(from) = arrival
            && self.sessions.get(key).is_some_and(|session| session.peer.proves(path, now))
        {
            _ = self.send_stray(from, StrayKind::Taken, path, &[]);
        }
    }

    /// Records that a session's check was valid on this pair, or that it proved to be there.
    pub(super) fn learn_path(&mut self, now: Instant, path: FiveTuple, key: SessionKey) {
        let owner = self.demux.session_at(path);
        let Some(session) = self.sessions.get(key) else { return };
        if owner == Some(key) || !session.peer.is_validated(path) {
            return;
        }
        let stray = self.demux.stray(path.remote).filter(|_| owner.is_none());
        let is_kept = stray.is_some() || self.keeper(now, path) == Some(Keeper::Proved);
        if is_kept && !session.peer.proves(path, now) {
            self.demux.contend(path, Home::Here(key));
            if let Some(session) = self.sessions.get_mut(key) {
                session.peer.claim(now, path);
            }
            return;
        }
        self.take_path(path);
        if let Some(worker) = stray {
            // Without room the session there ends with its consent.
            _ = self.send_stray(worker, StrayKind::Taken, path, &[]);
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
