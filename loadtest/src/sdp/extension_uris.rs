//! URIs of the RTP header extensions that are negotiated.
//!
//! Used by `offer` and `answer`.

/// The mid (RFC 9143).
pub(super) const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// The rid (RFC 8852).
pub(super) const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
/// The repaired rid (RFC 8852).
pub(super) const RRID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
/// The transport-wide sequence number.
pub(super) const TWCC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
