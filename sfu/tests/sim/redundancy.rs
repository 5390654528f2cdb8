//! RED (RFC 2198): audio that carries the packets before it, to viewers with and without RED.
//!
//! The guard checks the payload types inside, one number for one content, and that no packet which
//! reached the server is withheld, alone or inside another one.

use std::time::Duration;

use weir_netsim::Profile;
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Audio;
use weir_sfu::config::PublisherLimits;
use weir_sfu::error::DropReason;

use crate::headers::red_publisher;
use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::world::{ClientId, World, WorldConfig};
use crate::{TestRng, receives_frames};

const RED_PT: u8 = 65;

fn takes_red() -> ViewerSpec {
    let mut spec = ViewerSpec::browser();
    spec.tracks[0].codecs[0].red_pt = Some(RED_PT);
    spec
}

/// A publisher of RED, a viewer with RED and one without, each on a worker of its own.
fn setup(publisher: PublisherSpec) -> (World, ClientId, [ClientId; 2]) {
    let mut world = World::new(2);
    let publisher = world.publish("live", publisher);
    world.run_ms(500);
    let viewers = [(takes_red(), 0), (ViewerSpec::browser(), 1)]
        .map(|(spec, worker)| world.watch("live", ViewerSpec { worker: Some(worker), ..spec }));
    world.run_s(1);
    (world, publisher, viewers)
}

/// Loses this percentage of audio on its way to the server.
fn lose_sound_up(world: &mut World, publisher: ClientId, seed: u64, percent: u64) {
    let mut rng = TestRng(seed);
    world.lose_up(publisher, move |bytes| {
        bytes[0] >= 128 && bytes[1] & 0x7f == 63 && rng.chance(percent)
    });
}

#[test]
fn lost_audio_is_recovered_from_the_next_packet_for_both() {
    // One packet of ten is lost; with the next one too it stays lost at distance 1, with two more
    // at distance 2.
    for (distance, most_lost) in [(1, 25), (2, 8)] {
        let spec = red_publisher().with(Audio, |track| track.red_distance = distance);
        let (mut world, publisher, viewers) = setup(spec);
        lose_sound_up(&mut world, publisher, 3, 10);
        let sent = |world: &mut World| world.publisher(publisher).tracks[0].layers[0].packets_sent;
        let (sent_before, heard_before) =
            (sent(&mut world), viewers.map(|viewer| world.viewer(viewer).audio_frames()));
        world.run_s(20);
        world.lose_nothing(publisher);
        world.run_ms(100);
        let sent = (sent(&mut world) - sent_before) as usize;
        for (viewer, before) in viewers.into_iter().zip(heard_before) {
            let heard = world.viewer(viewer).audio_frames() - before;
            let lost = sent.saturating_sub(heard);
            assert!(lost <= most_lost, "{lost} of {sent} sounds at distance {distance}");
        }
        let info = world.info(publisher).expect("it is connected");
        let sound = info.tracks.iter().find(|track| track.kind == Audio).expect("sound");
        assert!(sound.layers[0].repairs > 70, "{}", sound.layers[0].repairs);
        assert!(sound.layers[0].lost > 70, "reports count the losses of the path");
        for viewer in viewers {
            assert!(receives_frames(&mut world, viewer, 95));
        }
    }
}

/// The packet itself comes after the one that carried it: it is a duplicate for all viewers.
#[test]
fn late_audio_that_was_recovered_is_sent_once() {
    let (mut world, publisher, viewers) = setup(red_publisher());
    world.drops_allowed = true;
    let up: Profile =
        "delay=20,loss=3,reorder=5,reorder-by=30,duplicate=2".parse().expect("a profile");
    world.change_network(publisher, up, Profile::delay(Duration::from_millis(20)));
    world.run_s(20);
    assert!(world.dropped(DropReason::Duplicate) > 10);
    for viewer in viewers {
        let watched = world.viewer(viewer);
        let (sent, heard) = (watched.guard.sender(Audio).sent(), watched.audio_frames());
        assert!(sent > 990 && heard >= sent, "{heard} of {sent}");
    }
}

/// Silence (DTX): one packet in 400 ms, then speech again. A packet lost at the border is recovered
/// with its own time.
#[test]
fn pauses_in_red_keep_their_times() {
    let (mut world, publisher, viewers) = setup(red_publisher());
    // Of two in a row at a border it is unknown which one was recovered.
    world.drops_allowed = true;
    lose_sound_up(&mut world, publisher, 9, 15);
    for every_ms in [400, 20, 60, 20, 400, 20] {
        world.publisher(publisher).tracks[0].spec.frame_every = Duration::from_millis(every_ms);
        world.run_s(3);
    }
    world.lose_nothing(publisher);
    world.run_s(1);
    for viewer in viewers {
        // The guard has compared the time of each packet with its neighbours'.
        let times = world.viewer(viewer).guard.sender(Audio).times();
        let ahead = times.windows(2).all(|pair| {
            let media = pair[1].0.wrapping_sub(pair[0].0) as u64 * 1_000_000 / 48;
            media.abs_diff(pair[1].1 - pair[0].1) < 1_000_000
        });
        assert!(ahead, "media time and capture time go on alike");
        assert!(times.len() > 400, "{}", times.len());
    }
}

