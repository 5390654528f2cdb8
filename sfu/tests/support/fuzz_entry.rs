//! Entry of each fuzz target, shared by `sfu/fuzz` and the corpus replay test.
//!
//! Every parser gets the same bytes as the network would give it, and its result is checked: an
//! index lies inside the packet, a walk ends at its limit. A panic is the finding. Adding a target:
//! a function here, an arm in [`run`], a file in `sfu/fuzz/targets/`, seeds.

#[path = "fuzz_datagram.rs"]
mod fuzz_datagram;
#[path = "world/mod.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddr};

use weir_sfu::codec::{Codec, MediaKind};
use weir_sfu::media::Encoding;
use weir_sfu::repair::red_recovery::RedRecovery;
use weir_sfu::rtp::codec::{FrameInfo, descriptor_prefix_len, h264, patch_picture_ids, peek};
use weir_sfu::rtp::dependency_descriptor::{DECODE_TARGETS_MAX, DependencyReader, Indication};
use weir_sfu::rtp::layers_allocation::LayersAllocation;
use weir_sfu::rtp::packet::{RTP_HEADER_LEN, RtpHeader, classify};
use weir_sfu::rtp::rtcp::{Rtcp, packets};
use weir_sfu::rtp::{ext, red};
use weir_sfu::sdp::{
    CodecFormat, Grammar, IceCredentials, LocalTransport, Offer, OfferText, SourceTrack,
    SubscribeOptions, answer_publish, answer_subscribe, fragment,
};
use weir_sfu::transport::stun::{StunView, plain_binding_reply, server_ufrag};

/// Gives `data` to a target; its name is also the name of its corpus folder.
pub(crate) fn run(target: &str, data: &[u8]) {
    match target {
        "stun" => stun(data),
        "rtp" => rtp(data),
        "descriptor" => descriptor(data),
        "rtcp" => rtcp(data),
        "sdp" => sdp(data),
        "datagram" => fuzz_datagram::datagram(data),
        _ => panic!("no target {target}"),
    }
}

const VIDEO: [Codec; 5] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1];

/// A datagram that claims to be STUN.
fn stun(data: &[u8]) {
    let ufrag = server_ufrag(data);
    let source = SocketAddr::from((Ipv4Addr::LOCALHOST, 5000));
    let mut reply = [0; 128];
    let plain = plain_binding_reply(data, source, &mut reply);
    if let Some(len) = plain {
        assert!(len <= data.len() + 24, "a reply of {len} bytes amplifies {} bytes", data.len());
    }
    let Ok(view) = StunView::parse(data) else {
        return assert_eq!(plain, None, "answered what does not parse");
    };
    if let (Some(cheap), Some((local, _))) = (ufrag, view.username()) {
        assert_eq!(cheap, local, "the cheap look-up and the parser read different sessions");
    }
    let _ = view.has_use_candidate();
    let _ = view.verify_integrity(b"VOkJxbRl1RmTxUk/WvJxBt");
}

/// An RTP packet: header, extension block, padding, payload peeks of every codec.
fn rtp(data: &[u8]) {
    let _ = classify(data);
    let Ok(header) = RtpHeader::parse(data) else {
        return payload(data);
    };
    assert!((RTP_HEADER_LEN..=data.len()).contains(&header.header_len));
    if let Some(block) = header.extension {
        let (start, len) = (usize::from(block.start), usize::from(block.len));
        assert!(start + len <= header.header_len, "the extension block leaves the header");
        let elements = ext::elements(block.profile, &data[start..start + len]);
        assert!(elements.map(|(_, value)| assert!(value.len() <= len)).count() <= 16);
    }
    if let Ok(len) = header.payload_len(data) {
        payload(&data[header.header_len..header.header_len + len]);
    }
}

fn payload(bytes: &[u8]) {
    for codec in VIDEO {
        let before: FrameInfo = peek(codec, bytes);
        let mut encoding = Encoding::default();
        encoding.on_payload(codec, bytes);
        assert!(encoding.codec().is_none_or(|codec| codec.to_string().len() < 64));
        let prefix_len = descriptor_prefix_len(codec, bytes);
        assert!(prefix_len <= bytes.len() && prefix_len <= 8);
        let mut patched = bytes.to_vec();
        let changed = patch_picture_ids(codec, &mut patched[..prefix_len], 0x1234, 0x56);
        let after = peek(codec, &patched);
        assert_eq!(before.keyframe, after.keyframe, "{codec:?}: patching changed the frame");
        if !changed {
            assert_eq!(patched, bytes, "{codec:?}: patching refused and yet wrote");
        }
        if let Some((id, bits)) = after.picture.and_then(|ids| ids.picture_id).filter(|_| changed) {
            assert_eq!(id, 0x1234 & ((1 << bits) - 1), "{codec:?}: picture id of {bits} bits");
        }
    }
    let _ = (peek(Codec::Opus, bytes), h264::reference(bytes));
    assert!(red::red_prefix_len(bytes) <= bytes.len());
    let mut red = bytes.to_vec();
    let _ = red::rewrite_red_payload_types(&mut red, 111);
    assert_eq!(red::red_prefix_len(bytes), red::red_prefix_len(&red));
    let audio = red::red_blocks(bytes).map(|blocks| blocks.map(|block| block.data.len()).sum());
    assert!(audio.is_none_or(|sum: usize| sum + red::red_prefix_len(bytes) == bytes.len()));
    let mut sender = RedRecovery::default();
    for (seq, time) in [(10, 0u32), (12, 1_920), (16, 5_760), (30, 100_000)] {
        let found = sender.on_packet(seq, time, Some(bytes));
        assert!(found.iter().flatten().all(|lost| lost.ext_seq < seq && lost.timestamp < time));
    }
}

