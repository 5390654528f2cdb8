//! The module `rtp` against an independent implementation.
//!
//! `rtc-rtp` and `rtc-rtcp` read what we write and write what we read. They are oracles for tests
//! only: nothing in `sfu/src/rtp` knows them. Hostile bytes are in `rtp_hostile.rs`.

use bytes::Bytes;
use proptest::prelude::*;
use rtc_rtcp::goodbye::Goodbye;
use rtc_rtcp::packet::Packet;
use rtc_rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtc_rtcp::receiver_report::ReceiverReport as TheirReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport as TheirSenderReport;
use rtc_rtcp::source_description::{SdesType, SourceDescription};
use rtc_rtcp::transport_feedbacks::transport_layer_cc::{PacketStatusChunk, TransportLayerCc};
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{
    TransportLayerNack, nack_pairs_from_sequence_numbers,
};
use rtc_rtp::codec::{av1, h264, h265, vp8, vp9};
use rtc_rtp::header::{Extension, Header};
use rtc_rtp::packetizer::{Depacketizer, Payloader};
use rtc_shared::marshal::{Marshal, Unmarshal};
use weir_sfu::codec::Codec;
use weir_sfu::rtp::codec::{FrameInfo, descriptor_prefix_len, patch_picture_ids, peek};
use weir_sfu::rtp::ext::ExtWriter;
use weir_sfu::rtp::packet::{RTP_HEADER_LEN, RtpHeader};
use weir_sfu::rtp::rtcp::{ReportBlock, Rtcp, RtcpWriter, SenderReportOut, packets};

// --- RTP headers -------------------------------------------------------------------------------

#[derive(Debug, Clone)]
struct Elements {
    two_byte: bool,
    list: Vec<(u8, Vec<u8>)>,
}

fn any_elements() -> impl Strategy<Value = Elements> {
    let data = |len| prop::collection::vec(any::<u8>(), len);
    let one_byte = prop::collection::vec((1..=14u8, data(1..=16usize)), 0..8);
    let two_byte = prop::collection::vec((1..=255u8, data(0..=40usize)), 0..8);
    prop_oneof![
        one_byte.prop_map(|list| Elements { two_byte: false, list }),
        two_byte.prop_map(|list| Elements { two_byte: true, list }),
    ]
}

