//! The egress guard (quality A2.4): looks at every packet that leaves the server for one viewer.
//!
//! The guard sees all sent packets, whether or not the network loses them, and fails at the first
//! violation: a number used twice for different bytes, time that runs back, a frame torn without a
//! gap, a picture number that jumps, a wrong mid, payload type or extension, a sender report beside
//! the media. Where a viewer sets a lower frame rate, a number that is unused though nothing was
//! lost, and a frame of the lowest layer left out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rtc_rtcp::sender_report::SenderReport;
use weir_sfu::codec::{Codec, MediaKind};
use weir_sfu::rtp::ext::ExtKind;
use weir_sfu::sdp::{SubscribePlan, SubscribeTrack};

use super::media::{Stamp, begins_with_sets, is_one_set};
use super::publisher::{ACCESS_UNIT_DELIMITER, RtpHead};

/// Maximum distance of catch-up timestamps, in ticks of 90 kHz: no camera is so fast.
pub(crate) const CATCH_UP_TICKS_MAX: u32 = 100;

/// Bytes on the wire of the smallest packet that may go without extensions: 1,452 without the
/// extensions of a browser and with the shorter SRTP tag.
const EXTS_LEFT_OUT_ABOVE: usize = 1_410;

/// Result of the guard's check of one packet.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Index of the RTP sender (m-section).
    pub sender: usize,
    /// Extended outgoing number of the media stream.
    pub seq: u64,
    pub stamp: Option<Stamp>,
    pub rtx: bool,
    /// Whether it is the same ciphertext again.
    pub resent: bool,
    /// Whether it is a parameter set that the server kept.
    pub kept_set: bool,
    pub head: RtpHead,
    /// Bytes of the packet on the wire.
    pub wire_len: usize,
    /// Payload without RTX or RED, if the guard keeps payloads.
    pub payload: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Guard {
    pub senders: Vec<GuardedSender>,
    /// Whether payloads are passed on to the viewer.
    pub keeps_payloads: bool,
    next_twcc: Option<u16>,
    /// Transport-wide numbers that no packet has.
    pub twcc_gaps: u64,
    /// Whether reports must count exactly what was sent.
    pub counts_in_reports: bool,
    /// Whether media is checked at all.
    pub watches: bool,
    /// Packets on media SSRCs without repeats, by RTX, and repeated as they were.
    pub media: u64,
    pub rtx: u64,
    pub resent: u64,
}

/// Packets that reached the server: serials by source.
pub(crate) struct Reached<'a> {
    pub all: &'a HashMap<u32, HashSet<u64>>,
    /// Packets past the deadline: the server may forward them or not.
    pub late: &'a HashMap<u32, HashSet<u64>>,
    /// Packets of upper temporal layers.
    pub upper: &'a HashMap<u32, HashSet<u64>>,
}

