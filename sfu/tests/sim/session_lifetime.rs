//! Begin and end of sessions: reaping, consent, panics, and thousands of joins.

use weir_sfu::error::{CloseReason, DropReason};
use weir_sfu::transport::peer::DTLS_TIMEOUT;
use weir_sfu::worker::Command;

use crate::world::spec::{DtlsMode, PublisherSpec, ViewerSpec, opus};
use crate::world::{ClientId, World, WorldConfig};
use crate::{TestRng, ms, receives_frames, watched};

/// Seconds until the client's session is closed, at most `limit`.
fn closed_after(world: &mut World, client: ClientId, limit: u64) -> Option<u64> {
    for second in 0..limit {
        if world.closed(client).is_some() {
            return Some(second);
        }
        world.run_s(1);
    }
    None
}

// whip-whep A14, quality B2
#[test]
fn session_reaped_without_ice() {
    let mut world = World::new(2);
    let publisher = world.publish("live", PublisherSpec::browser());
    let viewer = world.watch("live", ViewerSpec::browser());
    for client in [publisher, viewer] {
        world.link(client).checks = false;
    }
    assert!(closed_after(&mut world, viewer, 60).is_some_and(|s| (30..=32).contains(&s)));
    world.run_s(2);
    for client in [publisher, viewer] {
        assert_eq!(world.closed(client), Some(CloseReason::NoIce));
    }
    assert!(world.control.lobby.is_empty() && world.control.streams.is_empty());
}

/// A browser may ask its user whether the page may reach the local network, and checks nothing
/// meanwhile.
// whip-whep A14
#[test]
fn client_that_begins_its_checks_late_connects() {
    for wait_s in [11, 29] {
        let mut world = World::new(2);
        let publisher = world.publish("live", PublisherSpec::browser());
        let viewer = world.watch("live", ViewerSpec::browser());
        for client in [publisher, viewer] {
            world.link(client).checks = false;
        }
        world.run_s(wait_s);
        for client in [publisher, viewer] {
            world.link(client).checks = true;
        }
        world.run_s(3);
        assert_eq!((world.closed(publisher), world.closed(viewer)), (None, None), "{wait_s} s");
        assert!(receives_frames(&mut world, viewer, 95), "{wait_s} s");
    }
}

#[test]
fn session_reaped_without_dtls() {
    for mode in [PublisherSpec::browser().dtls, DtlsMode::Client] {
        let mut world = World::new(1);
        let spec = PublisherSpec { dtls: mode, ..PublisherSpec::browser() };
        let publisher = world.publish("live", spec);
        let viewer = world.watch("live", ViewerSpec { dtls: mode, ..ViewerSpec::browser() });
        for client in [publisher, viewer] {
            world.link(client).speaks_dtls = false;
        }
        let limit = DTLS_TIMEOUT.as_secs();
        let after = closed_after(&mut world, publisher, 60);
        assert!(after.is_some_and(|s| (limit..=limit + 1).contains(&s)), "{after:?}");
        world.run_s(1);
        assert_eq!(world.closed(publisher), Some(CloseReason::DtlsTimeout));
        assert_eq!(world.closed(viewer), Some(CloseReason::DtlsTimeout));
        assert!(world.control.lobby.is_empty());
    }
}

// whip-whep C60
#[test]
fn consent_of_a_publisher_expires_after_30_s() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    world.kill(publisher);
    let after = closed_after(&mut world, publisher, 60);
    assert!(after.is_some_and(|s| (30..=32).contains(&s)), "{after:?}");
    assert_eq!(world.closed(publisher), Some(CloseReason::ConsentExpired));
    assert_eq!(world.closed(viewer), None);
}

// whip-whep C60, RFC 7675
#[test]
fn consent_of_a_viewer_expires_after_30_s() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    let addr = world.link(viewer).addr;
    world.kill(viewer);
    let after = closed_after(&mut world, viewer, 60);
    assert!(after.is_some_and(|s| (29..=32).contains(&s)), "{after:?}");
    assert_eq!(world.closed(viewer), Some(CloseReason::ConsentExpired));
    let sent = world.sent_to(addr).media;
    world.run_s(5);
    assert_eq!(world.sent_to(addr).media, sent, "nothing is sent there any more");
}

