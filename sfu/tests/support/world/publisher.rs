//! A publisher: encoders with real descriptors, sender reports, responses to NACK and PLI.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc_rtcp::packet::Packet;
use rtc_rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
use rtc_rtp::header::Header;
use rtc_shared::marshal::Marshal;
use weir_sfu::codec::MediaKind;
use weir_sfu::rtp::ext::ExtKind;
use weir_sfu::sdp::{DeclaredSsrc, PublishPlan, PublishTrack};

use super::described;
use super::link::{Link, Note};
use super::media::{LayerPosition, Picture, Stamp, payload, stated_sets};
use super::spec::{PublishTrackSpec, PublisherSpec, ReportStyle, SetsMode, ext_map, format};

/// An access unit delimiter of H264 with any type of slice.
pub(crate) const ACCESS_UNIT_DELIMITER: [u8; 2] = [0x09, 0xf0];

/// First byte of an H264 slice behind its NAL unit header: macroblock 0, and the type I, B or P.
fn slice_header(key: bool, b: bool) -> u8 {
    match (key, b) {
        (true, _) => 0x88,
        (false, true) => 0x9e,
        (false, false) => 0x9a,
    }
}

/// Packets that an encoder keeps for retransmission.
const KEPT: usize = 1_000;

/// Feedback that the publisher received.
#[derive(Debug, Default)]
pub(crate) struct Feedback {
    /// Times when a keyframe was requested, by SSRC.
    pub keyframe_requests: Vec<(Instant, u32)>,
    pub firs: u32,
    /// Every number that was requested by NACK.
    pub nacked: Vec<(Instant, u32, u16)>,
    pub rembs: Vec<(f32, Vec<u32>)>,
    pub twcc_packets: u32,
    /// Transport-wide numbers reported as received, and as missing.
    pub twcc_received: u64,
    pub twcc_missing: u64,
    pub reports: Vec<ReceptionReport>,
}

pub(crate) struct Publisher {
    pub spec: PublisherSpec,
    pub tracks: Vec<Track>,
    pub feedback: Feedback,
    /// Whether media is sent (after it connected).
    pub sends: bool,
    /// Whether its process is stopped: nothing is sent, and what is due is sent afterwards.
    pub stopped: bool,
    /// Transport-wide number of the next packet.
    pub next_twcc: u16,
    /// Time when captures begin.
    origin: Instant,
    ssrc: u32,
    next_report: Instant,
}

pub(crate) struct Track {
    pub spec: PublishTrackSpec,
    pub layers: Vec<Encoder>,
}

/// One layer.
pub(crate) struct Encoder {
    pub source: u32,
    pub ssrc: u32,
    pub rtx_ssrc: u32,
    pub active: bool,
    pub wants_key: bool,
    /// Extended sequence number of the next packet.
    pub next_seq: u64,
    pub next_frame: Instant,
    pub packets_sent: u32,
    pub frame: u32,
    /// Frame number of the last keyframe, and the number of frames of the lowest layer.
    last_key: u32,
    bases: u32,
    rid: &'static str,
    timestamp_base: u32,
    rtx_seq: u16,
    picture: u16,
    tl0: u8,
    octets: u32,
    /// When a report was sent with a packet, and the capture time in it.
    reported: Option<(Instant, Instant)>,
    kept: VecDeque<Kept>,
    /// Timestamp and payload of the last packets, for RED.
    before: VecDeque<(u32, Vec<u8>)>,
}

struct Kept {
    seq: u64,
    plaintext: Vec<u8>,
    sealed: Vec<u8>,
    note: Note,
}

