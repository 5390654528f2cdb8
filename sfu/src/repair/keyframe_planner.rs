//! Decides when to ask one publisher layer for a keyframe.
//!
//! Owns the needs, the pace, the repeats, and what the layer taught us: whether it answers
//! ([`ResponseStats`]), when it sends keyframes by itself ([`KeyframeSchedule`]) and what those cost that we asked
//! for ([`KeyframeCost`]). All viewers of a layer join the one request. Never knows who needed and never
//! writes RTCP: `worker` sends a PLI, or a FIR where only that was negotiated, whenever
//! [`KeyframePlanner::poll`] says so. Source: quality A2.3 "PLI discipline" and "Publisher learned at run
//! time", whip-whep G13.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::keyframe_cost::KeyframeCost;
use super::keyframe_schedule::{Cause, KeyframeSchedule};
use super::responses::{ResponseStats, Responsiveness};
use crate::limiter::TokenBucket;

/// Requests to one layer are at least this far apart.
pub const MIN_GAP: Duration = Duration::from_millis(500);

/// Requests in the long run are this far apart on average, however often somebody needs.
pub const STEADY_GAP: Duration = Duration::from_secs(2);

/// Requests at [`MIN_GAP`] after a pause before [`STEADY_GAP`] holds, for viewers without a picture.
pub const START_BURST: u32 = 16;

/// The same where packets are missing, so that all viewers wait.
pub const HOLE_BURST: u32 = 8;

/// The same for single viewers that have a picture, changes of layers among them.
pub const REFRESH_BURST: u32 = 5;

/// While keyframes are dear, needs of those who have a picture wait this long after the last request, and no
/// longer: a frozen picture is worse than a dear one.
pub const DEAR_GAP: Duration = Duration::from_secs(6);

/// Repeats at the quick pace; afterwards one per [`SLOW_GAP`].
pub const QUICK_TRIES: u32 = 5;

/// The pace when even a layer that used to answer says nothing.
pub const SLOW_GAP: Duration = Duration::from_secs(5);

/// Requests without an answer that make a layer one that ignores them (OBS, whip-whep G13).
pub const PATIENCE: u32 = 3;

/// The same for a layer that used to answer.
pub const TRUSTED_PATIENCE: u32 = 6;

/// A layer that ignores requests gets one this often while somebody needs.
pub const PROBE_GAP: Duration = Duration::from_secs(10);

/// A need that nobody repeats for so long is dropped: who needed has left.
pub const NEED_LIFE: Duration = Duration::from_secs(10);

/// Time an encoder may take on top of the round trip before the request is repeated.
const ENCODER_TIME: Duration = Duration::from_millis(150);

/// The answer to a single request comes within this time on top of the round trip; without it the request
/// was lost or is ignored.
const PATIENCE_TIME: Duration = Duration::from_millis(300);

/// Assumed until it is measured: most publishers are nearer.
const RTT_UNKNOWN: Duration = Duration::from_millis(100);

/// Later than this after the first request nothing is an answer to it.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A keyframe counts as an answer if it came this many times faster than it let wait before anybody asked.
/// Whoever ignores requests passes once in seventeen by chance.
const NO_CHANCE: u32 = 16;

/// Keyframes within this time are one: parameter sets and slices of one picture are each reported. Needs
/// within it are of viewers who had not seen it yet; who came after its first packet needs again.
const SAME_KEYFRAME: Duration = Duration::from_millis(50);

/// Why a keyframe is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyframeNeed {
    /// A viewer has no picture. Repeated with each packet that it cannot be sent.
    Start,
    /// Packets were given up: nobody has a whole picture.
    Hole,
    /// A viewer has a picture and asks for a fresh one, or for that of another layer.
    Refresh,
}

impl KeyframeNeed {
    const ALL: [Self; 3] = [Self::Start, Self::Hole, Self::Refresh];

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Hole => "hole",
            Self::Refresh => "refresh",
        }
    }

    /// Requests at the quick pace after a pause.
    fn burst(self) -> u32 {
        match self {
            Self::Start => START_BURST,
            Self::Hole => HOLE_BURST,
            Self::Refresh => REFRESH_BURST,
        }
    }
}

/// What became of needs and requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyframeCounts {
    needs: [u64; KeyframeNeed::ALL.len()],
    /// Needs that cost nothing of their own: somebody waited already, or a keyframe had just begun.
    pub joined: u64,
    /// Requests that were answered, and could not have been by chance.
    pub answered: u64,
    /// Requests without an answer in time, while the layer sent on.
    pub unanswered: u64,
}