#[derive(Debug)]
pub(crate) struct GuardedSender {
    pub plan: SubscribeTrack,
    /// Whether upper temporal layers may be left out, so that the numbers close over them.
    pub filters_layers: bool,
    packets: BTreeMap<u64, Sent>,
    segments: Vec<Segment>,
    octets: u64,
    next_rtx: Option<u16>,
    rtx_bytes: HashMap<u16, u64>,
    /// Offset of each sender report: its wall time minus capture time of the media it points at, in
    /// ns.
    pub report_offsets: Vec<i64>,
    pub reports: u32,
    /// Runs that began without parameter sets, which H264, H265 and AV1 decoders need.
    pub runs_without_sets: u64,
    /// Time of each sender report by our clock, in ns, less its RTP time in ns: changes of it are
    /// steps of the sender's line.
    pub report_lines: Vec<i64>,
    /// NTP and RTP time of the last sender report.
    last_report: Option<(u64, u32)>,
    /// Last value of each extension.
    pub exts: HashMap<ExtKind, Vec<u8>>,
    /// Sources that reports were checked against; a change of publisher changes the clocks.
    pub report_sources: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Sent {
    timestamp: u32,
    marker: bool,
    ciphertext: u64,
    payload: u64,
    stamp: Option<Stamp>,
    picture: Option<Picture>,
    /// Whether the packet has no payload, or nothing but an access unit delimiter.
    blank: bool,
    /// Whether it is a parameter set that the server kept and sent before a keyframe.
    kept_set: bool,
    /// Whether it holds parameter sets in front of its stamp.
    has_sets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Picture {
    id: u16,
    bits: u8,
    tl0: u8,
}

/// A run of numbers from one source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub source: u32,
    first_seq: u64,
    /// Outgoing number minus serial, where no packet is left out.
    delta: i64,
    pub first_serial: u64,
    pub last_serial: u64,
}

impl Guard {
    pub(crate) fn new(plan: &SubscribePlan) -> Self {
        let senders = plan.tracks.iter().map(|plan| GuardedSender {
            plan: plan.clone(),
            filters_layers: false,
            packets: BTreeMap::new(),
            segments: Vec::new(),
            octets: 0,
            next_rtx: None,
            rtx_bytes: HashMap::new(),
            report_offsets: Vec::new(),
            reports: 0,
            runs_without_sets: 0,
            report_lines: Vec::new(),
            last_report: None,
            exts: HashMap::new(),
            report_sources: Vec::new(),
        });
        Self {
            senders: senders.collect(),
            keeps_payloads: false,
            next_twcc: None,
            twcc_gaps: 0,
            counts_in_reports: true,
            watches: true,
            media: 0,
            rtx: 0,
            resent: 0,
        }
    }

    /// The sender of a kind.
    pub(crate) fn sender(&self, kind: MediaKind) -> &GuardedSender {
        self.senders.iter().find(|sender| sender.plan.kind == kind).expect("such a line")
    }

    /// Checks one RTP packet: as it was on the wire, and opened.
    pub(crate) fn on_rtp(&mut self, wire: &[u8], plaintext: &[u8]) -> Seen {
        let head = RtpHead::of(plaintext);
        assert!(!head.padding, "the server never pads");
        let sender = self
            .senders
            .iter()
            .position(|sender| [sender.plan.ssrc, sender.plan.rtx_ssrc].contains(&head.ssrc))
            .unwrap_or_else(|| panic!("SSRC {} was never promised", head.ssrc));
        let rtx = self.senders[sender].plan.rtx_ssrc == head.ssrc;
        let (mut seen, twcc) = match rtx {
            true => self.senders[sender].on_rtx(sender, wire, plaintext, head),
            false => self.senders[sender].on_media(sender, wire, plaintext, head),
        };
        seen.payload = seen.payload.filter(|_| self.keeps_payloads);
        match (seen.rtx, seen.resent) {
            (_, true) => self.resent += 1,
            (true, _) => self.rtx += 1,
            (false, _) => self.media += 1,
        }
        if let Some(twcc) = twcc.filter(|_| !seen.resent) {
            let ahead = twcc.wrapping_sub(self.next_twcc.unwrap_or(twcc));
            assert!(ahead < 1 << 15, "transport-wide number {twcc} was used before");
            self.twcc_gaps += u64::from(ahead);
            self.next_twcc = Some(twcc.wrapping_add(1));
        }
        seen
    }

    /// Checks opened RTCP: the sender reports in it.
    pub(crate) fn on_rtcp(&mut self, compound: &[u8]) {
        for packet in rtc_rtcp::packet::unmarshal(&mut &compound[..]).expect("their RTCP parses") {
            if let Some(report) = packet.as_any().downcast_ref::<SenderReport>() {
                self.on_sender_report(report);
            }
        }
    }

    fn on_sender_report(&mut self, report: &SenderReport) {
        let sender = self.senders.iter_mut().find(|sender| sender.plan.ssrc == report.ssrc);
        let counts = self.counts_in_reports;
        sender.expect("a report of one of its senders").on_report(report, counts);
    }

