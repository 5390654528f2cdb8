//! The ICE-lite agent of one session (RFC 8445, RFC 7675).
//!
//! Owns which address pairs may talk to us, which one we send on, and whether the peer is alive.
//! Answers authenticated checks and sends none, except two kinds of its own: to confirm a pair
//! before egress moves to it, and for a viewer to renew its consent. Never gathers, never
//! nominates, never holds a socket or reads a clock. Called by `transport/peer`. Next: `stun.rs`.
//!
//! Rules, in order of importance:
//! - Nothing without valid `MESSAGE-INTEGRITY` gets an answer or leaves state (whip-whep C51).
//! - A request seen before (same transaction id) moves nothing, validates nothing and is no life.
//! - Until a pair was nominated or confirmed, egress follows the first valid check and then the
//!   first `USE-CANDIDATE`. After that it moves only to a freshly nominated pair that has answered
//!   a check of ours from there (architecture D3); for a publisher an authenticated SRTP packet from there does
//!   as well, because some publishers never answer (whip-whep C50).
//! - A viewer's pair that is not confirmed may get 3 × the bytes that came from it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use self::check::Check;
use self::generation::Generation;
use self::pair::Pair;
use self::seen::Seen;
use super::stun::{self, CheckRequest, StunClass, StunView, TransactionId};
use super::{Entropy, FiveTuple};
use crate::error::DropReason;
use crate::ids::Role;
use crate::sdp::IceCredentials;

mod check;
mod generation;
mod pair;
mod seen;

pub use self::pair::STUN_PER_SECOND;

/// Validated pairs of one session. One more pushes out the pair that was idle longest, if it was
/// never nominated or is idle for [`CONSENT_TIMEOUT`]; else the check is dropped (quality B2).
pub const MAX_PAIRS: usize = 8;

/// A selected pair from which nothing came for this long is in doubt: a fresh check from another one then
/// makes that one the target, nominated or not. Behind a NAT that gave the client a new port, some
/// clients never nominate again.
pub const DOUBT_AFTER: Duration = Duration::from_secs(3);

/// Time without life after which a session is over (RFC 7675 section 5.1, whip-whep C60).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes we may send to an unconfirmed pair per byte that came from it: answers, checks, all else.
pub const UNCONFIRMED_FACTOR: u64 = 3;

/// Of that, what stays free for the check that confirms the pair.
const CHECK_ROOM: u64 = 160;

/// What the handshake with a publisher may cost beyond that, per pair: some repeats of a flight of one
/// kilobyte. FFmpeg as DTLS server loses the first ClientHello, which it reads while it still waits for
/// ICE, and has sent no more than one check of 100 bytes until a repeat reaches it; and on a bad
/// network flights are lost that nobody answered yet.
pub const HANDSHAKE_ALLOWANCE: u64 = 8_192;

/// Own checks of a viewer are spaced by this plus up to [`CONSENT_JITTER`] (RFC 7675 section 5.1).
const CONSENT_MIN: Duration = Duration::from_secs(4);
const CONSENT_JITTER: Duration = Duration::from_secs(2);

/// First wait for an answer to a check: twice the known round trip within these bounds. It doubles
/// with each attempt.
const CHECK_RTO: Duration = Duration::from_millis(50);
const CHECK_RTO_MAX: Duration = Duration::from_millis(200);
/// `PRIORITY` of a peer-reflexive candidate of component 1 (RFC 8445 section 5.1.2.1).
const PRIORITY: u32 = (110 << 24) | (0xffff << 8) | 255;

/// What the agent starts with.
#[derive(Debug, Clone)]
pub struct IceConfig {
    /// Our credentials, from our answer.
    pub local: IceCredentials,
    /// The peer's credentials, from its offer.
    pub remote: IceCredentials,
    /// Publisher or viewer: they differ in consent, life and egress (see the head of this file).
    pub kind: Role,
}

/// What one STUN datagram did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IceEvent {
    /// Bytes of the answer in `reply`, to be sent back on the same path; 0 for none.
    pub reply_len: usize,
    /// This was the very first valid check of the session: a DTLS client may start.
    pub first_check: bool,
    /// The path we send on was chosen, moved, or (viewer) confirmed by its answer to our check.
    pub nominated: Option<FiveTuple>,
}