// clients finding 1
#[test]
fn any_authenticated_packet_keeps_a_session_alive() {
    let (mut world, publisher, viewer) =
        watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    // From now on media and reports are all they send.
    for client in [publisher, viewer] {
        (world.link(client).checks, world.link(client).answers) = (false, false);
    }
    world.run_s(120);
    assert_eq!((world.closed(publisher), world.closed(viewer)), (None, None));
    assert!(receives_frames(&mut world, viewer, 100));
    // A silent viewer stays alive by its responses, a publisher that pauses by its checks.
    for client in [publisher, viewer] {
        (world.link(client).checks, world.link(client).answers) = (true, true);
    }
    world.viewer(viewer).spec.sends_reports = false;
    world.run_s(120);
    world.publisher(publisher).sends = false;
    world.run_s(25);
    world.publisher(publisher).sends = true;
    world.run_s(10);
    assert_eq!((world.closed(publisher), world.closed(viewer)), (None, None));
}

/// Requests of the viewer may be recordings: only responses and SRTCP show that a viewer still
/// wants media.
#[test]
fn viewer_that_never_responds_is_closed() {
    let (mut world, _, viewer) = watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    world.link(viewer).answers = false;
    world.viewer(viewer).spec.sends_reports = false;
    let after = closed_after(&mut world, viewer, 60);
    assert!(after.is_some_and(|s| (29..=32).contains(&s)), "{after:?}");
}

// quality B4 item 30
#[test]
fn panic_in_one_session_closes_only_that_session() {
    for publisher_panics in [false, true] {
        let mut world = World::new(2);
        let publisher = world.publish("live", PublisherSpec::browser());
        let bystander = world.publish("other", PublisherSpec::browser());
        world.run_s(1);
        let victim = world.watch("live", ViewerSpec::on_worker(0));
        let same_stream: Vec<_> =
            (0..4).map(|n| world.watch("live", ViewerSpec::on_worker(n % 2))).collect();
        let other_stream = world.watch("other", ViewerSpec::on_worker(0));
        world.run_s(1);
        world.panics_allowed = true;
        world.drops_allowed = true;
        let target = if publisher_panics { publisher } else { victim };
        let worker = world.worker_of(target).expect("adopted");
        let id = world.client(target).id;
        without_backtraces(|| {
            world.command(worker, Command::InjectPanic(id));
            world.run_s(1);
        });
        assert_eq!(world.closed(target), Some(CloseReason::Panic));
        assert_eq!(world.report(0).panics + world.report(1).panics, 1);
        assert_eq!(world.control.closed.len(), 1, "no other session");
        assert!(receives_frames(&mut world, other_stream, 100));
        if !publisher_panics {
            for viewer in same_stream {
                assert!(receives_frames(&mut world, viewer, 100));
                assert_eq!(world.viewer(viewer).broken_frames(), 0);
            }
        } else {
            let again = world.publish("live", PublisherSpec::browser());
            world.run_s(1);
            for viewer in same_stream {
                assert!(receives_frames(&mut world, viewer, 95));
            }
            assert_eq!(world.closed(again), None);
        }
        assert_eq!(world.closed(bystander), None);
    }
}

/// Keeps the expected panic's message out of the test's output.
fn without_backtraces(act: impl FnOnce()) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("");
        if text != "injected panic" {
            eprintln!("{info}");
        }
    }));
    act();
    std::panic::set_hook(hook);
}

/// 2,000 publishers with two viewers each, closed in every way. The pool would be empty after
/// thirty of them if buffers were not returned.
#[test]
fn session_churn_leaves_no_state() {
    let mut world =
        World::with(WorldConfig { workers: 2, pool_packets: 600, ..WorldConfig::default() });
    let mut rng = TestRng(42);
    let mut spec = PublisherSpec::browser();
    for track in &mut spec.tracks {
        track.frame_every = ms(40);
    }
    let mut clients = Vec::new();
    for round in 0..2_000u32 {
        let stream = format!("s{}", round % 5);
        let mut here = vec![world.publish(&stream, spec.clone())];
        for n in 0..2 {
            here.push(world.watch(&stream, ViewerSpec::on_worker(n)));
        }
        world.run_ms(120);
        for client in here.iter().copied() {
            match rng.next() % 4 {
                0 => world.link(client).say_goodbye(),
                1 => world.delete(client),
                2 => world.kill(client),
                // Leaves before it was ever connected, in every tenth round.
                _ if round % 10 == 0 => world.link(client).checks = false,
                _ => world.delete(client),
            }
        }
        clients.extend(here);
        world.run_ms(20);
        if round % 100 == 99 {
            let sessions: usize = world.workers.iter().map(|worker| worker.session_count()).sum();
            // A killed session stays for its 30 s of consent, some 200 rounds.
            assert!(sessions < 1_000, "{sessions} sessions after {round} rounds");
        }
    }
    for client in clients {
        world.kill(client);
    }
    world.run_s(45);
    for worker in 0..2 {
        let report = world.report(worker);
        assert_eq!(world.workers[worker].session_count(), 0);
        assert_eq!((report.cache_packets, report.cache_bytes), (0, 0));
    }
    assert!(world.control.lobby.is_empty() && world.control.streams.is_empty());
    assert!(world.control.sessions.is_empty());
    let exhausted = world.dropped(DropReason::PoolExhausted);
    world.publish("last", PublisherSpec::browser());
    let viewer = world.watch("last", ViewerSpec::browser());
    world.run_s(3);
    assert!(receives_frames(&mut world, viewer, 100));
    assert_eq!(world.dropped(DropReason::PoolExhausted), exhausted, "the buffers came back");
}