    /// Final check: no packet that reached the server inside a run and not too `late` is missing,
    /// and every packet that was sent did reach the server.
    pub(crate) fn finish(&self, reached: &Reached<'_>, complete: bool) {
        assert!(self.twcc_gaps == 0 || !complete, "gaps in the transport-wide numbers");
        let Reached { all: delivered, late, .. } = reached;
        for sender in self.senders.iter().filter(|sender| sender.filters_layers && complete) {
            sender.finish_filtered(reached);
        }
        for sender in self.senders.iter().filter(|sender| !sender.filters_layers) {
            for segment in sender.segments.iter().filter(|_| complete) {
                let Some(reached) = delivered.get(&segment.source) else { continue };
                for serial in segment.first_serial..=segment.last_serial {
                    let out = serial.wrapping_add_signed(segment.delta);
                    let sent = sender.packets.contains_key(&out);
                    let here = reached.contains(&serial);
                    let late = late.get(&segment.source).is_some_and(|late| late.contains(&serial));
                    assert!(
                        !here || sent || late,
                        "{} packet {serial} of source {} reached the server, but not the viewer",
                        sender.plan.mid,
                        segment.source
                    );
                    assert!(here || !sent, "packet {serial} came from nowhere");
                }
            }
        }
    }

    /// Maximum difference between the reports' clock offsets, over all senders, in ms.
    pub(crate) fn report_spread_ms(&self) -> f64 {
        let offsets = || self.senders.iter().flat_map(|sender| &sender.report_offsets);
        let spread = offsets().max().zip(offsets().min()).map_or(0, |(max, min)| max - min);
        spread as f64 / 1e6
    }
}

impl GuardedSender {
    fn video(&self) -> bool {
        self.plan.kind == MediaKind::Video
    }

    pub(crate) fn sent(&self) -> usize {
        self.packets.len()
    }

    /// The runs of numbers so far.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Parameter sets that the server kept and sent before a keyframe.
    pub(crate) fn kept_sets(&self) -> usize {
        self.packets.values().filter(|sent| sent.kept_set).count()
    }

    /// Numbers that were sent without a payload.
    pub(crate) fn blanks(&self) -> usize {
        self.packets.values().filter(|sent| sent.blank).count()
    }

    /// Numbers between the first and the newest that were never sent. The number that stays unused
    /// after a frame that was cut is none of them.
    pub(crate) fn holes(&self) -> Vec<u64> {
        let ends = self.packets.first_key_value().zip(self.packets.last_key_value());
        let all = ends.map_or(0..0, |((first, _), (last, _))| *first..*last);
        let unused = all.filter(|seq| !self.packets.contains_key(seq));
        unused.filter(|seq| !self.segments.iter().any(|run| run.first_seq == seq + 1)).collect()
    }

    /// Packets that were sent, in order: source, serial and payload hash.
    pub(crate) fn contents(&self) -> Vec<(Option<Stamp>, u64)> {
        self.packets.values().map(|sent| (sent.stamp, sent.payload)).collect()
    }

    /// Timestamp and capture time of each frame, in order.
    pub(crate) fn times(&self) -> Vec<(u32, u64)> {
        let stamped = self
            .packets
            .values()
            .filter_map(|sent| Some((sent.timestamp, sent.stamp?.captured_ns)));
        let mut times: Vec<_> = stamped.collect();
        times.dedup();
        times
    }

    /// The newest number.
    pub(crate) fn last_seq(&self) -> Option<u16> {
        self.packets.last_key_value().map(|(seq, _)| *seq as u16)
    }

    pub(crate) fn last_timestamp(&self) -> Option<u32> {
        self.packets.last_key_value().map(|(_, sent)| sent.timestamp)
    }

    fn codec(&self, pt: u8) -> Option<(Codec, bool)> {
        self.plan.codecs.iter().find_map(|codec| match pt {
            _ if codec.pt == pt => Some((codec.format.codec, false)),
            _ if codec.red_pt == Some(pt) => Some((codec.format.codec, true)),
            _ => None,
        })
    }

