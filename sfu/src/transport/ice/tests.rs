//! Tests of the ICE agent with one client under a virtual clock.

use super::*;
use crate::ids::Role;

const USE_CANDIDATE: u16 = 0x0025;

struct SeededEntropy(u64);

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

/// Client of one session, with the agent that it talks to.
struct Client {
    agent: IceAgent,
    entropy: SeededEntropy,
    now: Instant,
    next_id: u64,
    local: IceCredentials,
    remote: IceCredentials,
}

fn credentials(name: &str) -> IceCredentials {
    IceCredentials { ufrag: name.into(), pwd: format!("{name}-password-of-22-chars") }
}

fn path(n: u16) -> FiveTuple {
    let remote = format!("198.51.100.{}:{}", n % 250, 5_000 + n).parse().unwrap();
    FiveTuple::udp(Some("192.0.2.1".parse().unwrap()), remote)
}

impl Client {
    fn new(role: Role) -> Self {
        let (local, remote) = (credentials("server"), credentials("client"));
        let now = Instant::now();
        let policy = Policy::for_role(role);
        let config = IceConfig { local: local.clone(), remote: remote.clone(), policy };
        let agent = IceAgent::new(config, now);
        Self { agent, entropy: SeededEntropy(1), now, next_id: 0, local, remote }
    }

    fn check(&mut self, extra: &[u16]) -> Vec<u8> {
        self.next_id += 1;
        let mut transaction_id = [0u8; 12];
        transaction_id[..8].copy_from_slice(&self.next_id.to_be_bytes());
        stun::client_check(
            &CheckRequest {
                transaction_id,
                remote_ufrag: &self.local.ufrag,
                local_ufrag: &self.remote.ufrag,
                priority: 0,
                role: IceRole::Controlling,
                tie_breaker: 0,
                key: self.local.pwd.as_bytes(),
            },
            extra,
        )
    }

    fn deliver(&mut self, from: FiveTuple, datagram: &[u8]) -> Result<usize, DropReason> {
        self.agent.handle_stun(self.now, from, datagram, &mut [0u8; 100])
    }

    fn check_from(&mut self, from: FiveTuple) -> Result<usize, DropReason> {
        let check = self.check(&[]);
        self.deliver(from, &check)
    }

    fn nominate_from(&mut self, from: FiveTuple) -> Result<usize, DropReason> {
        let check = self.check(&[USE_CANDIDATE]);
        self.deliver(from, &check)
    }

    fn our_checks(&mut self) -> Vec<(FiveTuple, Vec<u8>)> {
        let mut out = [0u8; 700];
        let mut checks = Vec::new();
        self.agent.handle_timeout(self.now);
        while let Some((to, len)) = self.agent.poll_transmit(self.now, &mut self.entropy, &mut out)
        {
            checks.push((to, out[..len].to_vec()));
        }
        checks
    }

    /// Answer of the client to a check of ours.
    fn answer(&self, check: &[u8]) -> Vec<u8> {
        let view = StunView::parse(check).unwrap();
        assert_eq!(view.username(), Some((&*self.remote.ufrag, &*self.local.ufrag)));
        assert!(view.verify_integrity(self.remote.pwd.as_bytes()));
        let mut out = [0u8; 100];
        let source = "203.0.113.9:9".parse().unwrap();
        let key = self.remote.pwd.as_bytes();
        let len = stun::write_success(&mut out, &view.transaction_id(), source, key).unwrap();
        out[..len].to_vec()
    }

    /// Lets the client at `at` answer all checks that are due there; returns their number.
    fn answer_all(&mut self, at: FiveTuple) -> usize {
        let checks = self.our_checks();
        let mine: Vec<_> = checks.iter().filter(|(to, _)| *to == at).collect();
        for (_, check) in &mine {
            let answer = self.answer(check);
            self.deliver(at, &answer).unwrap();
        }
        mine.len()
    }

