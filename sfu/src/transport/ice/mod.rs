//! ICE-lite agent of one session (RFC 8445, RFC 7675).
//!
//! Owns which address pairs may talk to us, which one we send on, and whether the peer is alive.
//! Answers authenticated checks. Sends checks of two kinds only: to confirm a pair before we send to
//! it, and to renew consent. Never gathers, never nominates, never holds a socket or
//! reads a clock. Called by `transport/peer`. Next: `policy.rs` (publisher and viewer), `pair.rs`
//! (what a pair may be sent), `stage.rs` (what a handshake may), `stun.rs` (the messages).
//!
//! Rules, in order of importance:
//! - A request without valid `MESSAGE-INTEGRITY` gets no answer and leaves no state (whip-whep C51).
//! - Only SRTP, SRTCP, answers to checks of ours and the handshake prove that the peer is alive: checks
//!   can be recorded and sent again. A copy of one of the last 512 requests is answered at most.
//! - A pair is confirmed when it has answered a check of ours; a publisher's also when a handshake was
//!   finished whose flights all went there. Everything that goes to another pair is counted and is
//!   at most 3 times what came from it, besides one allowance per session for the handshake.
//! - Until the keys exist or a pair is confirmed, we send to the pair of the first valid check, and
//!   then to that of the first `USE-CANDIDATE`; to a publisher to that of the latest one, and where
//!   its flights come from. After that we move only to a newly nominated pair
//!   that has answered a check of ours (architecture D3). Some publishers never answer (whip-whep
//!   C50): theirs moves when the selected pair is in doubt and SRTP comes from the new one. Once keys
//!   exist, a publisher's pair gets no more than came from it before it is confirmed.

use std::time::{Duration, Instant};

mod check;
mod consent;
mod generation;
mod pair;
mod policy;
mod seen;
mod stage;

pub use self::consent::CONSENT_TIMEOUT;
pub use self::pair::{
    CHANGED_PATH_FACTOR, COPIES_PER_SECOND, DOUBT_AFTER, MAX_PAIRS, STUN_PER_SECOND,
    UNCONFIRMED_FACTOR,
};
pub use self::policy::{HANDSHAKE_ALLOWANCE_BYTES, Policy};

use self::check::{Check, random_u64};
use self::consent::Consent;
use self::generation::{Age, Generations, Progress};
use self::pair::Pairs;
use self::seen::SeenRequests;
use self::stage::{Handshake, Stage};
use super::stun::{self, CheckRequest, IceRole, StunClass, StunView, TransactionId};
use super::{Entropy, FiveTuple};
use crate::error::DropReason;
use crate::sdp::IceCredentials;
use crate::warm::warm;

/// Bytes of an unconfirmed pair's allowance that stay free for the check that confirms it.
const CHECK_RESERVE_BYTES: u64 = 160;

/// `PRIORITY` of a peer-reflexive candidate of component 1 (RFC 8445 section 5.1.2.1).
const PRIORITY: u32 = (110 << 24) | (0xffff << 8) | 255;

/// Configuration of an agent.
#[derive(Debug, Clone)]
pub struct IceConfig {
    /// Our credentials, from our answer.
    pub local: IceCredentials,
    /// The peer's credentials, from its offer.
    pub remote: IceCredentials,
    /// Behaviour that depends on the role.
    pub policy: Policy,
}

/// Agent of one session. See the head of this file.
#[repr(C)]
pub struct IceAgent {
    generations: Generations,
    /// Check that confirms a pair.
    confirm: Option<Check>,
    seen: SeenRequests,
    /// Pair that we send to once it is confirmed.
    target: Option<FiveTuple>,
    consent: Consent,
    tie_breaker: Option<u64>,
    rtt: Option<Duration>,
    policy: Policy,
    stage: Stage,
    // The packets of each turn need the fields from here on: they stand together in memory.
    pairs: Pairs,
    selected: Option<Selected>,
}

/// The pair that we send on. Each turn's packets read it, so it holds a copy of what its `Pair` says.
#[derive(Debug, Clone, Copy)]
struct Selected {
    path: FiveTuple,
    is_confirmed: bool,
}

impl IceAgent {
    /// Agent that waits for its first check. The peer counts as alive from `now` on.
    pub fn new(config: IceConfig, now: Instant) -> Self {
        Self {
            generations: Generations::new(config.local, config.remote),
            confirm: None,
            seen: SeenRequests::default(),
            target: None,
            consent: Consent::new(config.policy.renewal, now),
            tie_breaker: None,
            rtt: None,
            stage: Stage::Handshake(Handshake::new(config.policy.handshake_allowance_bytes)),
            policy: config.policy,
            pairs: Pairs::default(),
            selected: None,
        }
    }

