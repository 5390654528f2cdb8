//! What do sealing and opening one packet cost, per profile and size, and how far is that from the
//! cipher alone?
//!
//! Sealing: the same packet for 100 viewers, each under its own key, as in a fan-out. Opening: 100
//! packets of one publisher. `weir` is our SRTP, `rtc-srtp` webrtc-rs's (it allocates the result),
//! `raw` a header and aws-lc-rs: for GCM that is the floor, for SHA-1 one way among others.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::Criterion;
use rtc_srtp::context::Context;
use weir_benches::encoder::{Encoder, Frames, HEADER_LEN, SSRC};
use weir_benches::floor::{Floor, RawKey};
use weir_benches::session::{Client, connected, receiving_key};
use weir_benches::stopwatch::{CpuTime, criterion, epoch, per_packet};
use weir_benches::viewer::{LAYER, forwarder};
use weir_sfu::codec::Codec;
use weir_sfu::forward::Forwarder;
use weir_sfu::media::PacketPool;
use weir_sfu::transport::peer::Peer;
use weir_sfu::transport::srtp::{SrtpProfile, SrtpReceiver};

/// Keys that are used in turn, and packets of a round.
const ROUND: usize = 100;

/// Whose packets are opened.
const CLIENT: Client = Client(1);

/// Room for a sealed packet.
const SLOT_BYTES: usize = 1600;

fn main() {
    let mut criterion = criterion();
    for profile in SrtpProfile::PREFERENCE {
        for payload_len in [1200, 160] {
            seal(&mut criterion, profile, payload_len);
            open(&mut criterion, profile, payload_len);
        }
    }
    criterion.final_summary();
}

fn seal(criterion: &mut Criterion<CpuTime>, profile: SrtpProfile, payload_len: usize) {
    let mut group =
        criterion.benchmark_group(format!("srtp/seal/{}/{payload_len} B", profile.label()));
    let now = epoch();
    let mut encoder = Encoder::new(Codec::H264, Frames::Equal { packets: 1, payload_len });
    let mut arena = vec![0; ROUND * SLOT_BYTES];

    let mut pool = PacketPool::new(1);
    let mut viewers: Vec<(Forwarder, Peer)> = (1..=ROUND as u32)
        .map(|n| (forwarder(n, Codec::H264, now), connected(Client(n), profile, now)))
        .collect();
    per_packet(&mut group, "weir", |stopwatch| {
        let packet = encoder.next_packet(&mut pool, now);
        let meta = packet.meta().expect("it is described");
        // Plaintexts are written first: only the seal is timed.
        let mut due: Vec<_> = viewers
            .iter_mut()
            .zip(arena.chunks_exact_mut(SLOT_BYTES))
            .map(|((forwarder, peer), slot)| {
                let record = forwarder.on_packet(LAYER, meta, 0).expect("it flows");
                let written = forwarder.line().write_media(&record, &packet, slot);
                (written.expect("the slot has room"), peer)
            })
            .collect();
        let sealed = stopwatch.time(|| {
            due.drain(..).filter_map(|(plaintext, peer)| black_box(peer.seal(plaintext))).count()
        });
        drop(due);
        pool.give(packet);
        sealed as u64
    });

    let mut contexts: Vec<_> = (1..=ROUND as u32).map(|n| Client(n).sealer(profile)).collect();
    per_packet(&mut group, "rtc-srtp", |stopwatch| {
        // Each viewer's plaintext has its own header, so it is a copy; not timed.
        let plaintexts = vec![encoder.next_rtp(); ROUND];
        let sealed: Vec<_> = stopwatch.time(|| {
            contexts
                .iter_mut()
                .zip(&plaintexts)
                .map(|(context, plaintext)| context.encrypt_rtp(plaintext).expect("it seals"))
                .collect()
        });
        sealed.len() as u64
    });

    let mut floor = Floor::new(profile, ROUND, ROUND, encoder.next_rtp());
    per_packet(&mut group, "raw", |stopwatch| stopwatch.time(|| floor.turn(1)));
}

/// One publisher's packets from its first on: a receiver must see the numbers wrap to follow them.
struct Publisher {
    encoder: Encoder,
    sealer: Context,
}

impl Publisher {
    fn new(profile: SrtpProfile, payload_len: usize) -> Self {
        let encoder = Encoder::new(Codec::H264, Frames::Equal { packets: 1, payload_len });
        Self { encoder, sealer: CLIENT.sealer(profile) }
    }

    /// The next packets with their sequence numbers, sealed.
    fn round(&mut self) -> Vec<(u16, BytesMut)> {
        let mut next = || {
            let plaintext = self.encoder.next_rtp();
            let sequence = u16::from_be_bytes([plaintext[2], plaintext[3]]);
            (sequence, self.sealer.encrypt_rtp(&plaintext).expect("it seals"))
        };
        (0..ROUND).map(|_| next()).collect()
    }
}

fn open(criterion: &mut Criterion<CpuTime>, profile: SrtpProfile, payload_len: usize) {
    let mut group =
        criterion.benchmark_group(format!("srtp/open/{}/{payload_len} B", profile.label()));
    let mut out = vec![0; SLOT_BYTES];

    let mut receiver = SrtpReceiver::new(profile, &receiving_key(CLIENT, profile));
    let mut publisher = Publisher::new(profile, payload_len);
    per_packet(&mut group, "weir", |stopwatch| {
        let packets = publisher.round();
        stopwatch.time(|| {
            for (sequence, packet) in &packets {
                let opened = receiver.open_rtp(packet, HEADER_LEN, SSRC, *sequence, &mut out);
                black_box(opened.expect("it is authentic and new"));
            }
        });
        packets.len() as u64
    });

    let mut context = CLIENT.sealer(profile);
    let mut publisher = Publisher::new(profile, payload_len);
    per_packet(&mut group, "rtc-srtp", |stopwatch| {
        let packets = publisher.round();
        let opened: Vec<_> = stopwatch.time(|| {
            let open =
                |(_, packet): &(u16, BytesMut)| context.decrypt_rtp(packet).expect("authentic");
            packets.iter().map(open).collect()
        });
        opened.len() as u64
    });

    let key = RawKey::new(profile, 1);
    let mut packet = vec![0; HEADER_LEN + payload_len + profile.rtp_overhead()];
    key.seal(1, 1, &vec![9; payload_len], &mut packet);
    let packets = vec![packet; ROUND];
    per_packet(&mut group, "raw", |stopwatch| {
        stopwatch.time(|| {
            for packet in &packets {
                let (header, payload) = out.split_at_mut(HEADER_LEN);
                header.copy_from_slice(&packet[..HEADER_LEN]);
                key.open(1, 1, packet, profile.rtp_overhead(), payload);
            }
        });
        packets.len() as u64
    });
}