impl Publisher {
    /// A publisher; `number` makes its SSRCs and sources unique.
    pub(crate) fn new(spec: PublisherSpec, number: u64, now: Instant) -> Self {
        let base = number as u32 * 100_000;
        let mut tracks = Vec::new();
        for (index, track) in (1..).zip(&spec.tracks) {
            let layers = (0..).zip(&track.layers).map(|(layer, spec)| {
                let id = base + index * 1_000 + layer;
                Encoder {
                    source: id,
                    ssrc: id + 10,
                    rtx_ssrc: id + 507,
                    active: true,
                    wants_key: true,
                    next_seq: u64::from(
                        track.first_seq.wrapping_add(layer as u16 * track.layer_seqs_apart),
                    ),
                    next_frame: now,
                    packets_sent: 0,
                    frame: 0,
                    last_key: 0,
                    bases: 0,
                    rid: spec.rid,
                    timestamp_base: track.first_timestamp.wrapping_add(layer * 12_345_678),
                    rtx_seq: 3 + layer as u16,
                    picture: track.first_picture.wrapping_add(layer as u16 * 99),
                    tl0: 250,
                    octets: 0,
                    reported: None,
                    kept: VecDeque::new(),
                    before: VecDeque::new(),
                }
            });
            tracks.push(Track { layers: layers.collect(), spec: track.clone() });
        }
        Self {
            spec,
            tracks,
            feedback: Feedback::default(),
            sends: true,
            stopped: false,
            next_twcc: 65_500,
            origin: now,
            ssrc: base,
            next_report: now,
        }
    }

    /// The negotiated result of its offer.
    pub(crate) fn plan(&self, link: &Link) -> PublishPlan {
        let tracks = self.tracks.iter().map(|track| {
            let spec = &track.spec;
            let rids: Vec<String> =
                track.layers.iter().map(|l| l.rid.to_owned()).filter(|r| !r.is_empty()).collect();
            let declared = track.layers.iter().filter(|_| spec.declares && rids.is_empty());
            let mut format = format(spec.codec, spec.profile);
            if spec.sets == SetsMode::Offer {
                format.fmtp += &stated_sets(spec.codec, spec.layers[0].size);
            }
            PublishTrack {
                mid: spec.mid.to_owned(),
                kind: spec.codec.kind(),
                format,
                pt: spec.pt,
                rtx_pt: spec.rtx_pt,
                red_pt: spec.red_pt,
                feedback: spec.feedback,
                exts: ext_map(&spec.exts, false),
                ssrcs: declared
                    .map(|l| DeclaredSsrc { ssrc: l.ssrc, rtx: spec.rtx_pt.map(|_| l.rtx_ssrc) })
                    .collect(),
                rids,
            }
        });
        PublishPlan { transport: link.offer(), tracks: tracks.collect() }
    }

    pub(crate) fn track(&mut self, kind: MediaKind) -> &mut Track {
        self.tracks.iter_mut().find(|track| track.spec.codec.kind() == kind).expect("such a track")
    }

    pub(crate) fn video(&mut self) -> &mut Track {
        self.track(MediaKind::Video)
    }

    /// The publisher's wall clock in NTP units.
    pub(crate) fn ntp(&self, now: Instant, epoch: Instant) -> u64 {
        let skew = self.spec.clock_ahead_s + seconds(now, epoch) * self.spec.clock_ppm / 1e6;
        ntp_of(1_700_000_000.0 + skew, now.saturating_duration_since(epoch))
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if !self.sends || self.stopped {
            return None;
        }
        let frames = self
            .tracks
            .iter()
            .flat_map(|track| track.layers.iter().map(|l| l.next_frame + track.spec.encode_delay));
        frames.chain([self.next_report]).min()
    }

