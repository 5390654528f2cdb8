//! DTLS of viewers that are not connected yet, a few datagrams per turn.
//!
//! A handshake costs as much as some thousand forwarded packets, so a crowd that joins at once must not
//! stand between a publisher's packet and the viewers that are there already. Part of the hallway:
//! `dispatch` leaves datagrams here, `Worker::flush` works them off after the media. A publisher's
//! handshake does not wait here: its first packets follow at once.

use std::collections::VecDeque;
use std::time::Instant;

use super::Worker;
use super::session::SessionKey;
use crate::error::DropReason;
use crate::rtp::packet::PacketClass;
use crate::transport::Path;
use crate::transport::egress::Egress;

/// Datagrams that may wait, of all sessions. One more is dropped (`DropReason::DtlsLimit`); the client
/// repeats its flight.
pub(super) const WAITING_MAX: usize = 2_048;

/// Datagrams taken per turn that also forwarded media: about a millisecond.
const PER_BUSY_TURN: usize = 1;

/// Datagrams taken per turn without media.
const PER_IDLE_TURN: usize = 8;

/// What waits, oldest first.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    key: SessionKey,
    path: Path,
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
        path: Path,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        if self.handshakes.waiting.len() >= WAITING_MAX {
            return Err(DropReason::DtlsLimit);
        }
        let waiting = Waiting { since: now, key, path, datagram: datagram.into() };
        self.handshakes.waiting.push_back(waiting);
        Ok(())
    }

    /// Takes this turn's share.
    pub(super) fn work_off_handshakes(
        &mut self,
        now: Instant,
        served_media: bool,
        egress: &mut dyn Egress,
    ) {
        let share = if served_media { PER_BUSY_TURN } else { PER_IDLE_TURN };
        for _ in 0..share {
            let Some(waiting) = self.handshakes.waiting.pop_front() else { return };
            let Waiting { key, path, mut datagram, .. } = waiting;
            let mut outcome = Ok(());
            self.guarded(now, key, egress, |worker, egress| {
                outcome = worker.session_datagram(
                    now,
                    key,
                    path,
                    PacketClass::Dtls,
                    &mut datagram,
                    egress,
                );
            });
            if let Err(reason) = outcome {
                self.context.report.dropped.count(reason);
            }
        }
    }
}
