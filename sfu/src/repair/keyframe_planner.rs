//! Planner of keyframe requests to one publisher layer.
//!
//! Owns the needs, the request rate, the repeats, and what was learned about the layer: whether it
//! answers ([`ResponseStats`]), when it sends keyframes unrequested ([`KeyframeSchedule`]), and
//! what requested ones cost ([`KeyframeCost`]). All viewers of a layer share one request. Never
//! knows which viewer has a need, and never writes RTCP: `worker` sends a PLI, or a FIR where only
//! that was negotiated, whenever [`KeyframePlanner::poll`] says so. Source: quality A2.3 "PLI
//! discipline" and "Publisher learned at run time", whip-whep G13.

use std::time::{Duration, Instant};

use super::keyframe_cost::KeyframeCost;
use super::keyframe_schedule::{KeyframeCause, KeyframeSchedule};
use super::responses::{ResponseStats, Responsiveness};
use crate::limiter::TokenBucket;
use crate::warm::warm;

/// Minimum time between two requests to one layer.
pub const MIN_GAP: Duration = Duration::from_millis(500);

/// Average time between requests in the long run, however many needs there are.
pub const STEADY_GAP: Duration = Duration::from_secs(2);

/// Requests at [`MIN_GAP`] after a pause before [`STEADY_GAP`] holds, for viewers without a
/// picture.
pub const START_BURST: u32 = 16;

/// The same burst for missing packets, which hold up all viewers.
pub const HOLE_BURST: u32 = 8;

/// The same burst for single viewers that have a picture, layer switches among them.
pub const REFRESH_BURST: u32 = 5;

/// While keyframes are costly, a need of a viewer with a picture waits this long after the last
/// request. It waits no longer: a frozen picture is worse than a costly one.
pub const COSTLY_GAP: Duration = Duration::from_secs(6);

/// Requests at the fast rate; further ones follow at [`SLOW_GAP`].
pub const QUICK_TRIES: u32 = 5;

/// Time between requests when even a layer that used to answer is silent.
pub const SLOW_GAP: Duration = Duration::from_secs(5);

/// Unanswered requests after which a layer counts as one that ignores them (OBS, whip-whep G13).
pub const IGNORED_AFTER: u32 = 3;

/// The same number for a layer that used to answer.
pub const TRUSTED_IGNORED_AFTER: u32 = 6;

/// Time between the requests to a layer that ignores them, while there is a need.
pub const PROBE_GAP: Duration = Duration::from_secs(10);

/// Time after which a need that is not repeated is dropped: its viewer has left.
pub const NEED_TTL: Duration = Duration::from_secs(10);

/// Time for the encoder, added to the round trip before a request is repeated.
const ENCODER_TIME: Duration = Duration::from_millis(150);

/// Time for the answer to a single request, added to the round trip. After it the request was lost
/// or is ignored.
const ANSWER_MARGIN: Duration = Duration::from_millis(300);

/// Round trip that is assumed until one is measured: most publishers are nearer.
const RTT_UNKNOWN: Duration = Duration::from_millis(100);

/// Time after the first request within which a keyframe can be an answer to it.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Factor by which a keyframe must come faster than the time without one before the request, to
/// count as an answer. A layer that ignores requests passes once in seventeen by chance.
const ANSWER_RATIO_MIN: u32 = 16;

/// Time without packets after which the time between two keyframes says nothing about the encoder:
/// it was paused, or the network was away.
const SILENCE: Duration = Duration::from_secs(3);

/// Keyframes within this time are one: parameter sets and slices of one picture are each reported.
/// Needs within it are of viewers that had not received it yet. A viewer that joins after its first
/// packet has a new need.
const SAME_KEYFRAME: Duration = Duration::from_millis(50);

/// Reason why a keyframe is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyframeNeed {
    /// A viewer has no picture. Repeated with each packet that it cannot be sent.
    Start,
    /// Packets were given up: no viewer has a whole picture.
    Hole,
    /// A viewer has a picture and requests a fresh one, or that of another layer.
    Refresh,
}

impl KeyframeNeed {
    const ALL: [Self; 3] = [Self::Start, Self::Hole, Self::Refresh];

    /// Name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Hole => "hole",
            Self::Refresh => "refresh",
        }
    }

    /// Requests at [`MIN_GAP`] after a pause.
    fn burst(self) -> u32 {
        match self {
            Self::Start => START_BURST,
            Self::Hole => HOLE_BURST,
            Self::Refresh => REFRESH_BURST,
        }
    }
}

/// Outcome of needs and requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyframeCounts {
    needs: [u64; KeyframeNeed::ALL.len()],
    /// Needs without a request of their own: another need was waiting, or a keyframe had just
    /// begun.
    pub joined: u64,
    /// Requests that were answered, certainly not by chance.
    pub answered: u64,
    /// Requests without an answer in time, while the layer kept sending.
    pub unanswered: u64,
}

impl KeyframeCounts {
    /// Times that a need began, by reason.
    pub fn needs(&self) -> impl Iterator<Item = (KeyframeNeed, u64)> + use<> {
        KeyframeNeed::ALL.into_iter().zip(self.needs)
    }