    /// Sends the frames and reports that are due. `epoch` is when true time began.
    pub(crate) fn handle_timeout(&mut self, now: Instant, epoch: Instant, link: &mut Link) {
        if self.stopped {
            return;
        }
        if !self.sends || !link.is_connected() {
            for layer in self.tracks.iter_mut().flat_map(|track| &mut track.layers) {
                layer.next_frame = layer.next_frame.max(now);
            }
            self.next_report = self.next_report.max(now);
            return;
        }
        for track in 0..self.tracks.len() {
            for layer in 0..self.tracks[track].layers.len() {
                let delay = self.tracks[track].spec.encode_delay;
                while self.tracks[track].layers[layer].next_frame + delay <= now {
                    let captured = self.tracks[track].layers[layer].next_frame;
                    self.tracks[track].layers[layer].next_frame =
                        captured + self.tracks[track].spec.frame_every;
                    self.report_with_packet(track, layer, captured, (now, epoch), link);
                    self.send_frame(track, layer, captured, epoch, link);
                }
            }
        }
        if self.next_report <= now {
            self.next_report = now + Duration::from_secs(1);
            if self.spec.sends_reports && self.spec.report_style == ReportStyle::TimeOfNow {
                self.send_reports(now, epoch, link);
            }
        }
    }

    fn rtp_time(&self, track: usize, layer: usize, at: Instant) -> u32 {
        let track = &self.tracks[track];
        let elapsed = seconds(at, self.origin) * (1.0 + self.spec.clock_ppm / 1e6);
        let ticks = (elapsed * f64::from(track.spec.codec.clock_rate())).round() as i64;
        track.layers[layer].timestamp_base.wrapping_add(ticks as u32)
    }

    /// Encodes one frame now.
    pub(crate) fn send_frame(
        &mut self,
        track: usize,
        layer: usize,
        captured: Instant,
        epoch: Instant,
        link: &mut Link,
    ) {
        let timestamp = self.rtp_time(track, layer, captured);
        let spec = self.tracks[track].spec.clone();
        let encoder = &mut self.tracks[track].layers[layer];
        if !encoder.active {
            return;
        }
        let video = spec.codec.kind() == MediaKind::Video;
        let scheduled = spec.key_every.is_some_and(|every| encoder.frame.is_multiple_of(every));
        let key = !video || std::mem::take(&mut encoder.wants_key) || scheduled;
        let of = &spec.layers[layer];
        let shot = of.clip.as_ref().map(|clip| clip.frame(encoder.frame));
        let key = shot.map_or(key, |frame| frame.key);
        if key {
            encoder.last_key = encoder.frame;
        }
        let nth = encoder.frame - encoder.last_key;
        let mut layer_position = LayerPosition::nth(spec.temporal_layers, nth, encoder.bases);
        if spec.no_switch_points && layer_position.temporal > 0 && nth > 4 {
            layer_position.refers_to[1] = 4;
        }
        if layer_position.temporal == 0 && encoder.frame > 0 {
            encoder.bases += 1;
            encoder.tl0 = encoder.tl0.wrapping_add(1);
            layer_position.bases = encoder.bases;
        }
        // A keyframe is larger.
        let count = of.packets * if key && video { 2 } else { 1 };
        let count = shot.map_or(count, |frame| frame.payloads.len() as u16);
        let lead = u16::from(spec.delimits);
        for place in 0..lead + count {
            let (is_delimiter, index) = (place < lead, place.saturating_sub(lead));
            let stamp = Stamp {
                source: encoder.source,
                serial: encoder.next_seq,
                frame: encoder.frame,
                index,
                count,
                key,
                captured_ns: captured.saturating_duration_since(epoch).as_nanos() as u64,
                layer_position,
            };
            let picture = Picture {
                id: encoder.picture,
                bits: spec.picture_bits,
                tl0: encoder.tl0,
                layers: spec.temporal_layers,
            };
            let mut body = match shot {
                _ if is_delimiter => ACCESS_UNIT_DELIMITER.to_vec(),
                Some(frame) => frame.payloads[usize::from(index)].clone(),
                None if spec.encrypts => {
                    described::payload(spec.codec, &stamp, picture, spec.bytes)
                }
                None => payload(spec.codec, &stamp, picture, (of.size, spec.sets), spec.bytes),
            };
            if spec.delimits && matches!(body[0] & 0x1f, 1 | 5) {
                body.insert(1, slice_header(key, layer_position.temporal > 0));
            }
            let mut pt = spec.pt;
            let mut carries = 0;
            if spec.sends_red {
                let bare = body.clone();
                (body, carries) = red(spec.pt, timestamp, &encoder.before, &body);
                pt = spec.red_pt.expect("RED was offered");
                encoder.before.push_back((timestamp, bare));
                if encoder.before.len() > spec.red_distance {
                    encoder.before.pop_front();
                }
                if let Some(forge) = spec.forges_red {
                    forge(encoder.next_seq, &mut body);
                }
            }
            let apart = key && index == 0 && video && spec.sets == SetsMode::OwnPacket;
            let marker = video && !is_delimiter && (apart || index + 1 == count);
            let timestamp = timestamp.wrapping_sub(90 * u32::from(apart));
            let header = Header {
                version: 2,
                marker,
                payload_type: pt,
                sequence_number: encoder.next_seq as u16,
                timestamp,
                ssrc: encoder.ssrc,
                ..Header::default()
            };
            let more = described::elements(&spec, layer, &stamp);
            let twcc = &mut self.next_twcc;
            let header = with_exts(header, &spec, of.rid, ExtKind::Rid, twcc, &more);
            let plaintext = [&header[..], &body].concat();
            let note = Note {
                source: encoder.source,
                serial: encoder.next_seq,
                carries,
                upper: is_delimiter || layer_position.temporal > 0,
                sent_at: captured + spec.encode_delay,
            };
            let sealed = link.seal_rtp(&plaintext).expect("it is connected");
            link.send(sealed.clone(), Some(note));
            encoder.kept.push_back(Kept { seq: encoder.next_seq, plaintext, sealed, note });
            if encoder.kept.len() > KEPT {
                encoder.kept.pop_front();
            }
            encoder.next_seq += 1;
            encoder.packets_sent += 1;
            encoder.octets += body.len() as u32;
        }
        encoder.frame += 1;
        encoder.picture = encoder.picture.wrapping_add(1);
    }

