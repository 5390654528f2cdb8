//! What does it cost to decide on a packet for one viewer and to write it, before the cipher?
//!
//! 100 viewers get the same 64 packets, one viewer after the other, as in a turn of the worker. The
//! forwarder decides and numbers, the line writes the header and patches picture ids.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use weir_benches::encoder::{Encoder, Frames};
use weir_benches::stopwatch::{CpuTime, criterion, epoch, per_packet};
use weir_benches::viewer::{LAYER, forwarder};
use weir_sfu::codec::Codec;
use weir_sfu::forward::Forwarder;
use weir_sfu::media::{Packet, PacketPool};

const VIEWERS: u32 = 100;
const PACKETS: usize = 64;

fn main() {
    let mut criterion = criterion();
    rewrite(&mut criterion);
    criterion.final_summary();
}

fn rewrite(criterion: &mut criterion::Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("rewrite");
    let cases = [
        ("H264", Codec::H264, 1200),
        ("VP8 with picture ids", Codec::Vp8, 1200),
        ("Opus", Codec::Opus, 160),
    ];
    for (name, codec, payload_len) in cases {
        let mut now = epoch();
        let mut pool = PacketPool::new(PACKETS);
        let mut encoder = Encoder::new(codec, Frames::Equal { packets: 4, payload_len });
        let mut viewers: Vec<_> = (0..VIEWERS).map(|n| forwarder(n, codec, now)).collect();
        per_packet(&mut group, name, |stopwatch| {
            now += Duration::from_millis(500);
            let packets: Vec<_> =
                (0..PACKETS).map(|_| encoder.next_packet(&mut pool, now)).collect();
            let written = stopwatch.time(|| write_all(&mut viewers, &packets));
            assert_eq!(written, u64::from(VIEWERS) * PACKETS as u64, "nothing is dropped");
            for packet in packets {
                pool.give(packet);
            }
            written
        });
    }
}

fn write_all(viewers: &mut [Forwarder], packets: &[Arc<Packet>]) -> u64 {
    let mut out = [0; 1600];
    let mut written = 0;
    for viewer in viewers {
        for (twcc, packet) in (0..).zip(packets) {
            let record = packet.meta().and_then(|meta| viewer.on_packet(LAYER, meta, twcc).ok());
            let plaintext =
                record.and_then(|record| viewer.line().write_media(&record, packet, &mut out));
            written += u64::from(black_box(plaintext).is_some());
        }
    }
    written
}
