//! Shares, evictions, and floods by clients that come one by one under a virtual clock.

use super::*;
use crate::client_network::client_network;
use crate::transport::peer::{DTLS_TIMEOUT, ICE_TIMEOUT};

fn network(n: u8) -> Option<IpAddr> {
    Some([192, 0, 2, n].into())
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn is_empty(waiting: &HalfOpen) -> bool {
    waiting.places.is_empty() && waiting.networks.is_empty()
}

// quality B2
#[test]
fn network_has_its_share_and_loopback_has_no_limit() {
    let (mut waiting, now) = (HalfOpen::default(), Instant::now());
    for n in 0..PER_NETWORK_MAX as u64 {
        assert_eq!(waiting.reserve(SessionId(n), network(1), 10_000, now), Ok(None));
    }
    let one_more = waiting.reserve(SessionId(999), network(1), 10_000, now);
    assert_eq!(one_more, Ok(Some(SessionId(0))), "its oldest gives way");
    assert_eq!(waiting.reserve(SessionId(998), network(2), 10_000, now), Ok(None));
    waiting.release(SessionId(7));
    assert_eq!(waiting.reserve(SessionId(1_000), network(1), 10_000, now), Ok(None));
    for n in 2_000..3_000 {
        assert_eq!(waiting.reserve(SessionId(n), None, 10_000, now), Ok(None));
    }
}

// quality B2
#[test]
fn when_all_places_are_taken_the_heaviest_network_loses_one() {
    let (mut waiting, now) = (HalfOpen::default(), Instant::now());
    for n in 0..10 {
        waiting.reserve(SessionId(n), network(1), 12, now).unwrap();
    }
    for n in 10..12 {
        waiting.reserve(SessionId(n), network(2), 12, now).unwrap();
    }
    assert_eq!(waiting.reserve(SessionId(12), network(3), 12, now), Ok(Some(SessionId(0))));
    assert_eq!(waiting.reserve(SessionId(13), network(2), 12, now), Ok(Some(SessionId(1))));
    let own = waiting.reserve(SessionId(14), network(1), 12, now);
    assert_eq!(own, Ok(Some(SessionId(2))), "it is the heaviest itself");
    assert_eq!(waiting.places.len(), 12);
    (0..20).for_each(|n| waiting.release(SessionId(n)));
    assert!(is_empty(&waiting));
}

#[test]
fn without_a_place_for_anyone_a_session_is_refused() {
    let (mut waiting, now) = (HalfOpen::default(), Instant::now());
    assert_eq!(waiting.reserve(SessionId(1), network(1), 0, now), Err(Full));
    assert!(is_empty(&waiting));
}

// quality B2
#[test]
fn handshake_of_the_same_network_is_evicted_after_two_seconds_and_by_loopback_after_ten() {
    for (client, media, sure_for) in [
        (network(1), network(1), HANDSHAKE_SURE_FOR),
        (None, network(1), HANDSHAKE_SURE_FOR),
        (None, None, LOCAL_HANDSHAKE_SURE_FOR),
    ] {
        let (mut waiting, start) = (HalfOpen::default(), Instant::now());
        for n in 0..3 {
            waiting.reserve(SessionId(n), client, 3, start).unwrap();
            waiting.checked(SessionId(n), media, start);
        }
        let early = start + sure_for - millis(1);
        assert_eq!(waiting.reserve(SessionId(3), client, 3, early), Err(Full));
        let evicted = waiting.reserve(SessionId(3), client, 3, start + sure_for);
        assert_eq!(evicted, Ok(Some(SessionId(0))));
    }
}

#[test]
fn session_in_its_handshake_goes_only_where_fewer_are_silent() {
    let (mut waiting, start) = (HalfOpen::default(), Instant::now());
    let limit = PER_NETWORK_MAX;
    for n in 0..limit as u64 {
        waiting.reserve(SessionId(n), network(1), limit, start).unwrap();
    }
    let second = |n| start + Duration::from_secs(n);
    // The user of the two oldest allows the connection late; they are in their handshakes.
    waiting.checked(SessionId(0), network(1), second(9));
    waiting.checked(SessionId(1), network(1), second(9));
    waiting.checked(SessionId(9_999), network(1), second(9));
    let mut reserve = |id, of, now| waiting.reserve(SessionId(id), of, limit, now);
    let evicted = |id| Ok(Some(SessionId(id)));
    assert_eq!(reserve(900, network(1), second(20)), evicted(2), "the oldest silent one");
    assert_eq!(reserve(901, network(2), second(20)), evicted(3), "also for another network");
    (4..limit as u64).chain([900]).for_each(|n| waiting.release(SessionId(n)));
    let mut reserve = |id, of, now| waiting.reserve(SessionId(id), of, 3, now);
    assert_eq!(reserve(902, network(1), second(10)), Err(Full), "both are in their handshakes");
    assert_eq!(reserve(903, network(3), second(10)), evicted(0), "one network takes no more");
    [1, 901, 903].into_iter().for_each(|n| waiting.release(SessionId(n)));
    assert!(is_empty(&waiting));
}

#[test]
fn more_than_its_share_of_one_media_network_goes_at_any_age() {
    let (mut waiting, now) = (HalfOpen::default(), Instant::now());
    let share = PER_NETWORK_MAX as u64;
    for n in 0..=share {
        waiting.reserve(SessionId(n), None, 10_000, now).unwrap();
        waiting.checked(SessionId(n), network(9), now);
    }
    let limit = PER_NETWORK_MAX + 1;
    assert_eq!(waiting.reserve(SessionId(900), None, limit, now), Ok(Some(SessionId(0))));
    assert_eq!(waiting.reserve(SessionId(901), None, limit, now), Ok(Some(SessionId(900))));
}

/// What the clients of an attacker do after their POST.
#[derive(Debug, Clone, Copy)]
enum Attack {
    /// Nothing.
    Silence,
    /// A valid check from this address of the media, and no handshake.
    Check(fn(u64) -> IpAddr),
}

/// A server with the places of one worker, an attacker, and honest clients.
struct Flood {
    waiting: HalfOpen,
    start: Instant,
    next: u64,
    /// What happens next: time, order, session and event.
    due: std::collections::BTreeMap<(Instant, u64), (SessionId, Due)>,
    connected: usize,
    lost: Vec<SessionId>,
}

#[derive(Debug, Clone, Copy)]
enum Due {
    /// The first check is answered; the media comes from there.
    Check(IpAddr),
    /// The handshake is done.
    Connect,
    Timeout,
}

impl Flood {
    const LIMIT: usize = 1_000;

    /// POSTs of an attacker for 30 s, and 109 honest clients. `networks` are what the API takes for the client
    /// networks of the two.
    fn run(attack: Attack, networks: [Option<IpAddr>; 2]) -> Self {
        let mut flood = Self {
            waiting: HalfOpen::default(),
            start: Instant::now(),
            next: 0,
            due: std::collections::BTreeMap::new(),
            connected: 0,
            lost: Vec::new(),
        };
        let [attacker, honest] = networks;
        // More than 50 per second of one network are refused by `--post-rate`.
        let per_s = if attacker.is_some() { 50 } else { 214 };
        for n in 0..per_s * 30 {
            let now = flood.start + Duration::from_secs(n) / per_s as u32;
            flood.work_until(now);
            if let Some(id) = flood.post(attacker, now, false)
                && let Attack::Check(media) = attack
            {
                flood.plan(now + millis(1), id, Due::Check(media(n)));
            }
            // 109 in 30 s, with up to half a second until the first check and as much for the handshake.
            let client = n * 109 / (per_s * 30);
            if (n + 1) * 109 / (per_s * 30) > client {
                match flood.post(honest, now, true) {
                    Some(id) => {
                        let media = IpAddr::from([198, 51, 100, client as u8]);
                        let wait = millis(50 + 9 * (client % 50));
                        flood.plan(now + wait, id, Due::Check(media));
                        flood.plan(now + 2 * wait, id, Due::Connect);
                    }
                    None => flood.lost.push(SessionId(u64::MAX)),
                }
            }
            assert!(flood.waiting.places.len() <= Self::LIMIT);
        }
        flood.work_until(flood.start + Duration::from_secs(100));
        assert!(is_empty(&flood.waiting));
        flood
    }

    fn plan(&mut self, at: Instant, id: SessionId, due: Due) {
        self.next += 1;
        self.due.insert((at, self.next), (id, due));
    }

    /// Even ids are honest.
    fn post(&mut self, network: Option<IpAddr>, now: Instant, honest: bool) -> Option<SessionId> {
        self.next += 1;
        let id = SessionId(2 * self.next + u64::from(!honest));
        let evicted = self.waiting.reserve(id, network, Self::LIMIT, now).ok()?;
        self.lost.extend(evicted.filter(|id| id.0 % 2 == 0));
        self.plan(now + ICE_TIMEOUT, id, Due::Timeout);
        Some(id)
    }

    fn work_until(&mut self, now: Instant) {
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((at, _), (id, due)) = entry.remove_entry();
            let is_here = self.waiting.places.contains_key(&id);
            match due {
                Due::Check(media) => {
                    self.waiting.checked(id, client_network(media), at);
                    self.plan(at + DTLS_TIMEOUT, id, Due::Timeout);
                }
                Due::Connect => {
                    self.connected += usize::from(is_here);
                    self.waiting.release(id);
                }
                Due::Timeout => self.waiting.release(id),
            }
        }
    }

    fn assert_honest_join(self, context: &str) {
        assert_eq!((self.connected, self.lost), (109, Vec::new()), "{context}");
    }
}

