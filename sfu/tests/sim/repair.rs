//! Loss on both hops: NACKs, keyframe requests and retransmissions.

use std::collections::HashSet;

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::error::DropReason;
use weir_sfu::repair::rtx_budget::{RTX_FREE_BYTES, RTX_SHARE_PERCENT, RTX_WINDOW};

use crate::world::spec::{PublisherSpec, SHA1, ViewerSpec, opus, video};
use crate::world::{ClientId, World};
use crate::{TestRng, ms, receives_frames, watched};

/// A viewer that sends no NACKs by itself.
fn quiet() -> ViewerSpec {
    ViewerSpec { sends_nack: false, ..ViewerSpec::browser() }
}

fn send_nack(world: &mut World, viewer: ClientId, numbers: &[u16]) {
    world.with_viewer(viewer, |viewer, link| viewer.nack(1, numbers, link));
    // 10 ms each way, and a little.
    world.run_ms(25);
}

fn last_seq(world: &mut World, viewer: ClientId) -> u16 {
    world.viewer(viewer).guard.sender(Video).last_seq().expect("something was sent")
}

// whip-whep G11, quality A3.2
#[test]
fn nack_is_answered_by_rtx_once_per_rtt() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), quiet());
    world.run_s(2);
    assert!(
        world.info(viewer).and_then(|info| info.rtt_ms).is_some_and(|rtt| (rtt - 20.0).abs() < 3.0)
    );
    let wanted = last_seq(&mut world, viewer);
    world.with_viewer(viewer, |viewer, link| {
        for _ in 0..10 {
            viewer.nack(1, &[wanted], link);
        }
    });
    world.run_ms(25);
    assert_eq!(world.viewer(viewer).guard.rtx, 1, "ten requests at once, one retransmission");
    for retransmissions in 2..=5 {
        send_nack(&mut world, viewer, &[wanted]);
        assert_eq!(world.viewer(viewer).guard.rtx, retransmissions);
    }
    send_nack(&mut world, viewer, &[wanted]);
    assert_eq!(world.viewer(viewer).guard.rtx, 5, "five times in all");
    assert_eq!(world.dropped(DropReason::RepairLimited), 9 + 1);
    assert_eq!(world.viewer(viewer).guard.resent, 0);
}

// architecture D1, the GCM rule
#[test]
fn nack_without_rtx_gets_identical_bytes() {
    for dtls in [ViewerSpec::browser().dtls, SHA1] {
        let spec = ViewerSpec { dtls, ..quiet().without_rtx() };
        let (mut world, _, viewer) = watched(2, PublisherSpec::browser(), spec);
        for round in 1..=20 {
            let newest = last_seq(&mut world, viewer);
            world.run_ms(50);
            send_nack(&mut world, viewer, &[newest, newest.wrapping_sub(1)]);
            // The guard compares ciphertexts.
            assert_eq!(world.viewer(viewer).guard.resent, 2 * round);
        }
        assert_eq!(world.viewer(viewer).guard.rtx, 0);
    }
}

#[test]
fn unknown_and_old_numbers_are_not_retransmitted() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), quiet());
    let newest = last_seq(&mut world, viewer);
    send_nack(&mut world, viewer, &[newest.wrapping_add(500), newest.wrapping_sub(5_000)]);
    let old = last_seq(&mut world, viewer);
    world.run_s(3);
    send_nack(&mut world, viewer, &[old]);
    assert_eq!(world.viewer(viewer).guard.rtx, 0);
    assert_eq!(world.dropped(DropReason::RepairExpired), 3);
}

#[test]
fn packets_from_before_a_takeover_are_not_retransmitted() {
    for without_rtx in [false, true] {
        let spec = if without_rtx { quiet().without_rtx() } else { quiet() };
        let (mut world, first, viewer) = watched(1, PublisherSpec::browser(), spec);
        let old = last_seq(&mut world, viewer);
        world.delete(first);
        world.publish("live", PublisherSpec::browser());
        world.run_ms(400);
        send_nack(&mut world, viewer, &(0..20).map(|n| old.wrapping_sub(n)).collect::<Vec<_>>());
        let guard = &world.viewer(viewer).guard;
        assert_eq!(guard.rtx + guard.resent, 0, "the old publisher's packets are gone");
    }
}

#[test]
fn loss_downstream_is_repaired() {
    for (spec, percent) in [
        (ViewerSpec::browser(), 5),
        (ViewerSpec::browser(), 20),
        (ViewerSpec::browser().without_rtx(), 5),
        (ViewerSpec { dtls: SHA1, ..ViewerSpec::browser() }, 10),
    ] {
        let (mut world, _, viewer) = watched(2, PublisherSpec::browser(), spec);
        let mut rng = TestRng(percent);
        world.lose_down(viewer, move |bytes| bytes[0] >= 128 && rng.chance(percent));
        world.run_s(10);
        world.lose_nothing(viewer);
        world.run_s(1);
        let watched = world.viewer(viewer);
        assert!(watched.nacks_sent > 30);
        // At 20 % a packet and all its retransmissions are lost in one of ten runs (of 40 others in
        // four), and then its frame and those up to the next keyframe.
        let broken = if percent > 10 { 40 } else { 0 };
        assert!(watched.broken_frames() <= broken, "{} at {percent} %", watched.broken_frames());
        let over = world.dropped(DropReason::RepairBudget);
        assert!(
            percent > 10 || over == 0,
            "{over} retransmissions beyond their share at {percent} %"
        );
    }
}