proptest! {
    #[test]
    fn headers_written_by_rtc_rtp_are_read_the_same(
        (marker, payload_type, sequence, timestamp, ssrc) in
            (any::<bool>(), 0..128u8, any::<u16>(), any::<u32>(), any::<u32>()),
        csrc in prop::collection::vec(any::<u32>(), 0..=15),
        elements in any_elements(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let header = Header {
            version: 2,
            marker,
            payload_type,
            sequence_number: sequence,
            timestamp,
            ssrc,
            csrc: csrc.clone(),
            extension: !elements.list.is_empty(),
            extension_profile: if elements.two_byte { 0x1000 } else { 0xbede },
            extensions: elements
                .list
                .iter()
                .map(|(id, data)| Extension { id: *id, payload: Bytes::from(data.clone()) })
                .collect(),
            ..Header::default()
        };
        let mut packet = header.marshal().expect("their header").to_vec();
        let header_len = packet.len();
        packet.extend(&payload);

        let ours = RtpHeader::parse(&packet).expect("our header");
        prop_assert_eq!((ours.marker, ours.payload_type), (marker, payload_type));
        prop_assert_eq!((ours.sequence, ours.timestamp, ours.ssrc), (sequence, timestamp, ssrc));
        prop_assert_eq!(usize::from(ours.csrc_count), csrc.len());
        prop_assert_eq!(ours.header_len, header_len);
        prop_assert_eq!(ours.payload_len(&packet), Ok(payload.len()));
        let read: Vec<_> = ours.elements(&packet).map(|(id, data)| (id, data.to_vec())).collect();
        prop_assert_eq!(read, elements.list);
    }

    #[test]
    fn headers_written_by_us_are_read_the_same_by_rtc_rtp(
        marker in any::<bool>(),
        payload_type in 0..128u8,
        sequence in any::<u16>(),
        timestamp in any::<u32>(),
        ssrc in any::<u32>(),
        elements in any_elements(),
    ) {
        let mut packet = [0xaa; 600];
        let mut writer = ExtWriter::new(&mut packet[RTP_HEADER_LEN..], elements.two_byte);
        for (id, data) in &elements.list {
            prop_assert!(writer.push(*id, data));
        }
        let block_len = writer.finish();
        packet[0] = if block_len > 0 { 0x90 } else { 0x80 };
        packet[1] = (u8::from(marker) << 7) | payload_type;
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
        packet[8..RTP_HEADER_LEN].copy_from_slice(&ssrc.to_be_bytes());

        let whole = RTP_HEADER_LEN + block_len;
        let theirs = Header::unmarshal(&mut &packet[..whole]).expect("their reading");
        prop_assert_eq!((theirs.version, theirs.marker), (2, marker));
        prop_assert_eq!((theirs.payload_type, theirs.sequence_number), (payload_type, sequence));
        prop_assert_eq!((theirs.timestamp, theirs.ssrc), (timestamp, ssrc));
        let read: Vec<_> = theirs.extensions.iter().map(|e| (e.id, e.payload.to_vec())).collect();
        prop_assert_eq!(read, elements.list);
        prop_assert_eq!(packet[whole], 0xaa, "nothing written behind the block");
    }
}

// --- RTCP --------------------------------------------------------------------------------------

fn any_block() -> impl Strategy<Value = ReportBlock> {
    (any::<[u32; 5]>(), any::<u8>(), 0..0x80_0000).prop_map(|(words, fraction_lost, lost)| {
        let [ssrc, highest_seq, jitter, lsr, dlsr] = words;
        ReportBlock { ssrc, fraction_lost, cumulative_lost: lost, highest_seq, jitter, lsr, dlsr }
    })
}

fn theirs(block: &ReportBlock) -> ReceptionReport {
    ReceptionReport {
        ssrc: block.ssrc,
        fraction_lost: block.fraction_lost,
        total_lost: block.cumulative_lost as u32,
        last_sequence_number: block.highest_seq,
        jitter: block.jitter,
        last_sender_report: block.lsr,
        delay: block.dlsr,
    }
}

/// The one packet that `write` writes, as `rtc-rtcp` reads it.
fn read_by_them<T: Packet + Clone + 'static>(write: impl FnOnce(&mut RtcpWriter<'_>) -> bool) -> T {
    let mut buf = [0xaa; 1_400];
    let mut writer = RtcpWriter::new(&mut buf);
    assert!(write(&mut writer), "does not fit");
    let len = writer.len();
    let packets = rtc_rtcp::packet::unmarshal(&mut &buf[..len]).expect("they refuse our packet");
    assert_eq!(packets.len(), 1);
    packets[0].as_any().downcast_ref::<T>().expect("another packet type").clone()
}

fn written_by_them(packet: &impl Marshal) -> Vec<u8> {
    packet.marshal().expect("their packet").to_vec()
}

fn read_by_us(bytes: &[u8]) -> Rtcp<'_> {
    let mut all = packets(bytes);
    let first = all.next().expect("a packet").expect("we refuse their packet");
    assert!(all.next().is_none());
    first
}

