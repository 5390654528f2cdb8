//! Reasons for which packets are dropped and sessions end.
//!
//! On the packet path nothing returns `Err` for what a remote can cause: it returns a
//! [`DropReason`], which is counted and shown in `/metrics`. A [`CloseReason`] tells an operator
//! why a session ended. Never decides anything. Called everywhere.

use serde::Serialize;

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every reason, in the order of its counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The `reason` label in metrics and JSON.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

reasons! {
    /// Reason for which one packet was dropped.
    DropReason {
        /// Not STUN, DTLS, RTP or RTCP by its first byte (RFC 7983), or empty.
        UnknownProtocol => "unknown_protocol",
        /// Longer than the largest datagram that is taken (1,500 bytes).
        Oversized => "oversized",
        /// From an address that has not passed an authenticated ICE check (quality B1).
        UnvalidatedAddress => "unvalidated_address",
        /// STUN that does not parse.
        StunMalformed => "stun_malformed",
        /// STUN whose USERNAME names no session of this server.
        StunUnknownUfrag => "stun_unknown_ufrag",
        /// STUN whose MESSAGE-INTEGRITY is missing or wrong.
        StunBadIntegrity => "stun_bad_integrity",
        /// STUN response that answers no request of ours.
        StunUnexpectedResponse => "stun_unexpected_response",
        /// More STUN than the rate limits allow.
        StunRateLimited => "stun_rate_limited",
        /// Plain Binding request, without an ICE user, above the limit of its network or of all.
        PlainStunLimited => "plain_stun_limited",
        /// A ninth validated address pair of one session.
        TooManyPairs => "too_many_pairs",
        /// Check on an address pair on which another session's handshake runs.
        PairTaken => "pair_taken",
        /// DTLS record or handshake that the DTLS layer refused.
        DtlsMalformed => "dtls_malformed",
        /// DTLS before the handshake may start, or too much of it.
        DtlsLimit => "dtls_limit",
        /// DTLS record that has no place where the association is: a plaintext one after the handshake, one of
        /// another epoch, application data.
        DtlsUnexpectedRecord => "dtls_unexpected_record",
        /// DTLS alert, flight or encrypted record that is not shown to be the peer's: anybody could have sent it.
        DtlsUnauthenticated => "dtls_unauthenticated",
        /// RTP or RTCP before the keys are known.
        NoKeys => "no_keys",
        /// RTP header that does not parse.
        RtpMalformed => "rtp_malformed",
        /// SRTP or SRTCP authentication failed. Never a reason to close (quality B2).
        SrtpAuth => "srtp_auth",
        /// SRTP or SRTCP number seen before, or older than the replay window.
        SrtpReplay => "srtp_replay",
        /// More inbound SSRCs than one session may have.
        TooManySsrcs => "too_many_ssrcs",
        /// RTP that no negotiated m-line, rid, SSRC or payload type claims.
        UnknownTrack => "unknown_track",
        /// A payload type that was not negotiated on its m-line.
        UnknownPayloadType => "unknown_payload_type",
        /// RTP that arrived twice (also as an RTX copy).
        Duplicate => "duplicate",
        /// RTP too old for the packet cache.
        TooOld => "too_old",
        /// RTP from a session that may not send (a viewer).
        WrongDirection => "wrong_direction",
        /// Publisher above its bitrate or packet-rate limit. Counted neither as loss nor requested again.
        PublisherRate => "publisher_rate",
        /// RTCP that does not parse.
        RtcpMalformed => "rtcp_malformed",
        /// More RTCP than 500 packets/s from one peer.
        RtcpRateLimited => "rtcp_rate_limited",
        /// The packet pool was empty.
        PoolExhausted => "pool_exhausted",
        /// The ring to another worker was full.
        RingFull => "ring_full",
        /// The stray ring to the owning worker was full, or its budget spent.
        StrayLimited => "stray_limited",
        /// The viewer waits for a keyframe before its first or next picture.
        AwaitingKeyframe => "awaiting_keyframe",
        /// A layer that this viewer is not subscribed to.
        LayerNotSelected => "layer_not_selected",
        /// A frame above the temporal layer that this viewer limited itself to.
        LayerFiltered => "layer_filtered",
        /// The viewer has no payload type for the publisher's codec.
        CodecNotNegotiated => "codec_not_negotiated",
        /// The viewer is not connected yet.
        NotConnected => "not_connected",
        /// More than an address that is not confirmed may get: at most 3 times the bytes received
        /// from it.
        UnconfirmedEgress => "unconfirmed_egress",
        /// Larger than the path to the viewer carries, also without the extensions that decoding does
        /// not need.
        TooLargeToSend => "too_large_to_send",
        /// A viewer's keyframe request or NACK that names no SSRC which could answer it.
        FeedbackUnknownSsrc => "feedback_unknown_ssrc",
        /// A receiver report that cannot be true (`media/stats.rs`).
        ReportRefused => "report_refused",
        /// A viewer's keyframe request beyond its rate limit.
        KeyframeLimited => "keyframe_limited",
        /// A NACKed packet that the packet cache no longer holds.
        RepairExpired => "repair_expired",
        /// A packet NACKed more often than once per RTT or five times, or in too long a NACK.
        RepairLimited => "repair_limited",
        /// A retransmission beyond the share of its track that may be retransmissions
        /// (`repair/rtx_budget.rs`).
        RepairBudget => "repair_budget",
        /// The socket refused it (ENOBUFS, EMSGSIZE, EPERM and the like).
        SendError => "send_error",
        /// The socket's send buffer was full.
        SendBlocked => "send_blocked",
    }
}