/// A viewer sends NACKs for all that it was sent, again and again, and loses much of its audio. Its
/// video costs a quarter more, and no longer takes the repairs of its audio; its neighbour is not
/// affected.
// quality A3.2
#[test]
fn viewer_that_nacks_everything_costs_a_share_and_keeps_its_audio() {
    for without_rtx in [false, true] {
        let mut spec = if without_rtx { quiet().without_rtx() } else { quiet() };
        spec.tracks[0].codecs[0].nack = true;
        let (mut world, _, greedy) = watched(1, PublisherSpec::browser(), spec);
        let calm = world.watch("live", ViewerSpec::browser());
        world.run_s(1);
        let audio_pt = world.viewer(greedy).guard.sender(Audio).plan.codecs[0].pt;
        let mut rng = TestRng(5);
        world.lose_down(greedy, move |bytes| {
            bytes[0] >= 128 && bytes[1] & 0x7f == audio_pt && rng.chance(30)
        });
        let counted = |world: &mut World| {
            let guard = &world.viewer(greedy).guard;
            (guard.sender(Video).sent() as u64, guard.rtx, guard.resent)
        };
        let before = counted(&mut world);
        const SECONDS: u64 = 20;
        for _ in 0..SECONDS * 25 {
            let newest = last_seq(&mut world, greedy);
            let all: Vec<_> = (1..400).rev().map(|n| newest.wrapping_sub(n)).collect();
            let deaf = world.viewer(greedy).missing_of(0);
            world.with_viewer(greedy, |viewer, link| {
                // Video first, so that it could take the budget that audio needs.
                viewer.nack(1, &all, link);
                viewer.nack(0, &deaf, link);
            });
            world.run_ms(40);
        }
        world.lose_nothing(greedy);
        let after = counted(&mut world);
        let media = after.0 - before.0;
        let audio_retransmissions = if without_rtx { after.2 - before.2 } else { 0 };
        let retransmissions = after.1 - before.1 + audio_retransmissions;
        let free = RTX_FREE_BYTES / 900 + 1;
        let windows = SECONDS / RTX_WINDOW.as_secs() + 1;
        let sounds = if without_rtx { 50 * SECONDS } else { 0 };
        let most = media * RTX_SHARE_PERCENT / 100 + windows * free + sounds;
        assert!(media > 80 * SECONDS, "{media}");
        assert!(
            retransmissions > media / 5,
            "{retransmissions} retransmissions of {media}: what may be is done"
        );
        assert!(
            retransmissions <= most,
            "{retransmissions} retransmissions of {media}, at most {most}"
        );
        assert!(world.dropped(DropReason::RepairBudget) > 1_000);
        world.run_s(1);
        let (sent, heard) = {
            let watched = world.viewer(greedy);
            (watched.guard.sender(Audio).sent(), watched.audio_frames())
        };
        assert!(heard + 5 >= sent, "{heard} of {sent} sounds were heard in the end");
        let calm = world.viewer(calm);
        assert_eq!((calm.broken_frames(), calm.missing()), (0, 0));
    }
}

/// Every loss is requested and repaired, and the publisher retransmits nothing else.
#[test]
fn loss_upstream_is_nacked_and_repaired() {
    for codec in [Codec::Vp8, Codec::H264] {
        let spec = PublisherSpec::of(vec![opus(), video(codec)]);
        let video_pt = spec.tracks[1].pt;
        let (mut world, publisher, viewer) = watched(2, spec, ViewerSpec::browser());
        let mut rng = TestRng(7);
        let lost = std::rc::Rc::new(std::cell::Cell::new(0u64));
        let count = std::rc::Rc::clone(&lost);
        world.lose_up(publisher, move |bytes| {
            let loses = bytes[0] >= 128 && bytes[1] & 0x7f == video_pt && rng.chance(5);
            count.set(count.get() + u64::from(loses));
            loses
        });
        world.run_s(20);
        world.lose_nothing(publisher);
        world.run_s(1);
        let asked = world.publisher(publisher).feedback.nacked.clone();
        assert!(lost.get() > 60, "{}", lost.get());
        let distinct: HashSet<_> = asked.iter().map(|(_, ssrc, seq)| (*ssrc, *seq)).collect();
        assert_eq!(distinct.len() as u64, lost.get(), "what was lost, and nothing else");
        assert!(asked.len() <= distinct.len() * 11 / 10, "{} for {}", asked.len(), distinct.len());
        assert_eq!(world.viewer(viewer).broken_frames(), 0);
    }
}

