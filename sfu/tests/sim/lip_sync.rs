//! Wall clocks and media clocks: sender reports that keep audio and video in sync.

use weir_sfu::codec::MediaKind::{self, Audio, Video};

use crate::world::guard::GuardedSender;
use crate::world::spec::{PublisherSpec, ReportStyle, ViewerSpec};
use crate::world::{ClientId, World};
use crate::{ms, watched};

/// Offset of audio against video by the sender reports, in ms.
fn av_offset_ms(world: &mut World, viewer: ClientId) -> f64 {
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

/// Stops the publisher's process for so many seconds. Afterwards tracks of these kinds send what
/// was recorded meanwhile, all at once, and the others go on with the time of now.
fn stop_and_resume(world: &mut World, publisher: ClientId, seconds: u64, burst: &[MediaKind]) {
    world.publisher(publisher).stopped = true;
    world.run_s(seconds);
    let now = world.now;
    let publisher = world.publisher(publisher);
    publisher.stopped = false;
    for track in publisher.tracks.iter_mut().filter(|t| !burst.contains(&t.spec.codec.kind())) {
        track.layers[0].next_frame = now;
    }
}

/// The largest step of a sender's line between two reports in a row, and the largest change of what
/// reports say of the capture time, both in ms.
fn largest_steps_ms(world: &mut World, viewer: ClientId) -> [f64; 2] {
    let senders = &world.viewer(viewer).guard.senders;
    let of = |values: fn(&GuardedSender) -> &Vec<i64>| {
        let changes = senders.iter().flat_map(|sender| {
            values(sender).windows(2).map(|pair| (pair[1] - pair[0]).unsigned_abs())
        });
        changes.max().unwrap_or(0) as f64 / 1e6
    };
    [of(|sender| &sender.report_lines), of(|sender| &sender.report_offsets)]
}

/// A publisher with reports of this style, or none.
fn reports_as(style: Option<ReportStyle>) -> PublisherSpec {
    PublisherSpec {
        sends_reports: style.is_some(),
        report_style: style.unwrap_or(ReportStyle::TimeOfNow),
        ..PublisherSpec::browser()
    }
}

/// OBS that is stopped and goes on: sound comes in a burst, the picture with the time of now.
#[test]
fn stall_and_burst_leave_audio_and_video_in_sync() {
    let styles = [
        None,
        Some(ReportStyle::TimeOfNow),
        Some(ReportStyle::PacketEachSecond),
        Some(ReportStyle::PacketEachMediaSecond),
    ];
    for reports in styles {
        for seconds in [1, 3, 12] {
            for burst in [&[Audio][..], &[Audio, Video], &[Video]] {
                let spec = reports_as(reports);
                let (mut world, publisher, viewer) = watched(2, spec, ViewerSpec::browser());
                world.run_ms(4_300);
                for sender in &mut world.viewer(viewer).guard.senders {
                    sender.report_offsets.clear();
                    sender.report_lines.clear();
                }
                stop_and_resume(&mut world, publisher, seconds, burst);
                world.run_s(2);
                let case = format!("{reports:?}, {seconds} s, burst of {burst:?}");
                for _ in 0..5 {
                    world.run_s(1);
                    let apart = av_offset_ms(&mut world, viewer);
                    assert!(apart.abs() < 60.0, "{case}: {apart} ms");
                }
                let steps = largest_steps_ms(&mut world, viewer);
                assert!(steps.iter().all(|step| *step < 60.0), "{case}: steps of {steps:?} ms");
            }
        }
    }
}

/// A sample counter without samples: after the silence its timestamps continue as if there had been
/// none.
#[test]
fn clock_that_stood_still_leaves_audio_and_video_in_sync() {
    for reports in [None, Some(ReportStyle::TimeOfNow), Some(ReportStyle::PacketEachSecond)] {
        for seconds in [2, 6, 12, 25] {
            let spec = reports_as(reports);
            let (mut world, publisher, viewer) = watched(1, spec, ViewerSpec::browser());
            world.run_ms(4_300);
            for sender in &mut world.viewer(viewer).guard.senders {
                sender.report_lines.clear();
            }
            stop_and_resume(&mut world, publisher, seconds, &[]);
            let ticks = 48_000 * seconds as u32;
            world.publisher(publisher).shift_timestamps(Audio, 0u32.wrapping_sub(ticks));
            world.run_s(2);
            for _ in 0..5 {
                world.run_s(1);
                let apart = av_offset_ms(&mut world, viewer);
                assert!(apart.abs() < 60.0, "{reports:?}, {seconds} s: {apart} ms");
            }
            let [step, _] = largest_steps_ms(&mut world, viewer);
            assert!(step < 60.0, "{reports:?}, {seconds} s: reports step by {step} ms");
        }
    }
}