    fn send_reports(&mut self, now: Instant, epoch: Instant, link: &mut Link) {
        for track in 0..self.tracks.len() {
            let reported = if self.spec.reports_first_layer { 1 } else { usize::MAX };
            for layer in 0..self.tracks[track].layers.len().min(reported) {
                if self.tracks[track].layers[layer].packets_sent > 0 {
                    self.send_report((track, layer), now, (now, epoch), link);
                }
            }
        }
    }

    /// Sends a report with the time of now and the RTP time of `stamped`.
    fn send_report(
        &mut self,
        (track, layer): (usize, usize),
        stamped: Instant,
        (now, epoch): (Instant, Instant),
        link: &mut Link,
    ) {
        let encoder = &self.tracks[track].layers[layer];
        let report = SenderReport {
            ssrc: encoder.ssrc,
            ntp_time: self.ntp(now, epoch),
            rtp_time: self.rtp_time(track, layer, stamped),
            packet_count: encoder.packets_sent,
            octet_count: encoder.octets,
            ..SenderReport::default()
        };
        link.send_rtcp(&report.marshal().expect("a report fits"));
    }

    /// Sends the report that libdatachannel sends before a packet.
    fn report_with_packet(
        &mut self,
        track: usize,
        layer: usize,
        captured: Instant,
        times: (Instant, Instant),
        link: &mut Link,
    ) {
        let second = Duration::from_secs(1);
        let reported = self.tracks[track].layers[layer].reported;
        let due = match self.spec.report_style {
            _ if !self.spec.sends_reports => return,
            ReportStyle::TimeOfNow => return,
            ReportStyle::PacketEachSecond => reported.is_none_or(|(at, _)| times.0 >= at + second),
            ReportStyle::PacketEachMediaSecond => {
                reported.is_none_or(|(_, stamped)| captured > stamped + second)
            }
        };
        if due {
            self.tracks[track].layers[layer].reported = Some((times.0, captured));
            self.send_report((track, layer), captured, times, link);
        }
    }

