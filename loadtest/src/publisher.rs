//! A light publisher: frames and sound on the beat, answers to NACK, PLI and FIR, a sender report each second.
//!
//! The pictures come from `video`; the connection from `session`. Spawned by `run`. Media counts in the window only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rtc_rtcp::packet::Packet as RtcpPacket;
use rtc_rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::source_description::{
    SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem,
};
use rtc_rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
use tokio::sync::watch;

use crate::live::Live;
use crate::measures::PublisherResult;
use crate::options::{Codec, Video};
use crate::peer::{Over, Peer};
use crate::rtp::OutgoingPacket;
use crate::sdp::{Answer, Media, RIDS, Sources, Wish};
use crate::seat::{Phase, Role};
use crate::session::{Context, Session, Settled};
use crate::stamp::{self, Stamp};
use crate::video::{self, CLIP_FRAMES, Source};
use crate::viewer;

/// Packets kept for retransmission, of each layer: more than a second at 10 Mbit/s.
const HISTORY: usize = 1024;

/// Between two keyframes that were asked for.
const KEYFRAME_REQUEST_INTERVAL: Duration = Duration::from_millis(300);

/// Between two sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A sender that is behind its beat by more leaves frames out instead of catching up.
const BEHIND_MAX: Duration = Duration::from_millis(500);

/// Length of an Opus packet, as an encoder at 32 kbit/s makes them.
const OPUS_LEN: usize = 80;

const AUDIO_INTERVAL: Duration = Duration::from_millis(20);

/// One publisher from POST to DELETE.
pub(crate) async fn publish(
    context: Arc<Context>,
    index: u32,
    settled: Settled,
    phases: watch::Receiver<Phase>,
) -> PublisherResult {
    let options = &context.options;
    let mut role = Publisher::new(&context, settled);
    let sources = Sources {
        audio: role.audio_ssrc,
        video: role.layers.iter().map(|layer| (layer.line.ssrc, layer.rtx_ssrc)).collect(),
    };
    let wish = Wish {
        codec: viewer::codec(options),
        audio: options.audio,
        twcc: !options.common.no_twcc,
        sends: Some(sources),
    };
    let (role, over) = match Session::open(&context, &options.whip_url(index), &wish).await {
        Ok(session) => {
            role.answer(&session.answer);
            session.run(&context.publishing, role, phases).await
        }
        Err(over) => (Some(role), Err(over)),
    };
    Live::add(&context.live.failed, u64::from(over.is_err()));
    let packets_sent = role.map_or(0, |role| role.sent);
    PublisherResult { packets_sent, failure: over.err().map(|over| over.0) }
}

/// Twenty milliseconds of silence in an Opus packet of [`OPUS_LEN`] bytes: one padded frame (RFC 6716 section 3.2.5, code 3). The
/// stamp is at the end of the padding, which a decoder must not look at.
pub(crate) fn opus_silence(stamp: Stamp) -> Bytes {
    // Full-band CELT, 20 ms, mono, code 3; one frame, constant rate, padded; so many bytes of padding; the frame.
    let mut packet = vec![0xfb, 0x41, (OPUS_LEN - 5) as u8, 0xff, 0xfe];
    packet.resize(OPUS_LEN - stamp::LEN, 0);
    let stamp_at = packet.len();
    packet.extend_from_slice(&stamp.write());
    let crc = crc32fast::hash(&packet[..OPUS_LEN - stamp::CRC_LEN]);
    stamp::fill_crc(&mut packet, stamp_at, crc);
    packet.into()
}

/// A beat that does not drift: the n-th tick is at start + n / rate.
pub(crate) struct Beat {
    start: Instant,
    per_s: u32,
    count: u64,
}

impl Beat {
    /// A beat that begins now.
    pub(crate) fn new(start: Instant, per_s: u32) -> Self {
        Self { start, per_s, count: 0 }
    }

    /// When the next tick is due.
    pub(crate) fn next(&self) -> Instant {
        self.start + Duration::from_nanos(self.count * 1_000_000_000 / u64::from(self.per_s))
    }

    /// Takes the tick that is due; gives its number. A beat far behind goes on from now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        if now < self.next() {
            return None;
        }
        if now > self.next() + BEHIND_MAX {
            let behind = now.saturating_duration_since(self.start);
            self.count = (behind.as_nanos() * u128::from(self.per_s) / 1_000_000_000) as u64;
        }
        self.count += 1;
        Some(self.count - 1)
    }
}

/// Which frames must be keyframes: the first, one every few seconds, and those asked for.
pub(crate) struct Keyframes {
    interval: u64,
    since: u64,
    asked: bool,
    last: Option<Instant>,
}

