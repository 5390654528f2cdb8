//! Hostile bytes through every parser of `rtp`: no panic, and bounded work (quality B4 items 8 to
//! 11 and 17). Agreement with other implementations is in `rtp_oracle.rs`.

use proptest::prelude::*;
use weir_sfu::codec::Codec;
use weir_sfu::rtp::codec::{descriptor_prefix_len, patch_picture_ids, peek};
use weir_sfu::rtp::dependency_descriptor::DependencyReader;
use weir_sfu::rtp::ext::{MAX_ELEMENTS, elements};
use weir_sfu::rtp::layers_allocation::LayersAllocation;
use weir_sfu::rtp::packet::{RtpHeader, classify};
use weir_sfu::rtp::red::{red_prefix_len, rewrite_red_payload_types};
use weir_sfu::rtp::rtcp::{
    MAX_NACK_PAIRS, MAX_RTCP_PACKETS, ReportBlock, Rtcp, RtcpWriter, SenderReportOut, packets,
};

const CODECS: [Codec; 6] =
    [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1];

/// Parses `bytes` as every kind of packet of the network; returns the number of parsed items.
fn read_everything(bytes: &[u8]) -> usize {
    let mut items = 0;
    classify(bytes);
    if let Ok(header) = RtpHeader::parse(bytes) {
        assert!(header.header_len <= bytes.len());
        if let Ok(len) = header.payload_len(bytes) {
            assert!(header.header_len + len <= bytes.len());
        }
        items += header.elements(bytes).count();
    }
    for profile in [0xbede, 0x1000, 0] {
        let count = elements(profile, bytes).count();
        assert!(count <= MAX_ELEMENTS);
        items += count;
    }
    for codec in CODECS {
        peek(codec, bytes);
        let len = descriptor_prefix_len(codec, bytes);
        assert!(len <= 5 && len <= bytes.len());
        patch_picture_ids(codec, &mut bytes.to_vec(), 0xffff, 0xff);
    }
    let mut dependencies = DependencyReader::default();
    for seq in 0..2 {
        items += usize::from(dependencies.read(seq, bytes).is_some_and(|d| d.frame.is_some()));
    }
    items += LayersAllocation::parse(bytes).map_or(0, |allocation| allocation.layers().len());
    assert!(red_prefix_len(bytes) <= bytes.len());
    rewrite_red_payload_types(&mut bytes.to_vec(), 0xff);
    items + read_all_rtcp(bytes)
}

fn read_all_rtcp(bytes: &[u8]) -> usize {
    let mut items = 0;
    for (i, packet) in packets(bytes).enumerate() {
        assert!(i <= MAX_RTCP_PACKETS);
        items += match packet {
            Ok(Rtcp::SenderReport(report)) => report.blocks().count(),
            Ok(Rtcp::ReceiverReport(report)) => report.blocks().count(),
            Ok(Rtcp::Nack(nack)) => {
                let count = nack.sequences().count();
                assert!(count <= MAX_NACK_PAIRS * 17);
                count
            }
            Ok(Rtcp::Fir(fir)) => fir.entries().count(),
            Ok(Rtcp::Remb(remb)) => remb.ssrcs().count(),
            Ok(Rtcp::Bye(bye)) => bye.ssrcs().count(),
            Ok(Rtcp::Twcc(feedback)) => {
                let count = feedback.statuses().count();
                assert_eq!(count, usize::from(feedback.status_count));
                count
            }
            Ok(Rtcp::Pli { .. } | Rtcp::Other { .. }) => 1,
            Err(_) => 0,
        };
    }
    items
}

/// Pseudo-random bytes, the same on each run.
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }
}

#[test]
fn noise_of_every_length_from_0_to_64_passes_through_every_parser() {
    // quality B4 item 8. Every other one begins with bytes that lead to an inner parser.
    let starts: [&[u8]; 12] = [
        &[0x80],
        &[0x90],
        &[0xbf],
        &[0x67],
        &[0x81, 200, 0],
        &[0x81, 201, 0],
        &[0x82, 203, 0],
        &[0x81, 205, 0],
        &[0x8f, 205, 0],
        &[0xaf, 205, 0],
        &[0x84, 206, 0],
        &[0x8f, 206, 0],
    ];
    let mut noise = Noise(0x5eed_5eed_5eed_5eed);
    let mut rtcp_items = 0;
    for len in 0..=64u8 {
        for round in 0..480 {
            let mut bytes: Vec<u8> = (0..len).map(|_| noise.byte()).collect();
            if round % 2 == 1 {
                let start = starts[round / 2 % starts.len()];
                bytes.iter_mut().zip(start).for_each(|(byte, &wanted)| *byte = wanted);
                if let (Some(words), 3) = (bytes.get_mut(3), start.len()) {
                    *words = len / 4 - 1;
                }
            }
            read_everything(&bytes);
            rtcp_items += read_all_rtcp(&bytes);
        }
    }
    assert!(rtcp_items > 1_000, "the noise reaches the inner parsers: {rtcp_items} items");
}

