//! Two sessions whose clients have the same address one after the other, as behind a NAT that gives
//! a port again, while the server does not know yet that the first one has gone.

use std::time::Duration;

use weir_netsim::Profile;
use weir_sfu::error::{CloseReason, DropReason};

use crate::world::spec::{DtlsMode, GCM, PublisherSpec, ViewerSpec, clean};
use crate::world::{ClientId, World, WorldConfig};
use crate::{TestRng, ms, receives_frames};

/// A client of either role. The network of the first one holds datagrams back for up to 150 ms more
/// than that of the second, so that they arrive late.
fn join(world: &mut World, publishes: bool, dtls: DtlsMode, up: Profile) -> ClientId {
    if publishes {
        world.publish("shared", PublisherSpec { dtls, up, ..PublisherSpec::browser() })
    } else {
        world.watch("live", ViewerSpec { dtls, up, ..ViewerSpec::browser() })
    }
}

struct Outcome {
    connected_after: Option<Duration>,
    former: Option<CloseReason>,
    /// What the run was, for who reads a failure.
    run: String,
}

/// One run: the first client is gone after `used`, the second one begins after `pause`.
fn one_after_the_other(seed: u64, workers: usize) -> Outcome {
    let mut rng = TestRng(seed * 7_919 + workers as u64);
    rng.next();
    let mut world = World::with(WorldConfig { seed, workers, ..WorldConfig::default() });
    world.foreign_allowed = true;
    world.drops_allowed = true;
    world.publish("live", PublisherSpec::browser());
    world.run_ms(500);
    let at = "10.99.0.1:50000".parse().expect("an address");
    world.receiving_workers.insert(at, seed as usize % workers);
    let modes = [DtlsMode::Client, DtlsMode::Server, GCM];
    let [first_mode, second_mode] = [0; 2].map(|_| modes[rng.next() as usize % 3]);
    let [first_publishes, second_publishes] = [0; 2].map(|_| rng.chance(40));
    // In every third run the second one has posted its offer before the first.
    let second_is_older = seed % 3 == 2;
    let older = second_is_older.then(|| {
        let second = join(&mut world, second_publishes, second_mode, clean());
        world.link(second).checks = false;
        world.run_ms(5);
        second
    });
    let slow = Profile::delay(ms(10 + rng.next() % 150));
    let first = join(&mut world, first_publishes, first_mode, slow);
    world.reuse_addr(first, at);
    // Mostly in the middle of its handshake, or some seconds after it.
    let used = if rng.chance(70) { rng.next() % 600 } else { 1_000 + rng.next() % 3_000 };
    world.run_ms(used);
    world.kill(first);
    let pause = if rng.chance(50) { rng.next() % 300 } else { rng.next() % 7_000 };
    world.run_ms(pause);
    let second = older.unwrap_or_else(|| join(&mut world, second_publishes, second_mode, clean()));
    world.reuse_addr(second, at);
    world.link(second).checks = true;
    let begin = world.now;
    let connects = |world: &mut World| {
        world.link(second).is_connected()
            && world
                .info(second)
                .is_some_and(|info| format!("{:?}", info.state).contains("onnected"))
    };
    let connected = world.run_until(Duration::from_secs(12), connects);
    let connected_after = connected.then(|| world.now - begin);
    if connected && !second_publishes {
        world.run_s(1);
        assert!(receives_frames(&mut world, second, 90), "seed {seed}: no media");
    }
    let closed = (world.closed(first), world.closed(second));
    let run = format!(
        "{first_mode:?} publishes {first_publishes} for {used} ms, {pause} ms, then {second_mode:?} \
         publishes {second_publishes}, older {second_is_older}, closed {closed:?}"
    );
    Outcome { connected_after, former: closed.0, run }
}

