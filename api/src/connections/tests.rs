//! Which connection gives way, at each limit and one past it.

use super::*;
use std::net::Ipv4Addr;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn is_evicted(place: &Place) -> bool {
    let mut evicted = std::pin::pin!(place.evicted());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    std::future::Future::poll(evicted.as_mut(), &mut cx).is_ready()
}

#[test]
fn busy_connections_are_limited_per_network_and_in_all() {
    let (limit, now) = (ConnectionLimit::default(), Instant::now());
    let busy = |peer| {
        let (place, _) = limit.take(peer, now)?;
        place.set(Use::Busy);
        Some(place)
    };
    let mut held: Vec<_> = (0..CONNECTIONS_PER_NETWORK).map(|_| busy(HERE).unwrap()).collect();
    assert!(busy(HERE).is_none());
    held.extend((held.len()..CONNECTIONS_MAX).map(|_| busy(LOOPBACK).unwrap()));
    assert!(busy(LOOPBACK).is_none());
    assert_eq!(limit.closed()[0], ("refused", 2));
    drop(held);
    assert!(busy(HERE).is_some());
    let table = limit.lock();
    assert!(table.by_network.is_empty() && table.idle.is_empty() && table.open.is_empty());
}

#[test]
fn the_longest_idle_of_all_gives_way_when_all_places_are_taken() {
    let (limit, start) = (ConnectionLimit::default(), Instant::now());
    let at = |ms: usize| start + Duration::from_millis(ms as u64);
    let mut held: Vec<_> =
        (0..CONNECTIONS_MAX).map(|n| limit.take(LOOPBACK, at(n)).unwrap().0).collect();
    held[0].set(Use::Busy);
    held[1].set(Use::Busy);
    held[1].set(Use::Idle(at(CONNECTIONS_MAX)));
    let (new, displaced) = limit.take(HERE, at(CONNECTIONS_MAX + 1)).unwrap();
    assert!(displaced);
    let evicted: Vec<_> = (0..held.len()).filter(|n| is_evicted(&held[*n])).collect();
    assert_eq!(evicted, [2], "0 has a request, 1 had one later");
    assert_eq!(limit.open(), CONNECTIONS_MAX);
    // An evicted connection ends later and does not give back a place that it has not any more.
    drop(held.remove(2));
    assert_eq!(limit.open(), CONNECTIONS_MAX);
    drop(new);
    assert_eq!(limit.open(), CONNECTIONS_MAX - 1);
}

#[test]
fn a_network_with_all_its_places_gives_way_to_itself_alone() {
    let (limit, start) = (ConnectionLimit::default(), Instant::now());
    let (other, _) = limit.take(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 6)), start).unwrap();
    let later = start + Duration::from_millis(1);
    let held: Vec<_> =
        (0..CONNECTIONS_PER_NETWORK).map(|_| limit.take(HERE, later).unwrap().0).collect();
    let next = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8));
    let (third, _) = limit.take(next, start).unwrap();
    let (new, _) = limit.take(HERE, later).unwrap();
    assert!(is_evicted(&held[0]) && !is_evicted(&other) && !is_evicted(&third));
    held.iter().chain([&new]).for_each(|place| place.set(Use::Busy));
    assert!(limit.take(HERE, later).is_none(), "none of its own is idle");
    assert!(limit.take(next, later).is_some());
}