    /// Lets time pass in the steps that the agent asks for; returns the checks sent meanwhile.
    fn advance(&mut self, span: Duration) -> Vec<(Duration, FiveTuple, Vec<u8>)> {
        let (start, end) = (self.now, self.now + span);
        let mut sent = Vec::new();
        while let Some(at) = Some(self.agent.next_timeout()).filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let checks = self.our_checks();
            sent.extend(checks.into_iter().map(|(to, check)| (self.now - start, to, check)));
            if self.agent.is_expired(self.now) {
                break;
            }
        }
        self.now = end;
        sent
    }

    fn connected_viewer() -> Self {
        let mut client = Self::new(Role::Subscriber);
        client.nominate_from(path(1)).unwrap();
        assert_eq!(client.answer_all(path(1)), 1);
        client.agent.on_connected(client.now);
        assert!(client.agent.pairs.is_confirmed(path(1)));
        client
    }

    fn connected_publisher() -> Self {
        let mut client = Self::new(Role::Publisher);
        client.nominate_from(path(1)).unwrap();
        assert!(client.agent.reserve_handshake(151));
        client.agent.on_connected(client.now);
        assert!(client.agent.is_confirmed());
        client
    }

    /// An authenticated packet.
    fn media_from(&mut self, from: FiveTuple, bytes: usize) {
        self.agent.count_received(from, bytes);
        self.agent.on_authenticated(self.now, from);
    }

    /// Bytes of our checks to `at` while time passes.
    fn sent_to(&mut self, at: FiveTuple, span: Duration) -> usize {
        let sent = self.advance(span);
        sent.iter().filter(|(_, to, _)| *to == at).map(|(_, _, check)| check.len()).sum()
    }
}

// whip-whep C50
#[test]
fn first_check_is_answered_and_its_pair_is_selected() {
    for role in [Role::Publisher, Role::Subscriber] {
        let mut client = Client::new(role);
        assert!(!client.agent.is_validated(path(1)));
        let check = client.check(&[]);
        let mut reply = [0u8; 100];
        assert_eq!(client.agent.selected(), None);
        let len = client.agent.handle_stun(client.now, path(1), &check, &mut reply).unwrap();
        assert_eq!(client.agent.selected(), Some(path(1)));
        let answer = StunView::parse(&reply[..len]).unwrap();
        assert!(answer.verify_integrity(client.local.pwd.as_bytes()));
        assert_eq!(answer.class(), StunClass::Success);
        assert!(len <= check.len() + 20);
        assert!(client.agent.is_validated(path(1)));
        client.check_from(path(1)).unwrap();
        assert_eq!(client.agent.selected(), Some(path(1)));
    }
}

// whip-whep C51, quality B4 items 2 and 3
#[test]
fn check_without_our_password_gets_no_answer_and_leaves_no_state() {
    let mut client = Client::new(Role::Publisher);
    let good = client.local.clone();
    client.local.pwd = "not-the-password-at-all".into();
    assert_eq!(client.nominate_from(path(1)), Err(DropReason::StunBadIntegrity));
    client.local.ufrag = "other".into();
    assert_eq!(client.nominate_from(path(1)), Err(DropReason::StunUnknownUfrag));
    assert_eq!(client.deliver(path(1), &[0; 20]), Err(DropReason::StunMalformed));
    assert!(client.agent.pairs.len() == 0 && client.agent.selected().is_none());
    client.local = good;
    assert!(client.nominate_from(path(1)).unwrap() > 0);
    assert_eq!(client.agent.selected(), Some(path(1)));
}

#[test]
fn check_with_unknown_required_attributes_is_refused_and_selects_nothing() {
    let mut client = Client::new(Role::Publisher);
    let check = client.check(&[USE_CANDIDATE, 0x7f00]);
    assert!(client.deliver(path(1), &check).unwrap() > 0);
    assert!(client.agent.selected().is_none() && !client.agent.is_validated(path(1)));
}

// architecture D3
#[test]
fn viewer_moves_only_after_the_new_address_answered_our_check() {
    let mut client = Client::connected_viewer();
    client.nominate_from(path(2)).unwrap();
    assert_eq!(client.agent.selected(), Some(path(1)));
    let checks = client.our_checks();
    assert_eq!(checks.len(), 1);
    let (to, check) = &checks[0];
    assert_eq!(*to, path(2));
    let answer = client.answer(check);
    // From the old address, or from a third one, the right answer proves nothing.
    for elsewhere in [path(1), path(3)] {
        let dropped = client.deliver(elsewhere, &answer);
        assert_eq!(dropped, Err(DropReason::StunUnexpectedResponse));
    }
    assert_eq!(client.agent.selected(), Some(path(1)));
    client.deliver(path(2), &answer).unwrap();
    assert_eq!(client.agent.selected(), Some(path(2)));
    // A repetition of the answer proves nothing either.
    assert_eq!(client.deliver(path(2), &answer), Err(DropReason::StunUnexpectedResponse));
}

