//! Limits of rings, pools, rates and stalls: what exceeds them is dropped and counted.

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;
use weir_sfu::config::PublisherLimits;
use weir_sfu::error::DropReason;
use weir_sfu::units::Bitrate;
use weir_sfu::worker::Warning;

use crate::world::spec::{GCM, PublisherSpec, SHA1, ViewerSpec};
use crate::world::{ClientId, World, WorldConfig};
use crate::{ms, receives_frames};

/// A publisher with viewers on its own worker and on the other.
fn near_and_far(spec: PublisherSpec) -> (World, ClientId, ClientId, ClientId, usize) {
    let mut world = World::new(2);
    let publisher = world.publish("live", spec);
    world.run_s(1);
    let home = world.worker_of(publisher).expect("adopted");
    let near = world.watch("live", ViewerSpec::on_worker(home));
    let far = world.watch("live", ViewerSpec::on_worker(1 - home));
    for viewer in [near, far] {
        let addr = world.link(viewer).addr;
        let own = if viewer == near { home } else { 1 - home };
        world.receiving_workers.insert(addr, own);
    }
    world.run_s(1);
    (world, publisher, near, far, 1 - home)
}

fn heavy() -> PublisherSpec {
    PublisherSpec::browser().with(Video, |track| track.layers[0].packets = 30)
}

#[test]
fn ring_overflow_drops_and_counts() {
    let (mut world, _, near, far, far_worker) = near_and_far(heavy());
    world.drops_allowed = true;
    world.stall(far_worker);
    world.run_s(3);
    assert!(world.dropped(DropReason::RingFull) > 500, "{}", world.dropped(DropReason::RingFull));
    world.wake(far_worker);
    world.run_s(2);
    assert!(receives_frames(&mut world, far, 95), "it goes on after a keyframe");
    assert_eq!(world.viewer(near).broken_frames(), 0, "other viewers are not affected");
    assert!(world.viewer(near).longest_freeze() < ms(100));
}

// quality B4 item 28
#[test]
fn worker_that_stalls_for_200_ms_loses_nothing() {
    let (mut world, _, near, far, far_worker) = near_and_far(PublisherSpec::browser());
    for worker in [far_worker, 1 - far_worker] {
        world.stall(worker);
        world.run_ms(200);
        world.wake(worker);
        world.run_s(1);
    }
    for viewer in [near, far] {
        let watched = world.viewer(viewer);
        assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
        assert!(watched.longest_freeze() < ms(500));
    }
}

// quality B4 item 28
#[test]
fn server_that_sleeps_for_5_s_disconnects_no_session() {
    let (mut world, publisher, near, far, far_worker) = near_and_far(PublisherSpec::browser());
    world.drops_allowed = true;
    for worker in [far_worker, 1 - far_worker] {
        world.stall(worker);
    }
    world.run_s(5);
    for worker in [far_worker, 1 - far_worker] {
        world.wake(worker);
    }
    world.run_s(2);
    assert!(world.control.closed.is_empty());
    assert!(world.link(publisher).is_connected());
    for viewer in [near, far] {
        assert!(receives_frames(&mut world, viewer, 95));
    }
}

/// A publisher of about `mbits`, in packets of 1,180 bytes.
fn fast(mbits: usize) -> PublisherSpec {
    let packets = (mbits * 1_000_000 / 8 / 1_180 / 30) as u16;
    PublisherSpec::browser().with(Video, |track| {
        track.layers[0].packets = packets;
        track.bytes = 1_180;
    })
}

/// Code of the only warning about a session.
fn warning(world: &mut World, client: ClientId) -> Option<&'static str> {
    let warnings = world.info(client).expect("it is live").warnings;
    assert!(warnings.len() <= 1, "{warnings:?}");
    warnings.first().map(Warning::code)
}

// quality B2
#[test]
fn publisher_of_40_mbits_reaches_its_viewer_whole() {
    let mut world = World::new(1);
    let publisher = world.publish("live", fast(40));
    world.run_ms(300);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(5);
    assert!(world.viewer(viewer).video_frames() > 140);
    assert_eq!((world.viewer(viewer).broken_frames(), world.viewer(viewer).missing()), (0, 0));
    assert_eq!(world.dropped(DropReason::PublisherRate), 0);
    assert_eq!(warning(&mut world, publisher), None);
}