    /// Adds the counts of another layer.
    pub fn merge(&mut self, other: &Self) {
        for (sum, n) in self.needs.iter_mut().zip(other.needs) {
            *sum += n;
        }
        self.joined += other.joined;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
    }
}

/// State of the keyframe requests to one publisher layer.
#[derive(Debug)]
pub struct KeyframePlanner {
    /// Time since which there is a need, by [`KeyframeNeed`].
    waiting_since: [Option<Instant>; KeyframeNeed::ALL.len()],
    last_need: Option<Instant>,
    last_sent: Option<Instant>,
    /// The last request to another layer of the same encoder.
    sibling_requested: Option<Instant>,
    /// Requests since the last keyframe.
    tries: u32,
    /// First request of the last series.
    row_began: Option<Instant>,
    /// The last request, while its outcome is not known.
    pending: Option<Instant>,
    /// Requests since the last keyframe that had no answer in time.
    missed: u32,
    rtt: Option<Duration>,
    sent: u64,
    /// Tokens for requests at [`STEADY_GAP`]; each need draws on them by a burst of its own.
    request_tokens: TokenBucket,
    first_packet: Option<Instant>,
    last_packet: Option<Instant>,
    /// Whether the last keyframe would not have come without a request.
    last_was_requested: bool,
    responses: ResponseStats,
    schedule: KeyframeSchedule,
    cost: KeyframeCost,
    /// Counts since they were last taken.
    counts: KeyframeCounts,
}

impl Default for KeyframePlanner {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyframePlanner {
    /// Creates a planner without needs.
    pub fn new() -> Self {
        Self {
            waiting_since: Default::default(),
            last_need: None,
            last_sent: None,
            sibling_requested: None,
            tries: 0,
            row_began: None,
            pending: None,
            missed: 0,
            rtt: None,
            sent: 0,
            request_tokens: TokenBucket::new(STEADY_GAP, START_BURST),
            first_packet: None,
            last_packet: None,
            last_was_requested: false,
            responses: ResponseStats::default(),
            schedule: KeyframeSchedule::default(),
            cost: KeyframeCost::default(),
            counts: KeyframeCounts::default(),
        }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub fn warm(&self) {
        warm!(self.waiting_since, self.last_packet, self.last_was_requested);
    }

    /// Records that a keyframe is needed. Joins the request that is on its way.
    pub fn add_need(&mut self, now: Instant, need: KeyframeNeed) {
        if need != KeyframeNeed::Hole && self.just_came(now) {
            self.counts.joined += 1;
            return;
        }
        self.last_need = Some(now);
        let index = need as usize;
        match (self.waiting_since.get_mut(index), self.counts.needs.get_mut(index)) {
            (Some(since @ None), Some(count)) => {
                *since = Some(now);
                *count += 1;
            }
            _ => self.counts.joined += 1,
        }
    }

    /// Records the start of a keyframe, which fulfils all needs so far. Call it for the first
    /// packet before [`Self::on_packet`].
    pub fn on_keyframe(&mut self, now: Instant) {
        if self.just_came(now) {
            return;
        }
        self.judge(now);
        self.note_silence(now);
        let took = self.row_began.map(|began| now.saturating_duration_since(began));
        // No answer takes less than a round trip; the present one may be shorter than the average.
        let least = self.rtt.map_or(Duration::ZERO, |rtt| rtt / 2);
        let took = took.filter(|took| self.tries > 0 && (least..=ANSWER_MAX).contains(took));
        let scheduled = self.schedule.is_scheduled(now);
        let answer = took.filter(|took| self.is_surely_answer(*took));
        let prompt = self.tries == 1 && took.is_some_and(|took| took <= self.answer_timeout());
        let cause = match took.filter(|_| !scheduled) {
            None if !scheduled && self.sibling_was_asked(now) => KeyframeCause::Answer,
            None => KeyframeCause::Unrequested,
            // The very first may be chance all the same.
            Some(_) if self.responses.answered() > 0 && (prompt || answer.is_some()) => {
                KeyframeCause::Answer
            }
            Some(took) => KeyframeCause::Uncertain(took),
        };
        self.last_was_requested = cause != KeyframeCause::Unrequested;
        self.schedule.on_keyframe(now, cause);
        if scheduled || self.schedule.last_was_scheduled() {
            // So it was no answer, and earlier requests had none.
            self.responses.on_missed(self.missed);
        } else if let Some(took) = answer {
            self.responses.on_answer(took);
            self.counts.answered += 1;
        }
        self.waiting_since = Default::default();
        (self.tries, self.missed, self.pending) = (0, 0, None);
    }

    /// Records a packet; `of_keyframe` tells whether it is part of the reported keyframe.
    pub fn on_packet(&mut self, now: Instant, bytes: usize, of_keyframe: bool) {
        self.note_silence(now);
        self.first_packet.get_or_insert(now);
        self.last_packet = Some(now);
        self.cost.on_packet(now, bytes, of_keyframe && self.last_was_requested);
    }

    /// Notes a request to another layer of the same encoder. Browsers answer it with keyframes of
    /// all layers.
    pub fn on_sibling_request(&mut self, now: Instant) {
        self.sibling_requested = Some(now);
    }

    /// Notes that the encoder starts anew as another SSRC. It behaves as before, but no answer is
    /// on its way.
    pub fn restart(&mut self) {
        self.schedule.reset_phase();
        self.pending = None;
        self.missed = 0;
    }

    /// Returns true if a PLI or FIR must be sent now; it then counts as sent.
    ///
    /// A need is acted on at once, if the request before is [`MIN_GAP`] ago and no keyframe is due
    /// anyway. Repeats follow after max(`rtt` + 150 ms, [`MIN_GAP`]), from the fifth on after
    /// [`SLOW_GAP`], and at [`PROBE_GAP`] to a layer that ignores them. An unknown `rtt` counts as
    /// 100 ms.
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
            self.pending = Some(now);
            self.tries += 1;
            self.sent += 1;
            self.request_tokens.spend(now);
            self.responses.on_requested();
        }
        due
    }

