//! A light publisher: sends frames and audio packets at their rates, answers NACK, PLI and FIR,
//! sends a sender report each second.
//!
//! The frames come from `video` and the connection from `session`. Called by `run`. Next: `layer`,
//! `sender`. Only packets within the window are counted.

mod extensions;
mod layer;
mod sender;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc_rtcp::packet::Packet as RtcpPacket;
use rtc_rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
use tokio::sync::watch;

use crate::context::{RunContext, StartupGuard};
use crate::live::LiveCounters;
use crate::measures::PublisherResult;
use crate::opus;
use crate::peer::Peer;
use crate::phase::Phase;
use crate::reconnect::Reconnect;
use crate::role::Role;
use crate::rtp::OutgoingPacket;
use crate::sdp::{Answer, NegotiatedMedia, OfferConfig, PublisherSsrcs, RIDS};
use crate::session::Session;
use crate::session_error::SessionError;
use crate::stamp::Stamp;
use crate::ticker::Ticker;
use crate::video;
use extensions::TwccNumbering;
use layer::Layer;
use sender::RtpSender;

/// Time between two sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Clock rate of video in RTP.
const VIDEO_CLOCK_HZ: u32 = 90_000;

/// Runs one publisher. It is started again when it is lost.
pub(crate) async fn publish(
    context: Arc<RunContext>,
    index: u32,
    startup: StartupGuard,
    phases: watch::Receiver<Phase>,
) -> PublisherResult {
    let mut reconnect = Reconnect::new(phases);
    let (mut startup, mut packets_sent) = (Some(startup), 0);
    loop {
        let (role, end) = attempt(&context, index, startup.take(), reconnect.phases()).await;
        let connected = role.as_ref().is_some_and(|role| role.timers.is_some());
        packets_sent += role.map_or(0, |role| role.packets_sent);
        if reconnect.again(&end, connected).await {
            LiveCounters::subtract(&context.live.publishing, u64::from(connected));
            LiveCounters::add(&context.live.restarted, 1);
            continue;
        }
        let failure = reconnect.failure(end);
        context.live.note_end("publisher", failure.as_deref());
        return PublisherResult { packets_sent, failure, reconnects: reconnect.returned() };
    }
}

/// One try from POST to DELETE. Returns the role, unless the event loop broke.
async fn attempt(
    context: &Arc<RunContext>,
    index: u32,
    startup: Option<StartupGuard>,
    phases: watch::Receiver<Phase>,
) -> (Option<Publisher>, Result<(), SessionError>) {
    let options = &context.options;
    let mut role = Publisher::new(context, startup);
    let ssrcs = PublisherSsrcs {
        audio: role.audio_sender.ssrc(),
        video: role.layers.iter().map(Layer::ssrcs).collect(),
    };
    let config = OfferConfig {
        codec: options.video_codec(),
        audio: options.audio,
        twcc: !options.common.no_twcc,
        sends: Some(ssrcs),
    };
    match Session::open(context, &options.whip_url(index), &config).await {
        Ok(session) => {
            role.apply_answer(&session.answer);
            session.run(&context.publisher_loops, role, phases).await
        }
        Err(error) => (Some(role), Err(error)),
    }
}

struct Publisher {
    context: Arc<RunContext>,
    startup: Option<StartupGuard>,
    /// The layers that the server accepted, smallest first.
    layers: Vec<Layer>,
    video: Option<NegotiatedMedia>,
    audio: Option<NegotiatedMedia>,
    audio_sender: RtpSender,
    twcc: TwccNumbering,
    /// The timers; `None` until the connection is established.
    timers: Option<Timers>,
    /// Number of the next frame.
    frame: u32,
    counting: bool,
    packets_sent: u64,
}

struct Timers {
    video: Ticker,
    audio: Ticker,
    next_report: Instant,
}

impl Publisher {
    fn new(context: &Arc<RunContext>, startup: Option<StartupGuard>) -> Self {
        let options = &context.options;
        let layers = video::layers(&options.video)
            .into_iter()
            .zip(RIDS)
            .map(|(spec, rid)| Layer::new(&options.video, spec, rid))
            .collect();
        Self {
            context: context.clone(),
            startup,
            layers,
            video: None,
            audio: None,
            audio_sender: RtpSender::random(),
            twcc: TwccNumbering::random(),
            timers: None,
            frame: 0,
            counting: false,
            packets_sent: 0,
        }
    }

    fn apply_answer(&mut self, answer: &Answer) {
        self.video = answer.video.clone();
        self.audio = answer.audio.clone();
        if let Some(video) = &self.video
            && self.layers.len() > 1
        {
            // A server may accept fewer layers than were offered. Without simulcast it gets the
            // largest layer.
            let largest = self.layers.len() - 1;
            let mut index = 0;
            self.layers.retain(|layer| {
                let keep = if video.rids.is_empty() {
                    index == largest
                } else {
                    video.rids.iter().any(|rid| rid == layer.rid())
                };
                index += 1;
                keep
            });
        }
    }