    /// Checks the mid and that every id was negotiated; returns the transport-wide number. Only a
    /// packet that would be too large with them goes without either.
    fn check_exts(&mut self, head: &RtpHead, wire: &[u8]) -> Option<u16> {
        for (id, data) in &head.exts {
            let kind = self.plan.exts.kind(*id);
            let kind = kind.unwrap_or_else(|| panic!("extension id {id} was not negotiated"));
            assert!(!matches!(kind, ExtKind::Rid | ExtKind::RepairedRid), "no rid to viewers");
            self.exts.insert(kind, data.clone());
        }
        if head.exts.is_empty() && wire.len() > EXTS_LEFT_OUT_ABOVE {
            return None;
        }
        let value = |kind| {
            let id = self.plan.exts.id(kind)?;
            let found = head.exts.iter().find(|(element, _)| *element == id);
            Some(&found.unwrap_or_else(|| panic!("{kind:?} is missing")).1)
        };
        if let Some(mid) = value(ExtKind::Mid) {
            assert_eq!(mid, self.plan.mid.as_bytes(), "the viewer's mid");
        }
        value(ExtKind::TransportCc).map(|data| u16::from_be_bytes([data[0], data[1]]))
    }

    fn on_media(
        &mut self,
        sender: usize,
        wire: &[u8],
        plaintext: &[u8],
        head: RtpHead,
    ) -> (Seen, Option<u16>) {
        let twcc = self.check_exts(&head, wire);
        let (codec, red) = self
            .codec(head.pt)
            .unwrap_or_else(|| panic!("payload type {} was not negotiated", head.pt));
        let mut payload = &plaintext[head.len..];
        if red {
            let inner = self.plan.codecs.iter().find(|c| c.red_pt == Some(head.pt)).expect("found");
            payload = primary(payload, inner.pt);
        }
        let sent = Sent {
            timestamp: head.timestamp,
            marker: head.marker,
            ciphertext: hash(wire),
            payload: hash(payload),
            stamp: Stamp::find(payload),
            picture: if codec == Codec::Vp8 { picture(payload) } else { None },
            blank: payload.is_empty() || payload == ACCESS_UNIT_DELIMITER,
            kept_set: Stamp::find(payload).is_none() && is_one_set(codec, payload),
            has_sets: Stamp::find(payload).is_some() && begins_with_sets(codec, payload),
        };
        let seq = self.extend(head.seq);
        let mut seen = Seen {
            sender,
            seq,
            stamp: sent.stamp,
            rtx: false,
            resent: false,
            kept_set: sent.kept_set,
            head,
            wire_len: wire.len(),
            payload: Some(payload.to_vec()),
        };
        if let Some(before) = self.packets.get(&seq) {
            assert_eq!(before.ciphertext, sent.ciphertext, "number {seq} with different bytes");
            seen.resent = true;
            return (seen, twcc);
        }
        self.check_place(seq, &sent, codec);
        self.check_neighbours(seq, &sent);
        self.octets += (plaintext.len() - seen.head.len) as u64;
        self.packets.insert(seq, sent);
        (seen, twcc)
    }

    /// The extended number nearest to the newest.
    fn extend(&self, seq: u16) -> u64 {
        match self.packets.last_key_value() {
            None => u64::from(seq),
            Some((newest, _)) => {
                let ahead = seq.wrapping_sub(*newest as u16) as i16;
                newest.checked_add_signed(ahead.into()).expect("nothing precedes the first number")
            }
        }
    }

