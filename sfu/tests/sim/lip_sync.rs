//! Wall clocks and media clocks: sender reports that keep audio and video in sync.

use weir_sfu::codec::MediaKind::{Audio, Video};

use crate::world::World;
use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::{ms, watched};

/// Offset of audio against video by the sender reports, in ms.
fn av_offset_ms(world: &mut World, viewer: crate::world::ClientId) -> f64 {
    let guard = &world.viewer(viewer).guard;
    let last = |kind| *guard.sender(kind).report_offsets.last().expect("reports came");
    (last(Audio) - last(Video)) as f64 / 1e6
}

// whip-whep G12
#[test]
fn sender_reports_keep_audio_and_video_in_sync() {
    for (ahead_s, ppm) in [(0.0, 0.0), (86_400.0 * 365.0, 0.0), (-40.0, 150.0), (3.5, -150.0)] {
        let mut spec = PublisherSpec::browser().with(Video, |track| track.encode_delay = ms(90));
        (spec.clock_ahead_s, spec.clock_ppm) = (ahead_s, ppm);
        let (mut world, _, viewer) = watched(2, spec, ViewerSpec::browser());
        world.run_s(4);
        for sender in &mut world.viewer(viewer).guard.senders {
            sender.report_offsets.clear();
        }
        world.run_s(30);
        let apart = av_offset_ms(&mut world, viewer);
        assert!(apart.abs() < 1.0, "{apart} ms, clock {ahead_s} s ahead, {ppm} ppm");
        let spread = world.viewer(viewer).guard.report_spread_ms();
        assert!(spread < 1.0 + ppm.abs() * 30.0 / 1e3, "reports wander by {spread} ms");
    }
}

#[test]
fn arrival_times_replace_missing_sender_reports() {
    let mut spec = PublisherSpec::browser();
    spec.sends_reports = false;
    let (mut world, _, viewer) = watched(1, spec, ViewerSpec::browser());
    world.run_s(10);
    assert!(world.viewer(viewer).guard.report_spread_ms() < 1.0);
    let reports: Vec<_> =
        world.viewer(viewer).guard.senders.iter().map(|sender| sender.reports).collect();
    assert!(reports.iter().all(|count| (10..=13).contains(count)), "{reports:?}");
}

// quality A2.3
#[test]
fn first_report_follows_the_first_packet_within_100_ms() {
    let mut world = World::new(1);
    world.publish("live", PublisherSpec::browser());
    world.run_s(2);
    let viewer = world.watch("live", ViewerSpec::browser());
    assert!(world.run_until(ms(500), |world| world.viewer(viewer).video_frames() > 0));
    world.run_ms(100);
    let guard = &world.viewer(viewer).guard;
    assert!(guard.sender(Audio).reports > 0 && guard.sender(Video).reports > 0);
}

#[test]
fn audio_and_video_stay_in_sync_when_the_publisher_returns_with_another_clock() {
    let (mut world, first, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    world.run_s(3);
    world.delete(first);
    world.run_s(2);
    let mut spec = PublisherSpec::browser().with(Video, |track| track.encode_delay = ms(70));
    spec.clock_ahead_s = 1_000.0;
    world.publish("live", spec);
    world.run_s(10);
    let apart = av_offset_ms(&mut world, viewer);
    assert!(apart.abs() < 1.0, "{apart} ms");
}