#[test]
fn two_hundred_viewers_join_and_leave_one_stream() {
    let mut world = World::new(2);
    world.publish("live", PublisherSpec::browser());
    let stays = world.watch("live", ViewerSpec::browser());
    world.run_s(1);
    for round in 0..200u32 {
        let viewer = world.watch("live", ViewerSpec::on_worker(round as usize % 2));
        world.run_ms(80);
        match round % 2 {
            0 => world.delete(viewer),
            _ => world.link(viewer).say_goodbye(),
        }
    }
    world.run_s(1);
    let sessions: usize = world.workers.iter().map(|worker| worker.session_count()).sum();
    assert_eq!((sessions, world.control.lobby.len()), (2, 2));
    assert_eq!(world.viewer(stays).broken_frames(), 0);
    assert!(receives_frames(&mut world, stays, 100));
}

/// A client may restart ICE twenty times a second: its old ufrags are forgotten.
// quality B2: no map without an edge
#[test]
fn ice_restarts_leave_no_old_ufrags() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    for _ in 0..100 {
        world.restart_ice(publisher);
        world.restart_ice(viewer);
        world.run_ms(300);
    }
    assert!(receives_frames(&mut world, viewer, 100));
    let names = world.control.lobby.len();
    assert!(names <= 2 * 2, "{names} names for two sessions");
}

#[test]
fn closing_all_sends_goodbye_to_every_session() {
    let (mut world, publisher, viewer) =
        watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    for worker in 0..2 {
        world.command(worker, Command::CloseAll(CloseReason::Shutdown));
    }
    world.run_s(1);
    for client in [publisher, viewer] {
        assert_eq!(world.closed(client), Some(CloseReason::Shutdown));
        assert!(world.link(client).closed_by_server);
    }
}

/// A publisher that sends nothing, because its microphone is muted, stays live while its ICE agent
/// is alive (RFC 7675); its viewers hear it again.
#[test]
fn muted_publisher_stays_live_while_its_consent_holds() {
    for ever_sent in [false, true] {
        let mut world = World::new(2);
        let publisher = world.publish("live", PublisherSpec::of(vec![opus()]));
        world.publisher(publisher).sends = ever_sent;
        world.run_s(2);
        let viewer = world.watch("live", ViewerSpec::browser());
        world.run_s(2);
        world.publisher(publisher).sends = false;
        world.run_s(120);
        assert_eq!(world.closed(publisher), None);
        world.publisher(publisher).sends = true;
        let before = world.viewer(viewer).audio_frames();
        world.run_s(2);
        assert!(world.viewer(viewer).audio_frames() - before >= 98, "sound is back");
        world.kill(publisher);
        world.run_s(31);
        assert_eq!(world.closed(publisher), Some(CloseReason::ConsentExpired));
    }
}

/// The API tells of a client that was killed long before its consent expires.
#[test]
fn api_tells_since_when_a_killed_publisher_is_silent() {
    let (mut world, publisher, viewer) =
        watched(1, PublisherSpec::browser(), ViewerSpec::browser());
    let silent_s = |world: &mut World, client| world.info(client).expect("it is live").silent_s;
    world.run_s(5);
    assert_eq!([publisher, viewer].map(|client| silent_s(&mut world, client)), [None, None]);
    world.kill(publisher);
    world.run_ms(2_900);
    assert_eq!(silent_s(&mut world, publisher), None);
    world.run_ms(1_100);
    let silent = silent_s(&mut world, publisher).expect("nothing comes from it");
    assert!((3.9..4.1).contains(&silent), "{silent} s");
    assert_eq!(silent_s(&mut world, viewer), None, "its viewer is there");
    // The control plane was told, for takeovers.
    let told: Vec<_> = world.control.silences.iter().map(|(_, silent)| *silent).collect();
    assert_eq!(told, [true]);
}
