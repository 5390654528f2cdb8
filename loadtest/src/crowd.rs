//! The sessions of one kind in a run: starts them, tells them how the run goes on, collects what they measured.
//!
//! Knows nothing of media. Called by `run`.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::seat::Phase;

/// Sessions whose part is a `T`.
pub(crate) struct Crowd<T> {
    tasks: JoinSet<T>,
    next: u32,
    vanished: usize,
    phase: Phase,
    all: watch::Sender<Phase>,
    /// If each can be told to leave by itself: the oldest first.
    each: Option<VecDeque<watch::Sender<Phase>>>,
    /// Those who have been told that nothing counts any more, and when they leave.
    dismissed: VecDeque<(Instant, watch::Sender<Phase>)>,
}

impl<T: Send + 'static> Crowd<T> {
    /// Nobody yet. `singly`: [`Self::dismiss_oldest`] will be used.
    pub(crate) fn new(singly: bool) -> Self {
        Self {
            tasks: JoinSet::new(),
            next: 0,
            vanished: 0,
            phase: Phase::Ramp,
            all: watch::Sender::new(Phase::Ramp),
            each: singly.then(VecDeque::new),
            dismissed: VecDeque::new(),
        }
    }

    /// Starts the next session; `start` gets its index.
    pub(crate) fn add<F>(&mut self, start: impl FnOnce(u32, watch::Receiver<Phase>) -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let phases = match &mut self.each {
            Some(each) => {
                let (own, phases) = watch::channel(self.phase);
                each.push_back(own);
                phases
            }
            None => self.all.subscribe(),
        };
        self.tasks.spawn(start(self.next, phases));
        self.next = self.next.wrapping_add(1);
    }

    /// Tells everybody how the run goes on.
    pub(crate) fn say(&mut self, phase: Phase) {
        self.phase = phase;
        self.all.send_replace(phase);
        let dismissed = self.dismissed.iter().map(|(_, own)| own);
        for own in self.each.iter().flatten().chain(dismissed) {
            own.send_replace(phase);
        }
    }

    /// The oldest counts no more, and leaves at `leaves`.
    pub(crate) fn dismiss_oldest(&mut self, leaves: Instant) {
        if let Some(own) = self.each.as_mut().and_then(VecDeque::pop_front) {
            own.send_replace(Phase::Drain);
            self.dismissed.push_back((leaves, own));
        }
    }

    /// Lets those leave whose time has come.
    pub(crate) fn let_go(&mut self, now: Instant) {
        while let Some((_, own)) = self.dismissed.pop_front_if(|(leaves, _)| *leaves <= now) {
            own.send_replace(Phase::Stop);
        }
    }

    /// What the next one who has left measured.
    pub(crate) fn next_part(&mut self) -> Option<T> {
        loop {
            match self.tasks.try_join_next()? {
                Ok(part) => return Some(part),
                Err(error) => {
                    tracing::error!("a session panicked: {error}");
                    self.vanished += 1;
                }
            }
        }
    }

    /// Sessions whose part was not yet collected.
    pub(crate) fn present(&self) -> usize {
        self.tasks.len()
    }

    /// Sessions that left no part, and at the end those that never came back from leaving.
    pub(crate) fn vanished(&self) -> usize {
        self.vanished + self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn session(n: u32, mut phases: watch::Receiver<Phase>) -> (u32, Phase) {
        while *phases.borrow_and_update() != Phase::Drain {
            phases.changed().await.expect("the crowd is there");
        }
        phases.changed().await.expect("the crowd is there");
        let last = *phases.borrow();
        (n, last)
    }

    #[tokio::test]
    async fn oldest_leaves_first_and_the_others_go_on() {
        let mut crowd = Crowd::new(true);
        for _ in 0..3 {
            crowd.add(session);
        }
        let now = Instant::now();
        crowd.say(Phase::Count);
        crowd.dismiss_oldest(now);
        tokio::task::yield_now().await;
        assert_eq!(crowd.next_part(), None, "it may still repair");
        crowd.let_go(now);
        let part = loop {
            tokio::task::yield_now().await;
            if let Some(part) = crowd.next_part() {
                break part;
            }
        };
        assert_eq!((part, crowd.present()), ((0, Phase::Stop), 2));
    }
}
