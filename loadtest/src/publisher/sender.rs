//! Sending state of one RTP stream: sequence numbers, timestamps, and the sender report about them.
//!
//! Used by `publisher` for each layer and for audio.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rtc_rtcp::packet::Packet as RtcpPacket;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::source_description::{
    SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem,
};

use crate::rtp;

/// Seconds from the epoch of NTP (1900) to the epoch of Unix (1970).
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

/// Sending state of one RTP stream.
pub(super) struct RtpSender {
    ssrc: u32,
    sequence: u16,
    /// RTP timestamp of the first tick.
    timestamp_base: u32,
    packets: u32,
    octets: u32,
}

impl RtpSender {
    /// A stream with random SSRC, sequence number and timestamp.
    pub(super) fn random() -> Self {
        Self {
            ssrc: rtp::random_ssrc(),
            sequence: rand::random(),
            timestamp_base: rand::random(),
            packets: 0,
            octets: 0,
        }
    }

    /// The SSRC.
    pub(super) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Sequence number of the newest packet.
    pub(super) fn newest_sequence(&self) -> u16 {
        self.sequence
    }

    /// Counts a packet with `payload_bytes`, and returns its sequence number.
    pub(super) fn next_sequence(&mut self, payload_bytes: usize) -> u16 {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload_bytes as u32);
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// The RTP timestamp that is `clock_units` after the first tick. It wraps.
    pub(super) fn timestamp(&self, clock_units: u64) -> u32 {
        self.timestamp_base.wrapping_add(clock_units as u32)
    }

    /// A sender report with source description, for a stream with a clock of `clock_hz` that began
    /// at `start`.
    pub(super) fn report(
        &self,
        now: Instant,
        start: Instant,
        clock_hz: u128,
    ) -> [Box<dyn RtcpPacket>; 2] {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The low 32 bits are the fraction, in units of 2^-32 s.
        let ntp_time = ((unix.as_secs() + NTP_TO_UNIX_S) << 32)
            | ((u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000);
        let elapsed_us = now.saturating_duration_since(start).as_micros();
        let report = SenderReport {
            ssrc: self.ssrc,
            ntp_time,
            rtp_time: self.timestamp_base.wrapping_add((elapsed_us * clock_hz / 1_000_000) as u32),
            packet_count: self.packets,
            octet_count: self.octets,
            ..Default::default()
        };
        let cname = SourceDescriptionItem {
            sdes_type: SdesType::SdesCname,
            text: Bytes::from_static(b"weir-loadtest"),
        };
        let chunk = SourceDescriptionChunk { source: self.ssrc, items: vec![cname] };
        [Box::new(report), Box::new(SourceDescription { chunks: vec![chunk] })]
    }
}
