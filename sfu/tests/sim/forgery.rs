//! Packets of attackers: one scenario for each lesson of quality B1 that concerns the media port.

use std::net::SocketAddr;

use weir_sfu::codec::MediaKind::Video;
use weir_sfu::error::{CloseReason, DropReason};

use crate::world::dtls::{HELLO, Identity, RealDtls};
use crate::world::spec::{DtlsMode, PublisherSpec, SHA1, ViewerSpec};
use crate::world::wire::{self, Check};
use crate::world::{ClientId, World};
use crate::{TestRng, ms, receives_frames, watched};

/// A publisher, a viewer who has watched for a second, and the last RTP and RTCP of both.
struct Scene {
    world: World,
    publisher: ClientId,
    viewer: ClientId,
    /// Sealed packets that the publisher sent in the last second.
    captured: Vec<Vec<u8>>,
}

fn scene(dtls: DtlsMode) -> Scene {
    let spec = PublisherSpec { dtls, ..PublisherSpec::browser() };
    let (mut world, publisher, viewer) = watched(1, spec, ViewerSpec::browser());
    let captured = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let tape = std::rc::Rc::clone(&captured);
    world.lose_up(publisher, move |bytes| {
        if bytes[0] >= 128 {
            tape.borrow_mut().push(bytes.to_vec());
        }
        false
    });
    world.run_s(1);
    world.lose_nothing(publisher);
    world.run_ms(20);
    let captured = captured.borrow().clone();
    assert!(captured.len() > 100);
    Scene { world, publisher, viewer, captured }
}

fn is_rtp(packet: &[u8]) -> bool {
    wire::class(packet) == wire::Class::Rtp
}

// quality B1: RTP bleed
#[test]
fn dtls_srtp_and_srtcp_from_an_unvalidated_address_are_not_looked_at() {
    let Scene { mut world, publisher, viewer, captured } = scene(SHA1);
    let stranger = world.new_addr();
    let before = world.report(0);
    for packet in captured.iter().chain([&HELLO.to_vec()]) {
        world.inject_and_run(stranger, packet);
    }
    // A new packet, too: sealed with the right keys, sent from the wrong address.
    let fresh = world.with_publisher(publisher, |publisher, link| {
        publisher.retransmit(publisher.tracks[1].layers[0].ssrc, 0, link);
        link.seal_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 9]).expect("keys")
    });
    world.inject_and_run(stranger, &fresh);
    let refused = captured.len() as u64 + 2;
    let after = world.report(0).dropped;
    let reason = DropReason::UnvalidatedAddress;
    assert_eq!(after.get(reason) - before.dropped.get(reason), refused);
    assert_eq!(world.sent_to(stranger).datagrams, 0);
    assert!(receives_frames(&mut world, viewer, 100));
}

// CVE-2023-49786 and its kin; quality B4 item 4
#[test]
fn client_hello_from_another_address_is_ignored() {
    let time_to_connect = |attacks: bool| {
        let mut world = World::new(2);
        let spec = PublisherSpec { dtls: DtlsMode::Client, ..PublisherSpec::browser() };
        let publisher = world.publish("live", spec);
        let attacker = world.new_addr();
        let mut dtls = RealDtls::new(&Identity::generate(), true, &[7, 1]);
        dtls.start(world.now);
        let hellos = dtls.sent();
        let begin = world.now;
        while !world.link(publisher).is_connected() {
            assert!(world.now < begin + ms(5_000), "the real peer connects");
            for hello in hellos.iter().filter(|_| attacks) {
                world.inject_and_run(attacker, hello);
            }
            world.run_ms(1);
        }
        assert_eq!(world.sent_to(attacker).datagrams, 0);
        world.run_s(1);
        assert_eq!(world.closed(publisher), None);
        world.link(publisher).connected_at.expect("it is") - begin
    };
    let (alone, attacked) = (time_to_connect(false), time_to_connect(true));
    assert!(attacked <= alone + ms(100), "{attacked:?} instead of {alone:?}");
}

/// A ClientHello from the validated address itself, which a spoofer can claim: the handshake is not
/// hijacked, and the peer connects.
#[test]
fn client_hello_from_a_spoofed_address_does_not_complete_the_handshake() {
    let mut world = World::new(1);
    let spec = PublisherSpec { dtls: DtlsMode::Client, ..PublisherSpec::browser() };
    let publisher = world.publish("live", spec);
    let at = world.link(publisher).addr;
    let mut dtls = RealDtls::new(&Identity::generate(), true, &[7, 1]);
    dtls.start(world.now);
    let hellos = dtls.sent();
    world.run_ms(15);
    for hello in &hellos {
        world.inject_and_run(at, hello);
    }
    world.run_s(8);
    // Nothing in a hello counts before it carries a cookie, and nothing later without the certificate's key.
    assert!(world.link(publisher).is_connected());
    assert!(world.control.streams.get("live").is_some_and(|s| s.publisher.is_some()));
}