/// The agent. See the head of this file.
#[repr(C)]
pub struct IceAgent {
    kind: Role,
    current: Generation,
    /// The credentials before a restart, until a pair of the new ones is selected.
    previous: Option<Generation>,
    /// A pair that egress moves to once it is confirmed.
    target: Option<FiveTuple>,
    confirm: Option<Check>,
    consent: Option<Check>,
    consent_at: Option<Instant>,
    seen: Seen,
    last_life: Instant,
    tie_breaker: Option<u64>,
    rtt: Option<Duration>,
    // What each turn's packets need stands together from here on.
    pairs: Vec<Pair>,
    /// Something beyond STUN was authenticated: keys exist.
    authenticated: bool,
    /// Whether the selected pair is confirmed: read for each turn's packets, so kept at hand.
    confirmed: bool,
    selected: Option<FiveTuple>,
    /// Bytes left on the selected pair since it was confirmed, not yet added to it.
    sent: u64,
}

impl IceAgent {
    /// A session that waits for its first check. Its life starts now.
    pub fn new(config: IceConfig, now: Instant) -> Self {
        Self {
            kind: config.kind,
            current: Generation::new(config.local, config.remote),
            previous: None,
            pairs: Vec::new(),
            selected: None,
            confirmed: false,
            sent: 0,
            target: None,
            confirm: None,
            consent: None,
            consent_at: None,
            seen: Seen::default(),
            last_life: now,
            tie_breaker: None,
            rtt: None,
            authenticated: false,
        }
    }