impl Keyframes {
    /// The keyframes of a stream.
    pub(crate) fn new(video: &Video) -> Self {
        let every = video.fps * video.keyframe_s;
        let interval = if video.codec == Codec::Vp8 { every.min(CLIP_FRAMES) } else { every };
        Self { interval: interval.into(), since: 0, asked: true, last: None }
    }

    /// The other side asks for one.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    /// Whether the frame to be made now is one.
    pub(crate) fn next(&mut self, now: Instant) -> bool {
        let rested = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= KEYFRAME_REQUEST_INTERVAL);
        self.since += 1;
        let key = self.since >= self.interval || (self.asked && rested);
        if key {
            (self.since, self.asked, self.last) = (0, false, Some(now));
        }
        key
    }
}

struct Publisher {
    context: Arc<Context>,
    settled: Option<Settled>,
    layers: Vec<Layer>,
    video: Option<Media>,
    audio: Option<Media>,
    audio_ssrc: u32,
    audio_line: Line,
    /// The transport-wide number of the next packet.
    wide: u16,
    beats: Option<Beats>,
    frame: u32,
    counting: bool,
    sent: u64,
}

struct Beats {
    video: Beat,
    audio: Beat,
    next_report: Instant,
}

struct Layer {
    source: Source,
    keyframes: Keyframes,
    line: Line,
    rid: &'static str,
    rtx_ssrc: u32,
    rtx_sequence: u16,
    history: VecDeque<OutgoingPacket>,
}

/// The numbering of one source, and what a sender report says about it.
struct Line {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    packets: u32,
    octets: u32,
}

impl Line {
    fn random() -> Self {
        // Positive numbers keep clear of the reserved zero.
        let ssrc = rand::random::<u32>() | 1;
        Self { ssrc, sequence: rand::random(), timestamp: rand::random(), packets: 0, octets: 0 }
    }

    fn next_sequence(&mut self, payload: usize) -> u16 {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload as u32);
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

impl Publisher {
    fn new(context: &Arc<Context>, settled: Settled) -> Self {
        let options = &context.options;
        let layers = video::layers(&options.video)
            .into_iter()
            .zip(RIDS)
            .map(|(spec, rid)| Layer {
                source: Source::new(&options.video, spec),
                keyframes: Keyframes::new(&options.video),
                line: Line::random(),
                rid,
                rtx_ssrc: rand::random::<u32>() | 1,
                rtx_sequence: rand::random(),
                history: VecDeque::with_capacity(HISTORY),
            })
            .collect();
        let audio_line = Line::random();
        Self {
            context: context.clone(),
            settled: Some(settled),
            layers,
            video: None,
            audio: None,
            audio_ssrc: audio_line.ssrc,
            audio_line,
            wide: rand::random(),
            beats: None,
            frame: 0,
            counting: false,
            sent: 0,
        }
    }

    fn answer(&mut self, answer: &Answer) {
        self.video = answer.video.clone();
        self.audio = answer.audio.clone();
        if let Some(video) = &self.video
            && self.layers.len() > 1
        {
            // A server may take fewer layers than were offered; without simulcast it gets the largest.
            let wanted = video.rids.clone();
            let largest = self.layers.len() - 1;
            let mut index = 0;
            self.layers.retain(|layer| {
                let keep = if wanted.is_empty() {
                    index == largest
                } else {
                    wanted.iter().any(|rid| rid == layer.rid)
                };
                index += 1;
                keep
            });
        }
    }

    fn send_frame(&mut self, now: Instant, tick: u64, peer: &mut Peer) -> Result<(), Over> {
        let Some(media) = &self.video else { return Ok(()) };
        let fps = u64::from(self.context.options.video.fps);
        for (n, layer) in self.layers.iter_mut().enumerate() {
            let key = layer.keyframes.next(now);
            let sent_us = crate::since_start_us(Instant::now());
            let stamp =
                Stamp { run: self.context.run, frame: self.frame, sent_us, layer: n as u8, key };
            let payloads = layer.source.next(stamp);
            // The clock of 90 kHz; it wraps.
            let timestamp = layer.line.timestamp.wrapping_add((tick * 90_000 / fps) as u32);
            let names = [(media.mid_id, &*media.mid), (media.rid_id, layer.rid)];
            let last = payloads.len().saturating_sub(1);
            for (at, payload) in payloads.into_iter().enumerate() {
                let extensions = extensions(&names, media.twcc_id, &mut self.wide);
                let sequence = layer.line.next_sequence(payload.len());
                let ssrc = layer.line.ssrc;
                let pt = media.payload_type;
                let packet =
                    OutgoingPacket::new(pt, sequence, timestamp, ssrc, at == last, &extensions, payload);
                peer.send_rtp(&packet)?;
                self.sent += u64::from(self.counting);
                if layer.history.len() == HISTORY {
                    layer.history.pop_front();
                }
                layer.history.push_back(packet);
            }
        }
        self.frame = self.frame.wrapping_add(1);
        Ok(())
    }