/// Some clients never nominate again when a NAT gives them a new port.
#[test]
fn viewer_that_moved_without_nominating_is_followed_once_it_answered() {
    let mut client = Client::connected_viewer();
    client.check_from(path(2)).unwrap();
    assert!(client.our_checks().is_empty(), "the selected pair is not in doubt");
    client.now += DOUBT_AFTER;
    client.check_from(path(2)).unwrap();
    assert_eq!(client.agent.selected(), Some(path(1)), "not before it answered us");
    assert_eq!(client.answer_all(path(2)), 1);
    assert_eq!(client.agent.selected(), Some(path(2)));
}

// RFC 7675: consent is for where we send
#[test]
fn reports_from_elsewhere_do_not_prove_that_the_selected_address_is_alive() {
    let mut client = Client::connected_viewer();
    client.check_from(path(2)).unwrap();
    let alive = client.agent.last_alive();
    client.now += Duration::from_secs(1);
    client.agent.on_authenticated(client.now, path(2));
    assert_eq!(client.agent.last_alive(), alive);
    client.agent.on_authenticated(client.now, path(1));
    assert_eq!(client.agent.last_alive(), client.now);
}

// architecture D3: a viewer knows its own password and aims at a victim
#[test]
fn spoofed_use_candidate_sends_its_victim_at_most_three_times_its_bytes() {
    let mut client = Client::connected_viewer();
    let check = client.check(&[USE_CANDIDATE]);
    let answered = client.deliver(path(66), &check).unwrap();
    let checks = client.advance(Duration::from_secs(20));
    let to_victim: Vec<usize> = checks
        .iter()
        .filter(|(_, to, _)| *to == path(66))
        .map(|(_, _, check)| check.len())
        .collect();
    assert!(!to_victim.is_empty());
    assert!(answered + to_victim.iter().sum::<usize>() <= 3 * check.len());
    assert_eq!(client.agent.selected(), Some(path(1)));
}

#[test]
fn answer_signed_with_a_wrong_password_confirms_nothing() {
    let mut client = Client::connected_viewer();
    client.nominate_from(path(2)).unwrap();
    let (_, check) = client.our_checks().remove(0);
    let true_pwd = std::mem::replace(&mut client.remote.pwd, "guess".into());
    let id = StunView::parse(&check).unwrap().transaction_id();
    let mut forged = [0u8; 100];
    let len = stun::write_success(&mut forged, &id, path(2).remote, b"guess").unwrap();
    client.remote.pwd = true_pwd;
    assert_eq!(client.deliver(path(2), &forged[..len]), Err(DropReason::StunBadIntegrity));
    assert_eq!(client.agent.selected(), Some(path(1)));
}

#[test]
fn captured_check_moves_nothing_from_any_address() {
    for role in [Role::Publisher, Role::Subscriber] {
        let mut client = Client::new(role);
        let old = client.check(&[USE_CANDIDATE]);
        client.deliver(path(1), &old).unwrap();
        client.answer_all(path(1));
        client.nominate_from(path(2)).unwrap();
        client.answer_all(path(2));
        assert_eq!(client.agent.selected(), Some(path(2)));

        assert_eq!(client.deliver(path(9), &old), Err(DropReason::UnvalidatedAddress));
        assert!(!client.agent.is_validated(path(9)));
        client.deliver(path(1), &old).unwrap();
        assert_eq!(client.agent.selected(), Some(path(2)));
        assert!(client.our_checks().is_empty());
        assert_eq!(client.agent.selected(), Some(path(2)));
    }
}

