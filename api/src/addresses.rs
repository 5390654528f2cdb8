//! Addresses that answers offer while the server runs: they follow the addresses of the machine.
//!
//! Owns what is offered now and what was offered until a moment ago. Which addresses are worth
//! offering is decided in `advertise.rs` and `config.rs`. Called before each answer and each look
//! at `/readyz`, once a second by `main.rs`, and on SIGHUP.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_sfu::net::Sfu;

use crate::advertise::{CANDIDATES_MAX, Interface};
use crate::config::Config;

/// Time for which an address that is gone is still offered, after the others: DHCP and Wi-Fi take
/// an address away for a moment, and a client goes on checking for some seconds.
const LEFT_OFFERED: Duration = Duration::from_secs(10);

/// Interval between two looks at the interfaces, in durations of the last look: however many
/// requests come and interfaces there are, looking takes a twentieth of a core at most. A look at
/// four interfaces takes about 0.1 ms, so the next answer names an address that is 2 ms old.
const LOOK_SHARE: u32 = 20;

/// Shortest interval between two logged failures to list the interfaces.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Function that lists the addresses of this machine.
pub type List = fn() -> io::Result<Vec<Interface>>;

/// Addresses that answers offer.
#[derive(Debug)]
pub struct Addresses {
    /// `None` where they do not change: in tests that bind media to one address.
    list: Option<List>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    offered: Offered,
    next_look: Option<Instant>,
    logged: Option<Instant>,
}

impl Addresses {
    /// Addresses that stay as the media plane was given them.
    pub fn fixed() -> Self {
        Self { list: None, state: Mutex::default() }
    }

    /// Addresses that follow what `list` says.
    pub fn following(list: List) -> Self {
        Self { list: Some(list), state: Mutex::default() }
    }

    /// Gives the media plane the addresses of now, unless that was done a moment ago.
    pub fn refresh(&self, sfu: &Sfu, config: &Config) {
        self.look(sfu, config, false);
    }

    /// Gives the media plane the addresses of now, after a change of the configuration.
    pub fn refresh_at_once(&self, sfu: &Sfu, config: &Config) {
        self.look(sfu, config, true);
    }

    fn look(&self, sfu: &Sfu, config: &Config, at_once: bool) {
        let Some(list) = self.list else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        if !at_once && state.next_look.is_some_and(|at| begun < at) {
            return;
        }
        let listed = list();
        let now = Instant::now();
        let cost = now.saturating_duration_since(begun);
        state.next_look = Some(now + cost * LOOK_SHARE);
        match listed {
            Ok(interfaces) => {
                let current = config.candidates(&interfaces);
                if state.offered.update(current, now) {
                    sfu.operations().set_candidates(&state.offered.candidates());
                }
            }
            Err(error) => {
                let due = |at| now.saturating_duration_since(at) >= LOG_INTERVAL;
                if state.logged.is_none_or(due) {
                    state.logged = Some(now);
                    tracing::warn!(%error, "the addresses of this machine cannot be listed");
                }
            }
        }
    }
}

/// What is offered now, and since when the rest is gone.
#[derive(Debug, Default)]
struct Offered {
    current: Option<Vec<SocketAddr>>,
    /// Addresses that are gone and still offered, the latest first.
    left: Vec<(SocketAddr, Instant)>,
}

impl Offered {
    /// Takes the addresses of now. True if answers must change.
    fn update(&mut self, current: Vec<SocketAddr>, now: Instant) -> bool {
        let before = self.candidates();
        let is_first = self.current.is_none();
        let old = self.current.replace(current).unwrap_or_default();
        let current = self.current.as_deref().unwrap_or_default();
        if is_first || old != current {
            report(is_first, &old, current);
        }
        let gone = old.into_iter().map(|addr| (addr, now));
        self.left.splice(..0, gone);
        self.left.retain(|(addr, since)| {
            !current.contains(addr) && now.saturating_duration_since(*since) < LEFT_OFFERED
        });
        self.left.truncate(CANDIDATES_MAX);
        is_first || self.candidates() != before
    }

