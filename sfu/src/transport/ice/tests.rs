//! Tests of the ICE agent: one session and its client under a virtual clock.

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

/// One session and the client's view of it, under a virtual clock.
struct Story {
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

impl Story {
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
                tie_breaker: 0,
                key: self.local.pwd.as_bytes(),
            },
            extra,
        )
    }

    fn deliver(&mut self, from: FiveTuple, datagram: &[u8]) -> Result<usize, DropReason> {
        self.agent.handle_stun(self.now, from, datagram, &mut [0u8; 100])
    }

    fn ping(&mut self, from: FiveTuple) -> Result<usize, DropReason> {
        let check = self.check(&[]);
        self.deliver(from, &check)
    }

    fn nominate(&mut self, from: FiveTuple) -> Result<usize, DropReason> {
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

    /// The client's answer to a check of ours.
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

    /// Lets the client at `at` answer whatever we ask it now.
    fn answer_all(&mut self, at: FiveTuple) -> usize {
        let checks = self.our_checks();
        let mine: Vec<_> = checks.iter().filter(|(to, _)| *to == at).collect();
        for (_, check) in &mine {
            let answer = self.answer(check);
            self.deliver(at, &answer).unwrap();
        }
        mine.len()
    }

    /// Time passes in the steps that the agent asks for; the checks that left meanwhile.
    fn sleep(&mut self, span: Duration) -> Vec<(Duration, FiveTuple, Vec<u8>)> {
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
        let mut story = Self::new(Role::Subscriber);
        story.nominate(path(1)).unwrap();
        assert_eq!(story.answer_all(path(1)), 1);
        assert!(story.agent.pairs.is_confirmed(path(1)));
        story
    }
}

// whip-whep C50
#[test]
fn the_first_check_is_answered_and_chooses_the_path() {
    for kind in [Role::Publisher, Role::Subscriber] {
        let mut story = Story::new(kind);
        assert!(!story.agent.is_validated(path(1)));
        let check = story.check(&[]);
        let mut reply = [0u8; 100];
        assert_eq!(story.agent.selected(), None);
        let len = story.agent.handle_stun(story.now, path(1), &check, &mut reply).unwrap();
        assert_eq!(story.agent.selected(), Some(path(1)));
        let answer = StunView::parse(&reply[..len]).unwrap();
        assert!(answer.verify_integrity(story.local.pwd.as_bytes()));
        assert_eq!(answer.class(), StunClass::Success);
        assert!(len <= check.len() + 20);
        assert!(story.agent.is_validated(path(1)));
        story.ping(path(1)).unwrap();
        assert_eq!(story.agent.selected(), Some(path(1)));
    }
}

// whip-whep C51, quality B4 items 2 and 3
#[test]
fn without_our_password_nothing_is_said_or_kept() {
    let mut story = Story::new(Role::Publisher);
    let good = story.local.clone();
    story.local.pwd = "not-the-password-at-all".into();
    assert_eq!(story.nominate(path(1)), Err(DropReason::StunBadIntegrity));
    story.local.ufrag = "other".into();
    assert_eq!(story.nominate(path(1)), Err(DropReason::StunUnknownUfrag));
    assert_eq!(story.deliver(path(1), &[0; 20]), Err(DropReason::StunMalformed));
    assert!(story.agent.pairs.len() == 0 && story.agent.selected().is_none());
    story.local = good;
    assert!(story.nominate(path(1)).unwrap() > 0);
    assert_eq!(story.agent.selected(), Some(path(1)));
}

#[test]
fn a_check_with_unknown_required_attributes_is_refused_and_chooses_nothing() {
    let mut story = Story::new(Role::Publisher);
    let check = story.check(&[USE_CANDIDATE, 0x7f00]);
    assert!(story.deliver(path(1), &check).unwrap() > 0);
    assert!(story.agent.selected().is_none() && !story.agent.is_validated(path(1)));
}

// architecture D3
#[test]
fn a_viewer_moves_only_after_the_new_address_answered_our_check() {
    let mut story = Story::connected_viewer();
    story.nominate(path(2)).unwrap();
    assert_eq!(story.agent.selected(), Some(path(1)));
    let checks = story.our_checks();
    assert_eq!(checks.len(), 1);
    let (to, check) = &checks[0];
    assert_eq!(*to, path(2));
    let answer = story.answer(check);
    // From the old address, or from a third one, the right answer proves nothing.
    for elsewhere in [path(1), path(3)] {
        let dropped = story.deliver(elsewhere, &answer);
        assert_eq!(dropped, Err(DropReason::StunUnexpectedResponse));
    }
    assert_eq!(story.agent.selected(), Some(path(1)));
    story.deliver(path(2), &answer).unwrap();
    assert_eq!(story.agent.selected(), Some(path(2)));
    // Nor does its repetition.
    assert_eq!(story.deliver(path(2), &answer), Err(DropReason::StunUnexpectedResponse));
}

