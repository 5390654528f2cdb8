//! Timestamps of the first frames after a source switch.
//!
//! A viewer that starts from the cache, or switches to another layer, gets frames of its past. By
//! their own clock they precede what was sent, or lie so far before "now" that the viewer would
//! stay behind. The distances between such frames are divided by [`DIVISOR`]: the decoder gets all
//! of them and the renderer shows the newest. From the first frame that lies ahead of that,
//! timestamps follow the layer's own clock and no offset is left (quality A2.3, A3.3). A timestamp
//! depends on the packet's own timestamp only, so a packet may come as late as it likes.
//!
//! The first packets of a segment may be parameter sets with a timestamp of their own. Among frames
//! of the past they become part of their picture, as RFC 6184 section 5.1 and RFC 7798 section 4.1
//! want it: a receiver that collects pictures by timestamp would not put them together. Packets that
//! are sent as they arrive keep the publisher's times.
//!
//! Used by `rtp_sender.rs`; knows nothing of packets.

/// Ticks from the last timestamp to the first one after a switch to frames of the past: a
/// millisecond of 90 kHz.
pub const STEP: u32 = 90;

/// Factor by which frames of the past are closer than their own clock says: half a millisecond at
/// 30 frames per second. Frames keep timestamps of their own up to 1,400 frames per second.
pub const DIVISOR: u32 = 64;

/// Factor for frames that are shown before the first one and sent behind it. They have less than
/// [`STEP`] ticks, and at most a second in all. Frames keep timestamps of their own up to 90 frames
/// per second.
pub const LEADING_DIVISOR: u32 = 1_000;

/// Ticks by which the clock must be ahead of catch-up timestamps before these are forgotten: ten
/// seconds. No packet comes as late as that.
const FORGET_AFTER: u32 = 900_000;

/// Catch-up timestamps of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUpTimestamps {
    /// Timestamp of the first frame, as it came and as it is sent.
    incoming: u32,
    outgoing: u32,
    /// Packets before the first frame that have its timestamp.
    lead: u8,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Frames are of the past.
    CatchUp,
    /// Frames follow the clock; packets of the lead may still come.
    Lead,
    /// All timestamps follow the clock.
    Over,
}

impl CatchUpTimestamps {
    /// No catch-up: all timestamps follow the clock.
    #[cfg(test)]
    pub const NONE: Self = Self { incoming: 0, outgoing: 0, lead: 0, phase: Phase::Over };

    /// Timestamps from a frame of timestamp `incoming` on, which is sent with `outgoing`: a catch-up
    /// unless that is what the clock says (`follows_clock`). `lead` packets before it are part of it.
    pub fn from(incoming: u32, outgoing: u32, follows_clock: bool, lead: u8) -> Self {
        let phase = match (follows_clock, lead) {
            (false, _) => Phase::CatchUp,
            (true, 1..) => Phase::Lead,
            (true, 0) => Phase::Over,
        };
        Self { incoming, outgoing, lead, phase }
    }

    /// Whether all timestamps follow the clock.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether the packet at this position of the segment is before the first frame, and part of it.
    pub fn leads(&self, position: u64) -> bool {
        !self.is_over() && position < u64::from(self.lead)
    }

    /// The timestamp of the packet at this position of the segment, whose own clock says `plain`.
    pub fn stamp(&self, position: u64, incoming: u32, plain: u32) -> u32 {
        if self.is_over() {
            return plain;
        }
        let (incoming, plain) = match self.leads(position) {
            true => (self.incoming, plain.wrapping_add(self.incoming.wrapping_sub(incoming))),
            false => (incoming, plain),
        };
        if self.phase == Phase::Lead {
            return plain;
        }
        let since = incoming.wrapping_sub(self.incoming) as i32;
        let near = match u32::try_from(since) {
            Ok(since) => self.outgoing.wrapping_add(since / DIVISOR),
            // A frame that is shown before the keyframe, and still after what was sent before.
            Err(_) => {
                let before = since.unsigned_abs().div_ceil(LEADING_DIVISOR);
                self.outgoing.wrapping_sub(before.clamp(1, STEP - 1))
            }
        };
        if is_ahead(plain, near) { plain } else { near }
    }

    /// Ends the catch-up if a new packet with this timestamp shows that it is long past.
    pub fn forget_if_over(&mut self, plain: u32) {
        let ahead = plain.wrapping_sub(self.outgoing);
        if is_ahead(plain, self.outgoing) && ahead > FORGET_AFTER {
            self.phase = Phase::Over;
        }
    }
}

/// Ticks that frames of the past take, from the first timestamp to the newest.
pub fn span(first: u32, newest: u32) -> u32 {
    if is_ahead(newest, first) { newest.wrapping_sub(first) / DIVISOR } else { 0 }
}

