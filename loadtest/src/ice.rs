//! A small controlling ICE agent for one peer (RFC 8445): finds the server, nominates at once, answers the server's own checks,
//! keeps consent.
//!
//! It gathers nothing and offers no candidates: the server learns our address from the first check. Servers that are full agents
//! check back and feed only who answers. Pure but for randomness; datagrams to send are values. Owned by `peer`.

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

/// Between two checks while unanswered.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A candidate that does not answer for so long makes room for the next; after the last the first has its turn again.
const CANDIDATE_PATIENCE: Duration = Duration::from_secs(1);

/// Between two checks once connected (RFC 7675 asks for about 5 s; browsers take half of it).
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);

/// Without an answer for so long the server is gone (RFC 7675 section 5.1).
pub(crate) const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);

/// PRIORITY of a peer-reflexive candidate (RFC 8445 section 5.1.2.1).
const PRIORITY: u32 = (110 << 24) | (65_535 << 8) | 255;

/// User name fragment and password of one side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// `a=ice-ufrag`.
    pub(crate) ufrag: String,
    /// `a=ice-pwd`.
    pub(crate) password: String,
}

impl Credentials {
    /// Fresh random ones.
    pub(crate) fn random() -> Self {
        let hex = |length: usize| format!("{:032x}", rand::random::<u128>())[..length].to_owned();
        Self { ufrag: hex(8), password: hex(32) }
    }
}

/// What a STUN datagram brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing for us, or nothing new.
    Nothing,
    /// The server answered a check for the first time: the path works.
    Connected,
}

/// The agent of one peer.
pub(crate) struct Agent {
    local: Credentials,
    remote: Credentials,
    candidates: Vec<SocketAddr>,
    current: usize,
    current_since: Instant,
    tie_breaker: u64,
    /// Transactions whose answer may still come, newest last.
    pending: Vec<TransactionId>,
    next_check: Instant,
    last_answer: Option<Instant>,
}

/// Unanswered transactions that are remembered.
const PENDING_MAX: usize = 16;

impl Agent {
    /// An agent that will check `candidates` in their order; there must be one.
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

    /// Where media goes.
    pub(crate) fn remote_addr(&self) -> SocketAddr {
        self.candidates[self.current % self.candidates.len()]
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Instant {
        self.next_check
    }

    /// Whether consent has expired.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        self.last_answer.is_some_and(|last| now.saturating_duration_since(last) > CONSENT_TIMEOUT)
    }

    /// Sends the check that is due.
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
        if !connected && now.saturating_duration_since(self.current_since) >= CANDIDATE_PATIENCE {
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

    /// Takes a STUN datagram that came from `from`; gives what it meant and the answer to send back, if any.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        crypto: &dyn RTCCrypto,
    ) -> anyhow::Result<(Heard, Option<Vec<u8>>)> {
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
            return Ok((Heard::Nothing, Some(answer)));
        }
        let Some(asked) = self.pending.iter().position(|id| *id == message.transaction_id) else {
            return Ok((Heard::Nothing, None));
        };
        if message.typ != BINDING_SUCCESS {
            anyhow::bail!("the server answered an ICE check with {}", message.typ);
        }
        MessageIntegrity::check(&mut message, self.remote.password.as_bytes(), crypto)?;
        self.pending.remove(asked);
        if self.last_answer.replace(now).is_some() {
            return Ok((Heard::Nothing, None));
        }
        self.next_check = now + CONSENT_INTERVAL;
        // The answer may be that of a candidate asked before the current one.
        if let Some(index) = self.candidates.iter().position(|candidate| *candidate == from) {
            self.current = index;
        }
        Ok((Heard::Connected, None))
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
        let mut ours = Agent::new(now, a.clone(), b.clone(), vec![addr(1)]);
        let mut theirs = Agent::new(now, b, a, vec![addr(2)]);
        let check = ours.handle_timeout(now, crypto).expect("builds").expect("is due");
        let (heard, answer) = theirs.handle(now, addr(2), &check, crypto).expect("is valid");
        assert_eq!(heard, Heard::Nothing);
        let (heard, _) =
            ours.handle(now, addr(1), &answer.expect("is answered"), crypto).expect("is valid");
        assert_eq!(heard, Heard::Connected);
        assert!(!ours.is_dead(now + Duration::from_secs(29)));
        assert!(ours.is_dead(now + Duration::from_secs(31)));
    }

    #[test]
    fn request_with_the_wrong_password_is_not_answered() {
        let provider = provider();
        let now = Instant::now();
        let (a, b) = (Credentials::random(), Credentials::random());
        let liar = Credentials { ufrag: a.ufrag.clone(), password: "f".repeat(32) };
        let mut victim = Agent::new(now, a, b.clone(), vec![addr(1)]);
        let mut other = Agent::new(now, b, liar, vec![addr(2)]);
        let check = other.handle_timeout(now, provider.crypto()).expect("builds").expect("is due");
        assert!(victim.handle(now, addr(2), &check, provider.crypto()).is_err());
    }

    #[test]
    fn silent_candidate_makes_room_for_the_next() {
        let provider = provider();
        let now = Instant::now();
        let (a, b) = (Credentials::random(), Credentials::random());
        let mut agent = Agent::new(now, a, b, vec![addr(1), addr(2)]);
        agent.handle_timeout(now, provider.crypto()).expect("builds");
        assert_eq!(agent.remote_addr(), addr(1));
        agent.handle_timeout(now + CANDIDATE_PATIENCE, provider.crypto()).expect("builds");
        assert_eq!(agent.remote_addr(), addr(2));
    }
}