    fn send_frame(&mut self, now: Instant, tick: u64, peer: &mut Peer) -> Result<(), SessionError> {
        let Some(media) = &self.video else { return Ok(()) };
        let fps = u64::from(self.context.options.video.fps);
        let clock_units = tick * u64::from(VIDEO_CLOCK_HZ) / fps;
        for (n, layer) in self.layers.iter_mut().enumerate() {
            let stamp = Stamp {
                run: self.context.run,
                frame: self.frame,
                layer: n as u8,
                key: layer.next_is_key(now),
                sent_us: crate::clock::since_start_us(Instant::now()),
            };
            let packets = layer.send_frame(stamp, clock_units, media, &mut self.twcc, peer)?;
            if self.counting {
                self.packets_sent += packets;
            }
        }
        self.frame = self.frame.wrapping_add(1);
        Ok(())
    }

    fn send_audio(&mut self, tick: u64, peer: &mut Peer) -> Result<(), SessionError> {
        let Some(media) = &self.audio else { return Ok(()) };
        let sent_us = crate::clock::since_start_us(Instant::now());
        let (run, frame) = (self.context.run, tick as u32);
        let payload = opus::silence(Stamp { run, frame, sent_us, layer: 0, key: true });
        let extensions = self.twcc.next_extensions(&[(media.mid_id, &*media.mid)], media.twcc_id);
        peer.send_rtp(&OutgoingPacket::new(
            media.payload_type,
            self.audio_sender.next_sequence(payload.len()),
            self.audio_sender.timestamp(tick * opus::PACKET_CLOCK_UNITS),
            self.audio_sender.ssrc(),
            tick == 0,
            &extensions,
            payload,
        ))?;
        self.packets_sent += u64::from(self.counting);
        Ok(())
    }

    fn send_reports(&self, now: Instant, peer: &mut Peer) -> Result<(), SessionError> {
        let Some(timers) = &self.timers else { return Ok(()) };
        for layer in &self.layers {
            let start = timers.video.start();
            peer.send_rtcp(&layer.sender().report(now, start, VIDEO_CLOCK_HZ.into()))?;
        }
        if self.audio.is_some() {
            let start = timers.audio.start();
            peer.send_rtcp(&self.audio_sender.report(now, start, opus::CLOCK_HZ))?;
        }
        Ok(())
    }

    fn on_feedback(
        &mut self,
        packet: &dyn RtcpPacket,
        peer: &mut Peer,
    ) -> Result<(), SessionError> {
        let any = packet.as_any();
        if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
            let Some(media) = &self.video else { return Ok(()) };
            if let Some(layer) =
                self.layers.iter_mut().find(|layer| layer.ssrc() == nack.media_ssrc)
            {
                for sequence in nack.nacks.iter().flat_map(|pair| pair.packet_list()) {
                    layer.retransmit(sequence, media, &mut self.twcc, peer)?;
                }
            }
        } else if let Some(pli) = any.downcast_ref::<PictureLossIndication>() {
            self.request_keyframe(pli.media_ssrc);
        } else if let Some(fir) = any.downcast_ref::<FullIntraRequest>() {
            for entry in &fir.fir {
                self.request_keyframe(entry.ssrc);
            }
        }
        Ok(())
    }

    fn request_keyframe(&mut self, ssrc: u32) {
        for layer in self.layers.iter_mut().filter(|layer| layer.ssrc() == ssrc) {
            layer.request_keyframe();
        }
    }
}

impl Role for Publisher {
    fn on_connected(&mut self, now: Instant) {
        self.timers = Some(Timers {
            video: Ticker::new(now, self.context.options.video.fps),
            audio: Ticker::new(now, opus::PACKETS_PER_S),
            next_report: now + REPORT_INTERVAL,
        });
        self.startup = None;
        LiveCounters::add(&self.context.live.publishing, 1);
    }

    fn on_rtp(&mut self, _: Instant, _: &mut Peer, _: &[u8]) -> Result<(), SessionError> {
        Ok(())
    }

    fn on_rtcp(
        &mut self,
        _: Instant,
        peer: &mut Peer,
        mut rtcp: Bytes,
    ) -> Result<(), SessionError> {
        for packet in rtc_rtcp::packet::unmarshal(&mut rtcp).unwrap_or_default() {
            self.on_feedback(packet.as_ref(), peer)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let timers = self.timers.as_ref()?;
        let video = self.video.is_some().then(|| timers.video.deadline());
        let audio = self.audio.is_some().then(|| timers.audio.deadline());
        video.into_iter().chain(audio).chain([timers.next_report]).min()
    }

    fn handle_timeout(&mut self, now: Instant, peer: &mut Peer) -> Result<(), SessionError> {
        let Some(timers) = &mut self.timers else { return Ok(()) };
        let (video, audio) = (timers.video.take(now), timers.audio.take(now));
        let report_is_due = now >= timers.next_report;
        if report_is_due {
            timers.next_report = now + REPORT_INTERVAL;
        }
        if let Some(tick) = video {
            self.send_frame(now, tick, peer)?;
        }
        if let Some(tick) = audio {
            self.send_audio(tick, peer)?;
        }
        if report_is_due {
            self.send_reports(now, peer)?;
        }
        Ok(())
    }

    fn set_phase(&mut self, _: Instant, phase: Phase) {
        self.counting = phase == Phase::Count;
    }
}
