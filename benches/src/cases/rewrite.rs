//! Cost of deciding on a packet for one viewer and writing it, before the cipher.
//!
//! 100 viewers get the same 64 packets, one viewer after the other, as in a turn of the worker. The
//! forwarder decides and numbers, the RTP sender writes the header and patches picture ids.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use weir_sfu::codec::Codec;
use weir_sfu::forward::{Forwarder, SendTime};
use weir_sfu::media::{Packet, PacketPool};

use crate::encoder::{Encoder, Frames};
use crate::stopwatch::{Case, epoch};
use crate::viewer::{LAYER, forwarder};

const VIEWERS: u32 = 100;
const PACKETS: usize = 64;

/// A codec without anything to patch, one with picture ids, and audio.
pub fn cases() -> Vec<Case> {
    let video = Frames::Equal { packets: 4, payload_len: 1200 };
    let audio = Frames::Equal { packets: 4, payload_len: 160 };
    [
        case("H264", Codec::H264, video),
        case("VP8 with picture ids", Codec::Vp8, video),
        case("Opus", Codec::Opus, audio),
    ]
    .into()
}

fn case(name: &str, codec: Codec, frames: Frames) -> Case {
    let begin = epoch();
    let mut now = begin;
    let mut pool = PacketPool::new(PACKETS);
    let mut encoder = Encoder::new(codec, frames);
    let mut viewers: Vec<_> = (0..VIEWERS).map(|n| forwarder(n, codec, now)).collect();
    Case::new("rewrite", name, move |stopwatch| {
        now += Duration::from_millis(500);
        let packets: Vec<_> = (0..PACKETS).map(|_| encoder.next_packet(&mut pool, now)).collect();
        let sent_at = SendTime::since(begin, now);
        let written = stopwatch.time(|| write_all(&mut viewers, &packets, sent_at));
        assert_eq!(written, u64::from(VIEWERS) * PACKETS as u64, "nothing is dropped");
        for packet in packets {
            pool.give(packet);
        }
        written
    })
}

fn write_all(viewers: &mut [Forwarder], packets: &[Arc<Packet>], sent_at: SendTime) -> u64 {
    let mut out = [0; 1600];
    let mut written = 0;
    for viewer in viewers {
        for (twcc, packet) in (0..).zip(packets) {
            let Some(meta) = packet.meta() else { continue };
            let decision = viewer.on_packet(LAYER, meta, false);
            let Some(record) = decision.numbered().map(|numbered| numbered.stamp(twcc)) else {
                continue;
            };
            let plaintext = viewer.sender().write_media(&record, packet, &mut out);
            written += u64::from(black_box(plaintext).is_some());
            viewer.sender_mut().on_sent(sent_at, record, usize::from(meta.payload_len));
        }
    }
    written
}