    fn send_audio(&mut self, tick: u64, peer: &mut Peer) -> Result<(), Over> {
        let Some(media) = &self.audio else { return Ok(()) };
        let line = &mut self.audio_line;
        let (run, frame) = (self.context.run, tick as u32);
        let sent_us = crate::since_start_us(Instant::now());
        let opus = opus_silence(Stamp { run, frame, sent_us, layer: 0, key: true });
        let sequence = line.next_sequence(opus.len());
        let timestamp = line.timestamp.wrapping_add((tick * 960) as u32);
        let names = [(media.mid_id, &*media.mid)];
        let extensions = extensions(&names, media.twcc_id, &mut self.wide);
        let pt = media.payload_type;
        peer.send_rtp(&OutgoingPacket::new(
            pt,
            sequence,
            timestamp,
            line.ssrc,
            tick == 0,
            &extensions,
            opus,
        ))?;
        self.sent += u64::from(self.counting);
        Ok(())
    }

    fn report(&mut self, now: Instant, peer: &mut Peer) -> Result<(), Over> {
        let Some(beats) = &self.beats else { return Ok(()) };
        // NTP counts from 1900, in units of 2^-32 s.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ntp_time = ((unix.as_secs() + 2_208_988_800) << 32)
            | ((u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000);
        let lines = self.layers.iter().map(|layer| (&layer.line, 90_000, &beats.video));
        let audio = self.audio.iter().map(|_| (&self.audio_line, 48_000, &beats.audio));
        for (line, rate, beat) in lines.chain(audio) {
            let elapsed = now.saturating_duration_since(beat.start).as_micros();
            let rtp_time = line.timestamp.wrapping_add((elapsed * rate / 1_000_000) as u32);
            let report = SenderReport {
                ssrc: line.ssrc,
                ntp_time,
                rtp_time,
                packet_count: line.packets,
                octet_count: line.octets,
                ..Default::default()
            };
            let name = SourceDescriptionItem {
                sdes_type: SdesType::SdesCname,
                text: Bytes::from_static(b"weir-loadtest"),
            };
            let chunk = SourceDescriptionChunk { source: line.ssrc, items: vec![name] };
            peer.send_rtcp(&[
                Box::new(report),
                Box::new(SourceDescription { chunks: vec![chunk] }),
            ])?;
        }
        Ok(())
    }

    fn feedback(&mut self, packet: &dyn RtcpPacket, peer: &mut Peer) -> Result<(), Over> {
        let any = packet.as_any();
        if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
            let Some(media) = &self.video else { return Ok(()) };
            if let Some(layer) =
                self.layers.iter_mut().find(|layer| layer.line.ssrc == nack.media_ssrc)
            {
                for wanted in nack.nacks.iter().flat_map(|pair| pair.packet_list()) {
                    layer.send_again(wanted, media, &mut self.wide, peer)?;
                }
            }
        } else if let Some(pli) = any.downcast_ref::<PictureLossIndication>() {
            self.ask_keyframe(pli.media_ssrc);
        } else if let Some(fir) = any.downcast_ref::<FullIntraRequest>() {
            for entry in &fir.fir {
                self.ask_keyframe(entry.ssrc);
            }
        }
        Ok(())
    }