proptest! {
    #[test]
    fn reports_agree_both_ways(
        (ssrc, ntp, rtp_time, sent, octets) in
            (any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>()),
        blocks in prop::collection::vec(any_block(), 0..=31),
    ) {
        let report = SenderReportOut { ssrc, ntp, rtp_time, packets: sent, octets };
        let their_sr = TheirSenderReport {
            ssrc,
            ntp_time: ntp,
            rtp_time,
            packet_count: sent,
            octet_count: octets,
            reports: blocks.iter().map(theirs).collect(),
            ..Default::default()
        };
        let their_rr = TheirReceiverReport {
            ssrc,
            reports: blocks.iter().map(theirs).collect(),
            ..Default::default()
        };
        let read: TheirSenderReport = read_by_them(|w| w.sender_report(&report, &blocks));
        prop_assert_eq!(&read, &their_sr);
        let read: TheirReceiverReport = read_by_them(|w| w.receiver_report(ssrc, &blocks));
        prop_assert_eq!(&read, &their_rr);

        let bytes = written_by_them(&their_sr);
        let Rtcp::SenderReport(read) = read_by_us(&bytes) else { panic!() };
        prop_assert_eq!((read.ssrc, read.ntp, read.rtp_time), (ssrc, ntp, rtp_time));
        prop_assert_eq!((read.packets, read.octets), (sent, octets));
        prop_assert_eq!(read.blocks().collect::<Vec<_>>(), blocks.clone());
        let bytes = written_by_them(&their_rr);
        let Rtcp::ReceiverReport(read) = read_by_us(&bytes) else { panic!() };
        prop_assert_eq!(read.ssrc, ssrc);
        prop_assert_eq!(read.blocks().collect::<Vec<_>>(), blocks);
    }

    #[test]
    fn nacks_agree_both_ways(
        first in any::<u16>(),
        steps in prop::collection::vec(1..40u16, 0..60),
    ) {
        let mut sequences = vec![first];
        for step in steps {
            sequences.push(sequences[sequences.len() - 1].wrapping_add(step));
        }
        let read: TransportLayerNack = read_by_them(|w| w.nack(1, 2, &sequences));
        prop_assert_eq!((read.sender_ssrc, read.media_ssrc), (1, 2));
        let listed: Vec<_> = read.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        prop_assert_eq!(&listed, &sequences);

        let nacks = nack_pairs_from_sequence_numbers(&sequences);
        let bytes = written_by_them(&TransportLayerNack { sender_ssrc: 1, media_ssrc: 2, nacks });
        let Rtcp::Nack(read) = read_by_us(&bytes) else { panic!() };
        prop_assert_eq!((read.sender_ssrc, read.media_ssrc), (1, 2));
        prop_assert_eq!(read.sequences().collect::<Vec<_>>(), sequences);
    }

    #[test]
    fn keyframe_requests_and_goodbyes_agree_both_ways(
        sender_ssrc in any::<u32>(),
        media_ssrc in any::<u32>(),
        entries in prop::collection::vec((any::<u32>(), any::<u8>()), 1..20),
    ) {
        let pli = PictureLossIndication { sender_ssrc, media_ssrc };
        let read: PictureLossIndication = read_by_them(|w| w.pli(sender_ssrc, media_ssrc));
        prop_assert_eq!(&read, &pli);
        let bytes = written_by_them(&pli);
        prop_assert_eq!(read_by_us(&bytes), Rtcp::Pli { sender_ssrc, media_ssrc });

        let (ssrc, sequence_number) = entries[0];
        let read: FullIntraRequest = read_by_them(|w| w.fir(sender_ssrc, ssrc, sequence_number));
        prop_assert_eq!((read.sender_ssrc, read.media_ssrc), (sender_ssrc, 0));
        prop_assert_eq!(read.fir, vec![FirEntry { ssrc, sequence_number }]);
        let fir = entries
            .iter()
            .map(|&(ssrc, sequence_number)| FirEntry { ssrc, sequence_number })
            .collect();
        let bytes = written_by_them(&FullIntraRequest { sender_ssrc, media_ssrc: 0, fir });
        let Rtcp::Fir(read) = read_by_us(&bytes) else { panic!() };
        prop_assert_eq!(read.sender_ssrc, sender_ssrc);
        prop_assert_eq!(read.entries().collect::<Vec<_>>(), entries.clone());

        let sources: Vec<_> = entries.iter().map(|entry| entry.0).collect();
        let reason = Bytes::from_static(b"end");
        let bytes = written_by_them(&Goodbye { sources: sources.clone(), reason });
        let Rtcp::Bye(read) = read_by_us(&bytes) else { panic!() };
        prop_assert_eq!(read.ssrcs().collect::<Vec<_>>(), sources);
    }

    #[test]
    fn remb_agrees_both_ways(
        bitrate in prop_oneof![0..20_000_000u64, 0..u64::MAX / 2],
        ssrcs in prop::collection::vec(any::<u32>(), 1..10),
    ) {
        let near = |a: f64, b: f64| (a - b).abs() <= b / 100_000.0 + 1.0;
        let read: ReceiverEstimatedMaximumBitrate = read_by_them(|w| w.remb(7, bitrate, &ssrcs));
        prop_assert_eq!((read.sender_ssrc, &read.ssrcs), (7, &ssrcs));
        prop_assert!(near(f64::from(read.bitrate), bitrate as f64), "{} {}", read.bitrate, bitrate);
        let bytes = written_by_them(&ReceiverEstimatedMaximumBitrate {
            sender_ssrc: 7,
            bitrate: bitrate as f32,
            ssrcs: ssrcs.clone(),
        });
        let Rtcp::Remb(read) = read_by_us(&bytes) else { panic!() };
        prop_assert!(near(read.bitrate as f64, bitrate as f64), "{} {}", read.bitrate, bitrate);
        prop_assert_eq!(read.ssrcs().collect::<Vec<_>>(), ssrcs);
    }

    #[test]
    fn cname_is_read_the_same(cname in "[a-z0-9@.-]{1,60}") {
        let read: SourceDescription = read_by_them(|w| w.sdes_cname(9, &cname));
        prop_assert_eq!(read.chunks.len(), 1);
        prop_assert_eq!(read.chunks[0].source, 9);
        let items = &read.chunks[0].items;
        prop_assert_eq!(items.len(), 1);
        prop_assert_eq!(items[0].sdes_type, SdesType::SdesCname);
        prop_assert_eq!(&items[0].text[..], cname.as_bytes());
    }
}

