//! Specifications of clients: sections, payload types, extension ids, and the numbers they start
//! with.

use std::sync::Arc;
use std::time::Duration;

use weir_netsim::Profile;
use weir_sfu::codec::{Codec, MediaKind};
use weir_sfu::forward::start::StartMode;
use weir_sfu::rtp::ext::ExtKind;
use weir_sfu::sdp::{CodecFormat, ExtMap, Feedback};
use weir_sfu::transport::srtp::SrtpProfile;

use super::media::Clip;

/// DTLS behaviour of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DtlsMode {
    /// Keys known beforehand.
    Preset(SrtpProfile),
    /// `rtc-dtls` as client (offer `actpass`).
    Client,
    /// `rtc-dtls` as server (offer `passive`, as FFmpeg does).
    Server,
}

pub(crate) const GCM: DtlsMode = DtlsMode::Preset(SrtpProfile::AeadAes128Gcm);
pub(crate) const SHA1: DtlsMode = DtlsMode::Preset(SrtpProfile::Aes128CmHmacSha1_80);

pub(crate) const ALL_FEEDBACK: Feedback =
    Feedback { nack: true, pli: true, fir: true, remb: true, transport_cc: true };

/// Default network: 10 ms each way. A varying default would hide what a delay-based controller
/// does.
pub(crate) fn clean() -> Profile {
    Profile::delay(Duration::from_millis(10))
}

/// Frames with which an encoder sends its parameter sets (AV1: its sequence header).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetsMode {
    /// Each keyframe, in its first packet.
    EachKeyframe,
    /// Each frame, in its first packet.
    EachFrame,
    /// Each keyframe, in a packet before it with a marker and a timestamp of its own.
    OwnPacket,
    /// The first keyframe only.
    Once,
    /// No frame: the offer states them. H264 and H265.
    Offer,
    /// No frame, and the offer states none.
    Never,
    /// Each keyframe, which is a recovery point without an IDR picture.
    RecoveryPoint,
}

impl SetsMode {
    /// Whether the first packet of a frame holds sets.
    pub(crate) fn in_frame(self, key: bool, frame: u32) -> bool {
        match self {
            Self::EachFrame => true,
            Self::EachKeyframe | Self::OwnPacket | Self::RecoveryPoint => key,
            Self::Once => key && frame == 0,
            Self::Offer | Self::Never => false,
        }
    }
}

/// One section of a publisher.
#[derive(Debug, Clone)]
pub(crate) struct PublishTrackSpec {
    pub mid: &'static str,
    pub codec: Codec,
    pub pt: u8,
    pub rtx_pt: Option<u8>,
    pub red_pt: Option<u8>,
    /// Number of packets that RED carries; 0 sends the bare codec.
    pub sends_red: bool,
    pub red_distance: usize,
    /// Change that it makes to its RED payloads, by serial.
    pub forges_red: Option<fn(u64, &mut Vec<u8>)>,
    pub feedback: Feedback,
    pub exts: Vec<(ExtKind, u8)>,
    /// Extension elements that it sends beside mid, rid and transport-cc: id and bytes, negotiated
    /// or not.
    pub extra_exts: Vec<(u8, Vec<u8>)>,
    /// Whether it writes mid and rid into packets.
    pub sends_mid: bool,
    /// Whether its frames are encrypted end to end.
    pub encrypts: bool,
    /// Whether it declares its SSRCs in SDP.
    pub declares: bool,
    /// Simulcast layers with rid, size and packets per frame; one with an empty rid without
    /// simulcast.
    pub layers: Vec<LayerSpec>,
    pub frame_every: Duration,
    /// Interval of unrequested keyframes, in frames.
    pub key_every: Option<u32>,
    pub bytes: usize,
    /// Frames with parameter sets; H264, H265 and AV1.
    pub sets: SetsMode,
    /// H264 profile and level.
    pub profile: &'static str,
    /// Temporal layers, 1 to 3; H264 and H265 have two at most, by slices that no frame refers to.
    pub temporal_layers: u8,
    /// Whether each frame begins with an access unit delimiter in a packet of its own, and slices
    /// have a header that tells their type: B slices where no frame refers to them. H264.
    pub delimits: bool,
    /// Whether frames of upper layers refer to the one before of their layer, so that there are no
    /// switching points except keyframes.
    pub no_switch_points: bool,
    /// 15, 7 or 0 (none) bits of VP8 picture id.
    pub picture_bits: u8,
    pub first_seq: u16,
    /// Distance of the layers' first numbers.
    pub layer_seqs_apart: u16,
    pub first_timestamp: u32,
    pub first_picture: u16,
    /// Delay from capture to sending.
    pub encode_delay: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct LayerSpec {
    pub rid: &'static str,
    pub size: (u16, u16),
    pub packets: u16,
    /// Clip that it sends; without one it sends stamped filler.
    pub clip: Option<Arc<Clip>>,
}

impl LayerSpec {
    pub(crate) fn new(rid: &'static str, size: (u16, u16), packets: u16) -> Self {
        Self { rid, size, packets, clip: None }
    }
}

/// Sender reports of a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportStyle {
    /// Each second, with the RTP time of now, as libwebrtc.
    TimeOfNow,
    /// With a packet, each second, with the RTP time of the packet: libdatachannel 0.23 (OBS).
    PacketEachSecond,
    /// The same, each second of RTP time: libdatachannel before 0.23.
    PacketEachMediaSecond,
}

