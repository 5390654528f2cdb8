//! Timestamps of the first frames after a source switch.
//!
//! A viewer that starts from the cache, or switches to another layer, gets frames of its past. By
//! their own clock they precede what was sent, or lie so far before "now" that the viewer would
//! stay behind. Such frames get timestamps a millisecond apart, as late as possible: the decoder
//! gets all of them and the renderer shows the newest. From the first frame that lies ahead,
//! timestamps follow the layer's own clock and no offset is left (quality A2.3, A3.3). Called by
//! `rtp_sender.rs`; knows nothing of packets.

use crate::warm::warm;

/// Ticks of 90 kHz between two catch-up timestamps: a millisecond.
pub const STEP: u32 = 90;

/// Catch-up frames whose late packets still get their timestamp: a repair takes about a round trip.
const FRAMES: usize = 8;

/// Timestamps of the frames of one segment that do not follow its clock.
#[derive(Debug, Clone, Copy)]
pub struct CatchUpTimestamps {
    /// Frames that begin before this number are of the past, whatever their clock says.
    until: u64,
    /// The newest catch-up frames, newest first: late packets of them may still come.
    frames: [Option<Frame>; FRAMES],
    /// The last timestamp that was assigned.
    last: u32,
    /// First packet whose timestamp follows the clock; 0 while there is none.
    plain_from: u64,
    /// Timestamp of that packet.
    plain_at: u32,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    first: u64,
    incoming: u32,
    outgoing: u32,
}

impl CatchUpTimestamps {
    /// Timestamps that begin after `last`. Frames that begin before `until` get catch-up
    /// timestamps.
    pub fn after(last: u32, until: u64) -> Self {
        Self { until, frames: [None; FRAMES], last, plain_from: 0, plain_at: 0 }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.plain_from, self.plain_at);
    }

    /// The timestamp of a packet whose own clock says `plain`. `None` if the packet is too late:
    /// the timestamp of its frame, or of the frame before, is not known any more.
    pub fn stamp(&mut self, ext_seq: u64, incoming: u32, plain: u32) -> Option<u32> {
        if self.is_over() && ext_seq >= self.plain_from {
            return Some(plain);
        }
        let known = self.frames.iter_mut().flatten().find(|frame| frame.incoming == incoming);
        if let Some(frame) = known {
            frame.first = frame.first.min(ext_seq);
            return Some(frame.outgoing);
        }
        if ext_seq >= self.until && is_ahead(plain, self.last) {
            if ext_seq < self.plain_from() {
                (self.plain_from, self.plain_at) = (ext_seq, plain);
            }
            return Some(plain);
        }
        let newest = self.frames.first().copied().flatten();
        if self.is_over() || newest.is_some_and(|frame| ext_seq < frame.first) {
            return self.between(ext_seq, incoming);
        }
        let outgoing = self.last.wrapping_add(STEP);
        self.last = outgoing;
        self.frames.rotate_right(1);
        if let Some(newest) = self.frames.first_mut() {
            *newest = Some(Frame { first: ext_seq, incoming, outgoing });
        }
        Some(outgoing)
    }

    /// The timestamp of a whole frame that comes after later frames: behind the frame before it, if
    /// two timestamps leave a value between them.
    fn between(&mut self, ext_seq: u64, incoming: u32) -> Option<u32> {
        let is_before = |frame: &Option<Frame>| frame.is_some_and(|frame| frame.first < ext_seq);
        let position = self.frames.iter().position(is_before)?;
        let before = self.frames.get(position).copied().flatten()?.outgoing;
        let after = match position.checked_sub(1) {
            Some(position) => self.frames.get(position).copied().flatten()?.outgoing,
            None => self.plain_at,
        };
        let step = (after.wrapping_sub(before) / 2).min(STEP);
        let outgoing = before.wrapping_add(step);
        let known = self.frames.get_mut(position..).filter(|_| step > 0)?;
        known.rotate_right(1);
        *known.first_mut()? = Some(Frame { first: ext_seq, incoming, outgoing });
        Some(outgoing)
    }

    /// The first packet that follows the clock; `u64::MAX` while there is none.
    pub fn plain_from(&self) -> u64 {
        if self.is_over() { self.plain_from } else { u64::MAX }
    }

    /// Whether timestamps follow the clock by now.
    pub fn is_over(&self) -> bool {
        self.plain_from > 0
    }
}