impl KeyframeCounts {
    /// How often somebody began to wait, by reason.
    pub fn needs(&self) -> impl Iterator<Item = (KeyframeNeed, u64)> + use<> {
        KeyframeNeed::ALL.into_iter().zip(self.needs)
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        for (sum, n) in self.needs.iter_mut().zip(other.needs) {
            *sum += n;
        }
        self.joined += other.joined;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
    }
}

/// The keyframe requests of one publisher layer.
#[derive(Debug)]
pub struct KeyframePlanner {
    /// Since when somebody waits, by [`KeyframeNeed`].
    since: [Option<Instant>; KeyframeNeed::ALL.len()],
    last_need: Option<Instant>,
    last_sent: Option<Instant>,
    /// Requests since the last keyframe.
    tries: u32,
    /// The first of the last requests in a row.
    row_began: Option<Instant>,
    /// The last request, while nothing is known of its outcome.
    open: Option<Instant>,
    /// Requests since the last keyframe that had no answer in time.
    missed: u32,
    rtt: Option<Duration>,
    sent: u64,
    /// Requests that [`STEADY_GAP`] allows; each need may draw on it by its own burst.
    request_tokens: TokenBucket,
    first_packet: Option<Instant>,
    last_packet: Option<Instant>,
    /// The keyframe that came last would not have come unasked.
    was_asked: bool,
    answers: ResponseStats,
    schedule: KeyframeSchedule,
    cost: KeyframeCost,
    /// Since they were taken.
    counts: KeyframeCounts,
}

impl Default for KeyframePlanner {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyframePlanner {
    /// Nobody wants anything yet.
    pub fn new() -> Self {
        Self {
            since: Default::default(),
            last_need: None,
            last_sent: None,
            tries: 0,
            row_began: None,
            open: None,
            missed: 0,
            rtt: None,
            sent: 0,
            request_tokens: TokenBucket::new(STEADY_GAP, START_BURST),
            first_packet: None,
            last_packet: None,
            was_asked: false,
            answers: ResponseStats::default(),
            schedule: KeyframeSchedule::default(),
            cost: KeyframeCost::default(),
            counts: KeyframeCounts::default(),
        }
    }

    /// Reads what the next packet needs, so that it is in the caches by then.
    pub fn warm(&self) {
        black_box((self.since, self.last_packet, self.was_asked));
    }

    /// Somebody needs a keyframe. Joins the request that is on its way.
    pub fn want(&mut self, now: Instant, need: KeyframeNeed) {
        if need != KeyframeNeed::Hole && self.just_came(now) {
            self.counts.joined += 1;
            return;
        }
        self.last_need = Some(now);
        let place = need as usize;
        match (self.since.get_mut(place), self.counts.needs.get_mut(place)) {
            (Some(since @ None), Some(count)) => {
                *since = Some(now);
                *count += 1;
            }
            _ => self.counts.joined += 1,
        }
    }

    /// A keyframe starts to arrive: all needs so far are fulfilled. Tell of its first packet here before
    /// [`Self::on_packet`].
    pub fn on_keyframe(&mut self, now: Instant) {
        if self.just_came(now) {
            return;
        }
        self.judge(now);
        let took = self.row_began.map(|began| now.saturating_duration_since(began));
        // Nothing answers within less than a round trip; that of this moment may be shorter than the average.
        let least = self.rtt.map_or(Duration::ZERO, |rtt| rtt / 2);
        let took = took.filter(|took| self.tries > 0 && (least..=ANSWER_MAX).contains(took));
        let scheduled = self.schedule.explains(now);
        let answer = took.filter(|took| self.is_no_chance(*took));
        let prompt = self.tries == 1 && took.is_some_and(|took| took <= self.patience_time());
        let cause = match took.filter(|_| !scheduled) {
            None => Cause::Itself,
            // The first of all may be chance all the same.
            Some(_) if self.answers.answered() > 0 && (prompt || answer.is_some()) => Cause::Answer,
            Some(took) => Cause::Perhaps(took),
        };
        self.was_asked = cause != Cause::Itself;
        self.schedule.on_keyframe(now, cause);
        if scheduled || self.schedule.explains_last() {
            // So it was no answer, and what was asked before had none.
            self.answers.on_missed(self.missed);
        } else if let Some(took) = answer {
            self.answers.on_answer(took);
            self.counts.answered += 1;
        }
        self.since = Default::default();
        (self.tries, self.missed, self.open) = (0, 0, None);
    }

    /// A packet came, part of the keyframe that was told of or not.
    pub fn on_packet(&mut self, now: Instant, bytes: usize, of_keyframe: bool) {
        self.first_packet.get_or_insert(now);
        self.last_packet = Some(now);
        self.cost.on_packet(now, bytes, of_keyframe && self.was_asked);
    }