/// One valid packet of each kind, to be damaged.
fn valid_packets() -> Vec<Vec<u8>> {
    let write = |write: &dyn Fn(&mut RtcpWriter<'_>) -> bool| {
        let mut buf = [0; 400];
        let mut writer = RtcpWriter::new(&mut buf);
        assert!(write(&mut writer));
        let len = writer.len();
        buf[..len].to_vec()
    };
    let arrivals: Vec<_> = (0..60i64).map(|n| (n % 7 != 0).then_some(n * n)).collect();
    let report = SenderReportOut { ssrc: 1, ntp: 2, rtp_time: 3, packets: 4, octets: 5 };
    let bye = vec![0x81, 203, 0, 1, 0, 0, 0, 1];
    let mut rtp = vec![0x91, 0xe0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0xbe, 0xde, 0, 2];
    rtp.extend([0x10, b'1', 0x22, 1, 2, 3, 0, 0, 0x90, 0x80, 0x81, 2, 0x50]);
    vec![
        write(&|w| w.sender_report(&report, &[ReportBlock::default(); 3]) && w.sdes_cname(1, "c")),
        write(&|w| w.receiver_report(1, &[ReportBlock::default(); 2]) && w.pli(1, 2)),
        [write(&|w| w.nack(1, 2, &[1, 2, 3, 40, 80]) && w.fir(1, 2, 3)), bye].concat(),
        write(&|w| w.remb(1, 1_000_000, &[1, 2]) && w.twcc(1, 2, 3, 4, 5, &arrivals)),
        rtp,
    ]
}

/// The start of a payload that leads to the deeper readers: SPS, sequence header, aggregates.
fn payload_start() -> impl Strategy<Value = Vec<u8>> {
    let starts: [&[u8]; 9] = [
        &[0x67, 100, 0, 40],
        &[0x78, 0, 20, 0x67, 66, 0, 30],
        &[0x7c, 0x87],
        &[0x42, 1],
        &[0x60, 1, 0, 30, 0x42, 1],
        &[0x62, 1, 0xa1],
        &[0x18, 0x08],
        &[0x00, 0x7f, 0x0a],
        &[0xda, 0x80],
    ];
    prop::sample::select(starts.map(<[u8]>::to_vec).to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn damaged_packets_do_not_panic(
        which in 0..5usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut packet = valid_packets().swap_remove(which);
        for (at, value) in damage {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        packet.truncate(cut.index(packet.len() + 1));
        read_everything(&packet);
    }

    /// Structures of noise, and the frames that refer to them; sparse noise ends its lists sooner.
    #[test]
    fn descriptors_of_noise_do_not_panic(
        structure in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 1..255),
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 3..24), 0..8),
    ) {
        let mut reader = DependencyReader::default();
        let flagged = structure[0] | 0x80;
        reader.read(1, &[&[0x80, 0, 1, flagged], &structure[1..]].concat());
        for (seq, frame) in (0..).zip(&frames) {
            if let Some(frame) = reader.read(seq, frame).and_then(|read| read.frame) {
                prop_assert!(frame.spatial_id < 4 && frame.temporal_id < 8);
            }
        }
    }

    #[test]
    fn payloads_of_noise_do_not_panic(
        start in payload_start(),
        noise in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..1_400),
    ) {
        read_everything(&[start, noise].concat());
    }
}

#[test]
fn rtcp_bombs_yield_bounded_work() {
    // quality B4 item 9: whatever fills one datagram, few items come out of it.
    let bye_storm = [0x81, 203, 0, 1, 0, 0, 0, 1].repeat(187);
    let mut report = vec![0x9f, 201, 0, 187];
    report.extend([0; 4 + 31 * 24]);
    let words = u16::try_from(2 + 363).unwrap().to_be_bytes();
    let mut nack = vec![0x81, 205, words[0], words[1]];
    nack.extend([0xff; 8 + 4 * 363]);
    for (bomb, items) in
        [(bye_storm, MAX_RTCP_PACKETS), (report.repeat(2), 2 * 31), (nack, MAX_NACK_PAIRS * 17)]
    {
        assert_eq!(read_all_rtcp(&bomb), items);
    }
}