// quality B1: session hijack
#[test]
fn wrong_password_or_ufrag_is_not_answered() {
    let mut world = World::new(2);
    let waiting = world.publish("live", PublisherSpec::browser());
    world.link(waiting).checks = false;
    let (mut live, _, viewer) = watched(2, PublisherSpec::browser(), ViewerSpec::browser());
    for (world, client) in [(&mut world, waiting), (&mut live, viewer)] {
        let stranger = world.new_addr();
        let server = world.link(client).server.clone();
        for n in 0..10_000u64 {
            let mut id = [7; 12];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let right_name = n % 2 == 0;
            let check = Check {
                id,
                to_ufrag: if right_name { &server.ufrag } else { "nobody" },
                from_ufrag: "me",
                pwd: "not-the-password-of-anybody",
                use_candidate: true,
            };
            world.inject_and_run(stranger, &check.bytes());
            if n % 100 == 0 {
                world.run_ms(1);
            }
        }
        assert_eq!(world.sent_to(stranger).datagrams, 0);
        // Where no session of the worker is named, one source is not verified more often than this.
        assert!(world.dropped(DropReason::StunBadIntegrity) >= 20);
        assert!(world.dropped(DropReason::StunUnknownUfrag) > 100);
    }
    assert!(receives_frames(&mut live, viewer, 100));
    world.link(waiting).checks = true;
    world.run_s(1);
    assert!(world.link(waiting).is_connected(), "10,000 wrong guesses changed nothing");
}

// whip-whep C55
#[test]
fn certificate_with_another_fingerprint_cannot_publish() {
    for mode in [DtlsMode::Client, DtlsMode::Server] {
        let mut world = World::new(1);
        let viewer = world.watch("live", ViewerSpec::browser());
        let publisher = world.publish_as(
            "live",
            PublisherSpec { dtls: mode, ..PublisherSpec::browser() },
            |link| {
                link.fingerprint = Identity::generate().fingerprint;
            },
        );
        // Anybody could have sent that certificate, so there is time for another.
        world.run_s(6);
        assert_eq!(world.closed(publisher), Some(CloseReason::FingerprintMismatch), "{mode:?}");
        assert_eq!(world.viewer(viewer).received, 0);
    }
}

// mediasoup#437
#[test]
fn random_ssrcs_leave_no_state() {
    let Scene { mut world, publisher, viewer, captured } = scene(SHA1);
    let at = world.link(publisher).addr;
    let mut rng = TestRng(3);
    for n in 0..10_000 {
        let mut forged = captured[n % captured.len()].clone();
        if is_rtp(&forged) {
            forged[8..12].copy_from_slice(&(rng.next() as u32).to_be_bytes());
        } else {
            forged[4..8].copy_from_slice(&(rng.next() as u32).to_be_bytes());
        }
        world.inject_and_run(at, &forged);
        if n % 50 == 0 {
            world.run_ms(10);
        }
    }
    assert!(world.dropped(DropReason::SrtpAuth) > 5_000);
    assert_eq!(world.dropped(DropReason::TooManySsrcs), 0);
    // A table entry is free for the real one's next SSRC.
    world.publisher(publisher).restart_encoder(Video, 0);
    world.run_s(1);
    assert_eq!(world.viewer(viewer).video_sources().len(), 2);
    assert!(receives_frames(&mut world, viewer, 100));
}

// siphon-ai#360
#[test]
fn forged_numbers_do_not_poison_the_replay_window() {
    for dtls in [SHA1, PublisherSpec::browser().dtls] {
        let Scene { mut world, publisher, viewer, captured } = scene(dtls);
        let at = world.link(publisher).addr;
        let before = world.viewer(viewer).missing();
        for step in (0..=u16::MAX).step_by(61) {
            let mut forged = captured[usize::from(step) % captured.len()].clone();
            if is_rtp(&forged) {
                forged[2..4].copy_from_slice(&step.to_be_bytes());
            }
            let end = forged.len() - 1;
            forged[end] ^= 1;
            world.inject_and_run(at, &forged);
        }
        world.run_s(2);
        assert_eq!(world.viewer(viewer).broken_frames(), 0);
        assert_eq!(world.viewer(viewer).missing(), before);
        assert!(world.publisher(publisher).feedback.nacked.is_empty(), "and no packet is missing");
        assert!(receives_frames(&mut world, viewer, 100));
    }
}