/// OBS that is stopped for 6 s sends what it captured meanwhile at once.
// quality B2
#[test]
fn burst_of_a_publisher_that_stood_still_passes() {
    let mut world = World::new(2);
    let publisher = world.publish("live", fast(6));
    world.run_ms(300);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(2);
    world.link(publisher).alive = false;
    world.run_s(6);
    world.link(publisher).alive = true;
    world.run_s(2);
    let watched = world.viewer(viewer);
    assert!(watched.video_frames() > 285, "{} frames", watched.video_frames());
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
    assert_eq!(world.dropped(DropReason::PublisherRate), 0);
}

// quality B2
#[test]
fn publisher_above_the_rate_limit_is_limited_and_told() {
    let limits = PublisherLimits { bitrate: Bitrate::kbps(400), packets_per_second: 4_000 };
    let mut world = World::with(WorldConfig { limits, ..WorldConfig::default() });
    world.drops_allowed = true;
    let spec = PublisherSpec::browser().with(Video, |track| track.layers[0].packets = 6);
    let over = world.publish("over", spec.clone());
    let within = world.publish("within", PublisherSpec::browser().with(Video, |t| t.bytes = 200));
    world.run_s(1);
    let viewer = world.watch("over", ViewerSpec { sends_nack: false, ..ViewerSpec::browser() });
    let other = world.watch("within", ViewerSpec::browser());
    world.run_s(5);
    let before = (world.viewer(viewer).received, world.viewer(viewer).audio_frames());
    world.publisher(over).feedback = Default::default();
    world.run_s(5);
    let dropped = world.dropped(DropReason::PublisherRate);
    assert!(dropped > 500, "{dropped}");
    let packets = (world.viewer(viewer).received - before.0) / 5;
    assert!(packets < 50 + 400_000 / 8 / 900 + 20, "{packets} packets a second");
    let sound = world.viewer(viewer).audio_frames() - before.1;
    assert!(sound >= 249, "{sound} of 250 audio packets: pictures leave room for sound");
    assert!(receives_frames(&mut world, other, 100));
    assert_eq!(world.closed(over), None);
    assert_eq!(world.closed(within), None);
    // The packets arrived: they are neither requested again, which would only add to the rate, nor
    // counted as loss of the network.
    let feedback = &world.publisher(over).feedback;
    assert_eq!(feedback.nacked.len(), 0);
    assert!(feedback.reports.iter().all(|r| r.fraction_lost == 0 && r.total_lost == 0));
    assert!(feedback.rembs.iter().all(|(bitrate, _)| *bitrate == 400_000.0));
    let lost: u64 = {
        let info = world.info(over).expect("it is live");
        info.tracks.iter().flat_map(|track| &track.layers).map(|layer| layer.lost).sum()
    };
    assert_eq!(lost, 0);
    assert_eq!(warning(&mut world, over), Some("publisher_rate"));
    assert_eq!(warning(&mut world, within), None);
    world.run_s(40);
    let told = [(world.client(over).id, Warning::PublisherRate(limits))];
    assert_eq!(world.control.warned, told, "once");
}

// quality B2
#[test]
fn packets_per_second_are_limited_over_all_layers_of_a_publisher() {
    let limits = PublisherLimits { packets_per_second: 100, ..PublisherLimits::default() };
    let mut world = World::with(WorldConfig { limits, ..WorldConfig::default() });
    world.drops_allowed = true;
    let spec = PublisherSpec::simulcast(Codec::Vp8).with(Video, |track| track.bytes = 60);
    let publisher = world.publish("live", spec);
    world.run_s(8);
    let taken = |world: &mut World| -> u64 {
        let info = world.info(publisher).expect("it is live");
        info.tracks.iter().flat_map(|track| &track.layers).map(|layer| layer.packets).sum()
    };
    let before = taken(&mut world);
    world.run_s(10);
    let packets = taken(&mut world) - before;
    assert!((980..=1_020).contains(&packets), "{packets} packets in ten seconds");
}

