//! A small controlling ICE agent for one peer (RFC 8445): checks the server's candidates, nominates
//! at once, answers the server's checks, keeps consent.
//!
//! It gathers nothing and offers no candidates: the server learns the client's address from the
//! first check. Servers that are full agents send checks too, and send media only to clients that
//! answer. Pure but for randomness. Owned by `peer`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtc_crypto::RTCCrypto;
use rtc_stun::attributes::{
    ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME, RawAttribute,
};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    BINDING_REQUEST, BINDING_SUCCESS, Message, MessageType, Setter, TransactionId,
};
use rtc_stun::textattrs::TextAttribute;
use rtc_stun::xoraddr::XorMappedAddress;

/// Time between two checks until one is answered.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Time after which the next candidate is checked instead of one that did not answer. The first
/// candidate follows the last.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two consent checks once connected (RFC 7675 says about 5 s; browsers use half of
/// it).
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);

/// Time without an answer after which consent has expired (RFC 7675 section 5.1).
const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// PRIORITY of a peer-reflexive candidate (RFC 8445 section 5.1.2.1).
const PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;

/// Username fragment and password of one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `a=ice-ufrag`.
    pub(crate) ufrag: String,
    /// `a=ice-pwd`.
    pub(crate) password: String,
}

impl Credentials {
    /// Random credentials.
    pub(crate) fn random() -> Self {
        let hex = |length: usize| format!("{:032x}", rand::random::<u128>())[..length].to_owned();
        Self { ufrag: hex(8), password: hex(32) }
    }
}

/// What a STUN datagram meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StunOutcome {
    /// Not for this agent, or nothing new.
    Nothing,
    /// The server answered a check for the first time.
    Connected,
}

/// The ICE agent of one peer.
pub(crate) struct IceAgent {
    local: Credentials,
    remote: Credentials,
    candidates: Vec<SocketAddr>,
    current: usize,
    current_since: Instant,
    tie_breaker: u64,
    /// Checks whose answers may still come, newest last.
    pending: Vec<TransactionId>,
    next_check: Instant,
    last_answer: Option<Instant>,
}

/// Maximum unanswered checks that are remembered.
const PENDING_MAX: usize = 16;

impl IceAgent {
    /// An agent that checks `candidates` in their order. There must be at least one.
    pub(crate) fn new(
        now: Instant,
        local: Credentials,
        remote: Credentials,
        candidates: Vec<SocketAddr>,
    ) -> Self {
        Self {
            local,
            remote,
            candidates,
            current: 0,
            current_since: now,
            tie_breaker: rand::random(),
            pending: Vec::new(),
            next_check: now,
            last_answer: None,
        }
    }

    /// The address for media.
    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.candidates[self.current % self.candidates.len()]
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn deadline(&self) -> Instant {
        self.next_check
    }

    /// Whether consent has expired.
    pub(crate) fn consent_expired(&self, now: Instant) -> bool {
        self.last_answer.is_some_and(|last| now.saturating_duration_since(last) > CONSENT_TIMEOUT)
    }

