//! DTLS of viewers that are not connected yet, one datagram per turn.
//!
//! A handshake costs half a millisecond, as much as some thousand forwarded packets, so a crowd that joins at once must not
//! stand between a publisher's packet and the viewers that are there already. Part of the hallway:
//! `dispatch` leaves datagrams here, `Worker::handle_timeout` takes one after the media, and the shell has more
//! taken as its time allows. A publisher's handshake does not wait here: its first packets
//! follow at once.

use std::collections::VecDeque;
use std::time::Instant;

use super::Worker;
use super::keys::SessionKey;
use crate::error::DropReason;
use crate::rtp::packet::PacketClass;
use crate::transport::FiveTuple;
use crate::transport::egress::Egress;

/// Datagrams that may wait, of all sessions. One more is dropped (`DropReason::DtlsLimit`); the client
/// repeats its flight.
pub(super) const WAITING_MAX: usize = 2_048;

/// Of one session: some flights of a client that repeats itself. More are dropped alike, so that nobody
/// takes the places of others.
pub(super) const WAITING_PER_SESSION_MAX: u8 = 12;

/// What waits, oldest first.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    key: SessionKey,
    path: FiveTuple,
    datagram: Box<[u8]>,
}

impl Handshakes {
    /// Since when the oldest waits.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.since)
    }
}

impl Worker {
    /// Leaves a datagram for later.
    pub(super) fn postpone_handshake(
        &mut self,
        now: Instant,
        key: SessionKey,
        path: FiveTuple,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let full = self.handshakes.waiting.len() >= WAITING_MAX;
        let session = self.sessions.get_mut(key).ok_or(DropReason::UnvalidatedAddress)?;
        if full || session.handshakes_waiting >= WAITING_PER_SESSION_MAX {
            return Err(DropReason::DtlsLimit);
        }
        session.handshakes_waiting += 1;
        let waiting = Waiting { since: now, key, path, datagram: datagram.into() };
        self.handshakes.waiting.push_back(waiting);
        Ok(())
    }

    /// Takes the oldest. A step takes one, so that a packet of the publisher waits for no more: about a
    /// third of a millisecond.
    pub(super) fn work_off_handshake(&mut self, now: Instant, egress: &mut dyn Egress) {
        let Some(waiting) = self.handshakes.waiting.pop_front() else { return };
        let Waiting { key, path, mut datagram, .. } = waiting;
        if let Some(session) = self.sessions.get_mut(key) {
            session.handshakes_waiting = session.handshakes_waiting.saturating_sub(1);
        }
        let class = PacketClass::Dtls;
        let mut outcome = Ok(());
        self.guarded(now, key, egress, |worker, egress| {
            outcome = worker.session_datagram(now, key, path, class, &mut datagram, egress);
        });
        if let Err(reason) = outcome {
            self.context.report.dropped.count(reason);
        }
    }
}