/// Some clients never nominate again when a NAT gives them a new port.
#[test]
fn a_viewer_that_moved_without_nominating_is_followed_once_it_answered() {
    let mut story = Story::connected_viewer();
    story.ping(path(2)).unwrap();
    assert!(story.our_checks().is_empty(), "the selected pair is not in doubt");
    story.now += DOUBT_AFTER;
    story.ping(path(2)).unwrap();
    assert_eq!(story.agent.selected(), Some(path(1)), "not before it answered us");
    assert_eq!(story.answer_all(path(2)), 1);
    assert_eq!(story.agent.selected(), Some(path(2)));
}

// RFC 7675: consent is for where we send
#[test]
fn reports_from_elsewhere_do_not_keep_a_stream_alive_that_goes_to_an_old_address() {
    let mut story = Story::connected_viewer();
    story.ping(path(2)).unwrap();
    let life = story.agent.last_alive();
    story.now += Duration::from_secs(1);
    story.agent.on_authenticated(story.now, path(2));
    assert_eq!(story.agent.last_alive(), life);
    story.agent.on_authenticated(story.now, path(1));
    assert_eq!(story.agent.last_alive(), story.now);
}

// architecture D3: a viewer knows its own password and aims at a victim
#[test]
fn a_spoofed_use_candidate_brings_its_victim_at_most_three_times_its_bytes() {
    let mut story = Story::connected_viewer();
    let check = story.check(&[USE_CANDIDATE]);
    let answered = story.deliver(path(66), &check).unwrap();
    let checks = story.sleep(Duration::from_secs(20));
    let to_victim: Vec<usize> = checks
        .iter()
        .filter(|(_, to, _)| *to == path(66))
        .map(|(_, _, check)| check.len())
        .collect();
    assert!(!to_victim.is_empty());
    assert!(answered + to_victim.iter().sum::<usize>() <= 3 * check.len());
    assert_eq!(story.agent.selected(), Some(path(1)));
}

#[test]
fn an_answer_signed_with_the_wrong_password_confirms_nothing() {
    let mut story = Story::connected_viewer();
    story.nominate(path(2)).unwrap();
    let (_, check) = story.our_checks().remove(0);
    let true_pwd = std::mem::replace(&mut story.remote.pwd, "guess".into());
    let id = StunView::parse(&check).unwrap().transaction_id();
    let mut forged = [0u8; 100];
    let len = stun::write_success(&mut forged, &id, path(2).remote, b"guess").unwrap();
    story.remote.pwd = true_pwd;
    assert_eq!(story.deliver(path(2), &forged[..len]), Err(DropReason::StunBadIntegrity));
    assert_eq!(story.agent.selected(), Some(path(1)));
}

#[test]
fn a_captured_check_moves_nothing_from_anywhere() {
    for kind in [Role::Publisher, Role::Subscriber] {
        let mut story = Story::new(kind);
        let old = story.check(&[USE_CANDIDATE]);
        story.deliver(path(1), &old).unwrap();
        story.answer_all(path(1));
        story.nominate(path(2)).unwrap();
        story.answer_all(path(2));
        assert_eq!(story.agent.selected(), Some(path(2)));

        assert_eq!(story.deliver(path(9), &old), Err(DropReason::UnvalidatedAddress));
        assert!(!story.agent.is_validated(path(9)));
        story.deliver(path(1), &old).unwrap();
        assert_eq!(story.agent.selected(), Some(path(2)));
        assert!(story.our_checks().is_empty());
        assert_eq!(story.agent.selected(), Some(path(2)));
    }
}

// quality B4 item 27
#[test]
fn a_publisher_moves_when_its_nominated_new_address_sends_srtp_or_answers() {
    for by_srtp in [true, false] {
        let mut story = Story::new(Role::Publisher);
        story.nominate(path(1)).unwrap();
        story.agent.on_authenticated(story.now, path(1));
        story.nominate(path(2)).unwrap();
        assert_eq!(story.agent.selected(), Some(path(1)));
        // The old address still sends: no reason to move.
        story.agent.on_authenticated(story.now, path(1));
        assert_eq!(story.agent.selected(), Some(path(1)));
        if by_srtp {
            story.agent.on_authenticated(story.now, path(2));
        } else {
            assert_eq!(story.answer_all(path(2)), 1);
        }
        assert_eq!(story.agent.selected(), Some(path(2)));
        assert!(story.our_checks().is_empty());
    }
}