    /// Time at which [`Self::poll`] has something to send; `None` while there is no need.
    pub fn next_timeout(&self) -> Option<Instant> {
        let costly_until =
            self.last_sent.filter(|_| self.cost.is_costly()).map(|last| last + COSTLY_GAP);
        let needs = KeyframeNeed::ALL.into_iter().zip(self.waiting_since);
        let times = needs.filter_map(|(need, since)| {
            let since = since?;
            let available = self.request_tokens.available_at(need.burst());
            let free = available.map_or(since, |at| at.max(since));
            costly_until.filter(|_| need != KeyframeNeed::Start).max(Some(free))
        });
        let needed = times.min()?;
        let paced = self.last_sent.map_or(needed, |last| needed.max(last + self.gap()));
        let at = self.schedule.defer(paced);
        let last_need = self.last_need?;
        (at <= last_need + NEED_TTL).then_some(at)
    }

    /// Requests sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Takes the counts since the last call.
    pub fn take_counts(&mut self) -> KeyframeCounts {
        std::mem::take(&mut self.counts)
    }

    /// Responses of the layer to requests.
    pub fn responses(&mut self, now: Instant) -> &ResponseStats {
        self.judge(now);
        &self.responses
    }

    /// Schedule of the layer's unrequested keyframes.
    pub fn schedule(&self) -> &KeyframeSchedule {
        &self.schedule
    }

    /// Time since the last keyframe began, or since the first packet if none came; `None` while no
    /// packets come.
    pub fn without_keyframe(&self, now: Instant) -> Option<Duration> {
        self.last_packet.filter(|at| now.saturating_duration_since(*at) <= SILENCE)?;
        let since = self.schedule.last_keyframe().or(self.first_packet)?;
        Some(now.saturating_duration_since(since))
    }

    fn note_silence(&mut self, now: Instant) {
        if self.last_packet.is_some_and(|at| now.saturating_duration_since(at) > SILENCE) {
            self.schedule.reset_phase();
            (self.first_packet, self.last_packet) = (Some(now), Some(now));
        }
    }

    fn sibling_was_asked(&self, now: Instant) -> bool {
        let asked = self.sibling_requested;
        asked.is_some_and(|asked| now.saturating_duration_since(asked) <= ANSWER_MAX)
    }

    fn just_came(&self, now: Instant) -> bool {
        let last = self.schedule.last_keyframe();
        last.is_some_and(|last| now.saturating_duration_since(last) < SAME_KEYFRAME)
    }

    /// Minimum time from the last request to the next.
    fn gap(&self) -> Duration {
        if self.responses.responsiveness() == Responsiveness::Ignored {
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

    fn answer_timeout(&self) -> Duration {
        self.rtt.unwrap_or(RTT_UNKNOWN).min(ANSWER_MAX) + ANSWER_MARGIN
    }

    /// Judges the outcome of the last request. Only a layer that still sends can be said to ignore
    /// it.
    fn judge(&mut self, now: Instant) {
        let Some(requested) = self.pending else { return };
        let end = requested + self.answer_timeout();
        if now <= end || self.last_packet.is_none_or(|at| at <= end) {
            return;
        }
        self.pending = None;
        self.missed += 1;
        self.counts.unanswered += 1;
        let patience =
            if self.responses.is_trusted() { TRUSTED_IGNORED_AFTER } else { IGNORED_AFTER };
        if self.responses.missed_in_row() + self.missed >= patience {
            self.responses.on_missed(std::mem::take(&mut self.missed));
            self.responses.conclude_ignored();
        }
    }

    /// Whether a keyframe that came this soon after the first request came because of it.
    fn is_surely_answer(&self, took: Duration) -> bool {
        let before = self.schedule.last_keyframe().or(self.first_packet);
        before.zip(self.row_began).is_none_or(|(before, began)| {
            took * ANSWER_RATIO_MIN <= began.saturating_duration_since(before)
        })
    }
}

#[cfg(test)]
mod tests;