/// Many networks fill all places with requests whose bodies never come.
#[test]
fn connection_that_only_waits_for_its_client_gives_way_after_two_seconds() {
    let (limit, start) = (ConnectionLimit::default(), Instant::now());
    let peer = |n: usize| IpAddr::V4(Ipv4Addr::new(198, 51, 100, n as u8));
    let mut held = Vec::new();
    for n in 0..CONNECTIONS_MAX {
        // Networks 0 to 8 have 1,000 each, 9 has 999, and 10 has one.
        let network = if n == CONNECTIONS_MAX - 1 { 10 } else { n / 1_000 };
        let (place, _) = limit.take(peer(network), start).unwrap();
        let since = if n == 5_500 { Duration::ZERO } else { Duration::from_millis(n as u64 + 1) };
        place.set(Use::Waiting(start + since));
        held.push(place);
    }
    let at = |ms| start + WAITING_MIN + Duration::from_millis(ms);
    let one_ms_early = at(0) - Duration::from_millis(1);
    // HERE has none, and would not have to wait: see HEAVIER.
    assert!(limit.take(peer(0), one_ms_early).is_none());
    let (first, displaced) = limit.take(HERE, at(0)).unwrap();
    assert!(displaced && is_evicted(&held[5_500]), "the one that waits longest");
    first.set(Use::Busy);
    // A connection that has just come is not the one to go, although no other is idle.
    let (new, _) = limit.take(LOOPBACK, at(19_900)).unwrap();
    let (second, _) = limit.take(HERE, at(20_000)).unwrap();
    assert!(!is_evicted(&new));
    new.set(Use::Busy);
    let evicted: Vec<_> = (0..held.len()).filter(|n| is_evicted(&held[*n])).collect();
    assert!(evicted.iter().all(|n| n % 1_000 < 2 && *n < 9_000), "{evicted:?}");
    assert_eq!(evicted.len(), 2);
    second.set(Use::Busy);
    for _ in 0..200 {
        limit.take(HERE, at(20_000)).unwrap().0.set(Use::Busy);
    }
    assert!(!is_evicted(&held[CONNECTIONS_MAX - 1]), "its network has no other");
    held.iter().for_each(|place| place.set(Use::Busy));
    assert!(limit.take(HERE, at(30_000)).is_some(), "the places of those before are free");
    let closed = limit.closed();
    assert_eq!(closed[0], ("refused", 1));
    assert_eq!(closed[2].0, "evicted_waiting");
    drop((held, first, second, new));
    assert!(limit.lock().by_network.is_empty() && limit.lock().open.is_empty());
}

#[test]
fn trusted_proxy_may_have_more_connections_than_one_network() {
    let (limit, now) = (ConnectionLimit::default(), Instant::now());
    let busy = || {
        let (place, _) = limit.take(HERE, now)?;
        place.set(Use::Busy);
        Some(place)
    };
    limit.set_trusted(TrustedProxies::parse(&["192.0.2.0/24".to_owned()]).unwrap());
    let mut held: Vec<_> = (0..CONNECTIONS_MAX).map(|_| busy().unwrap()).collect();
    assert!(busy().is_none(), "the total counts");
    limit.set_trusted(TrustedProxies::default());
    held.truncate(1);
    held.extend((0..CONNECTIONS_PER_NETWORK).map(|_| busy().unwrap()));
    assert!(busy().is_none(), "a reload ended the trust");
    drop(held);
    assert!(limit.lock().by_network.is_empty());
}

#[test]
fn labels_are_unique_and_in_order() {
    assert!(Closed::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
    let labels: BTreeSet<_> = Closed::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), Closed::ALL.len());
}

fn host(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n as u32))
}

/// A connection that waits for its client since `now`.
fn waiting(limit: &ConnectionLimit, peer: IpAddr, now: Instant) -> Place {
    let (place, _) = limit.take(peer, now).unwrap();
    place.set(Use::Waiting(now));
    place
}

#[test]
fn network_with_eight_times_the_connections_gives_way_at_once() {
    let (limit, now) = (ConnectionLimit::new(96, 50), Instant::now());
    let heavy: Vec<_> = (0..50).map(|_| waiting(&limit, host(1), now)).collect();
    let other: Vec<_> = (0..46).map(|_| waiting(&limit, host(2), now)).collect();
    let count = |places: &[Place]| places.iter().filter(|place| is_evicted(place)).count();
    // 50 to 46 for the newcomer's first to fifth.
    let newcomers: Vec<_> = (0..5)
        .map(|_| {
            let (place, displaced) = limit.take(HERE, now).unwrap();
            assert!(displaced);
            place.set(Use::Busy);
            place
        })
        .collect();
    assert_eq!(count(&heavy) + count(&other), newcomers.len());
    // 46 are less than eight times 6.
    assert!(limit.take(HERE, now).is_none(), "nobody has waited for long enough");
    assert!(limit.take(HERE, now + WAITING_MIN).is_some());
}