#[derive(Debug, Clone)]
pub(crate) struct PublisherSpec {
    pub tracks: Vec<PublishTrackSpec>,
    pub dtls: DtlsMode,
    /// Offset of its wall clock to true time, in seconds.
    pub clock_ahead_s: f64,
    /// Speed of its clocks above true time, in parts per million.
    pub clock_ppm: f64,
    pub sends_reports: bool,
    pub report_style: ReportStyle,
    /// Whether it reports the first layer of a track only (OBS does).
    pub reports_first_layer: bool,
    /// Whether it responds to NACK (by RTX where negotiated, else by the same packet again).
    pub answers_nack: bool,
    /// Whether it responds to NACK of other layers than the largest (OBS does not).
    pub answers_nack_below_top: bool,
    pub answers_pli: bool,
    /// The network from it to the server, and back.
    pub up: Profile,
    pub down: Profile,
}

impl PublisherSpec {
    /// A browser: Opus and VP8 with RTX and transport-wide numbers.
    pub(crate) fn browser() -> Self {
        Self::of(vec![opus(), video(Codec::Vp8)])
    }

    pub(crate) fn of(tracks: Vec<PublishTrackSpec>) -> Self {
        Self {
            tracks,
            dtls: GCM,
            clock_ahead_s: 0.0,
            clock_ppm: 0.0,
            sends_reports: true,
            report_style: ReportStyle::TimeOfNow,
            reports_first_layer: false,
            answers_nack: true,
            answers_nack_below_top: true,
            answers_pli: true,
            up: clean(),
            down: clean(),
        }
    }

    pub(crate) fn video_only() -> Self {
        Self::of(vec![video(Codec::Vp8)])
    }

    pub(crate) fn simulcast(codec: Codec) -> Self {
        let mut track = video(codec);
        track.layers = vec![
            LayerSpec::new("q", (320, 176), 1),
            LayerSpec::new("h", (640, 352), 2),
            LayerSpec::new("f", (1280, 704), 4),
        ];
        Self::of(vec![opus(), track])
    }

    /// A publisher of three layers, each with as many temporal layers as its format can signal.
    pub(crate) fn temporal(codec: Codec) -> Self {
        Self::simulcast(codec).with(MediaKind::Video, |track| {
            let by_slices = matches!(codec, Codec::H264 | Codec::H265);
            track.temporal_layers = if by_slices { 2 } else { 3 };
            if codec == Codec::Av1 {
                track.exts.push((ExtKind::DependencyDescriptor, 12));
            }
        })
    }

