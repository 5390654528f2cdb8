//! Publishers of one stream: who holds it, who waits to take it over, and who must go.
//!
//! Pure. Part of `stream_entry.rs`, called by `control.rs`. The worker where a publisher connects decides which
//! one holds the stream (`router/table.rs`); this file follows it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outcome::{Conflict, ConflictCause};
use crate::config::Takeover;
use crate::ids::SessionId;
use crate::router::SourceInfo;

/// Takeovers of one stream within [`CONTEST_WINDOW`] after which a newcomer is refused. Two programs that publish
/// under one name and reconnect when they are replaced would otherwise replace each other for ever (OBS does,
/// every 2 s). A takeover from a publisher that is silent does not count: a publisher that lost its network comes
/// back as another session.
pub(super) const CONTEST_TAKEOVERS: usize = 3;

/// Time in which [`CONTEST_TAKEOVERS`] are counted.
pub(super) const CONTEST_WINDOW: Duration = Duration::from_secs(30);

/// Publisher sessions of one stream.
#[derive(Debug, Default)]
pub(super) struct Publishers {
    /// Oldest first.
    sessions: Vec<Publisher>,
    live: Option<Live>,
    /// When the stream changed hands last, oldest first; at most [`CONTEST_TAKEOVERS`].
    takeovers: VecDeque<Instant>,
}

#[derive(Debug)]
struct Publisher {
    id: SessionId,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Answered; it was not told yet that it connected.
    Connecting,
    /// It connected: it holds the stream, or has lost it.
    Connected,
    /// It lost the stream, or may not have it any more, and is being closed.
    Replaced,
}

/// The publisher that holds the stream.
#[derive(Debug)]
struct Live {
    source: Arc<SourceInfo>,
    since: Instant,
    /// Whether nothing authentic has come from it for three seconds: it has probably lost its network.
    silent: bool,
}

impl Live {
    fn new(source: Arc<SourceInfo>, since: Instant) -> Self {
        Self { source, since, silent: false }
    }
}

impl Publishers {
    /// Whether one more may be added: always while nobody holds the stream, otherwise as the policy says and
    /// unless the stream changed hands too often. Nobody contests with a holder that is silent.
    ///
    /// # Errors
    /// Who holds the stream, and why it stays.
    pub(super) fn may_add(&self, policy: Takeover, now: Instant) -> Result<(), Conflict> {
        let Some(live) = &self.live else { return Ok(()) };
        let cause = match (policy, self.contested_until(now)) {
            (Takeover::Reject, _) => ConflictCause::Reject,
            (Takeover::Always, Some(until)) if !live.silent => {
                let left = until.saturating_duration_since(now).as_secs();
                let retry_after_s = u32::try_from(left).unwrap_or(u32::MAX).saturating_add(1);
                ConflictCause::Contested { retry_after_s }
            }
            (Takeover::Always, _) => return Ok(()),
        };
        let live_s = now.saturating_duration_since(live.since).as_secs();
        Err(Conflict { holder: live.source.publisher, live_s, cause })
    }

    /// Until when newcomers are refused because publishers replace each other, if they are.
    pub(super) fn contested_until(&self, now: Instant) -> Option<Instant> {
        let first = self.takeovers.front().filter(|_| self.takeovers.len() >= CONTEST_TAKEOVERS)?;
        let until = *first + CONTEST_WINDOW;
        (until > now).then_some(until)
    }

    /// Notes that the publisher that holds the stream became silent, or is heard again; without effect for
    /// another one.
    pub(super) fn set_silent(&mut self, id: SessionId, silent: bool) {
        if let Some(live) = self.live.as_mut().filter(|live| live.source.publisher == id) {
            live.silent = silent;
        }
    }

    /// Adds a session that was answered and has not connected yet.
    pub(super) fn add(&mut self, id: SessionId) {
        self.sessions.push(Publisher { id, stage: Stage::Connecting });
    }