#[test]
fn the_first_nomination_overrules_the_first_valid_check() {
    let mut story = Story::new(Role::Publisher);
    story.ping(path(1)).unwrap();
    story.ping(path(2)).unwrap();
    assert_eq!(story.agent.selected(), Some(path(1)));
    story.nominate(path(2)).unwrap();
    assert_eq!(story.agent.selected(), Some(path(2)));
    // We do not check a publisher's first path: some stumble over STUN in a handshake (whip-whep C53).
    assert!(story.our_checks().is_empty());
}

#[test]
fn an_unconfirmed_viewer_gets_three_times_its_bytes_and_a_confirmed_one_all() {
    let mut story = Story::new(Role::Subscriber);
    assert!(!story.agent.reserve(1));
    let check = story.check(&[USE_CANDIDATE]);
    let answered = story.deliver(path(1), &check).unwrap();
    story.agent.count_received(path(1), 100);
    let budget = 3 * (check.len() + 100) - answered - CHECK_RESERVE_BYTES as usize;
    assert!(story.agent.reserve(budget));
    assert!(!story.agent.reserve(1));
    // DTLS life changes nothing for a viewer.
    story.agent.on_authenticated(story.now, path(1));
    assert!(!story.agent.reserve(1));
    story.answer_all(path(1));
    assert!(story.agent.reserve(1_000_000));
}

#[test]
fn a_publisher_is_free_of_the_budget_once_keys_exist() {
    let mut story = Story::new(Role::Publisher);
    story.nominate(path(1)).unwrap();
    assert!(!story.agent.reserve(10_000));
    story.agent.on_authenticated(story.now, path(1));
    assert!(story.agent.reserve(10_000));
}

// whip-whep C54, clients finding 1
#[test]
fn a_publisher_of_one_check_gets_the_repeats_of_a_handshake_and_no_more() {
    let mut story = Story::new(Role::Publisher);
    story.nominate(path(1)).unwrap();
    assert!((0..8).all(|_| story.agent.reserve(151)));
    let rest = std::iter::repeat_with(|| story.agent.reserve(151)).take(100);
    assert!(rest.filter(|sent| *sent).count() < 60, "bounded");
    let mut viewer = Story::new(Role::Subscriber);
    viewer.nominate(path(1)).unwrap();
    let sent = std::iter::repeat_with(|| viewer.agent.reserve(151)).take(8);
    assert!(sent.filter(|sent| *sent).count() < 4, "a viewer answers our checks instead");
}

// RFC 7675, whip-whep C60
#[test]
fn consent_is_asked_every_four_to_six_seconds_and_its_answers_are_life() {
    let mut story = Story::connected_viewer();
    let mut gaps = Vec::new();
    for _ in 0..50 {
        let before = story.now;
        story.now = story.agent.next_timeout();
        gaps.push(story.now - before);
        assert_eq!(story.answer_all(path(1)), 1);
    }
    assert!(gaps.iter().all(|gap| (4..=6).contains(&gap.as_secs())), "{gaps:?}");
    assert!(gaps.iter().max().unwrap().as_millis() - gaps.iter().min().unwrap().as_millis() > 500);
    assert!(!story.agent.is_expired(story.now));
    let start = story.now;
    story.sleep(Duration::from_secs(29));
    assert!(!story.agent.is_expired(story.now));
    story.sleep(Duration::from_secs(10));
    assert!(story.agent.is_expired(start + CONSENT_TIMEOUT));
    assert!(!story.agent.is_expired(start + CONSENT_TIMEOUT - Duration::from_millis(1)));
}

#[test]
fn requests_do_not_keep_a_connected_viewer_alive_but_srtcp_does() {
    let mut story = Story::connected_viewer();
    let start = story.now;
    for _ in 0..14 {
        story.sleep(Duration::from_secs(2));
        story.nominate(path(1)).unwrap();
    }
    assert!(story.agent.is_expired(start + CONSENT_TIMEOUT));
    story.agent.on_authenticated(story.now, path(1));
    assert!(!story.agent.is_expired(start + CONSENT_TIMEOUT));
}

// clients finding 1
#[test]
fn a_publisher_lives_on_srtp_or_on_fresh_checks_alone() {
    let mut story = Story::new(Role::Publisher);
    let check = story.check(&[USE_CANDIDATE]);
    story.deliver(path(1), &check).unwrap();
    for _ in 0..10 {
        story.sleep(Duration::from_secs(20));
        story.agent.on_authenticated(story.now, path(1));
    }
    for _ in 0..10 {
        story.sleep(Duration::from_secs(20));
        assert!(!story.agent.is_expired(story.now));
        story.ping(path(1)).unwrap();
    }
    // A recording of its first check is no life.
    for _ in 0..2 {
        story.sleep(Duration::from_secs(15));
        story.deliver(path(1), &check).unwrap();
    }
    assert!(story.agent.is_expired(story.now));
}

