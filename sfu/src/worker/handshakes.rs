//! Queue of DTLS datagrams of viewers that are not connected yet; one is handled per step.
//!
//! A handshake costs half a millisecond, as much as some thousand forwarded packets. So a join
//! storm must not stand between a publisher's packet and connected viewers. Part of the worker's
//! top layer: `dispatch` queues datagrams here, and `Worker::handle_timeout` handles one after the
//! media. The shell calls it more often as time allows. A publisher's handshake does not wait here:
//! its first packets follow at once.

use std::collections::VecDeque;
use std::time::Instant;

use super::Worker;
use super::keys::SessionKey;
use crate::error::DropReason;
use crate::rtp::packet::PacketClass;
use crate::transport::FiveTuple;
use crate::transport::egress::Egress;

/// Maximum queued datagrams of all sessions. Above it one is dropped (`DropReason::DtlsLimit`), and
/// the client retransmits its flight.
pub(super) const WAITING_MAX: usize = 2_048;

/// Maximum queued datagrams of one session: some flights of a client that retransmits. Above it
/// they are dropped alike, so that one session cannot fill the queue.
pub(super) const WAITING_PER_SESSION_MAX: u8 = 12;

/// Queued datagrams, oldest first.
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
    /// Time since which the oldest datagram waits.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.since)
    }
}

impl Worker {
    /// Queues a datagram for a later turn.
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

    /// Handles the oldest datagram. A step handles one, so that a publisher's packet waits for no
    /// more than about a third of a millisecond.
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
