//! The egress guard itself: each of its rules fails on a packet that violates it.

use rtc_rtp::header::Header;
use rtc_shared::marshal::Marshal;
use weir_sfu::codec::Codec;

use crate::world::World;
use crate::world::guard::{Guard, Reached};
use crate::world::media::{LayerPosition, Picture, Stamp, payload};
use crate::world::spec::{SetsMode, ViewerSpec};

/// One packet of a hand-made stream.
#[derive(Clone)]
struct Made {
    seq: u16,
    timestamp: u32,
    marker: bool,
    picture: u16,
    stamp: Stamp,
    mid: &'static [u8],
    pt: u8,
    twcc: u16,
}

/// A guard that has seen a keyframe of one packet and the first of two packets of the next frame;
/// and the packet that should follow.
fn guard_inside_a_frame() -> (Guard, Made) {
    let mut world = World::new(1);
    let viewer = world.watch("live", ViewerSpec::browser());
    let mut guard = Guard::new(&plan(&mut world, viewer));
    let stamp = Stamp {
        source: 1,
        serial: 500,
        frame: 0,
        index: 0,
        count: 1,
        key: true,
        captured_ns: 0,
        layer_position: LayerPosition::plain(true, 0),
    };
    let mut made = Made {
        seq: 10,
        timestamp: 1_000,
        marker: true,
        picture: 7,
        stamp,
        mid: b"pic",
        pt: 120,
        twcc: 0,
    };
    feed(&mut guard, &made);
    made.stamp = Stamp {
        serial: 501,
        frame: 1,
        count: 2,
        key: false,
        layer_position: LayerPosition::plain(false, 1),
        ..stamp
    };
    (made.seq, made.timestamp, made.marker, made.picture, made.twcc) = (11, 4_000, false, 8, 1);
    feed(&mut guard, &made);
    made.stamp = Stamp { serial: 502, index: 1, ..made.stamp };
    (made.seq, made.marker, made.twcc) = (12, true, 2);
    (guard, made)
}

fn plan(world: &mut World, viewer: crate::world::ClientId) -> weir_sfu::sdp::SubscribePlan {
    let tracks =
        world.viewer(viewer).guard.senders.iter().map(|sender| sender.plan.clone()).collect();
    let transport = world.link(viewer).offer();
    weir_sfu::sdp::SubscribePlan { transport, tracks, rejected: Vec::new(), idle: Vec::new() }
}

fn feed(guard: &mut Guard, made: &Made) {
    let mut header = Header {
        version: 2,
        marker: made.marker,
        payload_type: made.pt,
        sequence_number: made.seq,
        timestamp: made.timestamp,
        ssrc: guard.senders[1].plan.ssrc,
        ..Header::default()
    };
    header.set_extension(7, made.mid.into()).expect("fits");
    header.set_extension(6, made.twcc.to_be_bytes().to_vec().into()).expect("fits");
    let picture = Picture { id: made.picture, bits: 15, tl0: made.picture as u8, layers: 1 };
    let format = ((320, 176), SetsMode::EachKeyframe);
    let body = payload(Codec::Vp8, &made.stamp, picture, format, 100);
    let packet = [&header.marshal().expect("fits")[..], &body].concat();
    guard.on_rtp(&packet, &packet);
}

#[test]
fn correct_stream_passes() {
    let (mut guard, next) = guard_inside_a_frame();
    feed(&mut guard, &next);
    feed(&mut guard, &next);
    assert_eq!((guard.media, guard.resent), (3, 1));
    let nothing = Default::default();
    guard.finish(&Reached { all: &nothing, late: &nothing, upper: &nothing }, true);
}

macro_rules! refuses {
    ($($name:ident: $text:literal, $edit:expr;)*) => {$(
        #[test]
        #[should_panic(expected = $text)]
        fn $name() {
            let (mut guard, mut next) = guard_inside_a_frame();
            let edit: fn(&mut Made) = $edit;
            edit(&mut next);
            feed(&mut guard, &next);
        }
    )*};
}

refuses! {
    refuses_one_number_for_two_packets: "with different bytes", |next| next.seq = 11;
    refuses_time_that_goes_back: "time went back", |next| next.timestamp = 3_999;
    refuses_a_frame_of_two_times: "one timestamp up to its marker", |next| next.timestamp = 7_000;
    refuses_a_picture_that_jumps: "picture id", |next| next.picture = 9;
    refuses_a_foreign_mid: "the viewer's mid", |next| next.mid = b"1";
    refuses_a_foreign_payload_type: "was not negotiated", |next| next.pt = 96;
    refuses_a_transport_number_twice: "was used before", |next| next.twcc = 1;
    refuses_a_hole_that_the_source_did_not_have: "which is no start of a keyframe", |next| next.seq = 13;
    refuses_another_source_without_keyframe: "which is no start of a keyframe", |next| {
        next.stamp.source = 2;
    };
    refuses_a_torn_frame_without_gap: "torn: true", |next| {
        next.stamp = Stamp { source: 2, frame: 0, index: 0, key: true, ..next.stamp };
        next.timestamp = 7_000;
        next.picture = 9;
    };
}