    /// Follows a publisher `id` that connected, with `holder` as the stream's source now; `None` if the source
    /// has ended already. Returns the sessions that lost the stream and must be closed.
    ///
    /// Several publishers may connect before the first event of them is read. So the source tells only who
    /// holds the stream, and every other session that has connected is one that lost it, also the one that
    /// held it before: nobody else would tell that one.
    pub(super) fn connected(
        &mut self,
        id: SessionId,
        holder: Option<Arc<SourceInfo>>,
        now: Instant,
    ) -> Vec<SessionId> {
        let known = self.sessions.iter_mut().find(|publisher| publisher.id == id);
        if let Some(publisher) = known.filter(|publisher| publisher.stage == Stage::Connecting) {
            publisher.stage = Stage::Connected;
        }
        let holder_id = holder.as_ref().map(|source| source.publisher);
        let before = self.live.as_ref().map(|live| live.source.publisher);
        let was_silent = self.live.as_ref().is_some_and(|live| live.silent);
        if before.is_some() && holder_id.is_some() && before != holder_id && !was_silent {
            self.takeovers.push_back(now);
            if self.takeovers.len() > CONTEST_TAKEOVERS {
                self.takeovers.pop_front();
            }
        }
        if before != holder_id {
            self.live = holder.map(|source| Live::new(source, now));
        }
        let mut lost = Vec::new();
        for publisher in &mut self.sessions {
            if publisher.stage == Stage::Connected && Some(publisher.id) != holder_id {
                publisher.stage = Stage::Replaced;
                lost.push(publisher.id);
            }
        }
        lost
    }

    /// The sessions that were answered before and that the policy refuses now, because another one is live or
    /// the stream is contested since. They must be closed: they would take the stream when they connect.
    pub(super) fn turn_away(&mut self, policy: Takeover, now: Instant) -> Vec<SessionId> {
        if self.may_add(policy, now).is_ok() {
            return Vec::new();
        }
        let waiting = self.sessions.iter_mut().filter(|one| one.stage == Stage::Connecting);
        waiting
            .map(|publisher| {
                publisher.stage = Stage::Replaced;
                publisher.id
            })
            .collect()
    }

    /// Removes a session that ended, with `holder` as the stream's source now. True if it held the stream.
    pub(super) fn remove(
        &mut self,
        id: SessionId,
        holder: Option<Arc<SourceInfo>>,
        now: Instant,
    ) -> bool {
        self.sessions.retain(|publisher| publisher.id != id);
        let held = self.live.as_ref().is_some_and(|live| live.source.publisher == id);
        if held {
            self.live = holder.map(|source| Live::new(source, now));
        }
        held
    }

    /// Tracks of the publisher that holds the stream.
    pub(super) fn live(&self) -> Option<&Arc<SourceInfo>> {
        self.live.as_ref().map(|live| &live.source)
    }

    /// Session to show in lists: the one that holds the stream, otherwise the latest that is connecting.
    pub(super) fn shown(&self) -> Option<SessionId> {
        let live = self.live().map(|source| source.publisher);
        live.or_else(|| self.sessions.last().map(|publisher| publisher.id))
    }