/// Packets of 1.5 s do not fit: they are kept for less time, and none is dropped.
#[test]
fn small_pool_keeps_packets_for_less_time() {
    let mut world = World::with(WorldConfig { pool_packets: 256, ..WorldConfig::default() });
    // 900 packets a second for 1.5 s of cache do not fit into 256 buffers.
    let heavy = world.publish("heavy", heavy());
    world.run_ms(300);
    let viewer = world.watch("heavy", ViewerSpec::browser());
    world.run_s(3);
    assert!(receives_frames(&mut world, viewer, 100));
    assert_eq!(world.dropped(DropReason::PoolExhausted), 0);
    assert!(world.report(0).evictions.pool_short > 1_000);
    assert_eq!(warning(&mut world, heavy), Some("cache_shortened"));
}

/// A frame alone is larger than the pool: the rest of it is dropped, and counted.
#[test]
fn small_pool_drops_and_recovers() {
    let mut world = World::with(WorldConfig { pool_packets: 256, ..WorldConfig::default() });
    world.drops_allowed = true;
    let spec = PublisherSpec::browser().with(Video, |track| track.layers[0].packets = 300);
    let huge = world.publish("huge", spec);
    world.run_s(3);
    assert!(world.dropped(DropReason::PoolExhausted) > 100);
    let warnings = world.info(huge).expect("it is live").warnings;
    assert!(warnings.iter().any(|warning| warning.code() == "pool_exhausted"), "{warnings:?}");
    world.delete(huge);
    world.run_s(1);
    world.publish("light", PublisherSpec::browser());
    let viewer = world.watch("light", ViewerSpec::browser());
    world.run_s(1);
    let before = world.dropped(DropReason::PoolExhausted);
    assert!(receives_frames(&mut world, viewer, 100));
    assert_eq!(world.dropped(DropReason::PoolExhausted), before);
}

/// A publisher that fills the pool by its packet caches stops neither itself nor another one.
// quality B2
#[test]
fn fast_publisher_leaves_packet_buffers_to_others() {
    let mut world = World::with(WorldConfig { pool_packets: 4_096, ..WorldConfig::default() });
    let fast = PublisherSpec::simulcast(Codec::Vp8).with(Video, |track| {
        track.bytes = 400;
        track.layers.iter_mut().for_each(|layer| layer.packets = 60);
    });
    let fast = world.publish("fast", fast);
    world.run_s(3);
    assert!(world.report(0).evictions.pool_short > 1_000);
    let other = world.publish("other", PublisherSpec::browser());
    world.run_ms(300);
    let viewer = world.watch("other", ViewerSpec::browser());
    world.run_s(4);
    let watched = world.viewer(viewer);
    assert!(watched.video_frames() > 115);
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
    assert_eq!(world.dropped(DropReason::PoolExhausted), 0);
    assert_eq!(warning(&mut world, fast), Some("cache_shortened"));
    assert_eq!(warning(&mut world, other), None);
}

/// Whatever a publisher sends beside its media, all that was authenticated counts: probes, and
/// retransmissions that nobody needs.
// quality B2
#[test]
fn packets_of_no_use_count_towards_the_rate_limit() {
    let limits = PublisherLimits { packets_per_second: 300, ..PublisherLimits::default() };
    for flood in ["padding", "duplicates"] {
        let mut world = World::with(WorldConfig { limits, ..WorldConfig::default() });
        world.drops_allowed = true;
        let publisher = world.publish("live", PublisherSpec::browser());
        world.run_s(1);
        let before = world.report(0).packets_in;
        for _ in 0..2_000 {
            world.with_publisher(publisher, |publisher, link| {
                let layer = &publisher.video().layers[0];
                let (ssrc, newest) = (layer.ssrc, layer.next_seq as u16 - 1);
                match flood {
                    "padding" => publisher.send_rtx_padding(link),
                    _ => publisher.retransmit(ssrc, newest, link),
                }
            });
            world.run_ms(5);
        }
        let sent = world.report(0).packets_in - before;
        let refused = world.dropped(DropReason::PublisherRate);
        assert!(sent > 3_200, "{flood}: {sent}");
        assert!(sent - refused <= 300 * 15, "{flood}: {refused} of {sent} are above the limit");
        assert!(refused == 0 || warning(&mut world, publisher) == Some("publisher_rate"));
    }
}