/// Whether `a` comes after `b` in the modular order of RTP timestamps.
pub fn is_ahead(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u32 = 3_000;

    #[test]
    fn frames_of_the_past_get_catch_up_timestamps_and_the_present_follows_the_clock() {
        // Three frames of the past, two packets each; the sender's clock is the publisher's plus
        // 1,000.
        let mut timestamps = CatchUpTimestamps::after(90_000, 106);
        let mut stamps = Vec::new();
        for ext_seq in 100..110u64 {
            let incoming = 88_000 + (ext_seq as u32 - 100) / 2 * 1_100;
            stamps.push(timestamps.stamp(ext_seq, incoming, incoming + 1_000).unwrap());
        }
        let [a, b, c] = [1, 2, 3].map(|n| 90_000 + n * STEP);
        let (d, e) = (88_000 + 3 * 1_100 + 1_000, 88_000 + 4 * 1_100 + 1_000);
        assert_eq!(stamps, [a, a, b, b, c, c, d, d, e, e]);
        assert!(timestamps.is_over());
    }

    #[test]
    fn frame_whose_clock_is_still_behind_gets_a_catch_up_timestamp() {
        let mut timestamps = CatchUpTimestamps::after(10 * FRAME, 101);
        assert_eq!(timestamps.stamp(100, 0, 9 * FRAME), Some(10 * FRAME + STEP));
        assert_eq!(timestamps.stamp(101, 1, 10 * FRAME), Some(10 * FRAME + 2 * STEP));
        assert_eq!(timestamps.stamp(102, 2, 11 * FRAME), Some(11 * FRAME));
        assert_eq!(timestamps.stamp(103, 3, 12 * FRAME), Some(12 * FRAME));
    }

    #[test]
    fn late_packets_get_the_timestamp_of_their_frame_or_none() {
        let mut timestamps = CatchUpTimestamps::after(0, 130);
        for n in 0..=FRAMES as u64 {
            timestamps.stamp(100 + 2 * n, n as u32, 0);
        }
        let last = FRAMES as u32;
        assert_eq!(timestamps.stamp(117, last, 0), Some((last + 1) * STEP));
        assert_eq!(timestamps.stamp(103, 1, 0), Some(2 * STEP));
        assert_eq!(timestamps.stamp(101, 0, 0), None, "too many frames ago");
        assert_eq!(timestamps.stamp(132, 50_000, 50_000), Some(50_000));
        assert_eq!(timestamps.stamp(130, 47_000, 47_000), Some(47_000), "a whole frame, late");
        assert_eq!(
            timestamps.stamp(118, last, 0),
            Some((last + 1) * STEP),
            "also after the catch-up"
        );
        assert_eq!(timestamps.stamp(127, 46_000, 46_000), Some((last + 2) * STEP), "of the past");
    }

    #[test]
    fn repaired_frame_gets_a_timestamp_between_its_neighbours() {
        let mut timestamps = CatchUpTimestamps::after(0, 200);
        for (ext_seq, incoming) in [(100, 1), (101, 2), (104, 5)] {
            timestamps.stamp(ext_seq, incoming, incoming);
        }
        let [first, second, third] = [STEP, 2 * STEP, 3 * STEP];
        assert_eq!(timestamps.stamp(102, 3, 3), Some(second + STEP / 2));
        assert_eq!(timestamps.stamp(103, 4, 4), Some(second + STEP / 2 + STEP / 4));
        assert_eq!(timestamps.stamp(104, 5, 5), Some(third));
        assert_eq!(timestamps.stamp(102, 3, 3), Some(second + STEP / 2), "another packet of it");
        assert_eq!(timestamps.stamp(99, 0, 0), None, "nothing is known before it");
        assert_eq!(timestamps.stamp(100, 1, 1), Some(first));
    }

    #[test]
    fn timestamps_wrap() {
        let mut timestamps = CatchUpTimestamps::after(u32::MAX - 10, 0);
        assert_eq!(timestamps.stamp(1 << 16, 1, u32::MAX - 20), Some(STEP - 11));
        assert_eq!(timestamps.stamp((1 << 16) + 1, 2, STEP - 11), Some(2 * STEP - 11));
        assert_eq!(timestamps.stamp((1 << 16) + 2, 3, FRAME), Some(FRAME));
    }
}
