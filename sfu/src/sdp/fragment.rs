//! PATCH bodies (`application/trickle-ice-sdpfrag`, RFC 8840 section 9): trickle and ICE restart.
//!
//! Owns the fragment grammar, read leniently (whip-whep B8, B13 to B15). Never decides: whether the
//! credentials mean a restart is up to the session (whip-whep B5). Remote candidates are counted
//! and otherwise ignored, never resolved: as an ICE-lite agent we learn the peer's address from its
//! checks. Called by the `Sfu` handle.

use rtc_sdp::description::common::Attribute;

use super::grammar::Grammar;
use super::plan::{IceCredentials, LocalTransport};
use super::transport_lines::TransportLines;
use super::{Location, SdpError, answer};

/// Content of a PATCH body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// The first user fragment and password, if both are there.
    pub ice: Option<IceCredentials>,
    /// Number of `a=candidate` lines.
    pub candidates: usize,
}

/// Reads a fragment: any order, any `m=` lines, credentials at either level, LF or CRLF.
///
/// # Errors
/// [`SdpError::Malformed`] when it is empty, not lines of `x=value`, over a limit (quality B2),
/// or has credentials that break their grammar. The session is to survive it (whip-whep B16).
pub fn parse(bytes: &[u8]) -> Result<Fragment, SdpError> {
    let text = Grammar::Lenient.read(bytes)?;
    let mut lines = Vec::new();
    let mut candidates = 0_usize;
    for attribute in text.lines().filter_map(|line| line.strip_prefix("a=")) {
        match attribute.split_once(':') {
            Some(("candidate", _)) => candidates = candidates.saturating_add(1),
            Some((key @ ("ice-ufrag" | "ice-pwd"), value)) => {
                lines.push(Attribute::new(key.into(), Some(value.into())));
            }
            _ => {}
        }
    }
    let ice = TransportLines::read(&lines).map_err(|cause| cause.at(Location::Body))?.ice();
    Ok(Fragment { ice, candidates })
}

/// Body of a 200 for an ICE restart: our new credentials and one candidate, the best. Some players
/// join several candidates into one broken line (whip-whep B7).
pub fn render(local: &LocalTransport) -> String {
    let candidate = local.candidates.first().map(|address| answer::candidate(0, *address));
    let candidate = candidate.map(|line| format!("a=candidate:{line}\r\n")).unwrap_or_default();
    format!(
        "a=ice-lite\r\na=ice-options:{options}\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n\
         {candidate}a=end-of-candidates\r\n",
        options = answer::ICE_OPTIONS,
        ufrag = local.ice.ufrag,
        pwd = local.ice.pwd,
    )
}

#[cfg(test)]
mod tests {
    use super::super::scan;
    use super::*;

    const UFRAG: &str = "EsAw";
    const PWD: &str = "P2uYro0UCOQ4zxjKXaWCBui1";

    fn read(body: &str) -> Fragment {
        parse(body.as_bytes()).unwrap()
    }

    /// whip-whep B8
    #[test]
    fn ice_restart_may_be_two_session_level_lines() {
        let fragment = read(&format!("a=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PWD}\r\n"));
        let ice = IceCredentials { ufrag: UFRAG.into(), pwd: PWD.into() };
        assert_eq!(fragment, Fragment { ice: Some(ice), candidates: 0 });
    }

    /// whip-whep B13 to B15
    #[test]
    fn candidates_of_every_kind_are_counted_and_none_is_an_error() {
        let fragment = read(&format!(
            "a=group:BUNDLE 0 1\na=ice-options:trickle\n\
             m=audio 9 UDP/TLS/RTP/SAVPF 111 63\na=mid:0\na=ice-ufrag:{UFRAG}\na=ice-pwd:{PWD}\n\
             a=candidate:1 1 udp 2113937151 192.0.2.1 5 typ host generation 0 ufrag x network-id 1\n\
             a=candidate:1 0 udp 1 f0a1.local 5 typ host\n\
             m=audio 9 RTP/AVP 0\na=mid:1\n\
             a=candidate:1 2 tcp 1 fe80::1 9 typ host tcptype active\n\
             a=candidate:\na=candidate:nonsense\na=end-of-candidates\n"
        ));
        assert_eq!(fragment.candidates, 5);
        assert_eq!(fragment.ice.map(|ice| ice.ufrag), Some(UFRAG.into()));
        let end = Fragment { ice: None, candidates: 0 };
        assert_eq!(read("a=end-of-candidates"), end);
        assert_eq!(read(&format!("a=ice-ufrag:{UFRAG}")), end, "half a pair is no restart");
    }

    /// whip-whep B16
    #[test]
    fn what_is_no_fragment_is_malformed() {
        for bad in [
            "",
            "\r\n",
            "{\"candidate\":\"candidate:1 1 udp 1 192.0.2.1 5 typ host\"}",
            "a=ice-ufrag:abc\r\n",
            "a=ice-pwd:short\r\n",
        ] {
            assert!(matches!(parse(bad.as_bytes()), Err(SdpError::Malformed { .. })), "{bad:?}");
        }
        let candidates = |n| "a=candidate:x\r\n".repeat(n);
        assert_eq!(read(&candidates(scan::CANDIDATES_MAX)).candidates, scan::CANDIDATES_MAX);
        assert!(parse(candidates(scan::CANDIDATES_MAX + 1).as_bytes()).is_err());
    }

    /// whip-whep B6, B7
    #[test]
    fn ice_restart_answer_has_one_candidate_and_our_credentials() {
        let local = LocalTransport {
            ice: IceCredentials { ufrag: UFRAG.into(), pwd: PWD.into() },
            fingerprint_sha256: [0; 32],
            candidates: vec!["192.0.2.1:8189".parse().unwrap(), "[::1]:8189".parse().unwrap()],
            publisher_limits: crate::config::PublisherLimits::default(),
            session_id: 1,
        };
        assert_eq!(
            render(&local),
            format!(
                "a=ice-lite\r\na=ice-options:trickle\r\na=ice-ufrag:{UFRAG}\r\na=ice-pwd:{PWD}\r\n\
                 a=candidate:1 1 udp 2130706431 192.0.2.1 8189 typ host\r\na=end-of-candidates\r\n"
            )
        );
        assert_eq!(read(&render(&local)).ice, Some(local.ice));
    }
}
