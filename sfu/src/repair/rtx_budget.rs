//! Share of an outgoing track that may be retransmissions.
//!
//! Owns the sums of both over a short window. Beyond the share a NACK is not answered. Where so
//! much is lost the path is too narrow, and retransmissions make it narrower; and a viewer that
//! requests everything must not cost more. Each track has its own budget, so that loss of video
//! never leaves audio without repair. Fed with counters that exist anyway, so it costs nothing per
//! packet. Called by `worker/subscriber.rs` and `worker/viewer_feedback.rs`. Source: quality A3.2
//! "Answer".

use std::time::{Duration, Instant};

/// Retransmissions may be this part of the media in a window, in percent (quality A3.2). A path
/// that loses one packet of ten needs 11, of twenty 5.
pub const RTX_SHARE_PERCENT: u64 = 25;

/// Length of the window. A burst of half a second, the share of a window, can be repaired at once.
pub const RTX_WINDOW: Duration = Duration::from_secs(2);

/// Payload bytes that may be retransmitted within a window in any case. They cover the first
/// packets of a track, and all audio.
pub const RTX_FREE_BYTES: u64 = 12 * 1024;

/// Slots of the window, which are forgotten one by one.
const SLOTS: u64 = 8;

const SLOT: Duration = Duration::from_millis(RTX_WINDOW.as_millis() as u64 / SLOTS);

/// Retransmission budget of one outgoing track. Bytes are those of payloads.
#[derive(Debug)]
pub struct RtxBudget {
    start: Instant,
    slots: [Slot; SLOTS as usize],
    /// Number of the newest slot, counted from `start`.
    newest: u64,
    /// Media bytes up to now, as the sender counts them.
    media: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    media: u64,
    retransmitted: u64,
}

impl RtxBudget {
    /// Creates the budget of a track that has sent nothing.
    pub fn new(now: Instant) -> Self {
        Self { start: now, slots: Default::default(), newest: 0, media: 0 }
    }

    /// Takes the media bytes sent in all, retransmissions not counted. Media counts as sent evenly
    /// between two calls: call it each second or more often.
    pub fn on_media(&mut self, now: Instant, total: u64) {
        let gone = now.saturating_duration_since(self.start).as_millis() / SLOT.as_millis();
        let slot = u64::try_from(gone).unwrap_or(u64::MAX).max(self.newest);
        let passed = slot - self.newest;
        let each = total.saturating_sub(self.media) / passed.max(1);
        self.media = total;
        for number in (self.newest + 1..=slot).rev().take(SLOTS as usize) {
            if let Some(slot) = self.slot(number) {
                *slot = Slot { media: each, retransmitted: 0 };
            }
        }
        self.newest = slot;
        if passed == 0
            && let Some(slot) = self.slot(slot)
        {
            slot.media += each;
        }
    }

    /// Whether a packet may be retransmitted now. The last one may exceed the share by a part of
    /// its size.
    pub fn allows(&mut self, now: Instant, total: u64) -> bool {
        self.on_media(now, total);
        let sum = |of: fn(&Slot) -> u64| self.slots.iter().map(of).sum::<u64>();
        let share = sum(|slot| slot.media).saturating_mul(RTX_SHARE_PERCENT) / 100;
        sum(|slot| slot.retransmitted) < share.saturating_add(RTX_FREE_BYTES)
    }