    fn check_place(&mut self, seq: u64, sent: &Sent, codec: Codec) {
        let Some(stamp) = sent.stamp else { return };
        let delta = seq as i64 - stamp.serial as i64;
        // Kept parameter sets and a delimiter go before the first packet of a run.
        let leads = |before: &&Sent| {
            before.kept_set || (before.blank && before.timestamp == sent.timestamp)
        };
        let lead = self.packets.values().rev().take_while(leads).count();
        let newest = self.packets.iter().rev().nth(lead);
        let newest = newest.map(|(seq, sent)| (*seq, sent.clone()));
        // A layer that comes back may by chance continue the numbers of its last run.
        let comes_back = newest.as_ref().is_some_and(|(highest, before)| {
            seq > *highest && before.stamp.is_some_and(|before| before.source != stamp.source)
        });
        let known = match self.filters_layers {
            false => self
                .segments
                .iter()
                .rposition(|segment| segment.source == stamp.source && segment.delta == delta),
            true => self.thinned_run(seq, stamp, delta),
        };
        if let Some(known) = known.filter(|_| !comes_back) {
            let segment = &mut self.segments[known];
            segment.last_serial = segment.last_serial.max(stamp.serial);
            assert!(stamp.serial >= segment.first_serial, "from before the run began");
            self.check_picture_in_segment(seq, stamp, sent);
            return;
        }
        let kept = self.packets.values().next_back().is_some_and(|before| before.kept_set);
        // Kept sets may take the place of a first packet that holds nothing else, and is lost.
        let first = stamp.index == 0 || (stamp.index == 1 && kept);
        let begins = first && (stamp.key || codec.kind() == MediaKind::Audio);
        assert!(begins, "a run begins with {stamp:?}, which is no start of a keyframe");
        if let Some((highest, before)) = newest {
            // A packet without payload ends no frame and begins none.
            let media = |sent: &&Sent| !sent.blank && !sent.kept_set;
            let last = self.packets.values().rev().find(media).unwrap_or(&before);
            let torn = self.video() && !last.marker;
            assert_eq!(
                seq,
                highest + 1 + u64::from(torn) + lead as u64,
                "after {before:?} (torn: {torn}, packets before: {lead}) comes {sent:?}"
            );
            let ahead = sent.timestamp.wrapping_sub(before.timestamp) as i32;
            assert!(ahead > 0, "time went back over the source switch by {ahead}");
            if let Some((old, new)) = before.picture.zip(sent.picture) {
                let bits = old.bits.min(new.bits);
                let next = low(new.id, bits) == low(old.id.wrapping_add(1), bits);
                assert!(next || self.filters_layers, "picture id {} after {}", new.id, old.id);
                assert_eq!(new.tl0, old.tl0.wrapping_add(1), "TL0PICIDX over the source switch");
            }
        }
        let (source, first_serial) = (stamp.source, stamp.serial);
        let last_serial = first_serial;
        let sets = || self.packets.values().rev().take(lead).filter(|before| before.kept_set);
        assert!(sets().all(|set| set.timestamp == sent.timestamp), "sets have the picture's time");
        self.runs_without_sets += u64::from(sets().next().is_none() && !sent.has_sets);
        self.segments.push(Segment { source, first_seq: seq, delta, first_serial, last_serial });
    }

    /// The run of a packet where upper layers may be left out: by its outgoing number, except that
    /// a keyframe which follows the last number may begin a new one.
    fn thinned_run(&self, seq: u64, stamp: Stamp, delta: i64) -> Option<usize> {
        let at = self.segments.iter().rposition(|segment| segment.first_seq <= seq)?;
        let run = &self.segments[at];
        let (highest, newest) = self.packets.last_key_value()?;
        let follows = seq == highest + 1 + u64::from(!newest.marker);
        let begins = follows && stamp.key && stamp.index == 0 && run.delta != delta;
        if begins || (run.source != stamp.source && seq > *highest) {
            return None;
        }
        assert_eq!(run.source, stamp.source, "{stamp:?} among the numbers of another source");
        Some(at)
    }

    /// Checks that each number of a run was used, except for packets that did not reach the server,
    /// and that no packet of the lowest layer was left out.
    fn finish_filtered(&self, reached: &Reached<'_>) {
        let ends = self.segments.iter().skip(1).map(|next| next.first_seq).chain([u64::MAX]);
        for (run, end) in self.segments.iter().zip(ends) {
            let holds = |set: &HashMap<u32, HashSet<u64>>, serial: u64| {
                set.get(&run.source).is_some_and(|serials| serials.contains(&serial))
            };
            let mut last: Option<(u64, u64)> = None;
            let mut blanks = 0;
            for (seq, sent) in self.packets.range(run.first_seq..end) {
                let Some(Stamp { serial, .. }) = sent.stamp else {
                    assert!(sent.blank, "{sent:?}");
                    blanks += 1;
                    continue;
                };
                assert!(holds(reached.all, serial), "packet {serial} came from nowhere");
                if let Some((before, serial_before)) = last.replace((*seq, serial)) {
                    let unused = seq - before - 1 - blanks;
                    // A viewer that returns to a layer gets the same packets again, in its new run.
                    let again = |serial| {
                        self.segments.iter().any(|other| {
                            (other.source, other.first_seq > run.first_seq) == (run.source, true)
                                && (other.first_serial..=other.last_serial).contains(&serial)
                        })
                    };
                    let came = |serial| {
                        holds(reached.all, serial) && !holds(reached.late, serial) && !again(serial)
                    };
                    let between = serial_before + 1..serial;
                    let missing = between.clone().filter(|serial| !came(*serial)).count() as u64;
                    assert!(unused <= missing, "{unused} numbers unused before {seq}: {sent:?}");
                    let lowest = between.clone().find(|s| came(*s) && !holds(reached.upper, *s));
                    assert_eq!(lowest, None, "left out of the lowest layer of {}", run.source);
                }
                blanks = 0;
            }
        }
    }

