//! Warnings about packets that a session loses here, by a limit or by their size.
//!
//! Owns when each was met last: a warning is shown for a minute after that. Counts nothing, because
//! drops are counted by their reason. Noted by `publisher.rs`, `outbox.rs` and `dispatch.rs`. Next:
//! `warning.rs` for the texts.

use std::time::{Duration, Instant};

use super::warning::Warning;

/// Time for which a warning is shown after the last packet that it is about.
const SHOWN_FOR: Duration = Duration::from_secs(60);

/// Kinds of these warnings: a place each.
const KINDS: usize = 5;

/// Warnings about dropped packets of one session, each code once.
#[derive(Debug, Default)]
pub(super) struct DropWarnings([Option<(Warning, Instant)>; KINDS]);

impl DropWarnings {
    /// Notes that a packet was dropped. Of several sizes the first is told, until the warning is
    /// over.
    pub(super) fn note(&mut self, now: Instant, warning: Warning) {
        let is_same = |place: &Option<(Warning, Instant)>| {
            place.is_some_and(|(known, _)| known.code() == warning.code())
        };
        let is_free =
            |place: &Option<(Warning, Instant)>| place.is_none_or(|(_, last)| is_over(last, now));
        let places = &mut self.0;
        let place = places.iter().position(is_same).or_else(|| places.iter().position(is_free));
        if let Some(place) = place.and_then(|place| places.get_mut(place)) {
            let known = place.filter(|(_, last)| !is_over(*last, now));
            *place = Some((known.map_or(warning, |(known, _)| known), now));
        }
    }

    /// The warnings that are not over.
    pub(super) fn recent(&self, now: Instant) -> impl Iterator<Item = Warning> {
        let recent = self.0.iter().flatten().filter(move |(_, last)| !is_over(*last, now));
        recent.map(|(warning, _)| *warning)
    }
}

fn is_over(last: Instant, now: Instant) -> bool {
    now.saturating_duration_since(last) >= SHOWN_FOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PublisherLimits;

    #[test]
    fn each_code_is_shown_once_until_a_minute_after_its_last_packet() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let rate = Warning::PublisherRate(PublisherLimits::new(20, 4_000));
        let large = |payload_bytes| Warning::TooLargeToSend { payload_bytes };
        let mut warnings = DropWarnings::default();
        let shown = |warnings: &DropWarnings, s| warnings.recent(at(s)).collect::<Vec<_>>();
        assert_eq!(shown(&warnings, 0), []);
        warnings.note(at(0), rate);
        warnings.note(at(1), large(1_448));
        warnings.note(at(2), large(1_460));
        warnings.note(at(3), rate);
        assert_eq!(shown(&warnings, 61), [rate, large(1_448)]);
        assert_eq!(shown(&warnings, 62), [rate]);
        assert_eq!(shown(&warnings, 63), []);
        warnings.note(at(64), Warning::PoolExhausted);
        warnings.note(at(64), large(1_460));
        assert_eq!(shown(&warnings, 64), [Warning::PoolExhausted, large(1_460)]);
        // A place before it is free, and the code has one already.
        warnings.note(at(123), large(1_470));
        warnings.note(at(125), large(1_480));
        assert_eq!(shown(&warnings, 125), [large(1_460)]);
    }
}
