//! Control plane without worker threads: limits, takeover, placement, and what is ended when.

use super::*;
use crate::config::Takeover;
use crate::ids::Role;
use crate::net::detached::{Detached, WHEP_OFFER, WHIP_OFFER};

fn network(n: u8) -> Option<IpAddr> {
    Some([192, 0, 2, n].into())
}

fn count_closed(server: &Detached, reason: &str) -> u64 {
    let sum = crate::net::stats::StatsSum::new(&server.control.totals);
    sum.finish(0, 0).closed_total[reason]
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

// quality B2
#[tokio::test]
async fn session_beyond_the_limit_is_refused_until_another_ends() {
    let server = Detached::with(Config { sessions_per_worker: 2, ..Config::default() });
    let first = server.publish("a");
    server.subscribe("a");
    let start = StartMode::default();
    let (name, refused) = (Detached::name("a"), OfferError::Unavailable { retry_after_s: 5 });
    assert_eq!(server.control.publish(&name, WHIP_OFFER, None).unwrap_err(), refused);
    assert_eq!(server.control.subscribe(&name, WHEP_OFFER, start, None).unwrap_err(), refused);
    assert_eq!(server.control.ready(), Err(NotReady::Full));
    assert!(server.control.close(first, CloseReason::Kicked).await);
    assert_eq!(server.control.ready(), Ok(()));
    server.publish("a");
}

// quality B2
#[tokio::test]
async fn half_open_session_of_the_heaviest_network_is_evicted_and_its_url_answers_on() {
    let server = Detached::with(Config { half_open_per_worker: 2, ..Config::default() });
    let name = Detached::name("a");
    let publish = |network| server.control.publish(&name, WHIP_OFFER, network);
    let first = publish(network(1)).unwrap().created;
    publish(network(1)).unwrap();
    let admitted = publish(network(2)).unwrap();
    assert_eq!(admitted.evicted, Some(first.id));
    let created = server.control.finish_admission(admitted).await;
    assert!(server.control.directory.session(created.id).is_some());
    assert!(server.control.directory.session(first.id).is_none());
    assert_eq!(count_closed(&server, "evicted"), 1);
    let url = server.control.directory.url(Role::Publisher, &name, first.secret.expose());
    assert!(url.unwrap().ended.is_some());
}

// quality B2
#[tokio::test]
async fn half_open_session_in_the_middle_of_its_handshake_outlasts_a_newer_silent_one() {
    let server = Detached::with(Config { half_open_per_worker: 2, ..Config::default() });
    let name = Detached::name("a");
    let publish = |network| server.control.publish(&name, WHIP_OFFER, network).unwrap();
    let [first, second] = [network(1), network(1)].map(|network| publish(network).created.id);
    server.adopt(first, 0);
    assert_eq!(publish(network(2)).evicted, Some(second));
}

// quality B2
#[tokio::test]
async fn oldest_silent_session_by_loopback_gives_way_to_the_next_one() {
    let server = Detached::with(Config { half_open_per_worker: 3, ..Config::default() });
    let [first, second] = [server.publish("a"), server.publish("a")];
    server.adopt(first, 0);
    server.publish("a");
    let admitted = server.control.publish(&Detached::name("a"), WHIP_OFFER, None).unwrap();
    assert_eq!(admitted.evicted, Some(second), "the first is in its handshake");
}

#[tokio::test]
async fn session_that_connects_frees_its_half_open_place_once() {
    let server = Detached::with(Config { half_open_per_worker: 1, ..Config::default() });
    let name = Detached::name("a");
    let publish = || server.control.publish(&name, WHIP_OFFER, network(1));
    let first = publish().unwrap().created.id;
    server.adopt(first, 0);
    assert!(publish().is_err());
    server.connect(first);
    let second = publish().unwrap().created.id;
    server.adopt(second, 0);
    assert!(server.control.close(first, CloseReason::Kicked).await);
    assert!(publish().is_err(), "the end of a connected session frees no place");
    assert!(server.control.close(second, CloseReason::Kicked).await);
    publish().unwrap();
}

// whip-whep A54
#[test]
fn second_publisher_replaces_the_first_when_it_connects() {
    let server = Detached::new(1);
    let (first, second) = (server.publish("a"), server.publish("a"));
    assert_eq!(server.connect(first), []);
    assert_eq!(server.connect(second), [first]);
    let third = server.publish("a");
    let stream = server.control.directory.stream(&Detached::name("a")).unwrap();
    let offered = |id| crate::router::SourceInfo {
        epoch: crate::ids::Epoch(0),
        publisher: id,
        tracks: Vec::new(),
    };
    stream.shared.connect(&offered(third));
    server.control.on_closed(second, CloseReason::PeerClosed);
    assert_eq!(stream.lock().publishers.shown(), Some(third), "before its own event");
}

// whip-whep A54
#[tokio::test]
async fn publisher_that_was_live_ends_when_two_take_over_before_either_is_told() {
    for told_first in [1, 2] {
        let server = Detached::new(1);
        let [a, b, c] = [server.publish("a"), server.publish("a"), server.publish("a")];
        for id in [a, b, c] {
            server.adopt(id, 0);
        }
        assert_eq!(server.connect(a), []);
        server.connect_untold(b);
        server.connect_untold(c);
        let order = if told_first == 1 { [b, c] } else { [c, b] };
        let mut lost: Vec<_> = order.into_iter().flat_map(|id| server.tell_connected(id)).collect();
        lost.sort_unstable();
        let mut wanted = [a, b];
        wanted.sort_unstable();
        assert_eq!(lost, wanted);
        server.control.on_closed(c, CloseReason::PeerClosed);
        let stream = server.control.directory.stream(&Detached::name("a")).unwrap();
        assert!(stream.lock().publishers.live().is_none());
    }
}

// whip-whep A54
#[test]
fn contested_stream_refuses_a_newcomer_and_says_who_holds_it() {
    let server = Detached::new(1);
    let mut last = server.publish("a");
    assert_eq!(server.connect(last), []);
    for _ in 0..3 {
        let next = server.publish("a");
        assert_eq!(server.connect(next), [last]);
        server.control.on_closed(last, CloseReason::TakenOver);
        last = next;
    }
    let name = Detached::name("a");
    let refused = server.control.publish(&name, WHIP_OFFER, None).unwrap_err();
    let OfferError::Conflict(conflict) = &refused else { panic!("{refused}") };
    assert_eq!(conflict.holder, last);
    let text = refused.to_string();
    assert!(text.contains(&last.to_string()) && text.contains("3 times within 30 s"), "{text}");
    server.publish("b");
}

#[test]
fn answers_offer_the_candidates_of_now_and_without_any_an_offer_is_refused() {
    let wildcard = "[::]:8189".parse().unwrap();
    let server = Detached::with(Config { media_addr: wildcard, ..Config::default() });
    let name = Detached::name("a");
    server.control.set_candidates(&[]);
    assert_eq!(server.control.ready(), Err(NotReady::NoAddress));
    let refused = server.control.publish(&name, WHIP_OFFER, None).unwrap_err();
    assert_eq!(refused, OfferError::NoAddress { retry_after_s: 5 });
    let answer = |addr: &str| {
        server.control.set_candidates(&[addr.parse().unwrap()]);
        server.control.publish(&name, WHIP_OFFER, None).unwrap().created.answer
    };
    assert!(answer("192.0.2.1:0").contains("192.0.2.1 8189 typ host"));
    let second = answer("192.0.2.2:99");
    assert!(second.contains("192.0.2.2 99 typ host") && !second.contains("192.0.2.1"), "{second}");
}

#[test]
fn without_takeover_a_live_stream_refuses_a_publisher() {
    let server = Detached::with(Config { takeover: Takeover::Reject, ..Config::default() });
    let name = Detached::name("a");
    let (first, second) = (server.publish("a"), server.publish("a"));
    assert_eq!(server.connect(first), [second], "it would take the stream when it connects");
    let refused = server.control.publish(&name, WHIP_OFFER, None).unwrap_err();
    assert!(matches!(refused, OfferError::Conflict(conflict) if conflict.holder == first));
    server.control.on_closed(first, CloseReason::PeerClosed);
    server.control.publish(&name, WHIP_OFFER, None).unwrap();
}

#[test]
fn viewer_is_placed_on_its_publishers_worker_until_that_is_busy() {
    let server = Detached::new(2);
    let publisher = server.publish("a");
    server.adopt(publisher, 1);
    server.connect(publisher);
    let placed = |id| server.control.directory.session(id).unwrap().lock().placed;
    server.set_load(1, 699);
    assert_eq!(placed(server.subscribe("a")), Some(1));
    server.set_load(1, 700);
    assert_eq!(placed(server.subscribe("a")), Some(0));
    let viewer = server.subscribe("a");
    server.adopt(viewer, 1);
    assert_eq!(placed(viewer), Some(1), "another worker adopted it");
}

#[test]
fn lost_worker_ends_its_own_sessions_only() {
    let server = Detached::new(2);
    let ids: Vec<_> = (0..4).map(|_| server.subscribe("a")).collect();
    server.adopt(ids[0], 0);
    server.adopt(ids[1], 1);
    server.adopt(ids[2], 1);
    assert_eq!(server.control.on_notice(1, Notice::Lost), []);
    let left: Vec<_> =
        ids.iter().map(|id| server.control.directory.session(*id).is_some()).collect();
    assert_eq!(left, [true, false, false, true], "one that waits belongs to no worker");
    assert_eq!(count_closed(&server, "worker_lost"), 2);
    let stream = server.control.directory.stream(&Detached::name("a")).unwrap();
    assert_eq!(stream.shared.route.load().destinations, [0]);
}

// whip-whep A14
#[test]
fn session_without_a_check_ends_at_the_ice_timeout() {
    let server = Detached::new(1);
    let id = server.publish("a");
    let created = server.control.directory.session(id).unwrap().created;
    let adopted = server.publish("b");
    server.adopt(adopted, 0);
    server.control.reap(created + ICE_TIMEOUT - millis(1));
    assert!(server.control.directory.session(id).is_some());
    server.control.reap(created + ICE_TIMEOUT + LOST_AFTER);
    assert!(server.control.directory.session(id).is_none());
    assert!(server.control.directory.session(adopted).is_some(), "a worker owns it");
    assert_eq!(count_closed(&server, "no_ice"), 1);
    assert!(server.control.directory.stream(&Detached::name("a")).is_none());
}

#[test]
fn session_that_nobody_knows_ends_two_seconds_after_the_ice_timeout() {
    let server = Detached::new(1);
    let id = server.publish("a");
    let session = server.control.directory.session(id).unwrap();
    let ufrag = session.lock().local.ice.ufrag.clone();
    server.control.lobby.remove(&ufrag);
    let lost_at = session.created + ICE_TIMEOUT + LOST_AFTER;
    server.control.reap(lost_at - millis(1));
    assert!(server.control.directory.session(id).is_some(), "its adoption may still be told");
    server.control.reap(lost_at);
    assert!(server.control.directory.session(id).is_none());
}

#[test]
fn session_that_is_being_patched_is_not_reaped() {
    let server = Detached::new(1);
    let id = server.publish("a");
    let session = server.control.directory.session(id).unwrap();
    let late = session.created + ICE_TIMEOUT * 2;
    let change = session.change_lock.try_lock().unwrap();
    server.control.reap(late);
    assert!(server.control.directory.session(id).is_some());
    drop(change);
    server.control.reap(late);
    assert!(server.control.directory.session(id).is_none());
}

// whip-whep G8
#[test]
fn viewer_without_a_publisher_is_to_be_closed_at_the_end_of_its_wait() {
    let viewer_wait = Duration::from_secs(600);
    let server = Detached::with(Config { viewer_wait, ..Config::default() });
    let id = server.subscribe("a");
    server.adopt(id, 0);
    let created = server.control.directory.session(id).unwrap().created;
    assert_eq!(server.control.reap(created + viewer_wait - millis(1)), []);
    assert_eq!(server.control.reap(created + viewer_wait), [id]);
}

#[tokio::test]
async fn closed_session_ends_its_url_and_its_listeners() {
    let server = Detached::new(1);
    let id = server.subscribe("a");
    let session = server.control.directory.session(id).unwrap();
    let mut status = server.control.status_board.subscribe(id);
    assert!(server.control.close(id, CloseReason::Deleted).await);
    assert!(!server.control.close(id, CloseReason::Deleted).await, "it is gone");
    assert_eq!(status.newest().unwrap().ended, Some(CloseReason::Deleted));
    let live = server.control.directory.live_session(
        Role::Subscriber,
        &Detached::name("a"),
        session.secret.expose(),
    );
    assert!(live.is_none());
}

#[test]
fn failed_handshake_is_remembered_with_its_cause_for_the_tombstone_time() {
    let server = Detached::new(1);
    let id = server.publish("a");
    server.adopt(id, 0);
    let cause: Arc<str> = "the client sent the alert decode_error (50)".into();
    for event in
        [Event::HandshakeFailed(id, Arc::clone(&cause)), Event::Closed(id, CloseReason::DtlsFailed)]
    {
        assert_eq!(server.control.on_notice(0, Notice::Event(event)), []);
    }
    let ended = server.control.directory.ended(id).unwrap();
    assert_eq!((ended.reason, ended.cause), (CloseReason::DtlsFailed, Some(cause)));
    server.control.reap(ended.at + server.control.config.tombstone - millis(1));
    assert!(server.control.directory.ended(id).is_some());
    server.control.reap(ended.at + server.control.config.tombstone);
    assert!(server.control.directory.ended(id).is_none());
}