    /// Picture numbers move with the source's frames; those that are left out have none.
    fn check_picture_in_segment(&self, seq: u64, stamp: Stamp, sent: &Sent) {
        let Some(picture) = sent.picture else { return };
        let of_source = |before: &Sent| {
            let other = before.stamp.filter(|other| other.source == stamp.source)?;
            Some((other, before.picture?))
        };
        let reference = match self.filters_layers {
            false => self.packets.values().rev().find_map(of_source),
            true => self.packets.range(..seq).rev().find_map(|(_, before)| of_source(before)),
        };
        let Some((other, before)) = reference else { return };
        let frames = stamp.frame.wrapping_sub(other.frame);
        let ahead = low(picture.id.wrapping_sub(before.id), picture.bits);
        let right = match self.filters_layers {
            true if frames > 0 => (1..=frames).contains(&ahead.into()),
            _ => ahead == low(frames as u16, picture.bits),
        };
        assert!(right, "picture id {} of {stamp:?} after {} of {other:?}", picture.id, before.id);
        let bases = stamp.layer_position.bases.wrapping_sub(other.layer_position.bases) as u8;
        assert_eq!(picture.tl0, before.tl0.wrapping_add(bases), "TL0PICIDX of {stamp:?}");
    }

    fn check_neighbours(&self, seq: u64, sent: &Sent) {
        let before = self.packets.range(..seq).next_back();
        let after = self.packets.range(seq + 1..).next();
        for (earlier, later) in [(before, Some((&seq, sent))), (Some((&seq, sent)), after)] {
            let Some(((first, a), (second, b))) = earlier.zip(later) else { continue };
            let ahead = b.timestamp.wrapping_sub(a.timestamp) as i32;
            assert!(ahead >= 0, "time went back by {ahead} from {first} to {second}: {a:?} {b:?}");
            if let Some((a, b)) = a.stamp.zip(b.stamp).filter(|_| self.filters_layers) {
                assert!(a.source != b.source || a.serial < b.serial, "order: {a:?} {b:?}");
            }
            if self.video() && first + 1 == *second && !a.blank && !b.blank {
                let same = a.timestamp == b.timestamp;
                assert_ne!(
                    a.marker, same,
                    "a frame is one timestamp up to its marker: {a:?} {b:?}"
                );
            }
        }
    }

    fn on_rtx(
        &mut self,
        sender: usize,
        wire: &[u8],
        plaintext: &[u8],
        head: RtpHead,
    ) -> (Seen, Option<u16>) {
        let twcc = self.check_exts(&head, wire);
        let rtx_pts: Vec<_> = self.plan.codecs.iter().filter_map(|codec| codec.rtx_pt).collect();
        assert!(rtx_pts.contains(&head.pt), "RTX payload type {}", head.pt);
        let first = self.rtx_bytes.insert(head.seq, hash(wire)).is_none();
        assert!(first, "RTX number {} twice", head.seq);
        let expected = self.next_rtx.unwrap_or(head.seq);
        assert_eq!(head.seq, expected, "RTX numbers have no gaps");
        self.next_rtx = Some(head.seq.wrapping_add(1));
        let original = plaintext.get(head.len..head.len + 2).expect("an original number");
        let seq = self.extend(u16::from_be_bytes([original[0], original[1]]));
        let before = self.packets.get(&seq).expect("retransmits what was sent");
        let payload = &plaintext[head.len + 2..];
        assert_eq!(before.payload, hash(payload), "the same payload again");
        assert_eq!((before.timestamp, before.marker), (head.timestamp, head.marker));
        let (stamp, kept_set) = (before.stamp, before.kept_set);
        let seen = Seen {
            sender,
            seq,
            stamp,
            rtx: true,
            resent: false,
            kept_set,
            head,
            wire_len: wire.len(),
            payload: Some(payload.to_vec()),
        };
        (seen, twcc)
    }