// quality B4 item 27
#[test]
fn publisher_moves_when_its_newly_nominated_address_has_answered() {
    let mut client = Client::connected_publisher();
    client.nominate_from(path(2)).unwrap();
    // Neither its media from both addresses nor that from the new one alone moves it.
    for from in [path(1), path(2), path(2)] {
        client.media_from(from, 1_200);
        assert_eq!(client.agent.selected(), Some(path(1)));
        assert!(client.agent.is_confirmed(), "the old path stays as it was");
    }
    assert_eq!(client.answer_all(path(2)), 1);
    assert_eq!(client.agent.selected(), Some(path(2)));
    assert!(client.agent.is_confirmed() && client.our_checks().is_empty());
}

/// FFmpeg behind a NAT that gave it a new port.
// whip-whep C50
#[test]
fn publisher_that_never_answers_moves_with_its_media_and_gets_what_it_pays_for() {
    let mut client = Client::connected_publisher();
    client.advance(Duration::from_secs(1));
    let check = client.check(&[USE_CANDIDATE]);
    let mut sent = client.deliver(path(2), &check).unwrap();
    let mut received = check.len();
    let mut moved = None;
    for n in 0..1_000 {
        sent += client.sent_to(path(2), Duration::from_millis(10));
        client.media_from(path(2), 1_200);
        received += 1_200;
        if client.agent.selected() == Some(path(2)) {
            moved.get_or_insert(n);
            // All feedback that a browser would be sent, and much more.
            sent += (0..50).filter(|_| client.agent.reserve(100)).count() * 100;
        }
        assert!(sent <= received, "{sent} bytes for {received}");
    }
    let doubt = (DOUBT_AFTER.as_millis() / 10) as i32;
    assert!(moved.is_some_and(|n| n <= doubt), "{moved:?}");
    assert!(sent > received - 200 && !client.agent.is_confirmed());
    client.check_from(path(2)).unwrap();
    client.media_from(path(2), 1_200);
    assert_eq!(client.answer_all(path(2)), 1);
    assert!(client.agent.reserve(1_000_000), "an answer lifts the limit at any time");
}

/// A recorder of its checks sends them from its old address.
#[test]
fn old_checks_from_the_old_address_do_not_keep_the_path_there() {
    let mut client = Client::connected_publisher();
    for _ in 0..70 {
        client.advance(Duration::from_millis(50));
        client.check_from(path(1)).unwrap();
    }
    client.nominate_from(path(2)).unwrap();
    client.media_from(path(2), 1_200);
    assert_eq!(client.agent.selected(), Some(path(2)));
}

#[test]
fn first_nomination_overrules_the_first_valid_check() {
    let mut client = Client::new(Role::Publisher);
    client.check_from(path(1)).unwrap();
    client.check_from(path(2)).unwrap();
    assert_eq!(client.agent.selected(), Some(path(1)));
    client.nominate_from(path(2)).unwrap();
    assert_eq!(client.agent.selected(), Some(path(2)));
    // A publisher's first pair is not checked: some stumble over STUN in a handshake (whip-whep C53).
    assert!(client.our_checks().is_empty());
}

#[test]
fn unconfirmed_viewer_gets_three_times_its_bytes_and_a_confirmed_one_all() {
    let mut client = Client::new(Role::Subscriber);
    assert!(!client.agent.reserve(1));
    let check = client.check(&[USE_CANDIDATE]);
    let answered = client.deliver(path(1), &check).unwrap();
    client.agent.count_received(path(1), 100);
    let budget = 3 * (check.len() + 100) - answered - CHECK_RESERVE_BYTES as usize;
    assert!(client.agent.reserve(budget));
    assert!(!client.agent.reserve(1));
    // SRTP confirms nothing for a viewer.
    client.agent.on_authenticated(client.now, path(1));
    assert!(!client.agent.reserve(1));
    client.answer_all(path(1));
    assert!(client.agent.reserve(1_000_000));
}

/// Its flights prove by their answers that they arrived; its media proves nothing.
#[test]
fn handshake_confirms_a_publishers_path_when_all_its_flights_went_there() {
    for moves in [false, true] {
        let mut client = Client::new(Role::Publisher);
        client.check_from(path(1)).unwrap();
        assert!(client.agent.reserve_handshake(151));
        client.media_from(path(1), 300);
        assert!(!client.agent.reserve(10_000));
        let last = if moves { path(2) } else { path(1) };
        client.nominate_from(last).unwrap();
        assert!(client.agent.reserve_handshake(151));
        client.agent.on_connected(client.now);
        assert_eq!(client.agent.selected(), Some(last));
        assert_eq!(client.agent.reserve(1_000_000), !moves);
        client.media_from(last, 1_200);
        assert_eq!(client.agent.reserve(1_000_000), !moves, "SRTP confirms nothing");
        assert_eq!(client.answer_all(last), usize::from(moves));
        assert!(client.agent.reserve(1_000_000));
    }
}