    /// RTCP of the server, in plaintext.
    pub(crate) fn handle_rtcp(&mut self, now: Instant, compound: &[u8], link: &mut Link) {
        let packets = rtc_rtcp::packet::unmarshal(&mut &compound[..]).expect("their RTCP parses");
        for packet in packets {
            self.handle_packet(now, packet.as_ref(), link);
        }
    }

    fn handle_packet(&mut self, now: Instant, packet: &dyn Packet, link: &mut Link) {
        let any = packet.as_any();
        if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
            for seq in nack.nacks.iter().flat_map(|pair| pair.packet_list()) {
                self.feedback.nacked.push((now, nack.media_ssrc, seq));
                if self.spec.answers_nack {
                    self.retransmit(nack.media_ssrc, seq, link);
                }
            }
        } else if let Some(pli) = any.downcast_ref::<PictureLossIndication>() {
            self.keyframe_request(now, pli.media_ssrc);
        } else if let Some(fir) = any.downcast_ref::<FullIntraRequest>() {
            self.feedback.firs += 1;
            for entry in &fir.fir {
                self.keyframe_request(now, entry.ssrc);
            }
        } else if let Some(remb) = any.downcast_ref::<ReceiverEstimatedMaximumBitrate>() {
            self.feedback.rembs.push((remb.bitrate, remb.ssrcs.clone()));
        } else if let Some(twcc) = any.downcast_ref::<TransportLayerCc>() {
            self.feedback.twcc_packets += 1;
            let received = twcc.recv_deltas.len() as u64;
            self.feedback.twcc_received += received;
            self.feedback.twcc_missing += u64::from(twcc.packet_status_count) - received;
        } else if let Some(report) = any.downcast_ref::<ReceiverReport>() {
            self.feedback.reports.extend(report.reports.iter().cloned());
        }
    }

    fn keyframe_request(&mut self, now: Instant, ssrc: u32) {
        self.feedback.keyframe_requests.push((now, ssrc));
        let answers = self.spec.answers_pli;
        let layers = self.tracks.iter_mut().flat_map(|track| &mut track.layers);
        for layer in layers.filter(|layer| layer.ssrc == ssrc && answers) {
            layer.wants_key = true;
        }
    }

    /// Retransmits a packet: by RTX, or unchanged.
    pub(crate) fn retransmit(&mut self, ssrc: u32, seq: u16, link: &mut Link) {
        let next_twcc = &mut self.next_twcc;
        for track in &mut self.tracks {
            let spec = &track.spec;
            let top = spec.layers.iter().map(|layer| layer.size).max();
            let Some(at) = track.layers.iter().position(|layer| layer.ssrc == ssrc) else {
                continue;
            };
            if !self.spec.answers_nack_below_top && Some(spec.layers[at].size) != top {
                return;
            }
            let layer = &mut track.layers[at];
            let Some(kept) = layer.kept.iter().find(|kept| kept.seq as u16 == seq) else { return };
            let note = Some(kept.note);
            let Some(rtx_pt) = spec.rtx_pt else {
                link.send(kept.sealed.clone(), note);
                return;
            };
            let header = RtpHead::of(&kept.plaintext);
            let rtx = Header {
                version: 2,
                marker: header.marker,
                payload_type: rtx_pt,
                sequence_number: layer.rtx_seq,
                timestamp: header.timestamp,
                ssrc: layer.rtx_ssrc,
                ..Header::default()
            };
            layer.rtx_seq = layer.rtx_seq.wrapping_add(1);
            let described = |id| {
                let kind = spec.exts.iter().find(|(_, known)| *known == id).map(|(kind, _)| *kind);
                kind == Some(ExtKind::DependencyDescriptor)
            };
            let more: Vec<_> = header.exts.into_iter().filter(|(id, _)| described(*id)).collect();
            let head = with_exts(rtx, spec, layer.rid, ExtKind::RepairedRid, next_twcc, &more);
            let osn = (kept.seq as u16).to_be_bytes();
            let plaintext = [&head[..], &osn, &kept.plaintext[header.len..]].concat();
            let sealed = link.seal_rtp(&plaintext).expect("it is connected");
            link.send(sealed, note);
        }
    }

    /// A probe: RTX with nothing but padding.
    pub(crate) fn send_rtx_padding(&mut self, link: &mut Link) {
        let next_twcc = &mut self.next_twcc;
        for track in self.tracks.iter_mut().filter(|track| track.spec.rtx_pt.is_some()) {
            let layer = &mut track.layers[0];
            let header = Header {
                version: 2,
                padding: true,
                payload_type: track.spec.rtx_pt.expect("filtered"),
                sequence_number: layer.rtx_seq,
                ssrc: layer.rtx_ssrc,
                ..Header::default()
            };
            layer.rtx_seq = layer.rtx_seq.wrapping_add(1);
            let kind = ExtKind::RepairedRid;
            let head = with_exts(header, &track.spec, layer.rid, kind, next_twcc, &[]);
            let mut padding = vec![0; 224];
            *padding.last_mut().expect("not empty") = 224;
            let sealed = link.seal_rtp(&[&head[..], &padding].concat()).expect("connected");
            link.send(sealed, None);
        }
    }

    /// Sends a packet with this payload type and this body, under the next number of a track's first
    /// layer, and a timestamp from nowhere.
    pub(crate) fn send_by_hand(
        &mut self,
        kind: MediaKind,
        pt: u8,
        padding: bool,
        body: &[u8],
        now: Instant,
        link: &mut Link,
    ) {
        let track = self.tracks.iter_mut().find(|track| track.spec.codec.kind() == kind);
        let Track { spec, layers } = track.expect("such a track");
        let layer = &mut layers[0];
        let header = Header {
            version: 2,
            padding,
            payload_type: pt,
            sequence_number: layer.next_seq as u16,
            timestamp: 0x1234_5678,
            ssrc: layer.ssrc,
            ..Header::default()
        };
        let head = with_exts(header, spec, layer.rid, ExtKind::Rid, &mut self.next_twcc, &[]);
        let (source, serial) = (layer.source, layer.next_seq);
        layer.next_seq += 1;
        layer.packets_sent += 1;
        let sealed = link.seal_rtp(&[&head[..], body].concat()).expect("it is connected");
        link.send(sealed, Some(Note { source, serial, carries: 0, upper: false, sent_at: now }));
    }

    /// Makes the media clock of a track jump.
    pub(crate) fn shift_timestamps(&mut self, kind: MediaKind, by: u32) {
        for layer in &mut self.track(kind).layers {
            layer.timestamp_base = layer.timestamp_base.wrapping_add(by);
        }
    }

    /// Restarts the encoder of this layer: other SSRC, numbers, timestamps, pictures.
    pub(crate) fn restart_encoder(&mut self, kind: MediaKind, layer: usize) {
        let encoder = &mut self.track(kind).layers[layer];
        encoder.source += 20;
        encoder.ssrc += 20;
        encoder.rtx_ssrc += 20;
        encoder.next_seq = (encoder.next_seq + 40_000) & 0xffff;
        encoder.timestamp_base = encoder.timestamp_base.wrapping_add(0x7654_3210);
        encoder.picture = encoder.picture.wrapping_add(9_000) & 0x7fff;
        encoder.tl0 = encoder.tl0.wrapping_add(77);
        (encoder.frame, encoder.last_key, encoder.bases) = (0, 0, 0);
        encoder.wants_key = true;
        encoder.kept.clear();
    }
}