    /// The encoder starts anew, as another SSRC: it behaves as before, but nothing is on its way.
    pub fn restart(&mut self) {
        self.schedule.interrupt();
        self.open = None;
        self.missed = 0;
    }

    /// True if a PLI or FIR must be sent now; it then counts as sent.
    ///
    /// A need is acted on at once, if the request before is [`MIN_GAP`] ago and no keyframe is due anyway.
    /// Repeats follow after max(`rtt` + 150 ms, [`MIN_GAP`]), from the fifth on after [`SLOW_GAP`], and at
    /// [`PROBE_GAP`] to a layer that ignores them. An unknown `rtt` is taken for 100 ms.
    pub fn poll(&mut self, now: Instant, rtt: Option<Duration>) -> bool {
        self.rtt = rtt;
        self.judge(now);
        let due = self.next_timeout().is_some_and(|at| at <= now);
        if due {
            let since = self.last_sent.map(|last| now.saturating_duration_since(last));
            if self.tries == 0 || since.is_none_or(|since| since >= SLOW_GAP) {
                self.row_began = Some(now);
            }
            self.last_sent = Some(now);
            self.open = Some(now);
            self.tries += 1;
            self.sent += 1;
            self.request_tokens.spend(now);
            self.answers.on_asked();
        }
        due
    }

    /// When [`Self::poll`] has something to send; none while nobody waits.
    pub fn next_timeout(&self) -> Option<Instant> {
        let dear = self.last_sent.filter(|_| self.cost.is_dear()).map(|last| last + DEAR_GAP);
        let needs = KeyframeNeed::ALL.into_iter().zip(self.since);
        let times = needs.filter_map(|(need, since)| {
            let since = since?;
            let available = self.request_tokens.available_at(need.burst());
            let free = available.map_or(since, |at| at.max(since));
            dear.filter(|_| need != KeyframeNeed::Start).max(Some(free))
        });
        let needed = times.min()?;
        let paced = self.last_sent.map_or(needed, |last| needed.max(last + self.gap()));
        let at = self.schedule.hold(paced);
        let last_need = self.last_need?;
        (at <= last_need + NEED_LIFE).then_some(at)
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// What happened since this was asked last.
    pub fn take_counts(&mut self) -> KeyframeCounts {
        std::mem::take(&mut self.counts)
    }

    /// Whether the layer answers requests.
    pub fn answers(&mut self, now: Instant) -> &ResponseStats {
        self.judge(now);
        &self.answers
    }

    /// When it sends keyframes by itself.
    pub fn schedule(&self) -> &KeyframeSchedule {
        &self.schedule
    }

    fn just_came(&self, now: Instant) -> bool {
        let last = self.schedule.last_keyframe();
        last.is_some_and(|last| now.saturating_duration_since(last) < SAME_KEYFRAME)
    }

    /// The least time from the last request to the next.
    fn gap(&self) -> Duration {
        if self.answers.habit() == Responsiveness::Ignored {
            return PROBE_GAP;
        }
        match self.tries {
            0 => MIN_GAP,
            1..QUICK_TRIES => {
                let rtt = self.rtt.unwrap_or(RTT_UNKNOWN);
                rtt.saturating_add(ENCODER_TIME).clamp(MIN_GAP, SLOW_GAP)
            }
            _ => SLOW_GAP,
        }
    }

    fn patience_time(&self) -> Duration {
        self.rtt.unwrap_or(RTT_UNKNOWN).min(ANSWER_MAX) + PATIENCE_TIME
    }

    /// What became of the last request. Only a layer that still sends can be said to ignore it.
    fn judge(&mut self, now: Instant) {
        let Some(asked) = self.open else { return };
        let end = asked + self.patience_time();
        if now <= end || self.last_packet.is_none_or(|at| at <= end) {
            return;
        }
        self.open = None;
        self.missed += 1;
        self.counts.unanswered += 1;
        let patience = if self.answers.is_trusted() { TRUSTED_PATIENCE } else { PATIENCE };
        if self.answers.missed_in_row() + self.missed >= patience {
            self.answers.on_missed(std::mem::take(&mut self.missed));
            self.answers.conclude_ignored();
        }
    }

    /// Whether a keyframe that came so soon after the first request came because of it.
    fn is_no_chance(&self, took: Duration) -> bool {
        let before = self.schedule.last_keyframe().or(self.first_packet);
        before.zip(self.row_began).is_none_or(|(before, began)| {
            took * NO_CHANCE <= began.saturating_duration_since(before)
        })
    }
}

#[cfg(test)]
mod tests;