// whip-whep C54, clients finding 1
#[test]
fn publisher_that_sent_one_check_gets_the_repeats_of_a_handshake_and_no_more() {
    let repeats =
        |client: &mut Client| (0..100).filter(|_| client.agent.reserve_handshake(151)).count();
    let mut client = Client::new(Role::Publisher);
    client.nominate_from(path(1)).unwrap();
    let all = repeats(&mut client);
    assert!((12..=15).contains(&all), "{all}");
    // Nothing refills it: no other pair, no restart. The checks pay for what is sent.
    let (mut sent, mut received) = (0, 0);
    for n in 2..20 {
        if n % 3 == 0 {
            (client.local, client.remote) = (credentials(&format!("s{n}")), credentials("c"));
            client.agent.restart(client.local.clone(), client.remote.clone(), client.now);
        }
        let check = client.check(&[USE_CANDIDATE]);
        _ = client.deliver(path(n % 4), &check);
        (sent, received) = (sent + repeats(&mut client) * 151, received + check.len());
        assert!(sent <= 3 * received, "{sent} for {received}");
    }
    let mut viewer = Client::new(Role::Subscriber);
    viewer.nominate_from(path(1)).unwrap();
    assert!(repeats(&mut viewer) < 4, "a viewer answers our checks instead");
    // One that has answered once has no need of it on its other pairs.
    let mut client = Client::new(Role::Publisher);
    client.nominate_from(path(1)).unwrap();
    client.nominate_from(path(2)).unwrap();
    assert_eq!(client.answer_all(path(2)), 1);
    client.agent.forget_pair(path(2));
    client.nominate_from(path(3)).unwrap();
    assert_eq!(client.agent.selected(), Some(path(3)));
    assert!(repeats(&mut client) <= 1);
}

/// Who can read a client's check and is quicker sends a copy of it from elsewhere. The client gets the
/// handshake where its next check or its flight comes from, although it answers no check.
#[test]
fn publisher_that_never_answers_gets_its_handshake_although_a_copy_of_its_check_was_first() {
    for by_flight in [false, true] {
        let mut client = Client::new(Role::Publisher);
        let check = client.check(&[USE_CANDIDATE]);
        client.deliver(path(9), &check).unwrap();
        assert_eq!(client.deliver(path(1), &check), Err(DropReason::UnvalidatedAddress));
        assert_eq!(client.agent.selected(), Some(path(9)));
        let (repeated, extra) = (client.check(&[USE_CANDIDATE]), client.check(&[]));
        client.deliver(path(1), if by_flight { &extra } else { &repeated }).unwrap();
        if by_flight {
            assert_eq!(client.agent.selected(), Some(path(9)));
            client.agent.count_received(path(1), 200);
            client.agent.on_handshake(client.now, path(1), false);
        }
        assert_eq!(client.agent.selected(), Some(path(1)));
        assert!(client.agent.reserve_handshake(151));
        // Flights from the copy's address are answered there, and the next ones again here.
        client.agent.on_handshake(client.now, path(9), false);
        assert_eq!(client.agent.selected(), Some(path(9)));
        client.agent.on_handshake(client.now, path(1), false);
        assert!(client.agent.reserve_handshake(151));
        client.agent.on_connected(client.now);
        assert_eq!(client.agent.selected(), Some(path(1)));
        assert!(client.agent.reserve(1_000_000), "all flights went there");
        client.agent.on_handshake(client.now, path(9), true);
        assert_eq!(client.agent.selected(), Some(path(1)), "after the handshake nothing moves it");
    }
}