/// A rule that refuses newcomers as long as no session is ten seconds old lets 2 of 109 join.
#[test]
fn flood_of_214_posts_per_second_by_loopback_lets_109_of_109_clients_join() {
    Flood::run(Attack::Silence, [None, None]).assert_honest_join("all by loopback");
    Flood::run(Attack::Silence, [network(1), network(1)]).assert_honest_join("behind one NAT");
    Flood::run(Attack::Silence, [network(1), network(2)]).assert_honest_join("two networks");
}

#[test]
fn flood_of_214_checks_per_second_without_a_handshake_lets_109_of_109_clients_join() {
    // From one address; from all addresses of one /64; from more addresses than there are sessions, as
    // forged ones would be.
    let one: fn(u64) -> IpAddr = |_| [203, 0, 113, 1].into();
    let within_a_64: fn(u64) -> IpAddr =
        |n| std::net::Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(n)).into();
    let anywhere: fn(u64) -> IpAddr =
        |n| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n as u32).into();
    for media in [one, within_a_64, anywhere] {
        for networks in [[None, None], [network(1), network(1)], [network(1), network(2)]] {
            let context = format!("{} {networks:?}", media(1));
            Flood::run(Attack::Check(media), networks).assert_honest_join(&context);
        }
    }
}

/// A flood of POSTs without a check, for a minute, by loopback and by two networks of which one
/// is ten times as fast. Sessions leave at the ICE timeout.
// quality B2
#[test]
fn flood_takes_no_more_than_its_places() {
    const LIMIT: usize = 500;
    for flooding in [None, network(1)] {
        let (mut waiting, start) = (HalfOpen::default(), Instant::now());
        for n in 0..6_000 {
            let now = start + millis(10 * n);
            let network = if n % 10 == 9 { network(2) } else { flooding };
            waiting.reserve(SessionId(n), network, LIMIT, now).expect("a silent one gives way");
            assert!(waiting.places.len() <= LIMIT);
            let held = waiting.networks.values().map(Waiting::len).sum::<usize>();
            assert_eq!(held, waiting.places.len());
        }
        let most = if flooding.is_some() { PER_NETWORK_MAX } else { LIMIT };
        assert!(waiting.networks[&flooding].len() <= most);
        assert!(waiting.networks[&network(2)].len() > 200, "the slower network keeps its places");
    }
}
