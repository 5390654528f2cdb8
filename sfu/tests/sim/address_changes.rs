//! Address pairs: which ones are validated, where media is sent, and what changes that
//! (architecture D3).

use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::world::{ClientId, World};
use crate::{ms, receives_frames, watched};
use weir_sfu::error::DropReason;

fn addr(world: &mut World, client: ClientId) -> std::net::SocketAddr {
    world.link(client).addr
}

// quality B4 item 27
#[test]
fn viewer_that_changes_its_address_has_its_picture_back_within_a_second() {
    for workers in [1, 2, 4] {
        let (mut world, _, viewer) =
            watched(workers, PublisherSpec::browser(), ViewerSpec::browser());
        for _ in 0..5 {
            let new = world.move_client(viewer);
            world.run_ms(500);
            assert!(world.sent_to(new).media > 0, "with {workers} workers");
            world.run_ms(500);
        }
        let freeze = world.viewer(viewer).longest_freeze();
        assert!(freeze < ms(1_000), "{freeze:?} with {workers} workers");
        assert!(receives_frames(&mut world, viewer, 100));
    }
}

/// A viewer that knows its own password sends a new, valid check from a victim's address.
// architecture D3
#[test]
fn a_spoofed_use_candidate_does_not_move_a_viewers_egress() {
    for workers in [1, 2] {
        let (mut world, _, viewer) =
            watched(workers, PublisherSpec::browser(), ViewerSpec::browser());
        let own = addr(&mut world, viewer);
        let victim = world.new_addr();
        let mut spoofed = 0;
        for _ in 0..60 {
            let check = world.link(viewer).new_check(true);
            spoofed += check.len() as u64;
            world.inject_and_run(victim, &check);
            world.run_ms(500);
        }
        let there = world.sent_to(victim);
        assert_eq!(there.media, 0, "not one packet of media");
        assert!(there.bytes <= 3 * spoofed, "{} bytes for {spoofed}", there.bytes);
        assert!(world.sent_to(own).media > 1_000);
        assert!(receives_frames(&mut world, viewer, 100));
        assert_eq!(world.closed(viewer), None);
    }
}

/// Bytes that one single spoofed check brings its victim.
#[test]
fn amplification_stays_below_three_before_confirmation() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    let victim = world.new_addr();
    let check = world.link(viewer).new_check(true);
    world.inject_and_run(victim, &check);
    world.run_s(20);
    let there = world.sent_to(victim);
    assert_eq!(there.media, 0);
    assert!(
        there.bytes <= 3 * check.len() as u64,
        "{} bytes in {} datagrams for a check of {}",
        there.bytes,
        there.datagrams,
        check.len()
    );
}

/// The viewer never had a path: its first check already comes from the victim's address.
#[test]
fn first_check_from_a_victims_address_brings_it_no_media() {
    let mut world = World::new(1);
    world.publish("live", PublisherSpec::browser());
    let viewer = world.watch("live", ViewerSpec::browser());
    world.link(viewer).checks = false;
    world.run_s(1);
    let victim = world.new_addr();
    let mut spoofed = 0;
    for _ in 0..40 {
        let check = world.link(viewer).new_check(true);
        for datagram in [&check[..], crate::world::dtls::HELLO] {
            spoofed += datagram.len() as u64;
            world.inject_and_run(victim, datagram);
        }
        world.run_ms(200);
    }
    let there = world.sent_to(victim);
    // Keys are "known" here because the model's handshake is one datagram; a real one needs
    // answers.
    assert!(there.bytes <= 5 * spoofed, "{} bytes for {spoofed}", there.bytes);
    assert!(world.dropped(DropReason::UnconfirmedEgress) > 100, "media was held back");
}

// architecture D3
#[test]
fn replayed_checks_do_not_move_egress() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    world.run_s(10);
    let attacker = world.new_addr();
    for client in [viewer, publisher] {
        let recorded = world.link(client).sent_checks.clone();
        assert!(recorded.len() >= 4);
        for _ in 0..20 {
            for check in &recorded {
                world.inject_and_run(attacker, check);
            }
            world.run_ms(100);
        }
    }
    let there = world.sent_to(attacker);
    assert_eq!((there.datagrams, there.media), (0, 0), "{there:?}");
    assert!(receives_frames(&mut world, viewer, 100));
}

/// A check is replayed from the old address after a move: the viewer stays at the new one.
#[test]
fn replayed_checks_from_the_old_address_change_nothing() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    world.run_s(5);
    let old = addr(&mut world, viewer);
    let recorded = world.link(viewer).sent_checks.clone();
    world.move_client(viewer);
    world.run_s(2);
    let before = world.sent_to(old).media;
    for check in &recorded {
        world.inject_and_run(old, check);
        world.run_ms(100);
    }
    assert_eq!(world.sent_to(old).media, before);
    assert!(receives_frames(&mut world, viewer, 100));
}