/// An address abandoned less than seven seconds ago, by a client in any state.
// 2 of 6,059 joins of a load generator failed.
#[test]
fn newcomer_on_an_abandoned_address_always_joins() {
    let (mut failed, mut slow, mut runs) = (Vec::new(), Vec::new(), 0);
    for workers in [1, 2] {
        for seed in 0..150 {
            let outcome = one_after_the_other(seed, workers);
            runs += 1;
            match outcome.connected_after {
                None => failed.push((seed, workers, outcome.run)),
                Some(after) if after > ms(2_500) => slow.push((seed, workers, after, outcome.run)),
                Some(_) => {}
            }
            let of_another = [CloseReason::FingerprintMismatch, CloseReason::DtlsFailed];
            assert!(
                !outcome.former.is_some_and(|reason| of_another.contains(&reason)),
                "seed {seed}, {workers} workers: the newcomer's handshake reached the former session"
            );
        }
    }
    println!("{} of {runs} failed: {failed:#?}; slower than 2.5 s: {slow:#?}", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    assert!(slow.is_empty(), "{slow:?}");
}

/// A thief with a session of its own names the address of a live viewer or publisher in its checks,
/// on the worker where their datagrams arrive and on the other one.
#[test]
fn address_of_a_live_session_stays_its_own_while_others_claim_it() {
    for workers in [1, 2] {
        let mut world = World::new(workers);
        world.foreign_allowed = true;
        let publisher = world.publish("live", PublisherSpec::browser());
        world.run_ms(300);
        let home = world.worker_of(publisher).expect("adopted");
        let viewer = world.watch("live", ViewerSpec::on_worker(home));
        let at = [publisher, viewer].map(|client| world.link(client).addr);
        at.iter().for_each(|at| _ = world.receiving_workers.insert(*at, home));
        world.run_s(1);
        for worker in 0..workers {
            let thief = world.watch("live", ViewerSpec::on_worker(worker));
            world.run_s(1);
            let before = world.viewer(viewer).video_frames();
            for _ in 0..100 {
                for at in at {
                    let check = world.link(thief).new_check(true);
                    world.inject_and_run(at, &check);
                    world.inject_and_run(at, crate::world::dtls::HELLO);
                }
                world.run_ms(50);
            }
            let frames = world.viewer(viewer).video_frames() - before;
            assert!(frames >= 148, "{frames} of 150 frames");
        }
        assert_eq!((world.closed(publisher), world.closed(viewer)), (None, None));
        assert_eq!(world.dropped(DropReason::SrtpAuth), 0, "all media reached its own session");
    }
}

/// Viewers whose datagrams arrive at another worker's socket, while a session that never connects names
/// their addresses in its checks, whichever worker has that.
// Seven checks a second ended 5 of 9 (`consent_expired`).
#[test]
fn viewer_of_another_worker_stays_connected_while_its_address_is_claimed() {
    for thief_worker in [0, 1] {
        let mut world = World::new(2);
        world.foreign_allowed = true;
        world.publish("live", PublisherSpec::browser());
        world.run_ms(300);
        let viewer = world.watch("live", ViewerSpec::on_worker(0));
        let at = world.link(viewer).addr;
        world.receiving_workers.insert(at, 1);
        world.run_s(1);
        let thieves: Vec<_> =
            (0..4).map(|_| world.watch("live", ViewerSpec::on_worker(thief_worker))).collect();
        thieves.iter().for_each(|thief| world.link(*thief).checks = false);
        let before = world.viewer(viewer).video_frames();
        for turn in 0..300 {
            // A session that does not connect lives for 15 s.
            let check = world.link(thieves[turn / 75]).new_check(true);
            world.inject_and_run(at, &check);
            world.run_ms(150);
        }
        assert_eq!(world.closed(viewer), None, "thief on worker {thief_worker}");
        let frames = world.viewer(viewer).video_frames() - before;
        assert!(frames >= 1_340, "{frames} of 1,350 frames");
    }
}

/// Somebody with a session that never connects sends its checks, and records without keys, in the name
/// of an address: before a client there begins, and while it connects. In every other run a client
/// that was connected there has just gone, without a word.
// An address was held for 11 to 25 s; after a client that had gone, 3 of 5 viewers never joined.
#[test]
fn client_joins_at_an_address_that_is_claimed_all_the_time() {
    for seed in 0..96_u64 {
        let mut rng = TestRng(seed * 31 + 1);
        rng.next();
        let mut world = World::with(WorldConfig { seed, workers: 2, ..WorldConfig::default() });
        world.foreign_allowed = true;
        world.drops_allowed = true;
        world.publish("live", PublisherSpec::browser());
        world.run_ms(500);
        let at = "10.99.0.1:50000".parse().expect("an address");
        world.receiving_workers.insert(at, (seed & 1) as usize);
        let thief = world.watch("live", ViewerSpec::on_worker((seed >> 1 & 1) as usize));
        world.link(thief).checks = false;
        if seed >> 3 & 1 == 1 {
            let former = join(&mut world, seed % 5 == 0, DtlsMode::Client, clean());
            world.reuse_addr(former, at);
            world.run_s(2);
            assert!(world.link(former).is_connected());
            world.kill(former);
        }
        let gap = 20 + rng.next() % 300;
        let claim = |world: &mut World| {
            let check = world.link(thief).new_check(true);
            world.inject_and_run(at, &check);
            world.inject_and_run(at, b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\0");
            world.run_ms(gap);
        };
        (0..500 / gap).for_each(|_| claim(&mut world));
        let publishes = seed >> 2 & 1 == 1;
        let mode = [DtlsMode::Client, DtlsMode::Server, GCM][seed as usize % 3];
        let up = Profile::delay(ms(rng.next() % 100));
        let newcomer = join(&mut world, publishes, mode, up);
        world.reuse_addr(newcomer, at);
        let begin = world.now;
        while !world.link(newcomer).is_connected() && world.now - begin < ms(2_500) {
            claim(&mut world);
        }
        assert!(
            world.link(newcomer).is_connected(),
            "seed {seed}: {mode:?} publishes {publishes}, a check each {gap} ms, {:?}",
            world.closed(newcomer)
        );
    }
}