    fn on_report(&mut self, report: &SenderReport, counts: bool) {
        self.reports += 1;
        let rate = f64::from(self.plan.codecs[0].format.codec.clock_rate());
        let now = (report.ntp_time, report.rtp_time);
        if let Some((ntp, rtp)) = self.last_report.replace(now) {
            let passed = ntp_to_ns(report.ntp_time) - ntp_to_ns(ntp);
            let ticks = f64::from(report.rtp_time.wrapping_sub(rtp) as i32);
            let line = self.report_lines.last().unwrap_or(&0);
            self.report_lines.push(line + passed - (ticks / rate * 1e9) as i64);
        }
        if counts {
            assert_eq!(report.packet_count, self.packets.len() as u32, "packets in the report");
            assert_eq!(report.octet_count, self.octets as u32, "octets in the report");
        }
        let Some((_, last)) = self.packets.last_key_value() else {
            assert!(!counts, "a report before any packet");
            return;
        };
        let Some(stamp) = last.stamp else { return };
        // A catch-up timestamp says nothing of the clock.
        let mut before =
            self.packets.values().rev().filter(|sent| sent.timestamp != last.timestamp);
        let step = before.next().map(|sent| last.timestamp.wrapping_sub(sent.timestamp));
        if self.video() && step.is_none_or(|step| step <= CATCH_UP_TICKS_MAX) {
            return;
        }
        let since = f64::from(report.rtp_time.wrapping_sub(last.timestamp) as i32) / rate * 1e9;
        let pointed_at = stamp.captured_ns as i64 + since as i64;
        self.report_offsets.push(ntp_to_ns(report.ntp_time) - pointed_at);
        if self.report_sources.last() != Some(&stamp.source) {
            self.report_sources.push(stamp.source);
        }
    }
}

/// NTP to ns since an arbitrary recent second.
fn ntp_to_ns(ntp: u64) -> i64 {
    const BASE_S: i64 = 2_208_988_800 + 1_700_000_000;
    let seconds = (ntp >> 32) as i64 - BASE_S;
    let fraction = ((u128::from(ntp & 0xffff_ffff) * 1_000_000_000) >> 32) as i64;
    seconds * 1_000_000_000 + fraction
}

/// VP8 picture numbers of a payload that the model wrote (all of I, L, T present, or none).
fn picture(payload: &[u8]) -> Option<Picture> {
    if *payload.first()? & 0x80 == 0 || *payload.get(1)? & 0xc0 != 0xc0 {
        return None;
    }
    let first = *payload.get(2)?;
    let (id, bits, at) = match first & 0x80 {
        0 => (u16::from(first), 7, 3),
        _ => (u16::from_be_bytes([first & 0x7f, *payload.get(3)?]), 15, 4),
    };
    Some(Picture { id, bits, tl0: *payload.get(at)? })
}

/// The last block of RED (RFC 2198), all of whose blocks are of this payload type.
fn primary(payload: &[u8], pt: u8) -> &[u8] {
    let (mut at, mut old) = (0, 0);
    while payload[at] & 0x80 != 0 {
        assert_eq!(payload[at] & 0x7f, pt, "payload type of an old block");
        old += usize::from(u16::from_be_bytes([payload[at + 2], payload[at + 3]]) & 0x3ff);
        at += 4;
    }
    assert_eq!(payload[at], pt, "payload type of the primary block");
    &payload[at + 1 + old..]
}

fn low(id: u16, bits: u8) -> u16 {
    id & ((1u32 << bits) - 1) as u16
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