/// Arrivals as networks make them: stretches received in order, lost, and scattered. The last one
/// arrived, because `rtc-rtcp` refuses some feedback without any delta.
fn any_arrivals() -> impl Strategy<Value = Vec<Option<i64>>> {
    let received = (1..60usize, 0..250i64).prop_map(|(n, step)| vec![Some(step); n]);
    let lost = (1..60usize).prop_map(|n| vec![None; n]);
    let delta = prop_oneof![4 => 0..256i64, 1 => -32_768..32_768i64];
    let scattered = prop::collection::vec(prop::option::of(delta), 1..40);
    let stretches = prop::collection::vec(prop_oneof![received, lost, scattered], 1..8);
    stretches.prop_map(|stretches| {
        let mut time = 0;
        let deltas = stretches.into_iter().flatten().chain([Some(1)]);
        deltas
            .map(|delta| {
                time += delta?;
                Some(time)
            })
            .collect()
    })
}

/// Expands their chunks and deltas to what the draft means by them.
fn expand(feedback: &TransportLayerCc) -> Vec<(u16, Option<i64>)> {
    let mut symbols = Vec::new();
    for chunk in &feedback.packet_chunks {
        match chunk {
            PacketStatusChunk::RunLengthChunk(run) => {
                let n = usize::from(run.run_length);
                symbols.extend(std::iter::repeat_n(run.packet_status_symbol as u16, n));
            }
            PacketStatusChunk::StatusVectorChunk(vector) => {
                symbols.extend(vector.symbol_list.iter().map(|&symbol| symbol as u16));
            }
        }
    }
    symbols.truncate(usize::from(feedback.packet_status_count));
    let mut deltas = feedback.recv_deltas.iter().map(|delta| delta.delta / 250);
    let mut time = 0;
    let status = |(i, symbol): (usize, u16)| {
        let arrival = (symbol != 0).then(|| {
            time += deltas.next().expect("a delta for each arrival");
            time
        });
        (feedback.base_sequence_number.wrapping_add(i as u16), arrival)
    };
    symbols.into_iter().enumerate().map(status).collect()
}