// quality B2
#[test]
fn the_ninth_pair_pushes_out_the_idlest_that_was_never_nominated() {
    let mut story = Story::new(Role::Publisher);
    for n in 1..=MAX_PAIRS as u16 {
        story.ping(path(n)).unwrap();
        story.now += Duration::from_millis(1);
    }
    story.ping(path(100)).unwrap();
    // 1 is selected; 2 was idle longest.
    assert!(story.agent.is_validated(path(1)) && !story.agent.is_validated(path(2)));
    assert_eq!(story.agent.pairs.len(), MAX_PAIRS);
    for n in [1, 100].into_iter().chain(3..=MAX_PAIRS as u16) {
        story.nominate(path(n)).unwrap();
    }
    assert_eq!(story.ping(path(101)), Err(DropReason::TooManyPairs));
    story.now += CONSENT_TIMEOUT;
    assert!(story.ping(path(101)).is_ok());
}

// quality B2
#[test]
fn the_fifty_first_request_of_a_second_is_dropped_and_our_answers_are_not() {
    let mut story = Story::new(Role::Subscriber);
    let check = story.check(&[USE_CANDIDATE]);
    story.deliver(path(1), &check).unwrap();
    for _ in 0..STUN_PER_SECOND {
        story.ping(path(1)).unwrap();
    }
    assert_eq!(story.ping(path(1)), Err(DropReason::StunRateLimited));
    assert_eq!(story.answer_all(path(1)), 1);
    story.now += Duration::from_secs(1);
    assert!(story.ping(path(1)).is_ok());
}

#[test]
fn round_trips_are_told_apart_by_request() {
    let mut story = Story::new(Role::Subscriber);
    story.nominate(path(1)).unwrap();
    let first = story.our_checks().remove(0).1;
    story.agent.count_received(path(1), 500);
    story.now += Duration::from_millis(50);
    let second = story.our_checks().remove(0).1;
    assert_ne!(
        StunView::parse(&first).unwrap().transaction_id(),
        StunView::parse(&second).unwrap().transaction_id()
    );
    story.now += Duration::from_millis(30);
    let answer = story.answer(&first);
    story.deliver(path(1), &answer).unwrap();
    assert_eq!(story.agent.rtt(), Some(Duration::from_millis(80)));
}

// whip-whep B9
#[test]
fn after_a_restart_the_old_pair_flows_until_a_new_one_is_confirmed() {
    let mut story = Story::connected_viewer();
    let old = (story.local.clone(), story.remote.clone());
    let new = (credentials("server2"), credentials("client2"));
    story.agent.restart(new.0.clone(), new.1.clone(), story.now);
    let ufrag = |agent: &IceAgent, age| {
        agent.generations.get(age).map(|generation| generation.local.ufrag.clone())
    };
    assert_eq!(ufrag(&story.agent, Age::Current).as_deref(), Some("server2"));
    assert_eq!(ufrag(&story.agent, Age::Previous).as_deref(), Some("server"));

    // Old checks are answered but choose nothing.
    assert!(story.nominate(path(3)).unwrap() > 0);
    assert_eq!(story.agent.selected(), Some(path(1)));
    assert!(story.our_checks().is_empty() && story.agent.reserve(100_000));
    // Consent goes on with the old credentials.
    story.now = story.agent.next_timeout();
    assert_eq!(story.answer_all(path(1)), 1);

    (story.local, story.remote) = new;
    story.nominate(path(2)).unwrap();
    assert_eq!(story.agent.selected(), Some(path(1)));
    assert_eq!(story.answer_all(path(2)), 1);
    assert_eq!(story.agent.selected(), Some(path(2)));

    (story.local, story.remote) = old;
    assert_eq!(story.nominate(path(1)), Err(DropReason::StunUnknownUfrag));
}

#[test]
fn a_restart_on_the_same_address_needs_no_pause() {
    for kind in [Role::Publisher, Role::Subscriber] {
        let mut story = Story::new(kind);
        story.nominate(path(1)).unwrap();
        story.answer_all(path(1));
        (story.local, story.remote) = (credentials("server2"), credentials("client2"));
        story.agent.restart(story.local.clone(), story.remote.clone(), story.now);
        // A consent check with the old credentials is under way when the new ones take over.
        story.now += Duration::from_secs(6);
        let old = story.our_checks();
        assert_eq!(old.len(), usize::from(kind == Role::Subscriber));
        story.ping(path(1)).unwrap();
        assert_eq!(story.agent.selected(), Some(path(1)));
        assert!(story.agent.generations.get(Age::Previous).is_none());
        story.now += Duration::from_secs(1);
        assert_eq!(story.answer_all(path(1)), old.len());
        assert!(story.agent.next_timeout() > story.now);
    }
}
