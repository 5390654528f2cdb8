//! Timestamps of the first frames after a source switch.
//!
//! A viewer that starts from the cache, or switches to another layer, gets frames of its past. By
//! their own clock they precede what was sent, or lie so far before "now" that the viewer would
//! stay behind. The distances between such frames are divided by [`DIVISOR`]: the decoder gets all
//! of them and the renderer shows the newest. From the first frame that lies ahead of that,
//! timestamps follow the layer's own clock and no offset is left (quality A2.3, A3.3). A timestamp
//! depends on the packet's own timestamp only, so a packet may come as late as it likes. Used by
//! `rtp_sender.rs`; knows nothing of packets.

/// Ticks from the last timestamp to the first one after a switch to frames of the past: a
/// millisecond of 90 kHz.
pub const STEP: u32 = 90;

/// Factor by which frames of the past are closer than their own clock says: half a millisecond at
/// 30 frames per second. Frames keep timestamps of their own up to 1,400 frames per second.
pub const DIVISOR: u32 = 64;

/// Ticks by which the clock must be ahead of catch-up timestamps before these are forgotten: ten
/// seconds. No packet comes as late as that.
const FORGET_AFTER: u32 = 900_000;

/// Catch-up timestamps of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUpTimestamps {
    /// Timestamp of the first frame, as it came and as it is sent.
    incoming: u32,
    outgoing: u32,
    /// Whether all timestamps follow the clock.
    is_over: bool,
}

impl CatchUpTimestamps {
    /// No catch-up: all timestamps follow the clock.
    pub const NONE: Self = Self { incoming: 0, outgoing: 0, is_over: true };

    /// Catch-up timestamps from a frame of timestamp `incoming` on, which is sent with `outgoing`.
    pub fn from(incoming: u32, outgoing: u32) -> Self {
        Self { incoming, outgoing, is_over: false }
    }

    /// Whether all timestamps follow the clock.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The timestamp of a packet whose own clock says `plain`.
    pub fn stamp(&self, incoming: u32, plain: u32) -> u32 {
        if self.is_over {
            return plain;
        }
        let since = incoming.wrapping_sub(self.incoming) as i32;
        let near = match u32::try_from(since) {
            Ok(since) => self.outgoing.wrapping_add(since / DIVISOR),
            // A frame that is shown before the keyframe, and still after what was sent before.
            Err(_) => {
                self.outgoing.wrapping_sub((since.unsigned_abs() / DIVISOR).clamp(1, STEP - 1))
            }
        };
        if is_ahead(plain, near) { plain } else { near }
    }

    /// Ends the catch-up if a new packet with this timestamp shows that it is long past.
    pub fn forget_if_over(&mut self, plain: u32) {
        let ahead = plain.wrapping_sub(self.outgoing);
        self.is_over |= is_ahead(plain, self.outgoing) && ahead > FORGET_AFTER;
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
        incoming.iter().map(|at| catch_up.stamp(*at, at.wrapping_add(delta))).collect()
    }

    #[test]
    fn frames_of_the_past_are_close_together_and_the_present_follows_the_clock() {
        let (first, newest) = (90_000, 90_000 + 10 * FRAME);
        let present = 500_000;
        let catch_up = CatchUpTimestamps::from(first, present - span(first, newest));
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
        let catch_up = CatchUpTimestamps::from(0, 2 * FRAME + FRAME / 2);
        let sent = stamps(catch_up, &[0, FRAME, 2 * FRAME, 3 * FRAME, 4 * FRAME], 0);
        assert_eq!(sent, [7_500, 7_546, 7_593, 3 * FRAME, 4 * FRAME]);
    }

    #[test]
    fn order_of_arrival_does_not_matter() {
        let catch_up = CatchUpTimestamps::from(1_000, 50_000);
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
        let catch_up = CatchUpTimestamps::from(30 * FRAME, last + STEP);
        // The keyframe's own clock says 45,000.
        let delta = 45_000u32.wrapping_sub(30 * FRAME);
        let sent = stamps(catch_up, &[28 * FRAME, 29 * FRAME, 20 * FRAME], delta);
        assert!(sent.iter().all(|at| (last + 1..last + STEP).contains(at)), "{sent:?}");
    }

    #[test]
    fn timestamps_wrap_and_the_catch_up_is_forgotten() {
        let first = u32::MAX - FRAME;
        let mut catch_up = CatchUpTimestamps::from(first, u32::MAX - 10);
        assert_eq!(catch_up.stamp(0, 20), 35);
        assert_eq!(catch_up.stamp(FRAME, 20 + FRAME), 20 + FRAME);
        catch_up.forget_if_over(FORGET_AFTER - 11);
        assert!(!catch_up.is_over());
        catch_up.forget_if_over(FORGET_AFTER - 10);
        assert!(catch_up.is_over(), "else it would count again after half a turn of the clock");
        assert_eq!(catch_up.stamp(first, 7), 7);
    }
}