    /// Counts a packet that was retransmitted.
    pub fn on_retransmit(&mut self, bytes: usize) {
        if let Some(slot) = self.slot(self.newest) {
            slot.retransmitted += bytes as u64;
        }
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        self.slots.get_mut((number % SLOTS) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PACKET: u64 = 1_000;

    /// Sends a packet each 10 ms and requests `percent` of them again; returns how many were
    /// retransmitted.
    fn play(budget: &mut RtxBudget, from: Instant, total: &mut u64, ms: u64, percent: u64) -> u64 {
        let mut repeated = 0;
        for n in 0..ms / 10 {
            let now = from + MS * (n * 10) as u32;
            *total += PACKET;
            budget.on_media(now, *total);
            let asked = (n + 1) * percent / 100 - n * percent / 100;
            for _ in 0..asked {
                if budget.allows(now, *total) {
                    budget.on_retransmit(PACKET as usize);
                    repeated += 1;
                }
            }
        }
        repeated
    }

    #[test]
    fn real_loss_is_repaired_and_a_viewer_that_requests_all_gets_its_share() {
        for (percent, least, most) in [(5, 300, 300), (11, 660, 660), (100, 1_500, 1_900)] {
            let now = Instant::now();
            let repeated = play(&mut RtxBudget::new(now), now, &mut 0, 60_000, percent);
            assert!((least..=most).contains(&repeated), "{percent} %: {repeated} of 6,000");
        }
    }

    #[test]
    fn burst_of_half_a_second_is_repaired_at_once_and_a_longer_one_is_not() {
        let now = Instant::now();
        let (mut budget, mut total) = (RtxBudget::new(now), 0);
        play(&mut budget, now, &mut total, 10_000, 0);
        let mut burst = 0;
        while budget.allows(now + 10_000 * MS, total) {
            budget.on_retransmit(PACKET as usize);
            burst += 1;
        }
        assert!((50..=65).contains(&burst), "{burst} packets of 100 a second");
    }

    #[test]
    fn first_packets_of_a_track_are_repaired() {
        let now = Instant::now();
        let mut budget = RtxBudget::new(now);
        let most = RTX_FREE_BYTES.div_ceil(PACKET);
        for _ in 0..most {
            assert!(budget.allows(now, 0));
            budget.on_retransmit(PACKET as usize);
        }
        assert!(!budget.allows(now, 0));
        assert!(!budget.allows(now + RTX_WINDOW - SLOT, 0));
        assert!(budget.allows(now + RTX_WINDOW, 0), "and again after the window");
    }

    #[test]
    fn old_media_gives_no_budget() {
        let now = Instant::now();
        let mut budget = RtxBudget::new(now);
        budget.on_media(now + 100 * MS, 100_000_000);
        budget.on_media(now + 10_000 * MS, 100_000_000);
        budget.on_retransmit(RTX_FREE_BYTES as usize);
        assert!(!budget.allows(now + 10_000 * MS, 100_000_000));
        // Looked at only once in 100 s: a window gets its even part.
        let mut budget = RtxBudget::new(now);
        budget.on_media(now + 100_000 * MS, 100_000_000);
        budget.on_retransmit(RTX_FREE_BYTES as usize + 500_000);
        assert!(!budget.allows(now + 100_000 * MS, 100_000_000));
    }

    proptest::proptest! {
        /// Whatever is requested and when: over the whole time no more than the share, the free
        /// bytes of each window, and the packet that exceeded it.
        #[test]
        fn share_holds_whatever_is_requested(
            steps in proptest::collection::vec((0u64..900, 0u64..60_000, 0usize..40), 1..200),
        ) {
            let start = Instant::now();
            let (mut now, mut total, mut repeats) = (start, 0, 0);
            let mut budget = RtxBudget::new(start);
            for (ms, media, asked) in steps {
                now += Duration::from_millis(ms);
                total += media;
                for _ in 0..asked {
                    if budget.allows(now, total) {
                        budget.on_retransmit(1_200);
                        repeats += 1_200;
                    }
                }
            }
            // Each byte of media counts in one window that may be used up at its beginning, and
            // once more.
            let windows = (now - start).as_millis() as u64 / RTX_WINDOW.as_millis() as u64 + 2;
            let most = 2 * total * RTX_SHARE_PERCENT / 100 + windows * (RTX_FREE_BYTES + 1_200);
            proptest::prop_assert!(repeats <= most, "{repeats} of at most {most}");
        }
    }

    /// As `worker/subscriber.rs` does: it reports the bytes sent so far before the first packet.
    #[test]
    fn wait_before_the_first_keyframe_does_not_reduce_its_retransmissions() {
        let repeats = |wait: Duration| {
            let start = Instant::now();
            let (mut budget, now, total) = (RtxBudget::new(start), start + wait, 165_000);
            budget.on_media(now, 0);
            budget.on_media(now + 50 * MS, total);
            std::iter::repeat_with(|| {
                let allowed = budget.allows(now + 60 * MS, total);
                budget.on_retransmit(1_100);
                allowed
            })
            .take_while(|allowed| *allowed)
            .count()
        };
        let [at_once, late] = [0, 600].map(|wait_s| repeats(Duration::from_secs(wait_s)));
        assert!(at_once > 40 && late == at_once, "{at_once} and {late}");
    }
}