    /// All that answers offer: the addresses of now, then those that are gone.
    fn candidates(&self) -> Vec<SocketAddr> {
        let current = self.current.iter().flatten();
        let left = self.left.iter().map(|(addr, _)| addr);
        current.chain(left).copied().take(CANDIDATES_MAX).collect()
    }
}

/// Tells the operator which addresses clients are offered now.
fn report(is_first: bool, old: &[SocketAddr], current: &[SocketAddr]) {
    let text = |addresses: &[SocketAddr]| {
        let texts: Vec<_> = addresses.iter().map(|addr| addr.ip().to_string()).collect();
        if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
    };
    let (before, now) = (text(old), text(current));
    match (is_first, current.is_empty()) {
        (_, true) => tracing::warn!(
            before,
            "this machine has no address that other machines can reach: new sessions are refused \
             with 503 until an interface has one; or give --advertise ADDR"
        ),
        (true, false) => tracing::info!(addresses = now, "clients are told to send media here"),
        (false, false) => {
            tracing::info!(before, now, "the addresses that clients send media to have changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| format!("{text}:8189").parse().unwrap()).collect()
    }

    #[test]
    fn new_address_comes_first_at_once_and_the_old_one_stays_for_ten_seconds() {
        let start = Instant::now();
        let mut offered = Offered::default();
        assert!(offered.update(addrs(&["10.0.0.1", "127.0.0.1"]), start));
        assert!(!offered.update(addrs(&["10.0.0.1", "127.0.0.1"]), start));
        assert!(offered.update(addrs(&["10.0.0.2", "127.0.0.1"]), start));
        assert_eq!(offered.candidates(), addrs(&["10.0.0.2", "127.0.0.1", "10.0.0.1"]));
        let just_before = start + LEFT_OFFERED - Duration::from_millis(1);
        assert!(!offered.update(addrs(&["10.0.0.2", "127.0.0.1"]), just_before));
        assert!(offered.update(addrs(&["10.0.0.2", "127.0.0.1"]), start + LEFT_OFFERED));
        assert_eq!(offered.candidates(), addrs(&["10.0.0.2", "127.0.0.1"]));
    }

    #[test]
    fn address_that_comes_back_is_offered_in_its_place() {
        let start = Instant::now();
        let mut offered = Offered::default();
        offered.update(addrs(&["10.0.0.1", "10.0.0.2"]), start);
        offered.update(addrs(&["10.0.0.2"]), start);
        assert_eq!(offered.candidates(), addrs(&["10.0.0.2", "10.0.0.1"]));
        assert!(offered.update(addrs(&["10.0.0.1", "10.0.0.2"]), start));
        assert_eq!(offered.candidates(), addrs(&["10.0.0.1", "10.0.0.2"]));
        let later = start + LEFT_OFFERED * 2;
        assert!(!offered.update(addrs(&["10.0.0.1", "10.0.0.2"]), later));
    }

    #[test]
    fn machine_without_address_offers_nothing_after_ten_seconds() {
        let start = Instant::now();
        let mut offered = Offered::default();
        assert!(offered.update(Vec::new(), start), "the media plane must know it");
        assert!(offered.candidates().is_empty());
        assert!(offered.update(addrs(&["10.0.0.1"]), start));
        assert!(!offered.update(Vec::new(), start), "it may come back");
        assert!(offered.update(Vec::new(), start + LEFT_OFFERED));
        assert!(offered.candidates().is_empty());
    }

    #[test]
    fn candidates_end_at_the_maximum_whatever_changes() {
        let start = Instant::now();
        let mut offered = Offered::default();
        for round in 0..5 {
            let texts: Vec<_> = (0..6).map(|n| format!("10.0.{round}.{n}")).collect();
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            offered.update(addrs(&texts), start);
            assert!(offered.left.len() <= CANDIDATES_MAX);
            let candidates = offered.candidates();
            assert!(candidates.len() <= CANDIDATES_MAX);
            assert_eq!(candidates[..6], addrs(&texts));
        }
        assert_eq!(offered.candidates()[6..], addrs(&["10.0.3.0", "10.0.3.1"]));
    }
}