// quality B4 item 7
#[test]
fn packet_replayed_100_000_times_is_not_forwarded_again() {
    let Scene { mut world, publisher, viewer, captured } = scene(SHA1);
    world.publisher(publisher).sends = false;
    world.run_s(1);
    let at = world.link(publisher).addr;
    let rtp: Vec<_> = captured.iter().filter(|packet| is_rtp(packet)).collect();
    let before = (world.report(0).packets_in, world.viewer(viewer).guard.media);
    for packet in rtp.iter().cycle().take(100_000) {
        world.inject(at, packet);
    }
    world.run_ms(100);
    let after = (world.report(0).packets_in, world.viewer(viewer).guard.media);
    assert_eq!(before, after);
    assert_eq!(world.dropped(DropReason::SrtpReplay), 100_000);
    world.publisher(publisher).sends = true;
    world.run_s(1);
    assert!(receives_frames(&mut world, viewer, 100), "the window is where it was");
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

// quality B4 item 8
#[test]
fn every_short_length_of_every_packet_is_handled() {
    let Scene { mut world, publisher, viewer, captured } = scene(PublisherSpec::browser().dtls);
    let addresses: Vec<SocketAddr> =
        vec![world.link(publisher).addr, world.link(viewer).addr, world.new_addr()];
    let check = world.link(publisher).new_check(true);
    let rtp = captured.iter().find(|packet| is_rtp(packet)).expect("one").clone();
    let rtcp = captured.iter().find(|packet| !is_rtp(packet)).expect("one").clone();
    let firsts: Vec<Vec<u8>> =
        (0..=255u8).map(|first| [vec![first], vec![0xc8; 64]].concat()).collect();
    for whole in [&check, &rtp, &rtcp, &HELLO.to_vec()].into_iter().chain(&firsts) {
        for len in 0..=64.min(whole.len() - 1) {
            for at in &addresses {
                world.inject_and_run(*at, &whole[..len]);
            }
        }
    }
    // The largest datagrams that the receive buffer can hold, too.
    for first in 0..=255u8 {
        for len in [1_472, 1_500, 1_501] {
            world.inject_and_run(addresses[0], &vec![first; len]);
        }
    }
    assert_eq!(world.sent_to(addresses[2]).datagrams, 0);
    assert!(receives_frames(&mut world, viewer, 100));
    assert_eq!((world.closed(publisher), world.closed(viewer)), (None, None));
}

// quality B4 items 1 and 2
#[test]
fn junk_and_stun_floods_keep_no_state_and_do_not_disturb_media() {
    let Scene { mut world, publisher: _, viewer, captured: _ } = scene(SHA1);
    let lobby = world.control.lobby.len();
    let mut rng = TestRng(9);
    let mut sent_bytes = 0u64;
    for n in 0..50_000u64 {
        let [_, a, b, c] = (rng.next() as u32).to_be_bytes();
        let from = SocketAddr::from(([11, a, b, c], rng.next() as u16 | 1));
        let datagram = match n % 3 {
            0 => {
                let len = 1 + rng.next() as usize % 200;
                rng.bytes(len)
            }
            1 => {
                let id = rng.bytes(12).try_into().expect("12 bytes");
                wire::plain_request(id)
            }
            _ => Check {
                id: rng.bytes(12).try_into().expect("12 bytes"),
                to_ufrag: "server1g0",
                from_ufrag: "x",
                pwd: "wrong-wrong-wrong-wrong",
                use_candidate: true,
            }
            .bytes(),
        };
        sent_bytes += datagram.len() as u64;
        world.inject(from, &datagram);
        if n % 100 == 0 {
            world.run_ms(1);
        }
    }
    let replied: u64 = world.to_strangers.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(replied < sent_bytes / 4, "{replied} bytes for {sent_bytes}");
    assert_eq!(world.control.lobby.len(), lobby);
    assert_eq!(world.workers[0].session_count(), 2);
    // 333 plain requests per millisecond of random sources are over the limit of all; the checks with a
    // made-up user cost a look-up each.
    assert!(world.dropped(DropReason::PlainStunLimited) > 0);
    assert_eq!(world.dropped(DropReason::StunRateLimited), 0);
    assert!(receives_frames(&mut world, viewer, 100));
    assert_eq!(world.viewer(viewer).broken_frames(), 0);
}

/// A plain Binding request gets an answer (whip-whep H1); no other packet of an unknown address
/// does.
// quality B1: coturn#1829
#[test]
fn answers_to_unknown_addresses_do_not_amplify() {
    let Scene { mut world, publisher, .. } = scene(SHA1);
    let stranger = world.new_addr();
    let request = wire::plain_request([5; 12]);
    world.inject_and_run(stranger, &request);
    // The mapped address: 12 bytes more than the 48 of IP, UDP and STUN that asked.
    assert_eq!(world.sent_to(stranger).bytes, request.len() as u64 + 12);
    // A request with as much as an address in it gets no more back than it brought.
    let padded = [&[0, 1, 0, 12][..], &request[4..], &[0x80, 0x22, 0, 8], b"software"].concat();
    let before = world.sent_to(stranger).bytes;
    world.inject_and_run(stranger, &padded);
    assert!(world.sent_to(stranger).bytes - before <= padded.len() as u64);
    // Unknown attributes are reported, and not more of them than were sent.
    let strange: Vec<u8> = (0..10u8).flat_map(|n| [0x7f, n, 0, 0]).collect();
    let strange = [&[0, 1, 0, 40][..], &request[4..], &strange].concat();
    let before = world.sent_to(stranger).bytes;
    world.inject_and_run(stranger, &strange);
    assert!(world.sent_to(stranger).bytes - before <= strange.len() as u64);
    // Responses, indications and error responses are not answered.
    let before = world.sent_to(stranger).bytes;
    for class in [[0x01, 0x01], [0x00, 0x11], [0x01, 0x11], [0x00, 0x03]] {
        let message = [&class[..], &request[2..]].concat();
        world.inject_and_run(stranger, &message);
    }
    assert_eq!(world.sent_to(stranger).bytes, before);
    assert_eq!(world.closed(publisher), None);
}

// quality B4 item 5
#[test]
fn dtls_fragments_of_every_kind_end_in_time() {
    let mut world = World::new(1);
    let spec = PublisherSpec { dtls: DtlsMode::Client, ..PublisherSpec::browser() };
    let publisher = world.publish("live", spec);
    world.link(publisher).speaks_dtls = false;
    world.run_ms(100);
    let at = world.link(publisher).addr;
    let mut rng = TestRng(1);
    let begin = world.now;
    let fragment = |total: u32, offset: u32, body: &[u8]| {
        let [_, t0, t1, t2] = total.to_be_bytes();
        let [_, o0, o1, o2] = offset.to_be_bytes();
        let [_, l0, l1, l2] = (body.len() as u32).to_be_bytes();
        let handshake = [&[1, t0, t1, t2, 0, 0, o0, o1, o2, l0, l1, l2][..], body].concat();
        let len = (handshake.len() as u16).to_be_bytes();
        [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0][..], &len, &handshake].concat()
    };
    for n in 0..10_000u32 {
        let datagram = match n % 4 {
            0 => fragment(1_000, 0, &[]),
            1 => fragment(16_000_000, n * 100, &[n as u8; 100]),
            2 => fragment(2_000, n % 1_900, &[n as u8; 90]),
            _ => {
                let len = 13 + rng.next() as usize % 300;
                let mut noise = rng.bytes(len);
                noise[..3].copy_from_slice(&[20 + (n % 6) as u8, 0xfe, 0xfd]);
                noise
            }
        };
        world.inject(at, &datagram);
        if n % 300 == 0 {
            world.run_s(1);
        }
        if world.closed(publisher).is_some() {
            break;
        }
    }
    assert!(world.run_until(ms(31_000), |world| world.closed(publisher).is_some()));
    assert!(world.now - begin <= ms(31_000), "{:?}", world.now - begin);
}