    /// OBS Studio 32.2 with H264, as it is set by default: B-frames, a keyframe every 250 frames and
    /// none on request, no RTX, no transport-wide numbers. Rid 0 is the largest layer.
    pub(crate) fn obs(layers: usize) -> Self {
        let sizes = [(1280, 704), (960, 528), (640, 352), (320, 176)];
        let rids = ["0", "1", "2", "3"];
        let of = |n: usize| {
            LayerSpec::new(if layers > 1 { rids[n] } else { "" }, sizes[n], 4 - n as u16)
        };
        let audio = PublishTrackSpec {
            feedback: Feedback { nack: true, ..Feedback::default() },
            exts: vec![(ExtKind::Mid, 1)],
            extra_exts: Vec::new(),
            first_seq: 0,
            ..opus()
        };
        let picture = PublishTrackSpec {
            pt: 96,
            rtx_pt: None,
            feedback: Feedback { nack: true, pli: true, remb: true, ..Feedback::default() },
            exts: vec![(ExtKind::Mid, 1), (ExtKind::Rid, 2)],
            extra_exts: Vec::new(),
            layers: (0..layers).map(of).collect(),
            key_every: Some(250),
            temporal_layers: 2,
            delimits: true,
            first_seq: 0,
            layer_seqs_apart: 0,
            ..video(Codec::H264)
        };
        Self {
            answers_pli: false,
            answers_nack_below_top: false,
            reports_first_layer: true,
            ..Self::of(vec![audio, picture])
        }
    }

    /// OBS as the README tells to set it: no B-frames, a keyframe every 2 s.
    pub(crate) fn obs_tuned(layers: usize) -> Self {
        Self::obs(layers).with(MediaKind::Video, |track| {
            (track.temporal_layers, track.key_every) = (1, Some(60));
        })
    }

    /// Changes the first section of a kind.
    pub(crate) fn with(
        mut self,
        kind: MediaKind,
        edit: impl FnOnce(&mut PublishTrackSpec),
    ) -> Self {
        let track = self.tracks.iter_mut().find(|track| track.codec.kind() == kind);
        edit(track.expect("it has such a section"));
        self
    }
}

pub(crate) fn opus() -> PublishTrackSpec {
    PublishTrackSpec {
        mid: "0",
        codec: Codec::Opus,
        pt: 111,
        rtx_pt: None,
        red_pt: None,
        sends_red: false,
        red_distance: 1,
        forges_red: None,
        feedback: Feedback { transport_cc: true, ..Feedback::default() },
        exts: vec![(ExtKind::Mid, 4), (ExtKind::TransportCc, 3), (ExtKind::AudioLevel, 1)],
        extra_exts: vec![(1, vec![0x9f])],
        sends_mid: true,
        encrypts: false,
        declares: true,
        layers: vec![LayerSpec::new("", (0, 0), 1)],
        frame_every: Duration::from_millis(20),
        key_every: None,
        bytes: 120,
        sets: SetsMode::EachKeyframe,
        profile: "42e01f",
        temporal_layers: 1,
        delimits: false,
        no_switch_points: false,
        picture_bits: 0,
        first_seq: 1_000,
        layer_seqs_apart: 7_000,
        first_timestamp: 5_000,
        first_picture: 0,
        encode_delay: Duration::ZERO,
    }
}

pub(crate) fn video(codec: Codec) -> PublishTrackSpec {
    let (pt, rtx_pt) = if codec == Codec::H264 { (102, 103) } else { (96, 97) };
    PublishTrackSpec {
        mid: "1",
        codec,
        pt,
        rtx_pt: Some(rtx_pt),
        feedback: ALL_FEEDBACK,
        exts: vec![
            (ExtKind::Mid, 4),
            (ExtKind::TransportCc, 3),
            (ExtKind::Rid, 10),
            (ExtKind::RepairedRid, 11),
            (ExtKind::VideoOrientation, 13),
        ],
        extra_exts: vec![(13, vec![0x01])],
        layers: vec![LayerSpec::new("", (640, 352), 3)],
        frame_every: Duration::from_nanos(33_333_333),
        bytes: 900,
        picture_bits: if codec == Codec::Vp8 { 15 } else { 0 },
        first_seq: 20_000,
        first_timestamp: 900_000,
        first_picture: 700,
        ..opus()
    }
}

pub(crate) fn format(codec: Codec, profile: &str) -> CodecFormat {
    let fmtp = match codec {
        Codec::H264 => {
            format!("level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={profile}")
        }
        Codec::Opus => "minptime=10;useinbandfec=1".to_owned(),
        _ => String::new(),
    };
    CodecFormat { codec, fmtp }
}