/// Wraps a packet as RED (RFC 2198) with those before it, the oldest first; returns how many of
/// them fit.
fn red(pt: u8, timestamp: u32, before: &VecDeque<(u32, Vec<u8>)>, body: &[u8]) -> (Vec<u8>, u64) {
    // A block may be so old (14 bits) and so long (10 bits).
    let fits =
        |(at, old): &&(u32, Vec<u8>)| timestamp.wrapping_sub(*at) < 1 << 14 && old.len() < 1 << 10;
    let blocks: Vec<_> = before.iter().filter(fits).collect();
    let headers = blocks.iter().flat_map(|(at, old)| {
        let [_, rest @ ..] = (timestamp.wrapping_sub(*at) << 10 | old.len() as u32).to_be_bytes();
        [&[0x80 | pt][..], &rest].concat()
    });
    let mut payload: Vec<u8> = headers.chain([pt]).collect();
    payload.extend(blocks.iter().flat_map(|(_, old)| old));
    payload.extend(body);
    (payload, blocks.len() as u64)
}

fn with_exts(
    mut header: Header,
    spec: &PublishTrackSpec,
    rid: &'static str,
    rid_kind: ExtKind,
    next_twcc: &mut u16,
    more: &[(u8, Vec<u8>)],
) -> Vec<u8> {
    let id = |kind| spec.exts.iter().find(|(k, _)| *k == kind).map(|(_, id)| *id);
    let mut set = |id: u8, data: Bytes| header.set_extension(id, data).expect("an element fits");
    if spec.sends_mid {
        if let Some(id) = id(ExtKind::Mid) {
            set(id, Bytes::from_static(spec.mid.as_bytes()));
        }
        if let Some(id) = id(rid_kind).filter(|_| !rid.is_empty()) {
            set(id, Bytes::from_static(rid.as_bytes()));
        }
    }
    if let Some(id) = id(ExtKind::TransportCc) {
        set(id, Bytes::copy_from_slice(&next_twcc.to_be_bytes()));
        *next_twcc = next_twcc.wrapping_add(1);
    }
    for (id, data) in spec.extra_exts.iter().chain(more) {
        set(*id, Bytes::copy_from_slice(data));
    }
    header.marshal().expect("a header fits").to_vec()
}