/// Header extensions that describe layers: records of a length byte and that many bytes, read one
/// after the other as descriptors of one stream, each as an allocation too.
fn descriptor(data: &[u8]) {
    let mut reader = DependencyReader::default();
    let (mut rest, mut seq) = (data, 1000);
    while let Some((&len, tail)) = rest.split_first() {
        let (element, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        // Some packets come late.
        seq = if len % 7 == 0 { seq - 1 } else { seq + 3 };
        let read = reader.read(seq, element);
        assert_eq!(read.is_some(), element.len() >= 3);
        if let Some((read, frame)) = read.and_then(|read| Some((read, read.frame?))) {
            assert!(frame.spatial_id < 4 && frame.temporal_id < 8);
            assert!(
                read.starts_frame || !frame.keyframe,
                "a keyframe begins with its first packet"
            );
            let indications = (0..DECODE_TARGETS_MAX).map(|target| frame.indications.of(target));
            let switches = indications.filter(|of| *of == Indication::Switch).count();
            assert!(switches > 0 || frame.opens == Default::default());
            let delta = [element[0] & 0x3f, element[1], element[2]];
            let again = reader.read(seq, &delta).and_then(|again| again.frame);
            assert!(again.is_none_or(|again| !again.keyframe && again.resolution.is_none()));
        }
        if let Some(allocation) = LayersAllocation::parse(element) {
            assert!(allocation.layers().len() <= 16 && allocation.stream < 4);
            for layer in allocation.layers() {
                assert!((1..=4).contains(&layer.temporal_layers) && layer.spatial_id < 4);
            }
        }
    }
}

/// A compound RTCP packet after decryption.
fn rtcp(data: &[u8]) {
    let walked = packets(data).take_while(Result::is_ok).flatten().map(|packet| match packet {
        Rtcp::SenderReport(report) => assert!(report.blocks().count() <= 31),
        Rtcp::ReceiverReport(report) => assert!(report.blocks().count() <= 31),
        Rtcp::Nack(nack) => assert!(nack.sequences().count() <= 64 * 17),
        Rtcp::Twcc(feedback) => {
            assert!(feedback.statuses().count() <= usize::from(feedback.status_count));
        }
        Rtcp::Remb(remb) => assert!(remb.ssrcs().count() <= 255),
        Rtcp::Fir(fir) => assert!(fir.entries().count() <= data.len() / 8),
        Rtcp::Pli { .. } | Rtcp::Bye(_) | Rtcp::Other { .. } => {}
    });
    assert!(walked.count() <= 32);
}

/// The body of a POST as an offer of both kinds, and of a PATCH as a fragment.
fn sdp(data: &[u8]) {
    let _ = fragment::parse(data);
    let _ = Offer::parse(OfferText { bytes: data, grammar: Grammar::Strict });
    let Ok(offer) = Offer::parse(OfferText::lenient(data)) else { return };
    let local = LocalTransport {
        ice: IceCredentials { ufrag: "weir".into(), pwd: "VOkJxbRl1RmTxUk/WvJxBt".into() },
        fingerprint_sha256: [7; 32],
        candidates: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8189))],
        publisher_limits: weir_sfu::config::PublisherLimits::default(),
        session_id: 1,
    };
    let sections = data.split(|&byte| byte == b'\n').filter(|sender| sender.starts_with(b"m="));
    let sections = sections.count();
    let check = |answer: &str| {
        assert!(answer.starts_with("v=0\r\n") && answer.ends_with("\r\n"));
        assert_eq!(answer.lines().filter(|sender| sender.starts_with("m=")).count(), sections);
    };
    if let Ok((plan, answer)) = answer_publish(&offer, &local) {
        check(&answer);
        assert!(plan.tracks.len() <= sections);
    }
    let source = [
        track(MediaKind::Audio, Codec::Opus, ""),
        track(MediaKind::Video, Codec::H264, "packetization-mode=1;profile-level-id=42e01f"),
    ];
    for source in [None, Some(source.as_slice())] {
        let mut ssrc = 1000;
        let mut next_ssrc = || {
            ssrc += 1;
            ssrc
        };
        let options = SubscribeOptions { source, random_ssrc: &mut next_ssrc, msid: "weir" };
        if let Ok((plan, answer)) = answer_subscribe(&offer, &local, options) {
            check(&answer);
            assert!(plan.tracks.len() <= sections);
        }
    }
}

fn track(kind: MediaKind, codec: Codec, fmtp: &str) -> SourceTrack {
    SourceTrack { kind, format: CodecFormat { codec, fmtp: fmtp.into() } }
}
