//! Differences between a publisher and a viewer for the ICE agent.
//!
//! Owns the switches and allowances of a session's agent, made from its role in one place. Never
//! looks at a packet or a pair. Made by `transport/peer`, read by `ice/mod.rs`.

use crate::ids::Role;

/// Bytes that an unconfirmed pair of a publisher may get for the handshake, beyond the factor
/// `UNCONFIRMED_FACTOR`: some repeats of a flight of one kilobyte.
/// FFmpeg as DTLS server loses the first ClientHello, which it reads while it still waits for ICE.
/// Until a repeat reaches it, it has sent no more than one check of 100 bytes. On a bad network,
/// flights are lost that nobody has answered yet.
pub const HANDSHAKE_ALLOWANCE_BYTES: u64 = 8_192;

/// Behaviour of the agent that depends on the role of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Consent (RFC 7675) is renewed by checks of ours. Once the selected pair has answered one,
    /// only such answers and authenticated packets from the selected pair prove that the peer is
    /// alive. Without it every valid check and every authenticated packet does.
    pub consent: bool,
    /// The pair that is selected first is checked by us, too. A publisher's is not: some publishers
    /// stumble over STUN during the handshake (whip-whep C53).
    pub checks_first_pair: bool,
    /// An authenticated SRTP or SRTCP packet confirms a pair, as an answer to our check does: some
    /// publishers never answer (whip-whep C50).
    pub srtp_confirms: bool,
    /// Bytes that an unconfirmed pair may get beyond the bytes that it paid for.
    pub handshake_allowance_bytes: u64,
}

impl Policy {
    /// Policy for sessions of this role.
    pub fn for_role(role: Role) -> Self {
        match role {
            Role::Publisher => Self {
                consent: false,
                checks_first_pair: false,
                srtp_confirms: true,
                handshake_allowance_bytes: HANDSHAKE_ALLOWANCE_BYTES,
            },
            Role::Subscriber => Self {
                consent: true,
                checks_first_pair: true,
                srtp_confirms: false,
                handshake_allowance_bytes: 0,
            },
        }
    }
}