/// Fields of an RTP header that the world needs, read by `rtc-rtp`.
#[derive(Debug, Clone)]
pub(crate) struct RtpHead {
    pub marker: bool,
    pub pt: u8,
    pub seq: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub padding: bool,
    pub exts: Vec<(u8, Vec<u8>)>,
    pub len: usize,
}

impl RtpHead {
    pub(crate) fn of(packet: &[u8]) -> Self {
        use rtc_shared::marshal::{MarshalSize, Unmarshal};
        let header = Header::unmarshal(&mut &packet[..]).expect("an RTP header");
        let exts = header.extensions.iter().map(|ext| (ext.id, ext.payload.to_vec())).collect();
        Self {
            marker: header.marker,
            pt: header.payload_type,
            seq: header.sequence_number,
            timestamp: header.timestamp,
            ssrc: header.ssrc,
            padding: header.padding,
            len: header.marshal_size(),
            exts,
        }
    }
}

fn seconds(at: Instant, from: Instant) -> f64 {
    match at.checked_duration_since(from) {
        Some(ahead) => ahead.as_secs_f64(),
        None => -from.saturating_duration_since(at).as_secs_f64(),
    }
}

/// 64-bit NTP of a Unix time in seconds plus a span.
fn ntp_of(unix_s: f64, span: Duration) -> u64 {
    const UNIX_IN_NTP: u128 = 2_208_988_800;
    let whole = unix_s.floor();
    let nanos = ((unix_s - whole) * 1e9) as u128 + span.as_nanos();
    let fixed = (nanos << 32) / 1_000_000_000;
    (((UNIX_IN_NTP + whole as u128) << 32) + fixed) as u64
}
