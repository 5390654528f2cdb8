//! Outbox: send path of one viewer, which seals, counts and batches every media, RTX and RTCP
//! packet.
//!
//! A packet gets its transport-wide number when it is sealed; its send time is that of the visit.
//! An [`Outbox`] is opened for one visit of a viewer and closed with [`Outbox::finish`], which
//! sends the last message. A pacer, the history of sent packets for the estimator, and probes
//! attach here. Never decides what is sent: that is `subscription.rs`. Next: `batch.rs` (the
//! message), `transport/peer.rs` (the seal).

use std::time::Instant;

use super::batch::{Batch, Envelope};
use super::context::Context;
use super::drop_warnings::DropWarnings;
use super::warning::Warning;
use crate::error::DropReason;
use crate::forward::{Numbered, Plaintext, RtpSender, SendTime, SentRecord};
use crate::media::Packet;
use crate::transport::egress::{Egress, TransmitClass};
use crate::transport::peer::Peer;

/// State of a viewer's send path between visits.
#[derive(Debug, Default)]
pub(super) struct SendState {
    /// Next transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01). It is
    /// used up when a packet leaves with it: a receiver reports every other number as lost.
    next_twcc: u16,
    /// What is wrong with the path to this viewer. Boxed, because few have anything.
    dropped: Option<Box<DropWarnings>>,
}

impl SendState {
    /// The warnings for the API.
    pub(super) fn warnings(&self, now: Instant) -> impl Iterator<Item = Warning> {
        self.dropped.iter().flat_map(move |dropped| dropped.recent(now))
    }
}

/// The send path during one visit.
pub(super) struct Outbox<'a> {
    /// Time of the visit.
    pub now: Instant,
    /// The same, as records of sent packets hold it.
    sent_at: SendTime,
    /// State that the worker's sessions share.
    pub context: &'a mut Context,
    to: Envelope,
    datagram_bytes_max: usize,
    /// Whether the peer has answered from this path, so that any number of bytes may be sent.
    confirmed: bool,
    peer: &'a mut Peer,
    state: &'a mut SendState,
    batch: &'a mut Batch,
    egress: &'a mut dyn Egress,
    packets: u64,
    bytes: u64,
}

impl<'a> Outbox<'a> {
    /// Opens the send path; `None` while no path is selected.
    pub(super) fn open(
        now: Instant,
        class: TransmitClass,
        (peer, state): (&'a mut Peer, &'a mut SendState),
        (batch, context): (&'a mut Batch, &'a mut Context),
        egress: &'a mut dyn Egress,
    ) -> Option<Self> {
        let to = Envelope { path: peer.selected()?, class };
        let confirmed = peer.is_confirmed();
        Some(Self {
            now,
            sent_at: SendTime::since(context.clock.instant, now),
            context,
            to,
            datagram_bytes_max: to.path.datagram_bytes_max(),
            confirmed,
            peer,
            state,
            batch,
            egress,
            packets: 0,
            bytes: 0,
        })
    }

    /// Whether any number of bytes may be sent. Media waits for it, because a start that is cut off
    /// inside its keyframe is worse than none.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Send time of packets that are sent now.
    pub(super) fn sent_at(&self) -> SendTime {
        self.sent_at
    }

    /// Round-trip time of our own connectivity checks.
    pub(super) fn check_rtt(&self) -> Option<std::time::Duration> {
        self.peer.check_rtt()
    }

    /// Counts packets that are not sent.
    pub(super) fn count_dropped(&mut self, reason: DropReason, packets: usize) {
        self.context.report.dropped.add(reason, packets as u64);
    }

    /// Sends a packet for the first time. `arrived` is its arrival time, if it is forwarded live.
    ///
    /// # Errors
    ///
    /// The reason why it was not sent, which is counted already.
    #[inline(always)]
    pub(super) fn media(
        &mut self,
        sender: &mut RtpSender,
        numbered: Numbered,
        packet: &Packet,
        arrived: Option<Instant>,
    ) -> Result<(), DropReason> {
        let record = numbered.stamp(self.state.next_twcc);
        let written = sender.write_media(&record, packet, self.batch.slot());
        let (octets, counts) = measures(&written);
        let sealed = written.and_then(|plaintext| self.peer.seal(plaintext));
        // Without keys the viewer is not connected, and its packets do not come here.
        self.post(sealed, DropReason::NoKeys, arrived).inspect_err(|reason| {
            self.on_dropped(*reason, octets);
        })?;
        self.state.next_twcc = self.state.next_twcc.wrapping_add(counts);
        sender.on_sent(self.sent_at, record, octets);
        Ok(())
    }