    /// The check to send, if one is due.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        crypto: &dyn RTCCrypto,
    ) -> anyhow::Result<Option<Vec<u8>>> {
        if now < self.next_check {
            return Ok(None);
        }
        let connected = self.last_answer.is_some();
        self.next_check = now + if connected { CONSENT_INTERVAL } else { CHECK_INTERVAL };
        if !connected && now.saturating_duration_since(self.current_since) >= CANDIDATE_TIMEOUT {
            self.current = (self.current + 1) % self.candidates.len();
            self.current_since = now;
        }
        let id = TransactionId(rand::random());
        if self.pending.len() == PENDING_MAX {
            self.pending.remove(0);
        }
        self.pending.push(id);
        let check = self.message(
            BINDING_REQUEST,
            id,
            &self.remote.password,
            vec![
                Box::new(TextAttribute::new(
                    ATTR_USERNAME,
                    format!("{}:{}", self.remote.ufrag, self.local.ufrag),
                )),
                raw(ATTR_PRIORITY, &PRIORITY.to_be_bytes()),
                raw(ATTR_ICE_CONTROLLING, &self.tie_breaker.to_be_bytes()),
                raw(ATTR_USE_CANDIDATE, &[]),
            ],
            crypto,
        )?;
        Ok(Some(check))
    }

    /// Takes a STUN datagram from `from`. Returns what it meant, and the answer to send back, if
    /// any.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        crypto: &dyn RTCCrypto,
    ) -> anyhow::Result<(StunOutcome, Option<Vec<u8>>)> {
        let mut message = Message::new();
        message.unmarshal_binary(datagram)?;
        if message.typ == BINDING_REQUEST {
            MessageIntegrity::check(&mut message, self.local.password.as_bytes(), crypto)?;
            let mapped = XorMappedAddress { ip: from.ip(), port: from.port() };
            let id = message.transaction_id;
            let answer = self.message(
                BINDING_SUCCESS,
                id,
                &self.local.password,
                vec![Box::new(mapped)],
                crypto,
            )?;
            return Ok((StunOutcome::Nothing, Some(answer)));
        }
        let Some(check) = self.pending.iter().position(|id| *id == message.transaction_id) else {
            return Ok((StunOutcome::Nothing, None));
        };
        if message.typ != BINDING_SUCCESS {
            anyhow::bail!("the server answered an ICE check with {}", message.typ);
        }
        MessageIntegrity::check(&mut message, self.remote.password.as_bytes(), crypto)?;
        self.pending.remove(check);
        if self.last_answer.replace(now).is_some() {
            return Ok((StunOutcome::Nothing, None));
        }
        self.next_check = now + CONSENT_INTERVAL;
        // The answer may be from a candidate that was checked before the current one.
        if let Some(index) = self.candidates.iter().position(|candidate| *candidate == from) {
            self.current = index;
        }
        Ok((StunOutcome::Connected, None))
    }

    fn message(
        &self,
        kind: MessageType,
        id: TransactionId,
        password: &str,
        attributes: Vec<Box<dyn Setter>>,
        crypto: &dyn RTCCrypto,
    ) -> anyhow::Result<Vec<u8>> {
        let mut setters: Vec<Box<dyn Setter + '_>> = vec![Box::new(id), Box::new(kind)];
        for attribute in attributes {
            setters.push(attribute);
        }
        setters.push(Box::new(MessageIntegrity::new_short_term_integrity_with_provider(
            password.to_owned(),
            crypto,
        )));
        setters.push(Box::new(FINGERPRINT));
        let mut message = Message::new();
        message.build(&setters)?;
        Ok(message.raw)
    }
}

fn raw(typ: rtc_stun::attributes::AttrType, value: &[u8]) -> Box<dyn Setter> {
    Box::new(RawAttribute { typ, length: value.len() as u16, value: value.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn provider() -> Arc<dyn rtc_crypto::RTCCryptoProvider> {
        rtc_crypto::default_provider().expect("a provider is compiled in")
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn both_ends_accept_each_others_checks_and_answers() {
        let provider = provider();
        let crypto = provider.crypto();
        let (a, b, now) = (Credentials::random(), Credentials::random(), Instant::now());
        let mut ours = IceAgent::new(now, a.clone(), b.clone(), vec![addr(1)]);
        let mut theirs = IceAgent::new(now, b, a, vec![addr(2)]);
        let check = ours.handle_timeout(now, crypto).expect("builds").expect("is due");
        let (outcome, answer) = theirs.handle(now, addr(2), &check, crypto).expect("is valid");
        assert_eq!(outcome, StunOutcome::Nothing);
        let (outcome, _) =
            ours.handle(now, addr(1), &answer.expect("is answered"), crypto).expect("is valid");
        assert_eq!(outcome, StunOutcome::Connected);
        assert!(!ours.consent_expired(now + Duration::from_secs(29)));
        assert!(ours.consent_expired(now + Duration::from_secs(31)));
    }

    #[test]
    fn check_with_the_wrong_password_is_not_answered() {
        let provider = provider();
        let now = Instant::now();
        let (a, b) = (Credentials::random(), Credentials::random());
        let wrong = Credentials { ufrag: a.ufrag.clone(), password: "f".repeat(32) };
        let mut ours = IceAgent::new(now, a, b.clone(), vec![addr(1)]);
        let mut theirs = IceAgent::new(now, b, wrong, vec![addr(2)]);
        let check = theirs.handle_timeout(now, provider.crypto()).expect("builds").expect("is due");
        assert!(ours.handle(now, addr(2), &check, provider.crypto()).is_err());
    }

    #[test]
    fn next_candidate_is_checked_when_one_does_not_answer() {
        let provider = provider();
        let now = Instant::now();
        let (a, b) = (Credentials::random(), Credentials::random());
        let mut agent = IceAgent::new(now, a, b, vec![addr(1), addr(2)]);
        agent.handle_timeout(now, provider.crypto()).expect("builds");
        assert_eq!(agent.remote_addr(), addr(1));
        agent.handle_timeout(now + CANDIDATE_TIMEOUT, provider.crypto()).expect("builds");
        assert_eq!(agent.remote_addr(), addr(2));
    }
}