/// OBS has no RTX: it sends the same packet again on the primary SSRC.
// whip-whep C57
#[test]
fn publisher_without_rtx_repairs_on_its_primary_ssrc() {
    let spec = PublisherSpec::of(vec![opus(), video(Codec::H264)])
        .with(Video, |track| track.rtx_pt = None);
    let (mut world, publisher, viewer) = watched(2, spec, ViewerSpec::browser());
    let mut rng = TestRng(11);
    world.lose_up(publisher, move |bytes| bytes[0] >= 128 && rng.chance(5));
    world.run_s(10);
    world.lose_nothing(publisher);
    world.run_s(1);
    assert!(!world.publisher(publisher).feedback.nacked.is_empty());
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

#[test]
fn loss_on_both_hops_is_repaired() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    let (mut up, mut down) = (TestRng(1), TestRng(2));
    world.lose_up(publisher, move |bytes| bytes[0] >= 128 && up.chance(5));
    world.lose_down(viewer, move |bytes| bytes[0] >= 128 && down.chance(5));
    world.run_s(10);
    world.lose_nothing(publisher);
    world.lose_nothing(viewer);
    world.run_s(1);
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
    assert_eq!(world.dropped(DropReason::RepairBudget), 0);
}

#[test]
fn keyframe_is_requested_of_a_publisher_that_repairs_nothing() {
    let spec = PublisherSpec { answers_nack: false, ..PublisherSpec::browser() };
    let (mut world, publisher, viewer) = watched(1, spec, ViewerSpec::browser());
    let before = world.publisher(publisher).feedback.keyframe_requests.len();
    let mut left = 3;
    world.lose_up(publisher, move |bytes| {
        let loses = left > 0 && bytes[0] >= 128 && bytes[1] & 0x7f == 96;
        left -= i32::from(loses);
        loses
    });
    world.run_s(3);
    assert!(world.publisher(publisher).feedback.keyframe_requests.len() > before);
    assert!(receives_frames(&mut world, viewer, 95));
}

// whip-whep G11
#[test]
fn rtx_padding_is_not_forwarded() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    for _ in 0..50 {
        world.run_ms(20);
        world.with_publisher(publisher, |publisher, link| publisher.send_rtx_padding(link));
    }
    world.run_s(1);
    let watched = world.viewer(viewer);
    assert_eq!((watched.guard.rtx, watched.guard.resent, watched.missing()), (0, 0, 0));
    // The guard knows every packet that a publisher stamped; nothing else came.
    assert!(watched.guard.sender(Video).contents().iter().all(|(stamp, _)| stamp.is_some()));
    assert!(world.publisher(publisher).feedback.nacked.is_empty(), "padding opens no gap");
}

/// A packet of the first keyframe overtakes the one before it: the viewer must get both.
#[test]
fn reordered_keyframe_starts_the_picture() {
    let mut world = World::new(1);
    let publisher = world.publish("live", PublisherSpec::browser());
    world.run_s(2);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_ms(60);
    assert_eq!(world.viewer(viewer).video_frames(), 0);
    let from = world.link(publisher).addr;
    // The next frames by hand, each with its first two packets swapped.
    for _ in 0..30 {
        world.publisher(publisher).sends = false;
        let (now, epoch) = (world.now, world.epoch);
        let out = world.with_publisher(publisher, |publisher, link| {
            publisher.video().layers[0].next_frame = now;
            publisher.send_frame(1, 0, now, epoch, link);
            std::mem::take(&mut link.out)
        });
        let mut packets: Vec<_> = out.into_iter().collect();
        packets.swap(0, 1);
        for packet in packets {
            let note = packet.note.expect("media");
            world.delivered.entry(note.source).or_default().insert(note.serial);
            world.inject_and_run(from, &packet.bytes);
        }
        world.run_ms(33);
    }
    world.run_s(1);
    let watched = world.viewer(viewer);
    assert!(watched.video_frames() > 20, "{}", watched.video_frames());
    assert_eq!(watched.broken_frames(), 0);
    assert_eq!(watched.frames.iter().find(|f| f.kind == Video).map(|f| f.key), Some(true));
}

#[test]
fn reordered_packets_are_forwarded_with_their_numbers() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    let from = world.link(publisher).addr;
    world.publisher(publisher).sends = false;
    world.run_ms(100);
    for round in 0..60 {
        let (now, epoch) = (world.now, world.epoch);
        let mut packets = world.with_publisher(publisher, |publisher, link| {
            publisher.send_frame(1, 0, now, epoch, link);
            std::mem::take(&mut link.out)
        });
        if round % 3 == 1 {
            packets.rotate_left(1);
        }
        for packet in packets {
            let note = packet.note.expect("media");
            world.delivered.entry(note.source).or_default().insert(note.serial);
            world.inject_and_run(from, &packet.bytes);
            world.run_ms(1);
        }
        world.run_ms(30);
    }
    world.run(ms(300));
    let watched = world.viewer(viewer);
    assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
}