    fn ask_keyframe(&mut self, ssrc: u32) {
        for layer in self.layers.iter_mut().filter(|layer| layer.line.ssrc == ssrc) {
            layer.keyframes.ask();
        }
    }
}

impl Layer {
    fn send_again(
        &mut self,
        wanted: u16,
        media: &Media,
        wide: &mut u16,
        peer: &mut Peer,
    ) -> Result<(), Over> {
        // The history is without gaps: the number gives the place.
        let back = usize::from(self.line.sequence.wrapping_sub(wanted));
        let Some(place) = self.history.len().checked_sub(back + 1) else { return Ok(()) };
        let Some(packet) = self.history.get(place) else { return Ok(()) };
        let Some(rtx) = media.rtx else {
            // Byte for byte the same packet: with GCM anything else would reuse a nonce.
            peer.send_rtp(packet)?;
            return Ok(());
        };
        self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
        let names = [(media.mid_id, &*media.mid), (media.rrid_id, self.rid)];
        let extensions = extensions(&names, media.twcc_id, wide);
        peer.send_rtp(&packet.as_rtx(rtx, self.rtx_sequence, self.rtx_ssrc, &extensions))?;
        Ok(())
    }
}

/// The header extensions that were negotiated: names, and the transport-wide number `wide`, which counts on.
fn extensions(
    names: &[(Option<u8>, &str)],
    twcc_id: Option<u8>,
    wide: &mut u16,
) -> Vec<(u8, Bytes)> {
    let number = twcc_id.map(|id| {
        *wide = wide.wrapping_add(1);
        (id, Bytes::copy_from_slice(&wide.to_be_bytes()))
    });
    names
        .iter()
        .filter_map(|(id, value)| Some(((*id)?, Bytes::copy_from_slice(value.as_bytes()))))
        .chain(number)
        .collect()
}

impl Role for Publisher {
    fn connected(&mut self, now: Instant) {
        let video = Beat::new(now, self.context.options.video.fps);
        let audio = Beat::new(now, (1000 / AUDIO_INTERVAL.as_millis()) as u32);
        self.beats = Some(Beats { video, audio, next_report: now + REPORT_INTERVAL });
        self.settled = None;
        Live::add(&self.context.live.publishing, 1);
    }

    fn rtp(&mut self, _: Instant, _: &mut Peer, _: &[u8]) -> Result<(), Over> {
        Ok(())
    }

    fn rtcp(&mut self, _: Instant, peer: &mut Peer, mut rtcp: Bytes) -> Result<(), Over> {
        for packet in rtc_rtcp::packet::unmarshal(&mut rtcp).unwrap_or_default() {
            self.feedback(packet.as_ref(), peer)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let beats = self.beats.as_ref()?;
        let video = self.video.is_some().then(|| beats.video.next());
        let audio = self.audio.is_some().then(|| beats.audio.next());
        video.into_iter().chain(audio).chain([beats.next_report]).min()
    }

    fn handle_timeout(&mut self, now: Instant, peer: &mut Peer) -> Result<(), Over> {
        let Some(beats) = &mut self.beats else { return Ok(()) };
        let (video, audio) = (beats.video.take(now), beats.audio.take(now));
        let report = now >= beats.next_report;
        if report {
            beats.next_report = now + REPORT_INTERVAL;
        }
        if let Some(tick) = video {
            self.send_frame(now, tick, peer)?;
        }
        if let Some(tick) = audio {
            self.send_audio(tick, peer)?;
        }
        if report {
            self.report(now, peer)?;
        }
        Ok(())
    }

    fn phase(&mut self, _: Instant, phase: Phase) {
        self.counting = phase == Phase::Count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn video(args: &[&str]) -> Video {
        let url = ["weir-loadtest", "--whip", "http://h", "--viewers", "0"];
        Options::parse_from([&url[..], args].concat()).expect("parses").video
    }

    #[test]
    fn beat_keeps_its_rate_and_leaves_out_what_is_long_past() {
        let start = Instant::now();
        let mut beat = Beat::new(start, 30);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(beat.take(at(0)), Some(0));
        assert_eq!(beat.take(at(33)), None);
        assert_eq!(beat.take(at(34)), Some(1));
        assert_eq!(beat.take(at(100)), Some(2), "a little late: catches up");
        assert_eq!(beat.take(at(100)), Some(3));
        assert_eq!(beat.take(at(10_000)), Some(300), "far behind: goes on from now");
    }

    #[test]
    fn keyframes_come_first_then_every_two_seconds_and_on_request_but_not_in_a_row() {
        let mut now = Instant::now();
        let mut keyframes = Keyframes::new(&video(&[]));
        let mut keys = Vec::new();
        for n in 0..200 {
            if n == 100 || n == 101 {
                keyframes.ask();
            }
            if keyframes.next(now) {
                keys.push(n);
            }
            now += Duration::from_millis(33);
        }
        assert_eq!(keys, [0, 60, 100, 110, 170]);
    }

    #[test]
    fn opus_packet_has_its_length_and_says_one_padded_frame() {
        let packet = opus_silence(Stamp { run: 1, frame: 2, sent_us: 3, layer: 0, key: true });
        assert_eq!(packet.len(), OPUS_LEN);
        assert_eq!((packet[0] & 3, packet[1] & 0x3f, usize::from(packet[2])), (3, 1, OPUS_LEN - 5));
    }
}
