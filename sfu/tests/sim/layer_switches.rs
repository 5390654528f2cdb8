//! Ten thousand layer switches for each codec: every frame can be decoded, and time does not drift.

use std::time::Duration;

use weir_netsim::Rng;
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::forward::LayerPreference;

use crate::world::World;
use crate::world::guard::CATCH_UP_TICKS_MAX;
use crate::world::spec::{PublisherSpec, ViewerSpec};

const SWITCHES: usize = 10_000;

const RIDS: [&str; 3] = ["q", "h", "f"];

/// Maximum drift of video against audio, in all.
const SKEW_MAX_MS: f64 = 20.0;

// quality A2.3
fn ten_thousand_switches(codec: Codec) {
    let mut world = World::new(2);
    let spec = PublisherSpec::simulcast(codec).with(Video, |track| {
        track.frame_every = Duration::from_micros(66_667);
        track.key_every = Some(7);
        track.bytes = 150;
        track.layers.iter_mut().for_each(|layer| layer.packets = 1 + layer.packets / 2);
    });
    world.publish("live", spec);
    world.run_ms(500);
    let viewer = world.watch("live", ViewerSpec::on_worker(1));
    world.run_s(1);
    let mut rng = Rng::new(codec as u64 + 1, 7);
    let mut preferences = 0;
    while world.viewer(viewer).guard.sender(Video).segments().len() <= SWITCHES {
        let rid = RIDS[rng.below(3) as usize];
        let preference = LayerPreference { rid: Some(rid.into()), ..LayerPreference::default() };
        world.set_preference(viewer, preference);
        world.run_ms(60 + rng.below(300));
        preferences += 1;
        assert!(preferences < 8 * SWITCHES, "most preferences are applied");
    }
    world.run_s(2);
    let watched = world.viewer(viewer);
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0), "broken and missing");
    // Between two frames that follow the clock, media time and capture time advance alike.
    let times = watched.guard.sender(Video).times();
    let ms = |(from, to): (u32, u32)| f64::from(to.wrapping_sub(from) as i32) / 90.0;
    let (mut skew, mut settled) = (0.0f64, Vec::new());
    for near in times.windows(3) {
        let ((before, captured_before), (at, captured), (after, _)) = (near[0], near[1], near[2]);
        skew += ms((before, at)) - (captured as f64 - captured_before as f64) / 1e6;
        // The timestamp of a frame of the past is near to its neighbours'.
        if [(before, at), (at, after)].map(|(a, b)| b.wrapping_sub(a)).iter().min()
            > Some(&CATCH_UP_TICKS_MAX)
        {
            settled.push(skew);
        }
    }
    let first = settled.first().expect("frames follow the clock");
    let most = settled.iter().map(|skew| (skew - first).abs()).fold(0.0, f64::max);
    println!("{codec:?}: {} preferences, {} frames, skew {most:.2} ms", preferences, times.len());
    assert!(most <= SKEW_MAX_MS, "pictures moved by {most} ms");
}

#[test]
fn ten_thousand_switches_vp8() {
    ten_thousand_switches(Codec::Vp8);
}

#[test]
fn ten_thousand_switches_vp9() {
    ten_thousand_switches(Codec::Vp9);
}

#[test]
fn ten_thousand_switches_h264() {
    ten_thousand_switches(Codec::H264);
}

#[test]
fn ten_thousand_switches_h265() {
    ten_thousand_switches(Codec::H265);
}

#[test]
fn ten_thousand_switches_av1() {
    ten_thousand_switches(Codec::Av1);
}