proptest! {
    #[test]
    fn transport_feedback_agrees_both_ways(
        arrivals in any_arrivals(),
        base_seq in any::<u16>(),
        feedback_count in any::<u8>(),
        reference_time in 0..0x80_0000i32,
    ) {
        let expected: Vec<_> = arrivals
            .iter()
            .enumerate()
            .map(|(i, &arrival)| (base_seq.wrapping_add(i as u16), arrival))
            .collect();
        let feedback: TransportLayerCc =
            read_by_them(|w| w.twcc(1, 2, base_seq, feedback_count, reference_time, &arrivals));
        prop_assert_eq!((feedback.sender_ssrc, feedback.media_ssrc), (1, 2));
        prop_assert_eq!(feedback.fb_pkt_count, feedback_count);
        prop_assert_eq!(feedback.reference_time, reference_time as u32);
        prop_assert_eq!(expand(&feedback), expected.clone());

        let bytes = written_by_them(&feedback);
        let Rtcp::Twcc(read) = read_by_us(&bytes) else { panic!() };
        prop_assert_eq!((read.base_seq, read.feedback_count), (base_seq, feedback_count));
        prop_assert_eq!(read.reference_time, reference_time);
        prop_assert_eq!(read.statuses().collect::<Vec<_>>(), expected);
    }
}

// --- Codecs ------------------------------------------------------------------------------------

proptest! {
    #[test]
    fn vp8_descriptors_agree_with_rtc_rtp(payload in prop::collection::vec(any::<u8>(), 4..16)) {
        let bytes = Bytes::from(payload.clone());
        let mut theirs = vp8::Vp8Packet::default();
        let Ok(frame) = theirs.depacketize(&bytes) else { return Ok(()) };
        let info = peek(Codec::Vp8, &payload);
        let starts = theirs.s == 1 && theirs.pid == 0;
        prop_assert_eq!(info.starts_frame, starts);
        prop_assert_eq!(info.keyframe, starts && frame[0] & 1 == 0);
        prop_assert_eq!(info.temporal_id, (theirs.t == 1).then_some(theirs.tid));
        let picture_id = info.picture.and_then(|p| p.picture_id).map(|(id, _)| id);
        prop_assert_eq!(picture_id, (theirs.i == 1).then_some(theirs.picture_id));
        let tl0 = info.picture.and_then(|p| p.tl0_pic_idx);
        prop_assert_eq!(tl0, (theirs.l == 1).then_some(theirs.tl0_pic_idx));
    }

    #[test]
    fn vp9_descriptors_agree_with_rtc_rtp(payload in prop::collection::vec(any::<u8>(), 1..40)) {
        let bytes = Bytes::from(payload.clone());
        let mut theirs = vp9::Vp9Packet::default();
        if theirs.depacketize(&bytes).is_err() {
            return Ok(());
        }
        let info = peek(Codec::Vp9, &payload);
        let starts = theirs.b && theirs.sid == 0;
        prop_assert_eq!(info.starts_frame, starts);
        if theirs.i || theirs.v {
            prop_assert_eq!(info.keyframe, starts && !theirs.p);
        } else {
            prop_assert!(!info.keyframe || (starts && !theirs.p));
        }
        prop_assert_eq!(info.temporal_id, theirs.l.then_some(theirs.tid));
        prop_assert_eq!(info.spatial_id, theirs.l.then_some(theirs.sid));
        let picture_id = info.picture.and_then(|p| p.picture_id).map(|(id, _)| id);
        prop_assert_eq!(picture_id, theirs.i.then_some(theirs.picture_id));
        let tl0 = info.picture.and_then(|p| p.tl0_pic_idx);
        prop_assert_eq!(tl0, (theirs.l && !theirs.f).then_some(theirs.tl0picidx));
        let size = theirs.width.last().copied().zip(theirs.height.last().copied());
        prop_assert_eq!(info.resolution, size);
    }

    #[test]
    fn patched_descriptors_are_read_back_and_nothing_else_moves(
        payload in prop::collection::vec(any::<u8>(), 0..16),
        picture_id in any::<u16>(),
        tl0 in any::<u8>(),
    ) {
        for codec in [Codec::Vp8, Codec::Vp9] {
            let len = descriptor_prefix_len(codec, &payload);
            prop_assert!(len <= 5 && len <= payload.len());
            let before = peek(codec, &payload);
            let mut patched = payload.clone();
            let changed = patch_picture_ids(codec, &mut patched[..len], picture_id, tl0);
            prop_assert_eq!(changed, len > 0);
            prop_assert_eq!(&patched[len..], &payload[len..]);
            let picture = before.picture.map(|mut ids| {
                let mask = |bits| if bits == 15 { 0x7fff } else { 0x7f };
                ids.picture_id = ids.picture_id.map(|(_, bits)| (picture_id & mask(bits), bits));
                ids.tl0_pic_idx = ids.tl0_pic_idx.map(|_| tl0);
                ids
            });
            prop_assert_eq!(peek(codec, &patched), FrameInfo { picture, ..before });
        }
    }
}

