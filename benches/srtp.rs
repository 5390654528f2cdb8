//! What do sealing and opening one packet cost, per profile and size, and how far is that from the
//! cipher alone?
//!
//! Sealing: the same packet for 100 viewers, each under its own key, as in a fan-out. Opening: 100
//! packets of one publisher. `weir` is our SRTP, `rtc-srtp` webrtc-rs's (it allocates the result),
//! `floor` the header and the AEAD of aws-lc-rs. For SHA-1 `floor` is missing: aws-lc-rs's counter
//! mode and HMAC together are slower than the RustCrypto ones that we use.

use std::hint::black_box;

use aws_lc_rs::aead::Aad;
use bytes::BytesMut;
use criterion::Criterion;
use weir_benches::encoder::{Encoder, HEADER_LEN, SSRC};
use weir_benches::floor::{Floor, TAG_LEN, gcm_key, nonce};
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

fn is_gcm(profile: SrtpProfile) -> bool {
    profile != SrtpProfile::Aes128CmHmacSha1_80
}

fn seal(criterion: &mut Criterion<CpuTime>, profile: SrtpProfile, payload_len: usize) {
    let mut group =
        criterion.benchmark_group(format!("srtp/seal/{}/{payload_len} B", profile.label()));
    let now = epoch();
    let mut encoder = Encoder::new(Codec::H264, payload_len, 1);
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

    if is_gcm(profile) {
        let mut floor = Floor::new(profile, ROUND, ROUND, encoder.next_rtp());
        per_packet(&mut group, "floor", |stopwatch| stopwatch.time(|| floor.turn(1)));
    }
}

fn open(criterion: &mut Criterion<CpuTime>, profile: SrtpProfile, payload_len: usize) {
    let mut group =
        criterion.benchmark_group(format!("srtp/open/{}/{payload_len} B", profile.label()));
    let client = Client(1);
    let mut encoder = Encoder::new(Codec::H264, payload_len, 1);
    let mut sealer = client.sealer(profile);
    let mut sealed = || {
        let mut next = || {
            let plaintext = encoder.next_rtp();
            let sequence = u16::from_be_bytes([plaintext[2], plaintext[3]]);
            (sequence, sealer.encrypt_rtp(&plaintext).expect("it seals"))
        };
        (0..ROUND).map(|_| next()).collect::<Vec<_>>()
    };
    let mut out = vec![0; SLOT_BYTES];

    let mut receiver = SrtpReceiver::new(profile, &receiving_key(client, profile));
    per_packet(&mut group, "weir", |stopwatch| {
        let packets = sealed();
        stopwatch.time(|| {
            for (sequence, packet) in &packets {
                let opened = receiver.open_rtp(packet, HEADER_LEN, SSRC, *sequence, &mut out);
                black_box(opened.expect("it is authentic and new"));
            }
        });
        packets.len() as u64
    });

    let mut context = client.sealer(profile);
    per_packet(&mut group, "rtc-srtp", |stopwatch| {
        let packets = sealed();
        let opened: Vec<_> = stopwatch.time(|| {
            let open =
                |(_, packet): &(u16, BytesMut)| context.decrypt_rtp(packet).expect("authentic");
            packets.iter().map(open).collect()
        });
        opened.len() as u64
    });

    if is_gcm(profile) {
        let key = gcm_key(profile, 1);
        let mut packet = vec![0; HEADER_LEN + payload_len + TAG_LEN];
        let (header, body) = packet.split_at_mut(HEADER_LEN);
        let (ciphertext, tag) = body.split_at_mut(payload_len);
        let plaintext = vec![9; payload_len];
        key.seal_out_of_place_scatter(
            nonce(1, 1),
            Aad::from(&*header),
            &plaintext,
            ciphertext,
            &[],
            tag,
        )
        .expect("it seals");
        let packets = vec![packet; ROUND];
        per_packet(&mut group, "floor", |stopwatch| {
            stopwatch.time(|| {
                for packet in &packets {
                    let (header, body) = packet.split_at(HEADER_LEN);
                    let (ciphertext, tag) = body.split_at(payload_len);
                    out[..HEADER_LEN].copy_from_slice(header);
                    let plaintext = &mut out[HEADER_LEN..HEADER_LEN + payload_len];
                    let aad = Aad::from(header);
                    key.open_separate_gather(nonce(1, 1), aad, ciphertext, tag, plaintext)
                        .expect("it is authentic");
                }
            });
            packets.len() as u64
        });
    }
}
