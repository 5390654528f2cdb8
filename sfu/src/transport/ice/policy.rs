//! Differences between a publisher and a viewer for the ICE agent.
//!
//! Owns the switches and allowances of a session's agent, made from its role in one place. Never
//! looks at a packet or a pair. Made by `transport/peer`, read by `ice/mod.rs`.

use super::consent::Renewal;
use crate::ids::Role;

/// Bytes of DTLS that a publisher's session may send to pairs that are not confirmed, beyond
/// `UNCONFIRMED_FACTOR`: twelve ClientHellos, or two flights of a server.
/// FFmpeg as DTLS server loses the first ClientHello, which it reads while it still waits for ICE.
/// Until a repeat reaches it, it has sent no more than one check of 100 bytes. One number for the
/// whole session: a publisher that aims it at a victim pays with a POST over TCP for each.
pub const HANDSHAKE_ALLOWANCE_BYTES: u64 = 2_048;

/// Behaviour of the agent that depends on the role of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// When consent (RFC 7675) is renewed by checks of ours.
    pub(super) renewal: Renewal,
    /// The pair that is selected first is checked by us, too. A publisher's is not before it is
    /// connected: some publishers stumble over STUN during the handshake (whip-whep C53).
    pub(super) checks_first_pair: bool,
    /// Some publishers never answer a check (whip-whep C50). A finished handshake confirms the
    /// pair to which all its flights went, and SRTP from the target moves the path there when the
    /// selected pair is in doubt.
    pub(super) may_never_answer: bool,
    /// Bytes of the handshake that may go to unconfirmed pairs beyond those that they paid for.
    pub(super) handshake_allowance_bytes: u64,
}

impl Policy {
    /// Policy for sessions of this role.
    pub fn for_role(role: Role) -> Self {
        match role {
            Role::Publisher => Self {
                renewal: Renewal::WhenQuiet,
                checks_first_pair: false,
                may_never_answer: true,
                handshake_allowance_bytes: HANDSHAKE_ALLOWANCE_BYTES,
            },
            Role::Subscriber => Self {
                renewal: Renewal::Always,
                checks_first_pair: true,
                may_never_answer: false,
                handshake_allowance_bytes: 0,
            },
        }
    }
}