    /// Takes one STUN datagram that carries this session's ufrag or came on one of its pairs.
    /// Writes at most one answer into `reply`, to be sent back on the same path, and returns its
    /// length; 0 for none. 76 bytes suffice for it, 100 for a refusal. Counts the datagram's bytes
    /// for the path itself; do not call [`count_received`](Self::count_received) too.
    ///
    /// # Errors
    /// Why it was dropped without an answer: `StunMalformed`, `StunUnknownUfrag`,
    /// `StunBadIntegrity`, `StunRateLimited`, `StunUnexpectedResponse`, `TooManyPairs`,
    /// `UnvalidatedAddress` for a copy of an earlier check that comes from a new address, and
    /// `UnconfirmedEgress` for a valid check whose answer would be too much for its address.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        reply: &mut [u8],
    ) -> Result<usize, DropReason> {
        let view = StunView::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        if !view.is_binding() {
            return Err(DropReason::StunMalformed);
        }
        match view.class() {
            StunClass::Request => self.handle_request(now, path, datagram.len(), &view, reply),
            StunClass::Success => self.handle_answer(now, path, &view).map(|()| 0),
            StunClass::Error => Err(DropReason::StunUnexpectedResponse),
            // A keepalive (RFC 8445 section 11): unauthenticated, so it proves nothing.
            StunClass::Indication => Ok(0),
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        path: FiveTuple,
        len: usize,
        view: &StunView<'_>,
        reply: &mut [u8],
    ) -> Result<usize, DropReason> {
        let (ufrag, _) = view.username().ok_or(DropReason::StunUnknownUfrag)?;
        let (age, generation) =
            self.generations.by_local_ufrag(ufrag).ok_or(DropReason::StunUnknownUfrag)?;
        let key = generation.local.pwd.as_bytes();
        if !view.verify_integrity(key) {
            return Err(DropReason::StunBadIntegrity);
        }
        let id = view.transaction_id();
        let is_new = self.seen.is_new(&id);
        // Behind the integrity check: forged requests must not use up the peer's share.
        if self.pairs.get_mut(path).is_some_and(|pair| !pair.allow_request(now, is_new)) {
            return Err(DropReason::StunRateLimited);
        }
        if let Some(refusal) = view.refusal() {
            let reply_len = stun::write_refusal(reply, &id, refusal, key).unwrap_or(0);
            return if reply_len <= len {
                Ok(reply_len)
            } else {
                Err(DropReason::UnconfirmedEgress)
            };
        }
        let reply_len = stun::write_success(reply, &id, path.remote, key).unwrap_or(0);
        if !self.pairs.contains(path) {
            if !is_new {
                return Err(DropReason::UnvalidatedAddress);
            }
            self.pairs.add(path, now, [self.selected(), self.target])?;
        }
        if is_new {
            self.seen.insert(&id);
            self.on_new_check(now, path, age, view.has_use_candidate());
        }
        self.count_received(path, len);
        let factor = self.factor();
        let may_answer =
            self.pairs.get_mut(path).is_some_and(|pair| pair.reserve(reply_len, factor, 0));
        if may_answer { Ok(reply_len) } else { Err(DropReason::UnconfirmedEgress) }
    }

    /// Takes an authenticated request that is no known copy: it may choose the path.
    fn on_new_check(&mut self, now: Instant, path: FiveTuple, age: Age, use_candidate: bool) {
        if let Some(pair) = self.pairs.get_mut(path) {
            pair.on_new_check(now);
        }
        let is_connected = self.is_connected();
        if age == Age::Previous {
            return;
        }
        let before = self.generations.on_check(use_candidate);
        let on_selected = self.is_selected(path);
        let may_be_checked = self.policy.checks_first_pair || is_connected;
        if on_selected && may_be_checked && self.confirm.is_none() && !self.is_confirmed() {
            self.begin_confirm(now, path);
        }
        let chooses = use_candidate
            || before == Progress::Unchecked
            || (!on_selected && self.selected_is_in_doubt(now));
        if !chooses {
            return;
        }
        // A later nomination counts when the peer has answered there; before the handshake is done, a
        // publisher's at once, because it may never answer.
        let first_nomination = before != Progress::Nominated;
        let may_move = first_nomination || self.policy.may_never_answer;
        let after_restart = self.generations.selected_age() == Age::Previous;
        let is_settled = after_restart || is_connected || self.is_confirmed();
        let free_to_move = self.selected.is_none() || (use_candidate && may_move && !is_settled);
        if on_selected {
            self.select(path);
        } else if free_to_move {
            self.select(path);
            if may_be_checked || !first_nomination {
                self.begin_confirm(now, path);
            }
        } else {
            self.target = Some(path);
            if let Some(pair) = self.pairs.get_mut(path) {
                // It may have answered us long ago; the client may be gone from there since.
                pair.unconfirm();
            }
            self.begin_confirm(now, path);
        }
    }

    fn selected_is_in_doubt(&self, now: Instant) -> bool {
        let selected = self.selected.and_then(|selected| self.pairs.get(selected.path));
        selected.is_some_and(|pair| pair.is_in_doubt(now))
    }

    /// Takes an answer to a check of ours. It must have the right transaction id, come from the
    /// pair that was checked, and be signed with the peer's password.
    fn handle_answer(
        &mut self,
        now: Instant,
        path: FiveTuple,
        view: &StunView<'_>,
    ) -> Result<(), DropReason> {
        let id = view.transaction_id();
        let confirms = self.confirm.as_ref().is_some_and(|check| check.sent_at(&id).is_some());
        let check = if confirms { self.confirm.as_ref() } else { self.consent.check() };
        let (sent_at, age) = check
            .filter(|check| check.path == path)
            .and_then(|check| Some((check.sent_at(&id)?, check.age)))
            .ok_or(DropReason::StunUnexpectedResponse)?;
        let generation = self.generations.get(age).ok_or(DropReason::StunUnexpectedResponse)?;
        if !view.verify_integrity(generation.remote.pwd.as_bytes()) {
            return Err(DropReason::StunBadIntegrity);
        }
        self.rtt = Some(now.saturating_duration_since(sent_at));
        self.consent.on_alive(now);
        if confirms {
            self.confirm = None;
        } else {
            self.consent.end_check();
        }
        self.confirm_pair(now, path);
        if confirms && self.is_selected(path) {
            self.consent.on_confirmed(now);
        }
        Ok(())
    }

    /// The peer proved to receive what we send to `path`: from now on anything may go there.
    fn confirm_pair(&mut self, now: Instant, path: FiveTuple) {
        if let Some(pair) = self.pairs.get_mut(path) {
            pair.confirm(now);
        }
        if let Stage::Handshake(handshake) = &mut self.stage {
            handshake.end_allowance();
        }
        if self.target == Some(path) || self.is_selected(path) {
            self.select(path);
        }
    }

    /// Keys are known: the peer has finished the handshake.
    pub fn on_connected(&mut self, now: Instant) {
        let Stage::Handshake(handshake) = std::mem::replace(&mut self.stage, Stage::Connected)
        else {
            return;
        };
        self.consent.on_connected(now);
        let Some(Selected { path, is_confirmed: false }) = self.selected else { return };
        if !self.policy.may_never_answer {
            return;
        }
        if handshake.only_path() == Some(path) {
            self.confirm_pair(now, path);
        } else {
            self.begin_confirm(now, path);
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Connected)
    }

    /// Whether this is an answer to a check of ours on this pair, by its transaction id.
    pub fn awaits(&self, path: FiveTuple, id: &TransactionId) -> bool {
        let checks = [self.confirm.as_ref(), self.consent.check()];
        checks.into_iter().flatten().any(|check| check.path == path && check.sent_at(id).is_some())
    }

    /// Whether the peer is on this pair for certain: it has confirmed it, and something that only it can
    /// send came from there within `span`. An older recording does not count.
    pub fn holds(&self, path: FiveTuple, now: Instant, span: Duration) -> bool {
        let pair = self.pairs.get(path).filter(|pair| pair.is_confirmed());
        pair.is_some_and(|pair| pair.is_proved_within(now, span))
    }

    /// Whether the peer proved at `now` to receive on this pair.
    pub fn proves(&self, path: FiveTuple, now: Instant) -> bool {
        self.pairs.get(path).is_some_and(|pair| pair.is_confirmed() && pair.is_proved_at(now))
    }

    /// Whether the first check came from this pair within `span`, or something that shows that the
    /// peer receives there. Checks that come again do not count: their source may be forged.
    pub fn is_new_on(&self, path: FiveTuple, now: Instant, span: Duration) -> bool {
        self.pairs.get(path).is_some_and(|pair| pair.is_new(now, span))
    }

    /// Notes that the handshake took a datagram from a validated pair; `is_answered` if the peer has
    /// received a flight of ours. Until something is confirmed, a publisher gets our flights where its
    /// own come from: the pair that was selected first may be one that a copy of its check came from.
    pub fn on_handshake(&mut self, now: Instant, path: FiveTuple, is_answered: bool) {
        let Stage::Handshake(handshake) = &self.stage else { return };
        let only_path = handshake.only_path();
        let Some(pair) = self.pairs.get_mut(path) else { return };
        if is_answered && only_path == Some(path) {
            pair.on_proof(now);
        }
        if self.policy.may_never_answer && !self.is_confirmed() && !self.is_selected(path) {
            self.select(path);
        }
    }

    /// Checks a pair that another session keeps until this peer proves to be there: also a publisher's, which is
    /// not checked otherwise before it is connected. One that never answers gets the pair when the other falls
    /// silent.
    pub fn claim(&mut self, now: Instant, path: FiveTuple) {
        if self.confirm.is_none() && self.pairs.get(path).is_some_and(|pair| !pair.is_confirmed()) {
            self.begin_confirm(now, path);
        }
    }

    /// Forgets a pair: it belongs to another session now. Nothing is sent there any more.
    pub fn forget_pair(&mut self, path: FiveTuple) {
        self.pairs.remove(path);
        self.selected.take_if(|selected| selected.path == path);
        self.target.take_if(|target| *target == path);
        self.confirm.take_if(|check| check.path == path);
        self.consent.end_check_on(path);
    }

    /// Whether this pair passed an authenticated check. DTLS, SRTP and SRTCP from any other pair is
    /// not looked at (quality B1).
    pub fn is_validated(&self, path: FiveTuple) -> bool {
        self.pairs.contains(path)
    }

    /// When the peer last proved to be alive.
    pub fn last_alive(&self) -> Instant {
        self.consent.last_alive()
    }

    /// Path that we send on: before any confirmation the first validated pair.
    pub fn selected(&self) -> Option<FiveTuple> {
        self.selected.map(|selected| selected.path)
    }

    fn is_selected(&self, path: FiveTuple) -> bool {
        self.selected.is_some_and(|selected| selected.path == path)
    }

    /// Whether any number of bytes may go to the selected path.
    pub fn is_confirmed(&self) -> bool {
        self.selected.is_some_and(|selected| selected.is_confirmed)
    }

    /// Counts `bytes` as sent on the selected path if they may leave. False is
    /// [`DropReason::UnconfirmedEgress`]: the path is not confirmed, and all bytes that went there
    /// would be more than [`UNCONFIRMED_FACTOR`] times those received from it. For a publisher that
    /// is connected it is [`CHANGED_PATH_FACTOR`].
    pub fn reserve(&mut self, bytes: usize) -> bool {
        let Some(Selected { path, is_confirmed }) = self.selected else { return false };
        if is_confirmed {
            return true;
        }
        let factor = self.factor();
        let spare = if self.confirm.is_some() { CHECK_RESERVE_BYTES } else { 0 };
        self.pairs.get_mut(path).is_some_and(|pair| pair.reserve(bytes, factor, spare))
    }

    /// The same for a DTLS datagram. The handshake of a publisher may take what the path has not
    /// paid for from an allowance, [`HANDSHAKE_ALLOWANCE_BYTES`] per session. It ends with the first
    /// answer to a check of ours and with the handshake.
    pub fn reserve_handshake(&mut self, bytes: usize) -> bool {
        let Some(path) = self.selected() else { return false };
        let paid = self.reserve(bytes);
        let Stage::Handshake(handshake) = &mut self.stage else { return paid };
        let allowed = paid || handshake.take(bytes);
        if allowed {
            handshake.on_sent(path);
        }
        allowed
    }

    /// Bytes that may go to an unconfirmed pair for each one that came from it.
    fn factor(&self) -> u64 {
        match &self.stage {
            Stage::Connected if self.policy.may_never_answer => CHANGED_PATH_FACTOR,
            Stage::Connected | Stage::Handshake(_) => UNCONFIRMED_FACTOR,
        }
    }

    /// Reads what sending needs, so that it is in the caches by then.
    pub fn warm(&self) {
        warm!(self.selected.as_ref().map(|selected| selected.path.protocol), self.is_confirmed());
    }

    /// Reads what receiving needs, so that it is in the caches by then.
    pub fn warm_pairs(&self) {
        self.pairs.warm();
    }

    /// Counts the bytes of SRTP or SRTCP from a validated pair: they pay for what an unconfirmed pair
    /// may be sent.
    pub fn count_received(&mut self, path: FiveTuple, bytes: usize) {
        if let Some(pair) = self.pairs.get_mut(path) {
            pair.count_received(bytes);
        }
    }

    /// Notes that an SRTP or SRTCP packet from `path` was authenticated: the peer is alive. If a
    /// publisher has chosen that path, and nothing proves any more that it is on the selected one,
    /// this moves it there; it is not confirmed by that.
    pub fn on_authenticated(&mut self, now: Instant, path: FiveTuple) {
        // Consent of a viewer is for the path we send on (RFC 7675). Reports from elsewhere must not
        // keep a stream alive that goes to an address its viewer has left.
        if self.policy.may_never_answer || self.selected.is_none_or(|it| it.path == path) {
            self.consent.on_alive(now);
        }
        if let Some(pair) = self.pairs.get_mut(path) {
            pair.on_proof(now);
        }
        if self.target == Some(path) && self.policy.may_never_answer {
            let selected = self.selected.and_then(|selected| self.pairs.get(selected.path));
            if !selected.is_some_and(|pair| pair.is_proved_within(now, DOUBT_AFTER)) {
                self.select(path);
            }
        }
    }

    /// Writes the next Binding request of ours that is due at `now` into `out`; its path and
    /// length. Call until `None`. 700 bytes hold any request.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        out: &mut [u8],
    ) -> Option<(FiveTuple, usize)> {
        loop {
            let check = match self.confirm.as_mut().filter(|check| check.is_due(now)) {
                Some(check) => check,
                None => self.consent.due_check(now, entropy)?,
            };
            let generation = self.generations.get(check.age)?;
            let tie_breaker = *self.tie_breaker.get_or_insert_with(|| random_u64(entropy));
            let mut transaction_id = TransactionId::default();
            entropy.fill(&mut transaction_id);
            let path = check.path;
            check.on_request(now, transaction_id, self.rtt);
            let request = CheckRequest {
                transaction_id,
                remote_ufrag: &generation.remote.ufrag,
                local_ufrag: &generation.local.ufrag,
                priority: PRIORITY,
                role: IceRole::Controlled,
                tie_breaker,
                key: generation.remote.pwd.as_bytes(),
            };
            let len = stun::write_check(out, &request)?;
            let factor = self.factor();
            if self.pairs.get_mut(path).is_some_and(|pair| pair.reserve(len, factor, 0)) {
                return Some((path, len));
            }
            // As if it had been lost: the next attempt may find that more came from there.
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and then
    /// [`poll_transmit`](Self::poll_transmit) next: for a check, the next consent check, or the end
    /// of consent.
    pub fn next_timeout(&self) -> Instant {
        let confirm = self.confirm.as_ref().map(Check::next_at);
        let stale = self.is_confirmed().then(|| self.consent.stale_at());
        confirm.into_iter().chain(stale).fold(self.consent.next_timeout(), Instant::min)
    }

    /// Gives up checks without an answer and starts the next consent check when it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.confirm.take_if(|check| check.is_spent(now));
        if self.consent.is_stale(now)
            && let Some(selected) = self.selected.as_mut().filter(|it| it.is_confirmed)
        {
            selected.is_confirmed = false;
            if let Some(pair) = self.pairs.get_mut(selected.path) {
                pair.unconfirm();
            }
        }
        let age = self.generations.selected_age();
        self.consent.handle_timeout(now, self.selected(), age);
    }

    /// Whether nothing proved for [`CONSENT_TIMEOUT`] that the peer is alive.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.consent.is_expired(now)
    }

    /// Begins an ICE restart (RFC 8839 section 4.4.1.1.1, whip-whep B9). Media keeps flowing on the
    /// selected pair and all pairs stay validated. The authenticated PATCH gives the peer time for
    /// its new checks; it renews no consent to receive. Checks with the old credentials are answered but choose nothing, until a check with
    /// the new ones has selected a pair. A second restart forgets the oldest credentials.
    pub fn restart(&mut self, local: IceCredentials, remote: IceCredentials, now: Instant) {
        self.generations.restart(local, remote, self.selected.is_some());
        self.target = None;
        self.confirm = None;
        self.consent.restart(now);
    }

    /// Round-trip time of the last answered check of ours.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Makes `path` the one we send on. The credentials before a restart are not needed any more.
    fn select(&mut self, path: FiveTuple) {
        self.selected = Some(Selected { path, is_confirmed: self.pairs.is_confirmed(path) });
        self.target = None;
        self.generations.forget_previous();
        self.consent.use_current_credentials();
    }

    fn begin_confirm(&mut self, now: Instant, path: FiveTuple) {
        if self.confirm.as_ref().is_none_or(|check| check.path != path) {
            self.confirm = Some(Check::new(path, now, Age::Current));
        }
    }
}

#[cfg(test)]
mod tests;