#[test]
fn requests_of_one_network_have_an_eighth_of_the_memory_and_the_longest_waiting_gives_way() {
    let (limit, start) = (ConnectionLimit::default(), Instant::now());
    let part = REQUEST_MEMORY_PER_NETWORK / 16;
    let held: Vec<_> = (0..16)
        .map(|n| {
            let place = waiting(&limit, HERE, start + Duration::from_millis(n));
            assert!(place.hold(part));
            place
        })
        .collect();
    let (next, _) = limit.take(HERE, start).unwrap();
    assert_eq!(limit.held(), REQUEST_MEMORY_PER_NETWORK);
    assert!(next.hold(1));
    let evicted: Vec<_> = (0..held.len()).filter(|n| is_evicted(&held[*n])).collect();
    assert_eq!(evicted, [0]);
    // Its memory came back with its place, and does not come back twice.
    assert_eq!(limit.held(), REQUEST_MEMORY_PER_NETWORK - part + 1);
    held[0].release(part);
    assert_eq!(limit.held(), REQUEST_MEMORY_PER_NETWORK - part + 1);
    held[1..].iter().for_each(|place| place.set(Use::Busy));
    assert!(next.hold(part - 1));
    assert!(!next.hold(1), "nobody waits");
    held[1].set(Use::PartlyWaiting(start));
    assert!(next.hold(1), "an event stream does not keep the requests beside it");
    assert!(is_evicted(&held[1]));
    drop((held, next));
    assert_eq!(limit.held(), 0);
}

#[test]
fn when_requests_hold_all_memory_the_heaviest_network_gives_way() {
    let (limit, start) = (ConnectionLimit::default(), Instant::now());
    let part = REQUEST_MEMORY_PER_NETWORK / 4;
    let hold = |peer, at| {
        let place = waiting(&limit, peer, at);
        assert!(place.hold(part));
        place
    };
    let light = hold(host(0), start);
    let later = start + Duration::from_millis(1);
    let held: Vec<_> = (0..7).flat_map(|n| [n; 4]).map(|n| hold(host(1 + n), later)).collect();
    // The clients of a proxy count in total only.
    let proxy: Vec<_> = (0..3).map(|_| hold(LOOPBACK, start)).collect();
    assert_eq!(limit.held(), REQUEST_MEMORY_MAX);
    let (newcomer, _) = limit.take(HERE, later).unwrap();
    assert!(newcomer.hold(part));
    assert!(!is_evicted(&light) && !proxy.iter().any(is_evicted));
    assert_eq!(held.iter().filter(|place| is_evicted(place)).count(), 1);
    assert_eq!(limit.held(), REQUEST_MEMORY_MAX);
    let closed = limit.closed().into_iter().find(|(label, _)| *label == "evicted_memory");
    assert_eq!(closed.unwrap().1, 1);
}

#[test]
fn places_follow_the_limit_of_open_files() {
    for (files, wanted) in [
        (None, (10_000, 1_024)),
        (Some(1_048_576), (10_000, 1_024)),
        (Some(10_128), (10_000, 1_024)),
        (Some(10_127), (9_999, 1_024)),
        (Some(1_024), (896, 112)),
        (Some(64), (32, 4)),
        (Some(0), (0, 1)),
    ] {
        assert_eq!(places(files), wanted, "{files:?}");
    }
}

#[test]
fn connection_gives_way_when_there_is_no_file_for_another() {
    let (limit, now) = (ConnectionLimit::default(), Instant::now());
    assert!(!limit.make_room(now));
    let [busy, idle] = [0, 1].map(|_| limit.take(HERE, now).unwrap().0);
    busy.set(Use::Busy);
    assert!(limit.make_room(now) && is_evicted(&idle) && !is_evicted(&busy));
    assert!(!limit.make_room(now), "none is idle or waited for");
    limit.set_places(2, 2);
    let more = [0, 1].map(|_| limit.take(HERE, now));
    assert!(more[0].is_some() && more[1].as_ref().is_some_and(|(_, displaced)| *displaced));
}
