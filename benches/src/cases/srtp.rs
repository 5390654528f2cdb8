//! Cost of sealing and opening one packet, per profile and size, compared with the cipher alone.
//!
//! Sealing: the same packet for 100 viewers, each under its own key, as in a fan-out. Opening: 100
//! packets of one publisher. `weir` is our SRTP, `rtc-srtp` webrtc-rs's (it allocates the result),
//! `raw` a header and aws-lc-rs: for GCM that is the floor, for SHA-1 one way among others.

use std::hint::black_box;

use bytes::BytesMut;
use rtc_srtp::context::Context;
use weir_sfu::codec::Codec;
use weir_sfu::forward::Forwarder;
use weir_sfu::media::PacketPool;
use weir_sfu::transport::peer::Peer;
use weir_sfu::transport::srtp::{SrtpProfile, SrtpReceiver};

use crate::encoder::{Encoder, Frames, HEADER_LEN, SSRC};
use crate::floor::{Floor, RawKey};
use crate::session::{Client, connected, receiving_key};
use crate::stopwatch::{Case, Round, epoch};
use crate::viewer::{LAYER, forwarder};

/// Payload bytes of a packet: video, audio.
pub const PAYLOADS: [usize; 2] = [1200, 160];

/// Keys that are used in turn, and packets of a round.
const ROUND: usize = 100;

/// Client whose packets are opened.
const CLIENT: Client = Client(1);

/// Bytes for a sealed packet.
const SLOT_BYTES: usize = 1600;

type Make = fn(SrtpProfile, usize) -> Round;

/// Cases by kind and implementation, with their constructors.
const KINDS: [(&str, &str, Make); 6] = [
    ("srtp/seal", "weir", seal_weir),
    ("srtp/seal", "rtc-srtp", seal_rtc),
    ("srtp/seal", "raw", seal_raw),
    ("srtp/open", "weir", open_weir),
    ("srtp/open", "rtc-srtp", open_rtc),
    ("srtp/open", "raw", open_raw),
];

/// Implementations, in the order of [`cases`].
pub const WHO: [&str; 3] = ["weir", "rtc-srtp", "raw"];

/// All of the above for each profile and size; those of one kind follow each other.
pub fn cases() -> Vec<Case> {
    let sizes = |profile| PAYLOADS.map(|payload_len| (profile, payload_len));
    let all = SrtpProfile::PREFERENCE.into_iter().flat_map(sizes);
    all.flat_map(|(profile, payload_len)| {
        KINDS.map(|(group, who, make)| {
            let name = format!("{}, {payload_len} B, {who}", profile.label());
            let mut round = None;
            Case::new(group, name, move |watch| {
                round.get_or_insert_with(|| make(profile, payload_len))(watch)
            })
        })
    })
    .collect()
}

fn encoder(payload_len: usize) -> Encoder {
    Encoder::new(Codec::H264, Frames::Equal { packets: 1, payload_len })
}

fn seal_weir(profile: SrtpProfile, payload_len: usize) -> Round {
    let now = epoch();
    let mut encoder = encoder(payload_len);
    let mut arena = vec![0; ROUND * SLOT_BYTES];
    let mut pool = PacketPool::new(1);
    let mut viewers: Vec<(Forwarder, Peer)> = (1..=ROUND as u32)
        .map(|n| (forwarder(n, Codec::H264, now), connected(Client(n), profile, now)))
        .collect();
    Box::new(move |stopwatch| {
        let packet = encoder.next_packet(&mut pool, now);
        let meta = packet.meta().expect("it is described");
        // Plaintexts are written first: only the seal is timed.
        let mut due: Vec<_> = viewers
            .iter_mut()
            .zip(arena.chunks_exact_mut(SLOT_BYTES))
            .map(|((forwarder, peer), slot)| {
                let decision = forwarder.on_packet(LAYER, meta, false);
                let record = decision.numbered().expect("it is sent").stamp(0);
                let written = forwarder.sender().write_media(&record, &packet, slot);
                (written.expect("the slot has space"), peer)
            })
            .collect();
        let sealed = stopwatch.time(|| {
            due.drain(..).filter_map(|(plaintext, peer)| black_box(peer.seal(plaintext))).count()
        });
        drop(due);
        pool.give(packet);
        sealed as u64
    })
}

fn seal_rtc(profile: SrtpProfile, payload_len: usize) -> Round {
    let mut encoder = encoder(payload_len);
    let mut contexts: Vec<_> = (1..=ROUND as u32).map(|n| Client(n).sealer(profile)).collect();
    Box::new(move |stopwatch| {
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
    })
}

fn seal_raw(profile: SrtpProfile, payload_len: usize) -> Round {
    let mut floor = Floor::new(profile, ROUND, ROUND, encoder(payload_len).next_rtp());
    Box::new(move |stopwatch| stopwatch.time(|| floor.turn(1)))
}

/// One publisher's packets from its first on: a receiver must see the numbers wrap to follow them.
struct Publisher {
    encoder: Encoder,
    sealer: Context,
}

impl Publisher {
    fn new(profile: SrtpProfile, payload_len: usize) -> Self {
        Self { encoder: encoder(payload_len), sealer: CLIENT.sealer(profile) }
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

fn open_weir(profile: SrtpProfile, payload_len: usize) -> Round {
    let mut receiver = SrtpReceiver::new(profile, &receiving_key(CLIENT, profile));
    let mut publisher = Publisher::new(profile, payload_len);
    let mut out = vec![0; SLOT_BYTES];
    Box::new(move |stopwatch| {
        let packets = publisher.round();
        stopwatch.time(|| {
            for (sequence, packet) in &packets {
                let opened = receiver.open_rtp(packet, HEADER_LEN, SSRC, *sequence, &mut out);
                black_box(opened.expect("it is authentic and new"));
            }
        });
        packets.len() as u64
    })
}

fn open_rtc(profile: SrtpProfile, payload_len: usize) -> Round {
    let mut context = CLIENT.sealer(profile);
    let mut publisher = Publisher::new(profile, payload_len);
    Box::new(move |stopwatch| {
        let packets = publisher.round();
        let opened: Vec<_> = stopwatch.time(|| {
            let open =
                |(_, packet): &(u16, BytesMut)| context.decrypt_rtp(packet).expect("authentic");
            packets.iter().map(open).collect()
        });
        opened.len() as u64
    })
}

fn open_raw(profile: SrtpProfile, payload_len: usize) -> Round {
    let key = RawKey::new(profile, 1);
    let mut packet = vec![0; HEADER_LEN + payload_len + profile.rtp_overhead()];
    key.seal(1, 1, &vec![9; payload_len], &mut packet);
    let packets = vec![packet; ROUND];
    let mut out = vec![0; SLOT_BYTES];
    Box::new(move |stopwatch| {
        stopwatch.time(|| {
            for packet in &packets {
                let (header, payload) = out.split_at_mut(HEADER_LEN);
                header.copy_from_slice(&packet[..HEADER_LEN]);
                key.open(1, 1, packet, profile.rtp_overhead(), payload);
            }
        });
        packets.len() as u64
    })
}