/// Whether `a` comes after `b` in the modular order of RTP timestamps.
pub fn is_ahead(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u32 = 3_000;

    /// Timestamps of these frames in the order in which they come. The clock of the sender is the
    /// publisher's plus `delta`.
    fn stamps(catch_up: CatchUpTimestamps, incoming: &[u32], delta: u32) -> Vec<u32> {
        incoming.iter().map(|at| catch_up.stamp(u64::MAX, *at, at.wrapping_add(delta))).collect()
    }

    #[test]
    fn frames_of_the_past_are_close_together_and_the_present_follows_the_clock() {
        let (first, newest) = (90_000, 90_000 + 10 * FRAME);
        let present = 500_000;
        let catch_up = CatchUpTimestamps::from(first, present - span(first, newest), false, 0);
        let frames: Vec<_> = (0..13).map(|n| first + n * FRAME).collect();
        let sent = stamps(catch_up, &frames, present - newest);
        let (past, now) = sent.split_at(11);
        assert!(past.windows(2).all(|pair| (46..=47).contains(&(pair[1] - pair[0]))), "{past:?}");
        assert_eq!(past.last(), Some(&present));
        assert_eq!(now, [present + FRAME, present + 2 * FRAME]);
    }

    #[test]
    fn frames_whose_clock_is_behind_run_into_the_present() {
        // The last frame of the old layer was sent with a timestamp two and a half frames ahead.
        let catch_up = CatchUpTimestamps::from(0, 2 * FRAME + FRAME / 2, false, 0);
        let sent = stamps(catch_up, &[0, FRAME, 2 * FRAME, 3 * FRAME, 4 * FRAME], 0);
        assert_eq!(sent, [7_500, 7_546, 7_593, 3 * FRAME, 4 * FRAME]);
    }

    #[test]
    fn order_of_arrival_does_not_matter() {
        let catch_up = CatchUpTimestamps::from(1_000, 50_000, false, 0);
        let frames: Vec<_> = (0..200).map(|n| 1_000 + n * FRAME).collect();
        let sent = stamps(catch_up, &frames, 20_000);
        assert!(sent.windows(2).all(|pair| pair[0] < pair[1]));
        let reversed: Vec<_> = frames.iter().rev().copied().collect();
        let late = stamps(catch_up, &reversed, 20_000);
        assert!(late.iter().rev().eq(&sent));
    }

    #[test]
    fn frame_that_is_shown_before_the_keyframe_stays_behind_what_was_sent() {
        let last = 50_000;
        let catch_up = CatchUpTimestamps::from(30 * FRAME, last + STEP, false, 0);
        // The keyframe's own clock says 45,000.
        let delta = 45_000u32.wrapping_sub(30 * FRAME);
        let sent = stamps(catch_up, &[28 * FRAME, 29 * FRAME, 20 * FRAME], delta);
        assert!(sent.iter().all(|at| (last + 1..last + STEP).contains(at)), "{sent:?}");
    }

    #[test]
    fn frames_that_are_shown_before_the_keyframe_have_timestamps_of_their_own() {
        let last = 50_000;
        for step in [1_500, FRAME, 3_750] {
            let catch_up = CatchUpTimestamps::from(30 * FRAME, last + STEP, false, 0);
            let shown: Vec<_> = (0..=16).rev().map(|n| 30 * FRAME - n * step).collect();
            let sent = stamps(catch_up, &shown, 40_000u32.wrapping_sub(30 * FRAME));
            assert!(sent.windows(2).all(|pair| pair[0] < pair[1]), "{step}: {sent:?}");
            assert!(sent[0] > last && sent.last() == Some(&(last + STEP)));
        }
    }

    // RFC 6184 section 5.1
    #[test]
    fn parameter_sets_before_the_first_picture_have_its_timestamp() {
        for (sets_ahead, sets_behind) in [(0, 1), (0, FRAME), (1, 0)] {
            let key = 30 * FRAME;
            let own = key + sets_ahead - sets_behind;
            for follows_clock in [false, true] {
                let delta = 7_000;
                let outgoing = if follows_clock { key + delta } else { key + delta + 2 * FRAME };
                let mut times = CatchUpTimestamps::from(key, outgoing, follows_clock, 2);
                let stamp = |times: CatchUpTimestamps, position, at: u32| {
                    times.stamp(position, at, at + delta)
                };
                let picture = stamp(times, 2, key);
                assert_eq!(picture, outgoing);
                assert_eq!([stamp(times, 0, own), stamp(times, 1, own)], [picture; 2]);
                assert!(times.leads(1) && !times.leads(2));
                // Sets of later pictures are as the publisher sent them.
                let later = stamp(times, 9, own + 30 * FRAME);
                assert_eq!(later, own + 30 * FRAME + delta);
                times.forget_if_over(outgoing + FORGET_AFTER + 1);
                assert!(times.is_over() && !times.leads(1));
            }
        }
    }

    #[test]
    fn timestamps_wrap_and_the_catch_up_is_forgotten() {
        let first = u32::MAX - FRAME;
        let mut catch_up = CatchUpTimestamps::from(first, u32::MAX - 10, false, 0);
        assert_eq!(catch_up.stamp(9, 0, 20), 35);
        assert_eq!(catch_up.stamp(9, FRAME, 20 + FRAME), 20 + FRAME);
        catch_up.forget_if_over(FORGET_AFTER - 11);
        assert!(!catch_up.is_over());
        catch_up.forget_if_over(FORGET_AFTER - 10);
        assert!(catch_up.is_over(), "else it would count again after half a turn of the clock");
        assert_eq!(catch_up.stamp(9, first, 7), 7);
    }
}