/// Forged RTCP from a viewer's address does not silence the viewer: it does not count against its
/// limit.
// quality B1, B2
#[test]
fn forged_rtcp_does_not_spend_the_viewers_budget() {
    let Scene { mut world, viewer, .. } = scene(SHA1);
    let at = world.link(viewer).addr;
    let mut forged = vec![0x80, 201, 0, 1];
    forged.extend([9; 60]);
    let mut rng = TestRng(4);
    world.lose_down(viewer, move |bytes| bytes[0] >= 128 && rng.chance(10));
    for _ in 0..300 {
        for _ in 0..10 {
            world.inject(at, &forged);
        }
        world.run_ms(10);
    }
    world.lose_nothing(viewer);
    world.run_s(1);
    let watched = world.viewer(viewer);
    assert!(watched.nacks_sent > 20);
    assert_eq!(watched.broken_frames(), 0, "its NACKs were not heard");
}

/// Junk STUN from a publisher's address does not stop the answers to its checks: its browser would
/// give up after 30 s.
// quality B1, B2
#[test]
fn forged_stun_does_not_spend_the_peers_budget() {
    let Scene { mut world, publisher, .. } = scene(SHA1);
    let at = world.link(publisher).addr;
    let before = world.link(publisher).answered_checks;
    for _ in 0..3_000 {
        world.inject(at, &wire::plain_request([3; 12]));
        world.run_ms(10);
    }
    let answered = world.link(publisher).answered_checks - before;
    assert!(answered >= 11, "{answered} of 12 checks in 30 s were answered");
}