    /// Whether there is no session.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn source(publisher: u64, epoch: u32) -> Option<Arc<SourceInfo>> {
        Some(Arc::new(SourceInfo {
            epoch: crate::ids::Epoch(epoch),
            publisher: SessionId(publisher),
            tracks: Vec::new(),
        }))
    }

    fn of(ids: &[u64]) -> Publishers {
        let mut publishers = Publishers::default();
        ids.iter().for_each(|id| publishers.add(SessionId(*id)));
        publishers
    }

    fn holder(publishers: &Publishers) -> u64 {
        publishers.live().unwrap().publisher.0
    }

    // whip-whep A54
    #[test]
    fn second_publisher_takes_the_stream_when_it_connects_and_not_before() {
        let (mut publishers, now) = (of(&[1, 2]), Instant::now());
        assert_eq!(publishers.shown(), Some(SessionId(2)), "the latest that is connecting");
        assert_eq!(publishers.connected(SessionId(1), source(1, 1), now), []);
        assert_eq!(publishers.shown(), Some(SessionId(1)), "the one that is live");
        assert_eq!(publishers.connected(SessionId(2), source(2, 2), now), [SessionId(1)]);
        assert_eq!(publishers.shown(), Some(SessionId(2)));
    }

    #[test]
    fn publisher_whose_event_arrives_late_loses_the_stream_it_never_held() {
        let (mut publishers, now) = (of(&[1, 2]), Instant::now());
        // Both connected; the second holds the stream already when the events are read, the second's first.
        assert_eq!(publishers.connected(SessionId(2), source(2, 2), now), []);
        assert_eq!(publishers.connected(SessionId(1), source(2, 2), now), [SessionId(1)]);
        assert_eq!(holder(&publishers), 2);
        // The same events in their own order.
        let mut publishers = of(&[1, 2]);
        assert_eq!(publishers.connected(SessionId(1), source(2, 2), now), [SessionId(1)]);
        assert_eq!(publishers.connected(SessionId(2), source(2, 2), now), []);
    }

    #[test]
    fn live_publisher_is_closed_when_two_replace_it_before_the_first_event_is_read() {
        let now = Instant::now();
        for (first, second) in [(2, 3), (3, 2)] {
            let mut publishers = of(&[1, 2, 3]);
            assert_eq!(publishers.connected(SessionId(1), source(1, 1), now), []);
            let mut lost = publishers.connected(SessionId(first), source(3, 3), now);
            lost.extend(publishers.connected(SessionId(second), source(3, 3), now));
            lost.sort_unstable();
            assert_eq!(lost, [SessionId(1), SessionId(2)]);
            assert_eq!(holder(&publishers), 3);
        }
    }

    #[test]
    fn live_publisher_is_closed_when_the_one_that_replaced_it_has_already_left() {
        let (mut publishers, now) = (of(&[1, 2]), Instant::now());
        assert_eq!(publishers.connected(SessionId(1), source(1, 1), now), []);
        assert_eq!(
            publishers.connected(SessionId(2), None, now),
            [SessionId(1), SessionId(2)],
            "neither holds the stream any more"
        );
        assert!(publishers.live().is_none());
    }

    #[test]
    fn policy_reject_takes_publishers_until_one_is_live_and_names_it() {
        let (mut publishers, now) = (of(&[1, 2]), Instant::now());
        assert_eq!(publishers.may_add(Takeover::Reject, now), Ok(()), "none is live");
        publishers.connected(SessionId(1), source(1, 1), now);
        let later = now + Duration::from_secs(5);
        let refused = publishers.may_add(Takeover::Reject, later).unwrap_err();
        let cause = ConflictCause::Reject;
        assert_eq!(refused, Conflict { holder: SessionId(1), live_s: 5, cause });
        assert_eq!(publishers.may_add(Takeover::Always, later), Ok(()));
        assert!(publishers.remove(SessionId(1), None, later));
        assert_eq!(publishers.may_add(Takeover::Reject, later), Ok(()));
    }

    #[test]
    fn newcomer_is_refused_when_the_stream_changed_hands_three_times_in_thirty_seconds() {
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let mut publishers = Publishers::default();
        for n in 0..4 {
            let now = second(2 * n);
            assert_eq!(publishers.may_add(Takeover::Always, now), Ok(()), "{n} takeovers");
            publishers.add(SessionId(n));
            publishers.connected(SessionId(n), source(n, n as u32), now);
        }
        // It changed hands at 2, 4 and 6 s.
        let refused = publishers.may_add(Takeover::Always, second(8)).unwrap_err();
        let cause = ConflictCause::Contested { retry_after_s: 25 };
        assert_eq!(refused, Conflict { holder: SessionId(3), live_s: 2, cause });
        let just_before = second(2) + CONTEST_WINDOW - Duration::from_millis(1);
        assert!(publishers.may_add(Takeover::Always, just_before).is_err());
        assert_eq!(publishers.may_add(Takeover::Always, second(2) + CONTEST_WINDOW), Ok(()));
        // A stream that nobody holds is open to everyone.
        publishers.remove(SessionId(3), None, second(8));
        assert_eq!(publishers.may_add(Takeover::Always, second(8)), Ok(()));
    }

    /// A publisher that loses its network again and again comes back as another session each time.
    #[test]
    fn publisher_that_comes_back_from_a_silence_is_no_contest() {
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let mut publishers = Publishers::default();
        for n in 0..6 {
            let now = second(4 * n);
            assert_eq!(publishers.may_add(Takeover::Always, now), Ok(()), "{n} returns");
            publishers.add(SessionId(n));
            publishers.connected(SessionId(n), source(n, n as u32), now);
            publishers.set_silent(SessionId(n), true);
            publishers.set_silent(SessionId(77), false);
        }
        assert_eq!(publishers.contested_until(second(20)), None);
        // With one that is heard it is a contest, until that one is silent.
        publishers.set_silent(SessionId(5), false);
        for n in 6..9 {
            publishers.add(SessionId(n));
            publishers.connected(SessionId(n), source(n, n as u32), second(21));
        }
        assert!(publishers.may_add(Takeover::Always, second(22)).is_err());
        publishers.set_silent(SessionId(8), true);
        assert_eq!(publishers.may_add(Takeover::Always, second(25)), Ok(()));
        assert!(publishers.may_add(Takeover::Reject, second(25)).is_err(), "it is the live one");
        publishers.set_silent(SessionId(8), false);
        assert!(publishers.may_add(Takeover::Always, second(26)).is_err());
    }

    #[test]
    fn sessions_that_were_answered_before_the_policy_refuses_them_are_turned_away() {
        let now = Instant::now();
        let mut publishers = of(&[1, 2]);
        assert_eq!(publishers.turn_away(Takeover::Reject, now), [], "none is live");
        publishers.connected(SessionId(1), source(1, 1), now);
        assert_eq!(publishers.turn_away(Takeover::Always, now), []);
        assert_eq!(publishers.turn_away(Takeover::Reject, now), [SessionId(2)]);
        assert_eq!(publishers.turn_away(Takeover::Reject, now), [], "once");
        // Five were answered at once; the third takeover begins a contest.
        let mut publishers = of(&[0, 1, 2, 3, 4]);
        for n in 0..4 {
            assert_eq!(publishers.turn_away(Takeover::Always, now), []);
            publishers.connected(SessionId(n), source(n, n as u32), now);
        }
        assert_eq!(publishers.turn_away(Takeover::Always, now), [SessionId(4)]);
    }

    #[test]
    fn publishers_that_come_after_one_another_are_no_contest() {
        let (mut publishers, now) = (Publishers::default(), Instant::now());
        for n in 0..10 {
            publishers.add(SessionId(n));
            publishers.connected(SessionId(n), source(n, n as u32), now);
            publishers.remove(SessionId(n), None, now);
        }
        assert_eq!(publishers.contested_until(now), None);
    }

    #[test]
    fn end_of_a_replaced_publisher_does_not_end_the_stream() {
        let (mut publishers, now) = (of(&[1, 2]), Instant::now());
        publishers.connected(SessionId(1), source(1, 1), now);
        publishers.connected(SessionId(2), source(2, 2), now);
        assert!(!publishers.remove(SessionId(1), source(2, 2), now));
        assert_eq!(holder(&publishers), 2);
        assert!(publishers.remove(SessionId(2), None, now));
        assert!(
            publishers.live().is_none() && publishers.is_empty() && publishers.shown().is_none()
        );
    }

    proptest! {
        /// Four publishers connect and leave at their workers in any order, and their events are read in any
        /// order that keeps those of one publisher. In the end the only session left is the stream's source.
        #[test]
        fn nobody_is_left_connected_without_the_stream(
            steps in proptest::collection::vec((0..4_u64, any::<bool>()), 0..40),
        ) {
            let now = Instant::now();
            let mut publishers = of(&[0, 1, 2, 3]);
            let (mut epoch, mut current) = (0, None);
            // Steps that a publisher took at its worker, and those whose event was read.
            let (mut done, mut read) = (HashMap::new(), HashMap::new());
            let mut told = Vec::new();
            let all_in_the_end = (0..4).flat_map(|id| [(id, false), (id, false)]);
            for (id, acts) in steps.into_iter().chain(all_in_the_end) {
                let done: &mut u32 = done.entry(id).or_default();
                let read: &mut u32 = read.entry(id).or_default();
                if acts && *done < 2 {
                    *done += 1;
                    match *done {
                        1 => {
                            epoch += 1;
                            current = source(id, epoch);
                        }
                        _ => current = current.filter(|now| now.publisher != SessionId(id)),
                    }
                } else if !acts && read < done {
                    *read += 1;
                    match *read {
                        1 => told.extend(publishers.connected(SessionId(id), current.clone(), now)),
                        _ => {
                            publishers.remove(SessionId(id), current.clone(), now);
                        }
                    }
                }
            }
            let source = current.map(|source| source.publisher.0);
            for (id, _) in done.into_iter().filter(|(_, done)| *done == 1) {
                let is_told = told.contains(&SessionId(id));
                prop_assert_eq!(is_told, source != Some(id), "publisher {}", id);
            }
            prop_assert_eq!(publishers.live().map(|live| live.publisher.0), source);
        }
    }
}