/// Checks that come again keep no pair new: their source may be forged. Answers and flights do, once
/// the peer has received ours there.
#[test]
fn pair_is_new_after_its_first_check_and_after_what_only_a_receiver_can_send() {
    let half = Duration::from_millis(500);
    let mut client = Client::new(Role::Publisher);
    let is_new = |client: &Client| client.agent.is_new_on(path(1), client.now, half);
    client.nominate_from(path(1)).unwrap();
    assert!(is_new(&client));
    client.now += half;
    client.nominate_from(path(1)).unwrap();
    client.agent.on_handshake(client.now, path(1), false);
    assert!(!is_new(&client));
    client.agent.on_handshake(client.now, path(1), true);
    assert!(!is_new(&client), "it cannot have received what was never sent there");
    assert!(client.agent.reserve_handshake(151));
    client.agent.on_handshake(client.now, path(1), true);
    assert!(is_new(&client));
    client.now += half;
    assert!(!is_new(&client));
    let mut viewer = Client::new(Role::Subscriber);
    viewer.nominate_from(path(1)).unwrap();
    viewer.now += Duration::from_millis(400);
    assert_eq!(viewer.answer_all(path(1)), 1);
    viewer.now += Duration::from_millis(400);
    assert!(is_new(&viewer));
}

// RFC 7675, whip-whep C60
#[test]
fn consent_is_checked_every_four_to_six_seconds_and_expires_without_answers() {
    let mut client = Client::connected_viewer();
    let mut gaps = Vec::new();
    for _ in 0..50 {
        let before = client.now;
        client.now = client.agent.next_timeout();
        gaps.push(client.now - before);
        assert_eq!(client.answer_all(path(1)), 1);
    }
    assert!(gaps.iter().all(|gap| (4..=6).contains(&gap.as_secs())), "{gaps:?}");
    assert!(gaps.iter().max().unwrap().as_millis() - gaps.iter().min().unwrap().as_millis() > 500);
    assert!(!client.agent.is_expired(client.now));
    let start = client.now;
    client.advance(Duration::from_secs(29));
    assert!(!client.agent.is_expired(client.now));
    client.advance(Duration::from_secs(10));
    assert!(client.agent.is_expired(start + CONSENT_TIMEOUT));
    assert!(!client.agent.is_expired(start + CONSENT_TIMEOUT - Duration::from_millis(1)));
}

#[test]
fn srtcp_keeps_a_connected_viewer_alive_and_requests_do_not() {
    let mut client = Client::connected_viewer();
    let start = client.now;
    for _ in 0..14 {
        client.advance(Duration::from_secs(2));
        client.nominate_from(path(1)).unwrap();
    }
    assert!(client.agent.is_expired(start + CONSENT_TIMEOUT));
    client.agent.on_authenticated(client.now, path(1));
    assert!(!client.agent.is_expired(start + CONSENT_TIMEOUT));
}

// clients finding 1
#[test]
fn srtp_alone_or_answers_alone_keep_a_publisher_alive_and_its_checks_do_not() {
    let mut client = Client::connected_publisher();
    for _ in 0..10 {
        for (_, to, _) in client.advance(Duration::from_secs(20)) {
            assert_eq!(to, path(1), "while it is quiet, it is asked");
        }
        client.media_from(path(1), 100);
    }
    // Muted: it answers, and is never shown as silent for that.
    let start = client.now;
    while client.now < start + Duration::from_secs(100) {
        client.now = client.agent.next_timeout();
        client.answer_all(path(1));
        let silent = client.now - client.agent.last_alive();
        assert!(silent < Duration::from_millis(2_600), "{silent:?}");
    }
    // Its checks could be recordings of any age.
    let mut recorded = Vec::new();
    for _ in 0..200 {
        recorded.push(client.check(&[USE_CANDIDATE]));
        client.deliver(path(1), recorded.last().unwrap()).unwrap();
        client.advance(Duration::from_millis(50));
    }
    let start = client.now;
    client.media_from(path(1), 100);
    for check in recorded.iter().cycle().take(600) {
        client.advance(Duration::from_millis(50));
        _ = client.deliver(path(1), check);
        _ = client.deliver(path(9), check);
        assert_eq!(client.agent.selected(), Some(path(1)));
    }
    assert!(client.agent.is_expired(start + CONSENT_TIMEOUT));
}