reasons! {
    /// Why a session ended.
    CloseReason {
        /// DELETE on its session URL.
        Deleted => "deleted",
        /// DTLS close_notify from the peer.
        PeerClosed => "peer_closed",
        /// No authenticated ICE check came in time after the answer (whip-whep A14).
        NoIce => "no_ice",
        /// DTLS did not finish in time.
        DtlsTimeout => "dtls_timeout",
        /// The DTLS handshake failed.
        DtlsFailed => "dtls_failed",
        /// The peer's certificate matches no offered fingerprint (whip-whep C55).
        FingerprintMismatch => "fingerprint_mismatch",
        /// Nothing authenticated came for the consent time (RFC 7675, whip-whep C60).
        ConsentExpired => "consent_expired",
        /// A new publisher took the stream over (whip-whep A54).
        TakenOver => "taken_over",
        /// The publisher left and the grace period is over (whip-whep G8).
        StreamEnded => "stream_ended",
        /// No published codec is in this viewer's answer (whip-whep G6).
        CodecNotNegotiated => "codec_not_negotiated",
        /// Closed by the operator.
        Kicked => "kicked",
        /// The server stops.
        Shutdown => "shutdown",
        /// A panic in this session, our bug; the others go on.
        Panic => "panic",
        /// A panic outside any session, our bug; it ended all sessions of one worker.
        WorkerLost => "worker_lost",
        /// Evicted before it was connected, to make room for another client.
        Evicted => "evicted",
    }
}

/// One counter per [`DropReason`]; cumulative, owned by one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one dropped packet.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `n` dropped packets.
    pub fn add(&mut self, reason: DropReason, n: u64) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += n;
        }
    }

    /// How many packets were dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Adds the counters of another worker.
    pub fn merge(&mut self, other: &Self) {
        for (sum, n) in self.0.iter_mut().zip(other.0) {
            *sum += n;
        }
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_counters_stay_apart() {
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());

        let mut counters = DropCounters::default();
        counters.count(DropReason::SrtpAuth);
        counters.add(DropReason::SendBlocked, 2);
        let mut sum = counters.clone();
        sum.merge(&counters);
        assert_eq!(sum.get(DropReason::SrtpAuth), 2);
        assert_eq!(sum.get(DropReason::SendBlocked), 4);
        assert_eq!(sum.iter().map(|(_, n)| n).sum::<u64>(), 6);
    }
}
