//! Random identifiers and credentials of sessions, from the operating system's generator.
//!
//! Knows no session. Called by `control.rs` for each POST and each ICE restart.

use crate::ids::{SessionId, SessionSecret};
use crate::sdp::IceCredentials;
use crate::transport::{Entropy, OsEntropy};

/// Characters of our ICE user fragment: 47 bits, of which RFC 8445 section 5.3 requires 24.
const UFRAG_CHARS: usize = 8;

/// Characters of our ICE password: 190 bits, of which RFC 8445 section 5.3 requires 128.
const PWD_CHARS: usize = 32;

/// Public id of a new session.
pub(super) fn session_id() -> SessionId {
    SessionId(u64::from_be_bytes(bytes()))
}

/// Secret of a new session's URL (whip-whep A26).
pub(super) fn session_secret() -> SessionSecret {
    SessionSecret::from_random(bytes())
}

/// Fresh ICE credentials of our side.
pub(super) fn ice_credentials() -> IceCredentials {
    IceCredentials { ufrag: text(UFRAG_CHARS), pwd: text(PWD_CHARS) }
}

/// Session id of an SDP `o=` line. RFC 8866 section 5.2 requires a number; every parser reads 62 bits.
pub(super) fn sdp_session_id() -> u64 {
    u64::from_be_bytes(bytes()) >> 2
}

/// Number from which an SSRC of a session is chosen (`rtp/ssrc.rs`).
pub(super) fn ssrc() -> u32 {
    u32::from_be_bytes(bytes())
}

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsEntropy.fill(&mut bytes);
    bytes
}

/// Letters and digits only: safe in SDP, in ETags and in every client's parser. 5.9 bits per character.
fn text(len: usize) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(len);
    while text.len() < len {
        // Bytes of 248 and above would make the first letters more likely.
        let fair = bytes::<64>().into_iter().filter(|byte| *byte < 248);
        for byte in fair.take(len - text.len()) {
            let symbol = ALPHABET.get(usize::from(byte) % ALPHABET.len()).copied();
            text.push(char::from(symbol.unwrap_or(b'A')));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn text_has_its_length_and_all_letters_and_digits() {
        for len in [0, 1, UFRAG_CHARS, 63, 64, 65, 1_000] {
            assert_eq!(text(len).len(), len);
        }
        let used: BTreeSet<char> = text(20_000).chars().collect();
        assert_eq!(used.len(), 62);
        assert!(used.iter().all(char::is_ascii_alphanumeric));
    }

    #[test]
    fn credentials_have_the_length_that_ice_requires_and_differ() {
        let (one, two) = (ice_credentials(), ice_credentials());
        assert_eq!((one.ufrag.len(), one.pwd.len()), (UFRAG_CHARS, PWD_CHARS));
        assert!(one.ufrag != two.ufrag && one.pwd != two.pwd);
        assert_ne!(session_secret().expose(), session_secret().expose());
        assert_ne!(session_id(), session_id());
    }

    #[test]
    fn numbers_stay_within_their_range() {
        for _ in 0..1_000 {
            assert!(sdp_session_id() < 1 << 62);
        }
    }
}
