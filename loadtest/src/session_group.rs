//! The publishers or the viewers of a run: starts their tasks, sets their phase, collects their
//! results.
//!
//! Knows nothing of media. Called by `run`.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::phase::Phase;

/// Sessions whose result is a `T`.
pub(crate) struct SessionGroup<T> {
    tasks: JoinSet<T>,
    /// Index of the next session.
    next: u32,
    panicked: usize,
    phase: Phase,
    channels: PhaseChannels,
}

/// How sessions learn of the phase.
enum PhaseChannels {
    /// All sessions follow one channel.
    Shared(watch::Sender<Phase>),
    /// Each session follows its own channel, so that it can be stopped alone.
    Single {
        /// Sessions that are counted, the oldest first.
        active: VecDeque<watch::Sender<Phase>>,
        /// Sessions that are no longer counted, and when they stop.
        retired: VecDeque<(Instant, watch::Sender<Phase>)>,
    },
}

impl<T: Send + 'static> SessionGroup<T> {
    /// A group without sessions that only stop together.
    pub(crate) fn new() -> Self {
        Self::with_channels(PhaseChannels::Shared(watch::Sender::new(Phase::Ramp)))
    }

    /// A group without sessions that can also stop one by one, with [`Self::retire_oldest`].
    pub(crate) fn with_retirement() -> Self {
        let (active, retired) = (VecDeque::new(), VecDeque::new());
        Self::with_channels(PhaseChannels::Single { active, retired })
    }

    fn with_channels(channels: PhaseChannels) -> Self {
        Self { tasks: JoinSet::new(), next: 0, panicked: 0, phase: Phase::Ramp, channels }
    }

    /// Starts the next session; `start` gets its index.
    pub(crate) fn add<F>(&mut self, start: impl FnOnce(u32, watch::Receiver<Phase>) -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let phases = match &mut self.channels {
            PhaseChannels::Shared(sender) => sender.subscribe(),
            PhaseChannels::Single { active, .. } => {
                let (sender, phases) = watch::channel(self.phase);
                active.push_back(sender);
                phases
            }
        };
        self.tasks.spawn(start(self.next, phases));
        self.next = self.next.wrapping_add(1);
    }

    /// Sets the phase of all sessions.
    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        match &self.channels {
            PhaseChannels::Shared(sender) => {
                sender.send_replace(phase);
            }
            PhaseChannels::Single { active, retired } => {
                for sender in active.iter().chain(retired.iter().map(|(_, sender)| sender)) {
                    sender.send_replace(phase);
                }
            }
        }
    }

    /// Stops counting the oldest session. It stops at `stop_at`, with [`Self::stop_retired`].
    pub(crate) fn retire_oldest(&mut self, stop_at: Instant) {
        if let PhaseChannels::Single { active, retired } = &mut self.channels
            && let Some(sender) = active.pop_front()
        {
            sender.send_replace(Phase::Drain);
            retired.push_back((stop_at, sender));
        }
    }

    /// Stops the retired sessions whose time has come.
    pub(crate) fn stop_retired(&mut self, now: Instant) {
        if let PhaseChannels::Single { retired, .. } = &mut self.channels {
            while let Some((_, sender)) = retired.pop_front_if(|(stop_at, _)| *stop_at <= now) {
                sender.send_replace(Phase::Stop);
            }
        }
    }

    /// The result of a session that has ended and was not collected before.
    pub(crate) fn next_result(&mut self) -> Option<T> {
        loop {
            match self.tasks.try_join_next()? {
                Ok(result) => return Some(result),
                Err(error) => {
                    tracing::error!("a session panicked: {error}");
                    self.panicked += 1;
                }
            }
        }
    }

    /// Sessions whose result was not yet collected.
    pub(crate) fn running(&self) -> usize {
        self.tasks.len()
    }

    /// Sessions that panicked or are still running. At the end of a run they have no result.
    pub(crate) fn without_result(&self) -> usize {
        self.panicked + self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn session(n: u32, mut phases: watch::Receiver<Phase>) -> (u32, Phase) {
        while *phases.borrow_and_update() != Phase::Drain {
            phases.changed().await.expect("the group exists");
        }
        phases.changed().await.expect("the group exists");
        let last = *phases.borrow();
        (n, last)
    }

    #[tokio::test]
    async fn oldest_session_stops_first_and_the_others_continue() {
        let mut group = SessionGroup::with_retirement();
        for _ in 0..3 {
            group.add(session);
        }
        let now = Instant::now();
        group.set_phase(Phase::Count);
        group.retire_oldest(now);
        tokio::task::yield_now().await;
        assert_eq!(group.next_result(), None, "retransmissions may still arrive");
        group.stop_retired(now);
        let result = loop {
            tokio::task::yield_now().await;
            if let Some(result) = group.next_result() {
                break result;
            }
        };
        assert_eq!((result, group.running()), ((0, Phase::Stop), 2));
    }
}