#[test]
fn publisher_path_change() {
    for workers in [1, 2, 4] {
        let (mut world, publisher, viewer) =
            watched(workers, PublisherSpec::browser(), ViewerSpec::browser());
        for _ in 0..5 {
            let old = addr(&mut world, publisher);
            let new = world.move_client(publisher);
            world.run_s(1);
            let (there, gone) = (world.sent_to(new).media, world.sent_to(old).media);
            assert!(there > 5, "feedback follows: {there}");
            world.run_s(1);
            assert_eq!(world.sent_to(old).media, gone, "and leaves the old address");
        }
        assert!(world.viewer(viewer).longest_freeze() < ms(200));
        assert_eq!(world.viewer(viewer).broken_frames(), 0);
    }
}

/// Every datagram of both sides comes in at the wrong worker.
#[test]
fn stray_datagrams_find_their_owner() {
    let mut world = World::new(3);
    let publisher = world.publish("live", PublisherSpec::browser());
    let at = addr(&mut world, publisher);
    world.receiving_workers.insert(at, 0);
    world.run_s(1);
    assert_eq!(world.worker_of(publisher), Some(0), "adopted where its check lands");
    let viewers: Vec<_> = (0..3)
        .map(|receiving_worker| {
            let viewer = world.watch("live", ViewerSpec::on_worker(2));
            let at = addr(&mut world, viewer);
            world.receiving_workers.insert(at, receiving_worker);
            viewer
        })
        .collect();
    world.run_s(2);
    // From now on the publisher's media arrives at another worker, too.
    let moved = world.move_client(publisher);
    world.receiving_workers.insert(moved, 1);
    world.run_s(3);
    assert_eq!(world.worker_of(publisher), Some(0));
    for viewer in viewers {
        assert_eq!(world.worker_of(viewer), Some(2));
        let mut rng = crate::TestRng(3);
        world.lose_down(viewer, move |bytes| bytes[0] >= 128 && rng.chance(5));
        world.run_s(2);
        world.lose_nothing(viewer);
        assert!(receives_frames(&mut world, viewer, 100));
        assert_eq!(world.viewer(viewer).broken_frames(), 0, "NACKs reach the owner as well");
    }
}

/// Viewers of alternating workers come from one address, each after the other left.
fn one_after_the_other(mut leave: impl FnMut(&mut World, ClientId), patience_s: u64) {
    let mut world = World::new(2);
    world.foreign_allowed = true;
    world.publish("live", PublisherSpec::browser());
    world.run_s(1);
    for round in 0..6 {
        let viewer = world.watch("live", ViewerSpec::on_worker(round % 2));
        let at = "10.99.0.1:50000".parse().expect("an address");
        world.receiving_workers.insert(at, 0);
        world.reuse_addr(viewer, at);
        let shows = |world: &mut World| world.viewer(viewer).video_frames() > 15;
        let patience = std::time::Duration::from_secs(patience_s);
        assert!(world.run_until(patience, shows), "round {round}: the old session is in the way");
        leave(&mut world, viewer);
        world.run_ms(50);
    }
}

#[test]
fn address_of_a_closed_session_belongs_to_the_next() {
    one_after_the_other(|world, viewer| world.link(viewer).say_goodbye(), 2);
    one_after_the_other(World::delete, 2);
}

/// The next viewer comes before the last one is known to be gone.
#[test]
fn address_of_a_silent_session_belongs_to_the_next_soon() {
    one_after_the_other(World::kill, 12);
}

// whip-whep B9
#[test]
fn ice_restart_keeps_media() {
    for workers in [1, 2, 4] {
        let (mut world, publisher, viewer) =
            watched(workers, PublisherSpec::browser(), ViewerSpec::browser());
        for round in 0..6 {
            world.restart_ice(publisher);
            world.restart_ice(viewer);
            if round % 2 == 1 {
                world.move_client(publisher);
                world.move_client(viewer);
            }
            world.run_s(1);
        }
        assert_eq!((world.closed(publisher), world.closed(viewer)), (None, None));
        let freeze = world.viewer(viewer).longest_freeze();
        assert!(freeze < ms(300), "{freeze:?} with {workers} workers");
        assert!(receives_frames(&mut world, viewer, 100));
        world.run_s(60);
        assert!(
            receives_frames(&mut world, viewer, 100),
            "consent continues with the new credentials"
        );
    }
}

#[test]
fn ice_restart_before_the_first_check_is_honoured() {
    let mut world = World::new(2);
    let publisher = world.publish("live", PublisherSpec::browser());
    let viewer = world.watch("live", ViewerSpec::browser());
    for client in [publisher, viewer] {
        world.restart_ice(client);
    }
    world.run_s(2);
    assert!(world.viewer(viewer).video_frames() > 30);
}