    /// Counts a packet that is not sent. One that is too large for its path is told to the operator.
    #[cold]
    fn on_dropped(&mut self, reason: DropReason, payload_bytes: usize) {
        self.count_dropped(reason, 1);
        if reason == DropReason::TooLargeToSend {
            let warning = Warning::TooLargeToSend { payload_bytes };
            self.state.dropped.get_or_insert_default().note(self.now, warning);
        }
    }

    /// Retransmits a packet, by RTX (RFC 4588) or as the same bytes under its own number. Returns
    /// its payload octets, or `None` if it was not sent.
    pub(super) fn retransmit(
        &mut self,
        sender: &mut RtpSender,
        record: &SentRecord,
        packet: &Packet,
    ) -> Option<usize> {
        // The RTX payload type stands for the bare codec: a receiver would take RED for it (RFC
        // 4588 section 8.1).
        let red = packet.meta().is_some_and(|meta| meta.red);
        let rtx = sender
            .format()
            .is_some_and(|format| format.rtx_pt.is_some() && !(red && format.red_pt.is_some()));
        if rtx {
            let twcc = self.state.next_twcc;
            let written = sender.write_rtx(record, packet, twcc, self.batch.slot());
            let (octets, counts) = measures(&written);
            let sealed = written.and_then(|plaintext| self.peer.seal(plaintext));
            match self.post(sealed, DropReason::RepairExpired, None) {
                Ok(()) => {
                    self.state.next_twcc = twcc.wrapping_add(counts);
                    self.context.report.retransmits_out += 1;
                    return Some(octets);
                }
                // The two bytes of RTX are too much for the path (RFC 4588 section 4). The packet
                // itself was not.
                Err(DropReason::TooLargeToSend) => {}
                Err(reason) => {
                    self.count_dropped(reason, 1);
                    return None;
                }
            }
        }
        let written = sender.write_media(record, packet, self.batch.slot());
        let (octets, _) = measures(&written);
        let sealed = written.and_then(|plaintext| self.peer.seal(plaintext));
        // A record whose segment is forgotten cannot be written as it was.
        if let Err(reason) = self.post(sealed, DropReason::RepairExpired, None) {
            self.count_dropped(reason, 1);
            return None;
        }
        self.context.report.retransmits_out += 1;
        Some(octets)
    }

    /// Sends RTCP of at most `bytes_max` bytes, which `write` puts into the given buffer.
    pub(super) fn rtcp(
        &mut self,
        ssrc: u32,
        bytes_max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let slot = self.batch.slot();
        let len = write(slot.get_mut(..bytes_max).unwrap_or(&mut []));
        match self.peer.seal_rtcp(slot, len, ssrc) {
            None => self.count_dropped(DropReason::NoKeys, 1),
            Some(bytes) if !self.reserve(bytes) => {
                self.count_dropped(DropReason::UnconfirmedEgress, 1)
            }
            Some(bytes) => self.put(bytes, None),
        }
    }

    /// Puts the sealed packet in the batch's slot on its way.
    ///
    /// # Errors
    ///
    /// The reason why not: `unsealed` if it was not written or sealed. The caller counts it.
    #[inline]
    fn post(
        &mut self,
        sealed: Option<usize>,
        unsealed: DropReason,
        arrived: Option<Instant>,
    ) -> Result<(), DropReason> {
        match sealed {
            None => Err(unsealed),
            Some(bytes) if bytes > self.datagram_bytes_max => Err(DropReason::TooLargeToSend),
            Some(bytes) if !self.reserve(bytes) => Err(DropReason::UnconfirmedEgress),
            Some(bytes) => {
                self.packets += 1;
                self.bytes += bytes as u64;
                self.put(bytes, arrived);
                Ok(())
            }
        }
    }

    /// Puts the sealed packet into the viewer's message, and sends the message that is complete.
    #[inline]
    fn put(&mut self, bytes: usize, arrived: Option<Instant>) {
        if let Some(message) = self.batch.add(bytes, arrived) {
            self.egress.send(message.to(self.to));
        }
    }

    /// Whether so many bytes may be sent to the path now (rule of 3 times, architecture D3); counts
    /// them if so.
    #[inline]
    fn reserve(&mut self, bytes: usize) -> bool {
        self.confirmed || self.peer.reserve(bytes)
    }

    /// Sends the last message.
    pub(super) fn finish(self) {
        if let Some(message) = self.batch.take() {
            self.egress.send(message.to(self.to));
        }
        self.context.report.packets_out += self.packets;
        self.context.report.bytes_out += self.bytes;
    }
}

/// Payload octets of a packet that was written, and how many transport-wide numbers it carries.
#[inline]
fn measures(written: &Option<Plaintext<'_>>) -> (usize, u16) {
    let measure = |plaintext: &Plaintext<'_>| (plaintext.payload_len(), plaintext.is_full.into());
    written.as_ref().map_or((0, 0), measure)
}
