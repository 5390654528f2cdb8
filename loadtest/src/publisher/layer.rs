//! One simulcast layer of a light publisher: its encoder, its RTP stream, and the packets kept for
//! retransmission.
//!
//! Called by `publisher`.

use std::collections::VecDeque;
use std::time::Instant;

use super::extensions::TwccNumbering;
use super::sender::RtpSender;
use crate::keyframe_schedule::KeyframeSchedule;
use crate::options::Video;
use crate::peer::Peer;
use crate::rtp::{self, OutgoingPacket};
use crate::sdp::{LayerSsrcs, NegotiatedMedia};
use crate::session_error::SessionError;
use crate::stamp::Stamp;
use crate::video::{LayerSpec, Source};

/// Packets kept for retransmission: more than one second at 10 Mbit/s.
const HISTORY: usize = 1024;

/// One simulcast layer.
pub(super) struct Layer {
    source: Source,
    keyframes: KeyframeSchedule,
    sender: RtpSender,
    rid: &'static str,
    rtx_ssrc: u32,
    rtx_sequence: u16,
    /// The newest packets. Their sequence numbers have no gaps.
    history: VecDeque<OutgoingPacket>,
}

impl Layer {
    /// The layer `spec` of `video`, named `rid`.
    pub(super) fn new(video: &Video, spec: LayerSpec, rid: &'static str) -> Self {
        Self {
            source: Source::new(video, spec),
            keyframes: KeyframeSchedule::new(video),
            sender: RtpSender::random(),
            rid,
            rtx_ssrc: rtp::random_ssrc(),
            rtx_sequence: rand::random(),
            history: VecDeque::with_capacity(HISTORY),
        }
    }

    /// The name of the layer.
    pub(super) fn rid(&self) -> &'static str {
        self.rid
    }

    /// SSRC of the media.
    pub(super) fn ssrc(&self) -> u32 {
        self.sender.ssrc()
    }

    /// SSRCs of media and retransmissions.
    pub(super) fn ssrcs(&self) -> LayerSsrcs {
        LayerSsrcs { media: self.ssrc(), rtx: self.rtx_ssrc }
    }

    /// The RTP stream of the media.
    pub(super) fn sender(&self) -> &RtpSender {
        &self.sender
    }

    /// Notes a keyframe request.
    pub(super) fn request_keyframe(&mut self) {
        self.keyframes.request();
    }

    /// Whether the next frame is a keyframe. To be called once for each frame.
    pub(super) fn next_is_key(&mut self, now: Instant) -> bool {
        self.keyframes.next_is_key(now)
    }

    /// Sends the frame of `stamp`, which is `clock_units` after the first frame. Returns the number
    /// of packets.
    ///
    /// # Errors
    /// If the connection is over.
    pub(super) fn send_frame(
        &mut self,
        stamp: Stamp,
        clock_units: u64,
        media: &NegotiatedMedia,
        twcc: &mut TwccNumbering,
        peer: &mut Peer,
    ) -> Result<u64, SessionError> {
        let payloads = self.source.next(stamp);
        let timestamp = self.sender.timestamp(clock_units);
        let names = [(media.mid_id, &*media.mid), (media.rid_id, self.rid)];
        let count = payloads.len();
        for (n, payload) in payloads.into_iter().enumerate() {
            let extensions = twcc.next_extensions(&names, media.twcc_id);
            let sequence = self.sender.next_sequence(payload.len());
            let marker = n + 1 == count;
            let packet = OutgoingPacket::new(
                media.payload_type,
                sequence,
                timestamp,
                self.sender.ssrc(),
                marker,
                &extensions,
                payload,
            );
            peer.send_rtp(&packet)?;
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(packet);
        }
        Ok(count as u64)
    }

    /// Sends the packet with sequence number `sequence` again, if it is still in the history.
    ///
    /// # Errors
    /// If the connection is over.
    pub(super) fn retransmit(
        &mut self,
        sequence: u16,
        media: &NegotiatedMedia,
        twcc: &mut TwccNumbering,
        peer: &mut Peer,
    ) -> Result<(), SessionError> {
        // The history has no gaps, so the sequence number gives the index.
        let back = usize::from(self.sender.newest_sequence().wrapping_sub(sequence));
        let Some(index) = self.history.len().checked_sub(back + 1) else { return Ok(()) };
        let Some(packet) = self.history.get(index) else { return Ok(()) };
        let Some(rtx) = media.rtx else {
            // Byte for byte the same packet: with AES-GCM a changed packet would reuse a nonce.
            peer.send_rtp(packet)?;
            return Ok(());
        };
        self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
        let names = [(media.mid_id, &*media.mid), (media.rrid_id, self.rid)];
        let extensions = twcc.next_extensions(&names, media.twcc_id);
        peer.send_rtp(&packet.as_rtx(rtx, self.rtx_sequence, self.rtx_ssrc, &extensions))
    }
}