#[test]
fn retransmissions_of_red_are_what_was_sent() {
    for (takes, rtx) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut spec = if takes { takes_red() } else { ViewerSpec::browser() };
        let codec = &mut spec.tracks[0].codecs[0];
        codec.nack = true;
        codec.rtx_pt = rtx.then_some(66);
        spec.tracks.truncate(1);
        let mut world = World::new(1);
        world.publish("live", red_publisher());
        world.run_ms(300);
        let viewer = world.watch("live", spec);
        world.run_s(1);
        let mut rng = TestRng(4);
        world.lose_down(viewer, move |bytes| bytes[0] >= 128 && rng.chance(10));
        world.run_s(10);
        world.lose_nothing(viewer);
        world.run_s(1);
        let watched = world.viewer(viewer);
        assert_eq!(watched.missing(), 0, "RED {takes}, RTX {rtx}");
        // RTX stands for the bare codec: what is RED comes as it was, and the guard has compared
        // the bytes.
        let by_rtx = !takes && rtx;
        let (expected, other) = match by_rtx {
            true => (watched.guard.rtx, watched.guard.resent),
            false => (watched.guard.resent, watched.guard.rtx),
        };
        assert!(expected > 20 && other == 0, "{expected} and {other}: RED {takes}, RTX {rtx}");
    }
}

/// Every seventh payload is broken in one of many ways: it is dropped with a reason before it has a
/// number, and the others are sent.
#[test]
fn broken_red_is_dropped_and_nothing_else() {
    fn forge(serial: u64, payload: &mut Vec<u8>) {
        if !serial.is_multiple_of(7) {
            return;
        }
        match serial / 7 % 6 {
            0 => payload.truncate(3),                     // within a header
            1 => payload.truncate(20),                    // within an old block
            2 => (payload[2], payload[3]) = (0x03, 0xff), // longer than the packet
            3 => payload[0] = 0x80 | 13,                  // comfort noise inside
            4 => payload[4] = 98,                         // and as the primary block
            _ => *payload = vec![0xff; payload.len()],    // headers without end
        }
    }
    let spec = red_publisher().with(Audio, |track| track.forges_red = Some(forge));
    let (mut world, _, viewers) = setup(spec);
    world.drops_allowed = true;
    world.run_s(10);
    let dropped = world.dropped(DropReason::RtpMalformed);
    assert!((60..=90).contains(&dropped), "{dropped} of 575 / 7");
    assert_eq!(world.dropped(DropReason::TooLargeToSend), 0);
    for viewer in viewers {
        let heard = world.viewer(viewer).audio_frames();
        assert!(heard > 460, "{heard} of 550 * 6 / 7");
        assert!(receives_frames(&mut world, viewer, 95));
    }
}

/// Chromium's RED without new data: the primary block is empty, and so is the packet for viewers
/// without RED.
#[test]
fn empty_primary_block_keeps_its_number() {
    fn forge(serial: u64, payload: &mut Vec<u8>) {
        if serial.is_multiple_of(5) && payload[0] & 0x80 != 0 {
            let old = usize::from(u16::from_be_bytes([payload[2], payload[3]]) & 0x3ff);
            payload.truncate(5 + old);
        }
    }
    let spec = red_publisher().with(Audio, |track| track.forges_red = Some(forge));
    let (mut world, _, viewers) = setup(spec);
    world.run_s(5);
    assert_eq!(world.dropped(DropReason::TooLargeToSend), 0);
    for viewer in viewers {
        let watched = world.viewer(viewer);
        let (sent, heard) = (watched.guard.sender(Audio).sent(), watched.audio_frames());
        assert_eq!(watched.missing(), 0, "no gaps in the numbers");
        assert!(sent > 290 && heard * 5 >= (sent - 10) * 4, "{heard} of {sent}");
    }
}

/// Recovered packets count as received ones: else nine packets in each would be nine times the
/// limit.
#[test]
fn recovered_audio_counts_against_the_publishers_limit() {
    let limits = PublisherLimits { packets_per_second: 12, ..PublisherLimits::default() };
    let mut world = World::with(WorldConfig { limits, ..WorldConfig::default() });
    world.drops_allowed = true;
    let mut spec = red_publisher().with(Audio, |track| {
        track.red_distance = 9;
        track.bytes = 60;
    });
    spec.tracks.retain(|track| track.codec == Codec::Opus);
    let publisher = world.publish("live", spec);
    world.run_ms(500);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(1);
    let mut count = 0u64;
    world.lose_up(publisher, move |bytes| {
        let sound = bytes[0] >= 128 && bytes[1] & 0x7f == 63;
        count += u64::from(sound);
        sound && !count.is_multiple_of(10)
    });
    world.run_s(2);
    let before = world.viewer(viewer).guard.sender(Audio).sent();
    world.run_s(10);
    let sent = world.viewer(viewer).guard.sender(Audio).sent() - before;
    assert!((100..=130).contains(&sent), "{sent} packets in ten seconds, where 120 may come");
    assert!(world.dropped(DropReason::PublisherRate) > 100);
}
