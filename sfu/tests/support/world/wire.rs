//! Bytes as a peer writes and reads them: STUN by `rtc-stun`, SRTP by `rtc-srtp`. Nothing here is
//! the server's own code, so a mistake in both its directions is seen. Next: `link.rs`.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use rtc_crypto::RTCCryptoProvider;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;
use rtc_stun::attributes::{ATTR_MESSAGE_INTEGRITY, ATTR_USE_CANDIDATE, ATTR_USERNAME};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Message, MessageType, Setter};
use rtc_stun::xoraddr::XorMappedAddress;
use weir_sfu::sdp::IceCredentials;

/// The cryptography of the oracles.
pub(crate) fn provider() -> &'static Arc<dyn RTCCryptoProvider> {
    static PROVIDER: OnceLock<Arc<dyn RTCCryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| rtc_crypto::default_provider().expect("aws-lc-rs is compiled in"))
}

/// Kind of a datagram, by its first bytes (RFC 7983).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    Junk,
}

pub(crate) fn class(bytes: &[u8]) -> Class {
    match bytes {
        [0..=3, ..] => Class::Stun,
        [20..=63, ..] => Class::Dtls,
        [128..=191, 192..=223, ..] => Class::Rtcp,
        [128..=191, ..] => Class::Rtp,
        _ => Class::Junk,
    }
}

/// A Binding request of an ICE agent.
#[derive(Debug, Clone)]
pub(crate) struct Check<'a> {
    pub id: [u8; 12],
    pub to_ufrag: &'a str,
    pub from_ufrag: &'a str,
    pub pwd: &'a str,
    pub use_candidate: bool,
}

impl Check<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut message = message(BINDING_REQUEST, self.id);
        message.add(ATTR_USERNAME, format!("{}:{}", self.to_ufrag, self.from_ufrag).as_bytes());
        if self.use_candidate {
            message.add(ATTR_USE_CANDIDATE, &[]);
        }
        seal(message, self.pwd)
    }
}

/// A plain Binding request, without credentials.
pub(crate) fn plain_request(id: [u8; 12]) -> Vec<u8> {
    message(BINDING_REQUEST, id).raw
}

/// The answer to a check of the server's.
pub(crate) fn answer(check: &Message, seen_from: SocketAddr, own: &IceCredentials) -> Vec<u8> {
    let mut reply = message(BINDING_SUCCESS, check.transaction_id.0);
    XorMappedAddress { ip: seen_from.ip(), port: seen_from.port() }
        .add_to(&mut reply)
        .expect("an address fits");
    seal(reply, &own.pwd)
}

pub(crate) fn parse_stun(bytes: &[u8]) -> Option<Message> {
    let mut message = Message::new();
    message.unmarshal_binary(bytes).ok()?;
    Some(message)
}

/// Whether the message is signed with this password.
pub(crate) fn is_signed(message: &mut Message, pwd: &str) -> bool {
    message.contains(ATTR_MESSAGE_INTEGRITY)
        && MessageIntegrity::check(message, pwd.as_bytes(), provider().crypto()).is_ok()
}

fn message(typ: MessageType, id: [u8; 12]) -> Message {
    let mut message = Message::new();
    message.set_type(typ);
    message.transaction_id.0 = id;
    message.write_header();
    message
}

fn seal(mut message: Message, pwd: &str) -> Vec<u8> {
    MessageIntegrity::new_short_term_integrity_with_provider(pwd.into(), provider().crypto())
        .add_to(&mut message)
        .expect("a check fits");
    FINGERPRINT.add_to(&mut message).expect("a fingerprint fits");
    message.raw
}

/// One direction of SRTP, without replay protection: the guard checks retransmissions.
pub(crate) fn srtp(profile: ProtectionProfile, key: &[u8], salt: &[u8]) -> Context {
    Context::new(key, salt, profile, None, None, provider().crypto()).expect("keys fit the profile")
}

/// Splits DTLS exporter output (RFC 5764 section 4.2) into what the client and the server seal
/// with.
pub(crate) fn split_keys(profile: ProtectionProfile, material: &[u8]) -> (Context, Context) {
    let (key, salt) = (profile.key_len(), profile.salt_len());
    let at = |from: usize, len: usize| &material[from..from + len];
    let client = srtp(profile, at(0, key), at(2 * key, salt));
    let server = srtp(profile, at(key, key), at(2 * key + salt, salt));
    (client, server)
}
