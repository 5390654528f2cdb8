//! What a viewer's receiver reports need to know of one RTP source.
//!
//! Used by `viewer` for each track.

use std::time::Instant;

use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;

use crate::reorder_buffer::Reception;

/// One RTP source.
#[derive(Debug, Default)]
pub(super) struct ReportSource {
    /// The source's SSRC, once it is known.
    pub(super) ssrc: Option<u32>,
    /// Middle 32 bits of the last sender report's NTP time, and when the report came.
    last_sender_report: Option<(u32, Instant)>,
    /// Packets expected and lost at the last report, for the fraction lost since then.
    expected_reported: u64,
    lost_reported: u64,
    /// Times that the sequence number has wrapped.
    cycles: u32,
    highest_seq: u16,
}

impl ReportSource {
    /// A source with the SSRC that the server announced, if it did.
    pub(super) fn new(ssrc: Option<u32>) -> Self {
        Self { ssrc, ..Self::default() }
    }

    /// Takes a sender report, if it is about this source.
    pub(super) fn on_sender_report(&mut self, now: Instant, report: &SenderReport) {
        if self.ssrc == Some(report.ssrc) {
            self.last_sender_report = Some(((report.ntp_time >> 16) as u32, now));
        }
    }

    /// The report block for `reception` (RFC 3550 section 6.4.1); `None` as long as the SSRC is not
    /// known.
    pub(super) fn report_block(
        &mut self,
        now: Instant,
        reception: Reception,
    ) -> Option<ReceptionReport> {
        let Reception { highest_seq, expected, lost } = reception;
        let ssrc = self.ssrc?;
        let wrapped = highest_seq < self.highest_seq && self.highest_seq - highest_seq > 0x8000;
        self.cycles += u32::from(wrapped);
        self.highest_seq = highest_seq;
        let (expected_now, lost_now) =
            (expected - self.expected_reported, lost - self.lost_reported);
        (self.expected_reported, self.lost_reported) = (expected, lost);
        let (last_sender_report, delay) = self.last_sender_report.map_or((0, 0), |(ntp, at)| {
            // In units of 2^-16 s.
            let delay = now.saturating_duration_since(at).as_secs_f64() * 65_536.0;
            (ntp, delay as u32)
        });
        Some(ReceptionReport {
            ssrc,
            fraction_lost: (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            total_lost: u32::try_from(lost).unwrap_or(u32::MAX).min(0x7f_ffff),
            last_sequence_number: (self.cycles << 16) | u32::from(highest_seq),
            jitter: 0,
            last_sender_report,
            delay,
        })
    }
}
