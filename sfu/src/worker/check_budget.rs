//! What this worker does for STUN that no session of its own is named in.
//!
//! Owns the limits per second. Knows no session and no address map. Called by `dispatch.rs`; what
//! each user fragment has of its own stands in `lobby.rs`.

use std::net::IpAddr;
use std::time::Instant;

use crate::limiter::{NetworkLimits, PerSecondLimit};

/// Checks of other workers' sessions that are verified per second beyond what each user fragment
/// has of its own, and plain Binding requests answered per second (quality B2). More are dropped
/// (`DropReason::StunRateLimited`, `DropReason::PlainStunLimited`). Unknown ufrags do not count.
pub(super) const SHARED_PER_SECOND: u32 = 5_000;

/// Checks with a known user fragment and a wrong password per second and client network. Above that
/// the network has no part in the shared budget, only in those of the user fragments.
pub(super) const FORGED_PER_NETWORK: u32 = 20;

/// Plain Binding requests answered per second and client network: an answer is up to 24 bytes longer
/// than its request, and this is all that one forged source address can be sent.
pub(super) const PLAIN_PER_NETWORK: u32 = 50;

/// Slots of the limits per network.
const NETWORK_SLOTS: usize = 4_096;

/// Budgets of one worker.
#[derive(Debug)]
pub(super) struct CheckBudget {
    shared: PerSecondLimit,
    forged: NetworkLimits,
    plain: PerSecondLimit,
    plain_of: NetworkLimits,
}

impl Default for CheckBudget {
    fn default() -> Self {
        Self {
            shared: PerSecondLimit::per_second(SHARED_PER_SECOND),
            forged: NetworkLimits::new(NETWORK_SLOTS, FORGED_PER_NETWORK),
            plain: PerSecondLimit::per_second(SHARED_PER_SECOND),
            plain_of: NetworkLimits::new(NETWORK_SLOTS, PLAIN_PER_NETWORK),
        }
    }
}

impl CheckBudget {
    /// Whether one more check may be verified that is beyond the budget of its user fragment.
    pub(super) fn allow_shared(&mut self, now: Instant, source: IpAddr) -> bool {
        !self.forged.is_spent(now, source) && self.shared.take(now)
    }

    /// Charges a wrong password to its source.
    pub(super) fn charge_forged(&mut self, now: Instant, source: IpAddr) {
        self.forged.take(now, source);
    }

    /// Whether one more plain Binding request may be answered.
    pub(super) fn allow_plain(&mut self, now: Instant, source: IpAddr) -> bool {
        self.plain_of.take(now, source) && self.plain.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_checks_are_charged_to_their_network_and_leave_the_others_alone() {
        let (mut budget, now) = (CheckBudget::default(), Instant::now());
        let [forger, honest] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        for _ in 0..FORGED_PER_NETWORK {
            assert!(budget.allow_shared(now, forger));
            budget.charge_forged(now, forger);
        }
        assert!(!budget.allow_shared(now, forger));
        let left = (0..SHARED_PER_SECOND).filter(|_| budget.allow_shared(now, honest)).count();
        assert_eq!(left as u32, SHARED_PER_SECOND - FORGED_PER_NETWORK);
        assert!(!budget.allow_shared(now, honest), "one past the limit");
    }

    #[test]
    fn plain_requests_are_limited_per_network_and_in_total() {
        let (mut budget, now) = (CheckBudget::default(), Instant::now());
        let ip = |n: u32| IpAddr::from(n.to_be_bytes());
        let answered = |budget: &mut CheckBudget, n| {
            (0..100).filter(|_| budget.allow_plain(now, ip(n))).count() as u32
        };
        assert_eq!(answered(&mut budget, 1), PLAIN_PER_NETWORK);
        let all: u32 = (2..2_000).map(|n| answered(&mut budget, n)).sum();
        assert_eq!(all + PLAIN_PER_NETWORK, SHARED_PER_SECOND);
    }
}