/// The same for a viewer whose datagrams arrive at its own worker or at another one: somebody sends answers to no
/// check, or copies of one that it read, in the viewer's name.
// 4 of 6 viewers and 6 of 6 had no answer for 40 s.
#[test]
fn forged_answers_and_copied_checks_do_not_spend_the_budget_of_a_viewer() {
    for (receiving, copies) in [(0, true), (1, true), (1, false)] {
        let mut world = World::new(2);
        world.publish("live", PublisherSpec::browser());
        world.run_ms(300);
        let viewer = world.watch("live", ViewerSpec::on_worker(0));
        let at = world.link(viewer).addr;
        world.receiving_workers.insert(at, receiving);
        world.run_s(2);
        world.foreign_allowed = true;
        let forged = match copies {
            true => world.link(viewer).new_check(true),
            false => [b"\x01\x01\0\0\x21\x12\xa4\x42".as_slice(), &[3; 12]].concat(),
        };
        let before = world.link(viewer).answered_checks;
        for _ in 0..1_500 {
            (0..18).for_each(|_| world.inject(at, &forged));
            world.run_ms(20);
        }
        let answered = world.link(viewer).answered_checks - before;
        assert!(answered >= 10, "{answered} of 12 checks in 30 s: worker {receiving}, {copies}");
        assert_eq!(world.closed(viewer), None);
    }
}

/// A viewer with good credentials of its own names a publisher's address in its checks.
// quality B1
#[test]
fn address_of_a_live_session_cannot_be_taken_over() {
    let Scene { mut world, publisher, viewer, .. } = scene(SHA1);
    let thief = world.watch("live", ViewerSpec::browser());
    world.run_s(1);
    world.foreign_allowed = true;
    let at = world.link(publisher).addr;
    let before = world.viewer(viewer).video_frames();
    for _ in 0..100 {
        let check = world.link(thief).new_check(true);
        world.inject_and_run(at, &check);
        world.run_ms(100);
    }
    let frames = world.viewer(viewer).video_frames() - before;
    let freeze = world.viewer(viewer).longest_freeze();
    assert!(frames > 285 && freeze < ms(300), "{frames} of 300 frames, {freeze:?} without any");
}

#[test]
fn media_sealed_for_another_session_is_refused() {
    let mut world = World::new(1);
    let first = world.publish("one", PublisherSpec::browser());
    let second = world.publish("two", PublisherSpec::browser());
    let viewer = world.watch("two", ViewerSpec::browser());
    world.run_s(1);
    let at = world.link(second).addr;
    for _ in 0..100 {
        let foreign = world.with_publisher(first, |publisher, link| {
            let ssrc = publisher.tracks[1].layers[0].ssrc;
            let seq = publisher.tracks[1].layers[0].next_seq - 1;
            publisher.retransmit(ssrc, seq as u16, link);
            link.out.pop().expect("kept").bytes
        });
        world.inject_and_run(at, &foreign);
        world.run_ms(10);
    }
    assert_eq!(world.dropped(DropReason::SrtpAuth), 100);
    assert_eq!(world.viewer(viewer).video_sources().len(), 1);
    assert!(receives_frames(&mut world, viewer, 100));
}

#[test]
fn media_from_a_viewer_is_dropped() {
    let Scene { mut world, viewer, .. } = scene(SHA1);
    let packet = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3, 4];
    let sealed = world.link(viewer).seal_rtp(&packet).expect("keys");
    let at = world.link(viewer).addr;
    world.inject_and_run(at, &sealed);
    assert_eq!(world.dropped(DropReason::WrongDirection), 1);
    assert!(receives_frames(&mut world, viewer, 100));
}