// quality B2
#[test]
fn ninth_pair_replaces_the_idlest_where_the_peer_did_not_prove_to_be() {
    let mut client = Client::new(Role::Publisher);
    for n in 1..=MAX_PAIRS as u16 {
        client.nominate_from(path(n)).unwrap();
        client.now += Duration::from_millis(1);
    }
    client.check_from(path(100)).unwrap();
    // 8 is selected; 1 was idle longest.
    assert!(client.agent.is_validated(path(8)) && !client.agent.is_validated(path(1)));
    assert_eq!(client.agent.pairs.len(), MAX_PAIRS);
    for n in (2..=MAX_PAIRS as u16).chain([100]) {
        client.media_from(path(n), 100);
    }
    assert_eq!(client.check_from(path(101)), Err(DropReason::TooManyPairs));
    client.now += CONSENT_TIMEOUT;
    assert!(client.check_from(path(101)).is_ok());
}

/// Who recorded checks of the client sends them from eight other addresses, and copies from its own.
#[test]
fn recorded_checks_use_nothing_up_that_the_client_needs() {
    let mut client = Client::connected_viewer();
    let recorded: Vec<_> = (0..200)
        .map(|_| {
            let check = client.check(&[USE_CANDIDATE]);
            client.now += Duration::from_millis(50);
            client.deliver(path(1), &check).unwrap();
            check
        })
        .collect();
    for (n, check) in recorded.iter().cycle().take(2_000).enumerate() {
        assert!(client.deliver(path(20 + n as u16 % 8), check).is_err());
        _ = client.deliver(path(1), check);
    }
    client.check_from(path(1)).expect("its own are answered");
    // Others that it never saw, and so counts as new: they hold no pair that the client needs.
    for n in 0..64 {
        _ = client.nominate_from(path(20 + n % 8));
        client.now += Duration::from_millis(60);
    }
    client.nominate_from(path(2)).expect("its network gave it another port");
    assert_eq!(client.answer_all(path(2)), 1);
    assert_eq!(client.agent.selected(), Some(path(2)));
}

// quality B2
#[test]
fn eleventh_copy_of_a_second_is_not_answered() {
    let mut client = Client::new(Role::Subscriber);
    let check = client.check(&[USE_CANDIDATE]);
    client.deliver(path(1), &check).unwrap();
    let answered = (0..1_000).filter(|_| client.deliver(path(1), &check).is_ok()).count();
    assert_eq!(answered as u32, COPIES_PER_SECOND);
    assert!(client.check_from(path(1)).is_ok());
    client.now += Duration::from_secs(1);
    assert!(client.deliver(path(1), &check).is_ok());
}

/// A check of a server like this one: two must not keep each other alive.
#[test]
fn controlled_peer_gets_487_and_no_pair() {
    let mut client = Client::new(Role::Subscriber);
    let request = CheckRequest {
        transaction_id: [7; 12],
        remote_ufrag: &client.local.ufrag,
        local_ufrag: &client.remote.ufrag,
        priority: 1,
        role: IceRole::Controlled,
        tie_breaker: 1,
        key: client.local.pwd.as_bytes(),
    };
    let mut check = [0; 200];
    let len = stun::write_check(&mut check, &request).unwrap();
    let mut reply = [0; 100];
    let now = client.now;
    let replied = client.agent.handle_stun(now, path(1), &check[..len], &mut reply).unwrap();
    assert!(replied <= len);
    let view = StunView::parse(&reply[..replied]).unwrap();
    assert_eq!(view.class(), StunClass::Error);
    assert!(reply[..replied].windows(4).any(|code| code == [0, 0, 4, 87]));
    assert!(!client.agent.is_validated(path(1)) && client.agent.selected().is_none());
}

// RFC 7675
#[test]
fn restarts_alone_keep_no_stream_at_an_address_that_does_not_answer() {
    for role in [Role::Subscriber, Role::Publisher] {
        let mut client = match role {
            Role::Subscriber => Client::connected_viewer(),
            Role::Publisher => Client::connected_publisher(),
        };
        let start = client.now;
        let mut stopped = None;
        for n in 0..9 {
            client.advance(Duration::from_secs(10));
            if !client.agent.is_confirmed() {
                stopped.get_or_insert(client.now - start);
            }
            if client.agent.is_expired(client.now) {
                break;
            }
            let [local, remote] = ["s", "c"].map(|side| credentials(&format!("{side}{n}")));
            client.agent.restart(local, remote, client.now);
        }
        assert_eq!(stopped, Some(CONSENT_TIMEOUT), "{role:?}");
        let ended = client.now - start;
        assert!(client.agent.is_expired(client.now) && ended <= 2 * CONSENT_TIMEOUT, "{ended:?}");
    }
}