/// A publisher whose packets have this many bytes of payload. Its network and its short SRTP tag let
/// it send more than fits to a viewer.
fn large(bytes: usize) -> PublisherSpec {
    let mut spec = PublisherSpec::browser().with(Video, |track| track.bytes = bytes);
    spec.dtls = SHA1;
    spec.up.mtu = 1_600;
    spec
}

/// Extensions are left out where a packet fits the path to its viewer without them: 1,472 bytes over
/// IPv4, of which the RTP header is 12 and the SRTP tag 16 or 10.
#[test]
fn payload_as_large_as_the_path_carries_reaches_the_viewer() {
    for (dtls, largest) in [(GCM, 1_444), (SHA1, 1_450)] {
        for bytes in [1_411, 1_440, largest] {
            let mut world = World::new(1);
            let publisher = world.publish("live", large(bytes));
            let viewer = world.watch("live", ViewerSpec { dtls, ..ViewerSpec::browser() });
            world.run_s(3);
            let mut count = 0;
            world.lose_down(viewer, move |bytes| {
                count += u64::from(bytes.len() > 1_400);
                bytes.len() > 1_400 && count.is_multiple_of(20)
            });
            world.run_s(3);
            world.lose_nothing(viewer);
            world.run_s(1);
            let watched = world.viewer(viewer);
            assert!(watched.video_frames() > 195, "{} frames", watched.video_frames());
            assert_eq!((watched.broken_frames(), watched.missing()), (0, 0), "repaired too");
            assert_eq!(world.dropped(DropReason::TooLargeToSend), 0);
            assert_eq!(warning(&mut world, publisher), None);
        }
    }
}

/// What does not fit even so is dropped, and publisher, viewer and operator are told of it.
#[test]
fn payload_that_no_path_carries_is_told_to_publisher_and_viewer() {
    let mut world = World::new(2);
    world.drops_allowed = true;
    let publisher = world.publish("live", large(1_448));
    let viewers = [GCM, SHA1].map(|dtls| {
        let spec = ViewerSpec { dtls, ..ViewerSpec::browser() };
        let viewer = world.watch("live", spec);
        world.viewer(viewer).guard.counts_in_reports = false;
        viewer
    });
    world.run_s(5);
    let dropped = world.dropped(DropReason::TooLargeToSend);
    assert!(dropped > 140, "{dropped}");
    let [tag_of_16, tag_of_10] = viewers;
    assert!(world.viewer(tag_of_16).audio_frames() > 200, "sound goes on");
    assert!(world.viewer(tag_of_10).video_frames() > 140, "six bytes less fit");
    let told = Some("too_large_to_send");
    assert_eq!(viewers.map(|viewer| warning(&mut world, viewer)), [told, None]);
    assert_eq!(warning(&mut world, publisher), told);
    world.run_s(30);
    let warning = Warning::TooLargeToSend { payload_bytes: 1_448 };
    let told = [(world.client(publisher).id, warning)];
    assert_eq!(world.control.warned, told, "once");
    assert_eq!(viewers.map(|viewer| world.closed(viewer)), [None; 2]);
}

/// Datagrams that are larger than any that is taken are told to the publisher.
#[test]
fn oversized_datagrams_are_told_to_the_publisher() {
    let mut world = World::new(1);
    world.drops_allowed = true;
    let publisher = world.publish("live", large(1_480));
    world.run_s(3);
    let dropped = world.dropped(DropReason::Oversized);
    assert!(dropped > 80);
    assert_eq!(warning(&mut world, publisher), Some("oversized"));
    assert_eq!(world.control.warned.len(), 1);
}

#[test]
fn packet_cache_holds_at_most_a_second_and_a_half() {
    let mut world = World::new(1);
    world.publish("live", heavy());
    world.run_s(10);
    let report = world.report(0);
    assert!(report.cache_packets < 2_048 + 100 && report.cache_packets > 1_000);
    assert!(report.cache_bytes <= 2 * 1024 * 1024 + 20_000, "{}", report.cache_bytes);
}