    /// Takes one STUN datagram that carries this session's ufrag or came on one of its pairs.
    /// Writes at most one answer into `reply` (76 bytes suffice, 100 for a refusal). Counts the
    /// datagram's bytes for the path itself; do not call [`on_datagram`](Self::on_datagram) too.
    ///
    /// # Errors
    /// Why it was dropped without an answer: `StunMalformed`, `StunUnknownUfrag`,
    /// `StunBadIntegrity`, `StunRateLimited`, `StunUnexpectedResponse`, `TooManyPairs`, and
    /// `UnvalidatedAddress` for a copy of an earlier check that comes from a new address.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        path: FiveTuple,
        datagram: &[u8],
        reply: &mut [u8],
    ) -> Result<IceEvent, DropReason> {
        let view = StunView::parse(datagram).map_err(|_| DropReason::StunMalformed)?;
        if !view.is_binding() {
            return Err(DropReason::StunMalformed);
        }
        match view.class() {
            StunClass::Request => self.handle_request(now, path, datagram.len(), &view, reply),
            StunClass::Success => self.handle_answer(now, path, &view),
            StunClass::Error => Err(DropReason::StunUnexpectedResponse),
            // A keepalive (RFC 8445 section 11): unauthenticated, so it proves nothing.
            StunClass::Indication => Ok(IceEvent::default()),
        }
    }

    fn handle_request(
        &mut self,
        now: Instant,
        path: FiveTuple,
        len: usize,
        view: &StunView<'_>,
        reply: &mut [u8],
    ) -> Result<IceEvent, DropReason> {
        let (ufrag, _) = view.username().ok_or(DropReason::StunUnknownUfrag)?;
        let is_current = ufrag == self.current.local.ufrag;
        let generation = if is_current { Some(&self.current) } else { self.previous.as_ref() }
            .filter(|generation| generation.local.ufrag == ufrag)
            .ok_or(DropReason::StunUnknownUfrag)?;
        let key = generation.local.pwd.as_bytes();
        if !view.verify_integrity(key) {
            return Err(DropReason::StunBadIntegrity);
        }
        // Behind the integrity check: forged requests must not use up the peer's share.
        let pair = self.pairs.iter_mut().find(|pair| pair.path == path);
        if pair.is_some_and(|pair| !pair.take_turn(now)) {
            return Err(DropReason::StunRateLimited);
        }
        let id = view.transaction_id();
        if !view.unknown_attributes().is_empty() {
            let unknown = view.unknown_attributes();
            let reply_len = stun::write_unknown_attributes(reply, &id, unknown, key).unwrap_or(0);
            return Ok(IceEvent { reply_len, ..IceEvent::default() });
        }
        let reply_len = stun::write_success(reply, &id, path.remote, key).unwrap_or(0);
        let fresh = self.seen.is_new(&id);
        let known = self.is_validated(path);
        if !known && !fresh {
            return Err(DropReason::UnvalidatedAddress);
        }
        if !known {
            self.add_pair(path, now)?;
        }
        self.on_datagram(path, len);
        if let Some(pair) = self.pair_mut(path) {
            pair.sent = pair.sent.saturating_add(reply_len as u64);
        }
        let mut event = IceEvent { reply_len, ..IceEvent::default() };
        if fresh {
            self.seen.insert(id);
            self.on_fresh_check(now, path, is_current, view.has_use_candidate(), &mut event);
        }
        Ok(event)
    }

    /// An authenticated request that is no copy: it is life, and may choose the path.
    fn on_fresh_check(
        &mut self,
        now: Instant,
        path: FiveTuple,
        is_current: bool,
        use_candidate: bool,
        event: &mut IceEvent,
    ) {
        if let Some(pair) = self.pair_mut(path) {
            pair.last_seen = now;
            pair.nominated |= use_candidate;
        }
        // A connected viewer proves life with answers and SRTCP only: its checks could be recorded
        // by others.
        if self.kind == Role::Publisher || !self.selected_is_confirmed() {
            self.last_life = now;
        }
        if !is_current {
            return;
        }
        event.first_check = !self.current.checked && self.selected.is_none();
        let on_selected = self.selected == Some(path);
        let chooses = use_candidate
            || (!self.current.checked && !self.current.nominated)
            || (!on_selected && self.selected_in_doubt(now));
        self.current.checked = true;
        if on_selected
            && self.kind == Role::Subscriber
            && self.confirm.is_none()
            && !self.selected_is_confirmed()
        {
            self.begin_confirm(now, path);
        }
        if !chooses {
            return;
        }
        let first_nomination = use_candidate && !self.current.nominated;
        self.current.nominated |= use_candidate;
        let free_to_move = self.selected.is_none()
            || (first_nomination && self.previous.is_none() && !self.selected_is_confirmed());
        if on_selected {
            self.select(path);
        } else if free_to_move {
            self.select(path);
            event.nominated = Some(path);
            if self.kind == Role::Subscriber {
                self.begin_confirm(now, path);
            }
        } else {
            self.target = Some(path);
            if self.is_confirmed(path) {
                // It answered us long ago; the client may be gone from there since.
                self.set_confirmed(path, false);
            }
            self.begin_confirm(now, path);
        }
    }

    fn selected_in_doubt(&self, now: Instant) -> bool {
        let selected = self.selected.and_then(|path| self.pairs.iter().find(|p| p.path == path));
        selected.is_some_and(|pair| now.saturating_duration_since(pair.last_seen) >= DOUBT_AFTER)
    }

    /// An answer to a check of ours: right id, from that very pair, signed with its password.
    fn handle_answer(
        &mut self,
        now: Instant,
        path: FiveTuple,
        view: &StunView<'_>,
    ) -> Result<IceEvent, DropReason> {
        let id = view.transaction_id();
        let is_confirm = self.confirm.as_ref().is_some_and(|check| check.sent_at(&id).is_some());
        let check = if is_confirm { &self.confirm } else { &self.consent };
        let (sent_at, current) = check
            .as_ref()
            .filter(|check| check.path == path)
            .and_then(|check| Some((check.sent_at(&id)?, check.current)))
            .ok_or(DropReason::StunUnexpectedResponse)?;
        let generation = if current { Some(&self.current) } else { self.previous.as_ref() }
            .ok_or(DropReason::StunUnexpectedResponse)?;
        if !view.verify_integrity(generation.remote.pwd.as_bytes()) {
            return Err(DropReason::StunBadIntegrity);
        }
        self.rtt = Some(now.saturating_duration_since(sent_at));
        self.last_life = now;
        if let Some(pair) = self.pair_mut(path) {
            pair.last_seen = now;
        }
        let mut event = IceEvent::default();
        if !is_confirm {
            self.consent = None;
            return Ok(event);
        }
        self.confirm = None;
        self.set_confirmed(path, true);
        if self.target == Some(path) || self.selected == Some(path) {
            self.select(path);
            event.nominated = Some(path);
            if self.kind == Role::Subscriber {
                self.consent = None;
                self.consent_at = Some(now + CONSENT_MIN + CONSENT_JITTER / 2);
            }
        }
        Ok(event)
    }

    /// Whether this pair passed an authenticated check: only then do its DTLS, SRTP and SRTCP bytes
    /// deserve a look (quality B1).
    pub fn is_validated(&self, path: FiveTuple) -> bool {
        self.pairs.iter().any(|pair| pair.path == path)
    }

    /// When the peer last proved to be alive.
    pub fn last_life(&self) -> Instant {
        self.last_life
    }

    /// The path we send on: before any confirmation the first validated pair.
    pub fn selected(&self) -> Option<FiveTuple> {
        self.selected
    }

    /// Whether `bytes` more may leave on the selected path, and counts them if so. False is
    /// [`DropReason::UnconfirmedEgress`]: the path is not confirmed and 3 × the bytes received from
    /// it would be exceeded. A publisher has [`HANDSHAKE_ALLOWANCE`] more, and is free of this once
    /// keys exist.
    pub fn may_send(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let allowed = self.selected.is_some() && bytes <= self.allowance();
        if allowed {
            self.count_sent(bytes);
        }
        allowed
    }

    /// Bytes that [`may_send`](Self::may_send) would allow; 0 while no path is selected.
    pub fn allowance(&self) -> u64 {
        let publisher = self.kind == Role::Publisher;
        if self.confirmed || (publisher && self.authenticated && self.selected.is_some()) {
            return u64::MAX;
        }
        let selected = self.selected.and_then(|path| self.pairs.iter().find(|p| p.path == path));
        let Some(pair) = selected else { return 0 };
        let room = if self.confirm.is_some() { CHECK_ROOM } else { 0 };
        let handshake = if publisher { HANDSHAKE_ALLOWANCE } else { 0 };
        let budget = pair.received.saturating_mul(UNCONFIRMED_FACTOR).saturating_add(handshake);
        budget.saturating_sub(pair.sent).saturating_sub(room)
    }

    /// Reads what sending needs, so that it is in the caches by then.
    pub fn warm(&self) {
        black_box((self.selected.is_some(), self.confirmed, self.sent));
    }

    /// The same of what comes in.
    pub fn warm_pairs(&self) {
        black_box(self.pairs.first().map(|pair| (pair.path, pair.received)));
    }

    /// Bytes left on the selected path.
    pub fn count_sent(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
        if !self.confirmed {
            self.settle();
        }
    }

    /// Adds what left on the selected pair to it.
    fn settle(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        if let Some(pair) = self.selected.and_then(|path| self.pair_mut(path)) {
            pair.sent = pair.sent.saturating_add(sent);
        }
    }

    /// Counts the bytes of a datagram other than STUN from a validated pair, for the 3 × rule.
    pub fn on_datagram(&mut self, path: FiveTuple, bytes: usize) {
        if let Some(pair) = self.pair_mut(path) {
            pair.received = pair.received.saturating_add(bytes as u64);
        }
    }

    /// An SRTP, SRTCP or DTLS packet from `path` was authenticated: life. If a publisher has
    /// nominated that path and it waits for confirmation, this is it; then true.
    pub fn on_authenticated(&mut self, now: Instant, path: FiveTuple) -> bool {
        // Consent of a viewer is for where we send (RFC 7675): reports from elsewhere must not keep a
        // stream alive that goes to an address its viewer has left.
        if self.kind == Role::Publisher || self.selected == Some(path) || self.selected.is_none() {
            self.last_life = now;
        }
        self.authenticated = true;
        if let Some(pair) = self.pair_mut(path) {
            pair.last_seen = now;
        }
        let moves = self.kind == Role::Publisher && self.target == Some(path);
        if moves {
            self.confirm = None;
            self.select(path);
        }
        moves
    }

    /// Writes the next Binding request of ours that is due at `now` into `out`; its path and
    /// length. Call until `None`. 700 bytes hold any request.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        out: &mut [u8],
    ) -> Option<(FiveTuple, usize)> {
        let is_confirm = self.confirm.as_ref().is_some_and(|check| check.is_due(now));
        let check = if is_confirm { &mut self.confirm } else { &mut self.consent };
        let check = check.as_mut().filter(|check| check.is_due(now))?;
        let generation = if check.current { &self.current } else { self.previous.as_ref()? };
        let tie_breaker = *self.tie_breaker.get_or_insert_with(|| random_u64(entropy));
        if !is_confirm && check.attempts == 0 {
            let share = random_u64(entropy) as u32 as f64 / f64::from(u32::MAX);
            self.consent_at = Some(now + CONSENT_MIN + CONSENT_JITTER.mul_f64(share));
        }
        let mut transaction_id = TransactionId::default();
        entropy.fill(&mut transaction_id);
        let path = check.path;
        let rto = self.rtt.map_or(CHECK_RTO, |rtt| (rtt * 2).clamp(CHECK_RTO, CHECK_RTO_MAX));
        check.sent(now, transaction_id, rto);
        let request = CheckRequest {
            transaction_id,
            remote_ufrag: &generation.remote.ufrag,
            local_ufrag: &generation.local.ufrag,
            priority: PRIORITY,
            tie_breaker,
            key: generation.remote.pwd.as_bytes(),
        };
        let len = stun::write_check(out, &request)?;
        if self.may_check(path, len) {
            return Some((path, len));
        }
        // As if it had been lost: the next attempt may find that more came from there.
        self.poll_transmit(now, entropy, out)
    }

    /// Whether a check of ours may leave, and counts it if so: a pair that has not answered gets no
    /// more than [`UNCONFIRMED_FACTOR`] × what came from it, answers and checks included.
    fn may_check(&mut self, path: FiveTuple, len: usize) -> bool {
        let Some(pair) = self.pair_mut(path) else { return false };
        let sent = pair.sent.saturating_add(len as u64);
        if !pair.confirmed && sent > pair.received.saturating_mul(UNCONFIRMED_FACTOR) {
            return false;
        }
        pair.sent = sent;
        true
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and then
    /// [`poll_transmit`](Self::poll_transmit) next: a check, the next consent, or the end of life.
    pub fn next_timeout(&self) -> Option<Instant> {
        let confirm = self.confirm.as_ref().map(|check| check.next_at);
        let consent = self.consent.as_ref().map(|check| check.next_at);
        let expiry = Some(self.last_life + CONSENT_TIMEOUT);
        [confirm, consent, self.consent_at, expiry].into_iter().flatten().min()
    }

    /// Gives up checks without an answer and starts the next consent check when it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.confirm.take_if(|check| check.is_spent(now));
        self.consent.take_if(|check| check.is_spent(now));
        if self.consent_at.is_some_and(|at| at <= now) {
            self.consent_at = None;
            self.consent = self.selected.map(|path| Check::new(path, now, self.previous.is_none()));
        }
    }

    /// Whether nothing authenticated came for [`CONSENT_TIMEOUT`].
    pub fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_life) >= CONSENT_TIMEOUT
    }

    /// ICE restart (RFC 8839 section 4.4.1.1.1, whip-whep B9). The selected pair keeps flowing and
    /// all pairs stay validated; the authenticated PATCH counts as life. Checks with the old credentials are answered, but choose nothing,
    /// until a check with the new ones has selected a pair; a second restart forgets the oldest.
    pub fn restart(&mut self, local: IceCredentials, remote: IceCredentials, now: Instant) {
        let old = std::mem::replace(&mut self.current, Generation::new(local, remote));
        if self.selected.is_some() {
            self.previous = Some(old);
        }
        self.target = None;
        self.confirm = None;
        self.consent = None;
        self.last_life = now;
    }

    /// Our present ufrag.
    pub fn local_ufrag(&self) -> &str {
        &self.current.local.ufrag
    }

    /// The ufrag from before a restart, while checks with it are still answered.
    pub fn previous_local_ufrag(&self) -> Option<&str> {
        self.previous.as_ref().map(|previous| previous.local.ufrag.as_str())
    }

    /// The peer's present credentials.
    pub fn remote(&self) -> &IceCredentials {
        &self.current.remote
    }

    /// Round-trip time of the last answered check of ours.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    fn pair_mut(&mut self, path: FiveTuple) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| pair.path == path)
    }

    fn is_confirmed(&self, path: FiveTuple) -> bool {
        self.pairs.iter().any(|pair| pair.path == path && pair.confirmed)
    }

    fn selected_is_confirmed(&self) -> bool {
        self.confirmed
    }

    fn set_confirmed(&mut self, path: FiveTuple, confirmed: bool) {
        if self.selected == Some(path) {
            self.settle();
            self.confirmed = confirmed;
        }
        if let Some(pair) = self.pair_mut(path) {
            pair.confirmed = confirmed;
        }
    }

    /// Makes `path` the one we send on. The credentials before a restart have then done their duty.
    fn select(&mut self, path: FiveTuple) {
        self.settle();
        self.selected = Some(path);
        self.confirmed = self.is_confirmed(path);
        self.target = None;
        self.previous = None;
        if let Some(consent) = &mut self.consent {
            consent.current = true;
        }
    }

    fn begin_confirm(&mut self, now: Instant, path: FiveTuple) {
        if self.confirm.as_ref().is_none_or(|check| check.path != path) {
            self.confirm = Some(Check::new(path, now, true));
        }
    }

    fn add_pair(&mut self, path: FiveTuple, now: Instant) -> Result<(), DropReason> {
        if self.pairs.len() >= MAX_PAIRS {
            let (selected, target) = (self.selected, self.target);
            let (index, _) = self
                .pairs
                .iter()
                .enumerate()
                .filter(|(_, pair)| Some(pair.path) != selected && Some(pair.path) != target)
                .filter(|(_, pair)| {
                    let idle = now.saturating_duration_since(pair.last_seen);
                    !pair.nominated || idle >= CONSENT_TIMEOUT
                })
                .min_by_key(|(_, pair)| pair.last_seen)
                .ok_or(DropReason::TooManyPairs)?;
            self.pairs.swap_remove(index);
        }
        self.pairs.push(Pair::new(path, now));
        Ok(())
    }
}

fn random_u64(entropy: &mut dyn Entropy) -> u64 {
    let mut bytes = [0u8; 8];
    entropy.fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