// quality B2
#[test]
fn fifty_first_request_of_a_second_is_dropped_and_answers_to_us_are_not() {
    let mut client = Client::new(Role::Subscriber);
    let check = client.check(&[USE_CANDIDATE]);
    client.deliver(path(1), &check).unwrap();
    for _ in 0..STUN_PER_SECOND {
        client.check_from(path(1)).unwrap();
    }
    assert_eq!(client.check_from(path(1)), Err(DropReason::StunRateLimited));
    assert_eq!(client.answer_all(path(1)), 1);
    client.now += Duration::from_secs(1);
    assert!(client.check_from(path(1)).is_ok());
}

#[test]
fn round_trip_is_that_of_the_request_that_was_answered() {
    let mut client = Client::new(Role::Subscriber);
    client.nominate_from(path(1)).unwrap();
    let first = client.our_checks().remove(0).1;
    client.agent.count_received(path(1), 500);
    client.now += Duration::from_millis(50);
    let second = client.our_checks().remove(0).1;
    assert_ne!(
        StunView::parse(&first).unwrap().transaction_id(),
        StunView::parse(&second).unwrap().transaction_id()
    );
    client.now += Duration::from_millis(30);
    let answer = client.answer(&first);
    client.deliver(path(1), &answer).unwrap();
    assert_eq!(client.agent.rtt(), Some(Duration::from_millis(80)));
}

// whip-whep B9
#[test]
fn restart_keeps_the_old_pair_until_a_new_one_is_confirmed() {
    let mut client = Client::connected_viewer();
    let old = (client.local.clone(), client.remote.clone());
    let new = (credentials("server2"), credentials("client2"));
    client.agent.restart(new.0.clone(), new.1.clone(), client.now);
    let ufrag = |agent: &IceAgent, age| {
        agent.generations.get(age).map(|generation| generation.local.ufrag.clone())
    };
    assert_eq!(ufrag(&client.agent, Age::Current).as_deref(), Some("server2"));
    assert_eq!(ufrag(&client.agent, Age::Previous).as_deref(), Some("server"));

    // Checks with the old credentials are answered but select nothing.
    assert!(client.nominate_from(path(3)).unwrap() > 0);
    assert_eq!(client.agent.selected(), Some(path(1)));
    assert!(client.our_checks().is_empty() && client.agent.reserve(100_000));
    // Consent goes on with the old credentials.
    client.now = client.agent.next_timeout();
    assert_eq!(client.answer_all(path(1)), 1);

    (client.local, client.remote) = new;
    client.nominate_from(path(2)).unwrap();
    assert_eq!(client.agent.selected(), Some(path(1)));
    assert_eq!(client.answer_all(path(2)), 1);
    assert_eq!(client.agent.selected(), Some(path(2)));

    (client.local, client.remote) = old;
    assert_eq!(client.nominate_from(path(1)), Err(DropReason::StunUnknownUfrag));
}

#[test]
fn restart_on_the_same_address_needs_no_pause() {
    for role in [Role::Publisher, Role::Subscriber] {
        let mut client = Client::new(role);
        client.nominate_from(path(1)).unwrap();
        client.answer_all(path(1));
        (client.local, client.remote) = (credentials("server2"), credentials("client2"));
        client.agent.restart(client.local.clone(), client.remote.clone(), client.now);
        // A consent check with the old credentials is under way when the new ones take over.
        client.now += Duration::from_secs(6);
        let old = client.our_checks();
        assert_eq!(old.len(), usize::from(role == Role::Subscriber));
        client.check_from(path(1)).unwrap();
        assert_eq!(client.agent.selected(), Some(path(1)));
        assert!(client.agent.generations.get(Age::Previous).is_none());
        client.now += Duration::from_secs(1);
        assert_eq!(client.answer_all(path(1)), old.len());
        assert!(client.agent.next_timeout() > client.now);
    }
}