pub(crate) fn ext_map(exts: &[(ExtKind, u8)], allow_mixed: bool) -> ExtMap {
    let mut map = ExtMap::default();
    map.allow_mixed = allow_mixed;
    for &(kind, id) in exts {
        map.insert(kind, id);
    }
    map
}

/// One section of a viewer.
#[derive(Debug, Clone)]
pub(crate) struct WatchTrackSpec {
    pub mid: &'static str,
    pub kind: MediaKind,
    pub codecs: Vec<WatchCodec>,
    pub exts: Vec<(ExtKind, u8)>,
    pub allow_mixed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchCodec {
    pub codec: Codec,
    pub pt: u8,
    pub rtx_pt: Option<u8>,
    pub red_pt: Option<u8>,
    pub nack: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct ViewerSpec {
    pub tracks: Vec<WatchTrackSpec>,
    pub dtls: DtlsMode,
    /// Whether it sends NACKs.
    pub sends_nack: bool,
    pub sends_reports: bool,
    /// The network from it to the server, and back.
    pub up: Profile,
    pub down: Profile,
    /// Worker of the viewer; else the control plane chooses.
    pub worker: Option<usize>,
    /// Most data of the past that it wants.
    pub start: StartMode,
}

impl ViewerSpec {
    /// A browser with other payload types, mids and extension ids than any publisher.
    pub(crate) fn browser() -> Self {
        let codec = |codec, pt, rtx_pt| WatchCodec { codec, pt, rtx_pt, red_pt: None, nack: true };
        Self {
            tracks: vec![
                WatchTrackSpec {
                    mid: "snd",
                    kind: MediaKind::Audio,
                    codecs: vec![WatchCodec { nack: false, ..codec(Codec::Opus, 109, None) }],
                    exts: vec![
                        (ExtKind::Mid, 7),
                        (ExtKind::TransportCc, 6),
                        (ExtKind::AudioLevel, 8),
                    ],
                    allow_mixed: false,
                },
                WatchTrackSpec {
                    mid: "pic",
                    kind: MediaKind::Video,
                    codecs: vec![
                        codec(Codec::Vp8, 120, Some(121)),
                        codec(Codec::H264, 126, Some(127)),
                        codec(Codec::Vp9, 98, Some(99)),
                        codec(Codec::H265, 104, Some(105)),
                        codec(Codec::Av1, 45, Some(46)),
                    ],
                    exts: vec![
                        (ExtKind::Mid, 7),
                        (ExtKind::TransportCc, 6),
                        (ExtKind::VideoOrientation, 9),
                    ],
                    allow_mixed: false,
                },
            ],
            dtls: GCM,
            sends_nack: true,
            sends_reports: true,
            up: clean(),
            down: clean(),
            worker: None,
            start: StartMode::default(),
        }
    }

    pub(crate) fn on_worker(worker: usize) -> Self {
        Self { worker: Some(worker), ..Self::browser() }
    }

    /// A viewer without RTX: retransmissions are the same packet again.
    pub(crate) fn without_rtx(mut self) -> Self {
        for codec in self.tracks.iter_mut().flat_map(|track| &mut track.codecs) {
            codec.rtx_pt = None;
        }
        self
    }

    /// A viewer that takes the dependency descriptor.
    pub(crate) fn reads_descriptors(mut self) -> Self {
        for track in self.tracks.iter_mut().filter(|track| track.kind == MediaKind::Video) {
            track.allow_mixed = true;
            track.exts.push((ExtKind::DependencyDescriptor, 12));
        }
        self
    }

    /// A viewer with only these video codecs.
    pub(crate) fn only(mut self, codecs: &[Codec]) -> Self {
        for track in self.tracks.iter_mut().filter(|track| track.kind == MediaKind::Video) {
            track.codecs.retain(|codec| codecs.contains(&codec.codec));
        }
        self
    }

    pub(crate) fn video_only(mut self) -> Self {
        self.tracks.retain(|track| track.kind == MediaKind::Video);
        self
    }
}
