//! Starts lost sessions again: which ones, after what time, and how often they came back.
//!
//! A session that once had media and is lost (the server is gone, or refuses it for now) is tried again until
//! the run ends. One that never had media is not: its failure is the result. Knows nothing of media and
//! opens nothing. Called by `publisher` and `viewer`.

use std::time::Duration;

use tokio::sync::watch;

use crate::phase::Phase;
use crate::session_error::SessionError;

/// Maximum wait before the first try. Each further try without success doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Maximum wait before any try, so that sessions come back soon after a long absence of the server.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// Maximum wait that a server can ask for with `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The tries of one session.
pub(crate) struct Reconnect {
    phases: watch::Receiver<Phase>,
    /// Whether any try had media.
    established: bool,
    /// Tries since the last media.
    tries: u32,
    /// Times that the session came back.
    returned: u32,
}

impl Reconnect {
    /// A session that was not tried yet and follows `phases`.
    pub(crate) fn new(phases: watch::Receiver<Phase>) -> Self {
        Self { phases, established: false, tries: 0, returned: 0 }
    }

    /// The phases of the run, for the next try.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phases.clone()
    }

    /// Times that the session came back.
    pub(crate) fn returned(&self) -> u32 {
        self.returned
    }

    /// Notes how a try ended, and whether it had media. Returns whether there shall be another one, after
    /// the wait that is due before it.
    pub(crate) async fn again(&mut self, end: &Result<(), SessionError>, had_media: bool) -> bool {
        // Sessions are lost together. They do not come back together, or they would wait for each other.
        let share = rand::random_range(0.1..=1.0);
        let Some(wait) = self.next_wait(end, had_media, share) else { return false };
        tokio::select! {
            () = tokio::time::sleep(wait) => !self.is_over(),
            () = until_over(self.phases.clone()) => false,
        }
    }

    /// The wait before another try; `None` if there is none. `share` of the longest wait is waited.
    fn next_wait(
        &mut self,
        end: &Result<(), SessionError>,
        had_media: bool,
        share: f64,
    ) -> Option<Duration> {
        if had_media {
            self.returned += u32::from(self.established);
            self.established = true;
            self.tries = 0;
        }
        let Err(SessionError::Lost { retry_after, .. }) = end else { return None };
        if !self.established || self.is_over() {
            return None;
        }
        let longest = WAIT_MAX.min(FIRST_WAIT * 2_u32.saturating_pow(self.tries.min(8)));
        self.tries = self.tries.saturating_add(1);
        Some(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX) + longest.mul_f64(share))
    }

    /// Why the session failed, if `end` is that of its last try.
    pub(crate) fn failure(&self, end: Result<(), SessionError>) -> Option<String> {
        let text = end.err()?.text();
        Some(match self.tries {
            0 => text,
            tries => format!("lost, not back at try {tries}: {text}"),
        })
    }

    fn is_over(&self) -> bool {
        is_end(*self.phases.borrow()) || self.phases.has_changed().is_err()
    }
}

/// Whether no session is started in this phase.
fn is_end(phase: Phase) -> bool {
    matches!(phase, Phase::Drain | Phase::Stop)
}

/// Waits until no session is started any more.
async fn until_over(mut phases: watch::Receiver<Phase>) {
    // An error: the run is gone.
    let _ = phases.wait_for(|phase| is_end(*phase)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn lost() -> Result<(), SessionError> {
        Err(SessionError::lost("gone"))
    }

    fn session() -> (watch::Sender<Phase>, Reconnect) {
        let phases = watch::Sender::new(Phase::Count);
        let session = Reconnect::new(phases.subscribe());
        (phases, session)
    }

    #[test]
    fn lost_session_is_tried_again_with_growing_waits_that_end_at_four_seconds() {
        let (_phases, mut session) = session();
        for longest_ms in [500, 1_000, 2_000, 4_000, 4_000, 4_000] {
            let wait = session.next_wait(&lost(), longest_ms == 500, 0.5);
            assert_eq!(wait, Some(Duration::from_millis(longest_ms / 2)));
        }
        assert_eq!(session.returned(), 0);
        let wait = session.next_wait(&lost(), true, 1.0);
        assert_eq!((wait, session.returned()), (Some(FIRST_WAIT), 1), "it was back meanwhile");
        let text = session.failure(lost());
        assert_eq!(text.as_deref(), Some("lost, not back at try 1: gone"));
        (0..1_000).for_each(|_| assert!(session.next_wait(&lost(), false, 1.0) <= Some(WAIT_MAX)));
    }

    #[test]
    fn session_that_never_had_media_or_was_refused_for_good_is_not_tried_again() {
        let (_phases, mut never) = session();
        assert_eq!(never.next_wait(&lost(), false, 1.0), None);
        assert_eq!(never.failure(lost()).as_deref(), Some("gone"));
        let (_phases, mut session) = session();
        assert!(session.next_wait(&lost(), true, 1.0).is_some());
        let refused = Err(SessionError::Final("POST answered 403 Forbidden".to_owned()));
        assert_eq!(session.next_wait(&refused, false, 1.0), None);
        assert_eq!(session.next_wait(&Ok(()), true, 1.0), None, "the run ended");
    }

    #[test]
    fn server_is_asked_when_it_said_but_not_later_than_after_half_a_minute() {
        let (_phases, mut session) = session();
        for (said_s, waited_s) in [(5, 5), (600, 30)] {
            let retry_after = Some(Duration::from_secs(said_s));
            let busy = Err(SessionError::Lost { reason: "503".to_owned(), retry_after });
            let wait = session.next_wait(&busy, true, 1.0);
            assert_eq!(wait, Some(Duration::from_secs(waited_s) + FIRST_WAIT));
        }
    }

    #[tokio::test]
    async fn end_of_the_run_ends_the_wait() {
        for end in [Phase::Drain, Phase::Stop] {
            let (phases, mut session) = session();
            let busy = SessionError::Lost {
                reason: "503".to_owned(),
                retry_after: Some(Duration::from_secs(30)),
            };
            let (began, error) = (Instant::now(), Err(busy));
            let stop = async {
                tokio::task::yield_now().await;
                phases.send_replace(end);
            };
            let (again, ()) = tokio::join!(session.again(&error, true), stop);
            assert!(!again && began.elapsed() < Duration::from_secs(10));
            assert!(!session.again(&lost(), true).await);
        }
    }
}