/// Which of the packets that `payloader` makes of `frame` begin a keyframe.
fn keyframe_packets(codec: Codec, payloader: &mut dyn Payloader, frame: &[u8]) -> Vec<bool> {
    let payloads = payloader.payload(1_200, &Bytes::from(frame.to_vec())).expect("their payloads");
    payloads.iter().map(|payload| peek(codec, payload).keyframe).collect()
}

fn nal_units(units: &[(&[u8], usize)]) -> Vec<u8> {
    let unit =
        |(header, len): &(&[u8], usize)| [&[0, 0, 0, 1][..], header, &vec![0x55; *len]].concat();
    units.iter().flat_map(unit).collect()
}

#[test]
fn keyframes_packetized_by_rtc_rtp_begin_where_a_decoder_can() {
    let mut payloader = h264::H264Payloader::default();
    let key = nal_units(&[(&[0x67], 20), (&[0x68], 4), (&[0x65], 3_000)]);
    let found = keyframe_packets(Codec::H264, &mut payloader, &key);
    assert_eq!(found, [false, true, false, false], "STAP-A, then FU-A");
    let delta = nal_units(&[(&[0x41], 3_000)]);
    assert_eq!(keyframe_packets(Codec::H264, &mut payloader, &delta), [false; 3]);

    let mut payloader = h265::HevcPayloader;
    let key =
        nal_units(&[(&[0x40, 1], 20), (&[0x42, 1], 40), (&[0x44, 1], 8), (&[0x26, 1], 3_000)]);
    let found = keyframe_packets(Codec::H265, &mut payloader, &key);
    assert_eq!(found, [false, true, false, false], "AP, then FU");
    let delta = nal_units(&[(&[0x02, 1], 3_000)]);
    assert_eq!(keyframe_packets(Codec::H265, &mut payloader, &delta), [false; 3]);

    let mut payloader = vp8::Vp8Payloader::default();
    let mut frame = [0x50, 0, 0, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xb4, 0].to_vec();
    frame.resize(3_000, 0x55);
    assert_eq!(keyframe_packets(Codec::Vp8, &mut payloader, &frame), [true, false, false]);
    frame[0] |= 1;
    assert_eq!(keyframe_packets(Codec::Vp8, &mut payloader, &frame), [false; 3]);

    let mut payloader = av1::Av1Payloader::default();
    let sequence_header = [0x0a, 2, 0x55, 0x55];
    // A shown key frame.
    let frame_obu = [&[0x32, 0xb9, 0x17, 0x10][..], &[0x55; 3_000]].concat();
    let key = [&sequence_header[..], &frame_obu].concat();
    assert_eq!(keyframe_packets(Codec::Av1, &mut payloader, &key), [true, false, false]);
    let inter = [&[0x32, 0xb9, 0x17, 0x30][..], &[0x55; 3_000]].concat();
    let delta = [&sequence_header[..], &inter].concat();
    assert_eq!(keyframe_packets(Codec::Av1, &mut payloader, &delta), [false; 3]);
}
