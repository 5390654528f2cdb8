//! Properties of every link: each datagram is delivered or counted as dropped, no rate is exceeded,
//! no datagram is early, and the order changes only with a reordering profile.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use weir_netsim::{Counts, HEADER_BYTES, IN_FLIGHT_MAX, Link, Loss, Policer, Profile, Rng, Trace};

/// Number of a datagram, and when it arrived.
type Arrived = (u32, Duration);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[expect(clippy::disallowed_methods, reason = "virtual time needs one real instant")]
fn epoch() -> Instant {
    Instant::now()
}

/// Sends numbered datagrams (pause before it, payload bytes), and polls at each deadline.
fn run(profile: Profile, seed: u64, traffic: &[(Duration, usize)]) -> (Vec<Arrived>, Counts) {
    let epoch = epoch();
    let mut link = Link::new(profile, seed, epoch);
    let mut arrived = Vec::new();
    let mut now = epoch;
    for (number, (pause, bytes)) in (0..).zip(traffic) {
        now += *pause;
        drain(&mut link, now, epoch, &mut arrived);
        link.send(now, *bytes, number);
        let counts = link.counts();
        let known = counts.delivered + counts.dropped() + link.queued() as u64;
        assert_eq!(counts.offered + counts.duplicated, known, "in = out + dropped + queued");
    }
    drain(&mut link, now + Duration::from_secs(10_000), epoch, &mut arrived);
    assert_eq!(link.queued(), 0, "every datagram arrives in the end");
    assert_eq!(link.counts().delivered, arrived.len() as u64);
    (arrived, link.counts())
}

fn drain(link: &mut Link<u32>, until: Instant, epoch: Instant, arrived: &mut Vec<Arrived>) {
    while let Some(at) = link.next_timeout().filter(|at| *at <= until) {
        assert_eq!(link.poll(at - Duration::from_nanos(1)), None, "no datagram is early");
        let number = link.poll(at).expect("a datagram arrives at the deadline");
        arrived.push((number, at - epoch));
    }
}

/// `count` datagrams of `bytes`, one each `pause`.
fn steady(count: usize, pause: Duration, bytes: usize) -> Vec<(Duration, usize)> {
    vec![(pause, bytes); count]
}

fn sent_at(traffic: &[(Duration, usize)]) -> Vec<Duration> {
    let times = traffic.iter().scan(Duration::ZERO, |at, (pause, _)| {
        *at += *pause;
        Some(*at)
    });
    times.collect()
}

prop_compose! {
    fn any_traffic()(parts in prop::collection::vec((0u64..20_000, 1usize..1_600), 1..300)) -> Vec<(Duration, usize)> {
        parts.into_iter().map(|(us, bytes)| (Duration::from_micros(us), bytes)).collect()
    }
}

prop_compose! {
    fn any_profile()(
        rate in prop::option::of(50u64..20_000),
        queue_bytes in 1_000u32..200_000,
        loss in prop_oneof![
            Just(Loss::None),
            (0.0..1.0f64).prop_map(Loss::Random),
            (0.0..0.9f64, 1.0..20.0f64).prop_map(|(mean, length)| Loss::bursts(mean, length)),
        ],
        duplicate in 0.0..0.3f64,
        delay in 0u64..200,
        jitter in 0u64..50,
        jitter_reorders: bool,
        reorder in 0.0..0.3f64,
        police in prop::option::of((100u64..5_000, 2_000u32..50_000)),
        mtu in 500u32..1_600,
    ) -> Profile {
        Profile {
            mtu,
            police: police.map(|(kbps, burst_bytes)| Policer { bits_per_s: kbps * 1_000, burst_bytes }),
            rate: rate.map(|kbps| Trace::constant(kbps * 1_000)),
            queue_bytes,
            loss,
            duplicate,
            delay: ms(delay),
            jitter: ms(jitter),
            jitter_reorders,
            reorder,
            reorder_by: ms(20),
        }
    }
}

proptest! {
    #[test]
    fn same_seed_gives_the_same_arrivals(profile in any_profile(), seed: u64, traffic in any_traffic()) {
        prop_assert_eq!(run(profile.clone(), seed, &traffic), run(profile, seed, &traffic));
    }

    /// `run` asserts at each step that datagrams in equal datagrams out.
    #[test]
    fn datagrams_are_conserved_and_never_early(profile in any_profile(), seed: u64, traffic in any_traffic()) {
        let sent = sent_at(&traffic);
        let (arrived, counts) = run(profile.clone(), seed, &traffic);
        prop_assert_eq!(counts.offered, traffic.len() as u64);
        for (number, at) in &arrived {
            prop_assert!(*at >= sent[*number as usize] + profile.delay);
        }
        let mut numbers: Vec<_> = arrived.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        let twice = numbers.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        prop_assert_eq!(twice, counts.duplicated);
        prop_assert!(numbers.windows(3).all(|three| three[0] != three[2]), "never three times");
    }

    #[test]
    fn order_changes_only_with_a_reordering_profile(profile in any_profile(), seed: u64, traffic in any_traffic()) {
        let kept = Profile { reorder: 0.0, jitter_reorders: false, ..profile };
        let (arrived, _) = run(kept, seed, &traffic);
        prop_assert!(arrived.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn rate_is_never_exceeded(kbps in 100u64..10_000, queue in 2_000u32..100_000, traffic in any_traffic()) {
        let profile = Profile { rate: Some(Trace::constant(kbps * 1_000)), queue_bytes: queue, ..Profile::default() };
        let (arrived, counts) = run(profile, 1, &traffic);
        let sent = sent_at(&traffic);
        // Between any two arrivals there are no more bits than the rate allows.
        for (first, (_, from)) in arrived.iter().enumerate() {
            let mut bits = 0;
            for (number, at) in &arrived[first + 1..] {
                bits += (traffic[*number as usize].1 as u64 + u64::from(HEADER_BYTES)) * 8;
                let allowed = (*at - *from).as_secs_f64() * (kbps * 1_000) as f64 + 0.01;
                prop_assert!(bits as f64 <= allowed, "{bits} bits, but the rate allows {allowed}");
            }
        }
        // The queue is limited in bytes, so waiting is limited in time.
        let longest = Duration::from_secs_f64(f64::from(queue.max(1_700)) * 8.0 / (kbps * 1_000) as f64);
        for (number, at) in &arrived {
            prop_assert!(*at <= sent[*number as usize] + longest + Duration::from_nanos(1_000));
        }
        let fit = traffic.iter().filter(|(_, bytes)| bytes + HEADER_BYTES as usize <= 1_500).count() as u64;
        prop_assert_eq!(arrived.len() as u64 + counts.overflowed, fit);
    }

    #[test]
    fn jitter_stays_within_its_bound(bound in 1u64..60, reorders: bool, seed: u64) {
        let profile =
            Profile { delay: ms(10), jitter: ms(bound), jitter_reorders: reorders, ..Profile::default() };
        let traffic = steady(400, ms(5), 1_000);
        let sent = sent_at(&traffic);
        let (arrived, _) = run(profile, seed, &traffic);
        let waits: Vec<_> = arrived.iter().map(|(number, at)| *at - sent[*number as usize]).collect();
        prop_assert!(waits.iter().all(|wait| (ms(10)..=ms(10 + bound)).contains(wait)));
        let mean = waits.iter().sum::<Duration>().as_secs_f64() * 1e3 / waits.len() as f64;
        // Half of the bound, or a little more if datagrams have to wait to keep their order.
        let half = 10.0 + bound as f64 / 2.0;
        prop_assert!((half * 0.95..half * 1.45).contains(&mean), "{mean} of {half}");
    }

    #[test]
    fn bursts_have_the_requested_mean_loss_and_length(
        percent in 1u32..30, length in 2u32..15, seed: u64,
    ) {
        let (mean, length) = (f64::from(percent) / 100.0, f64::from(length));
        // Enough for about 4,000 bursts.
        let count = (4_000.0 * length / mean) as usize;
        let profile = Profile { loss: Loss::bursts(mean, length), ..Profile::default() };
        let epoch = epoch();
        let mut link = Link::new(profile, seed, epoch);
        let (mut lost, mut bursts, mut was_lost) = (0.0, 0.0, false);
        for _ in 0..count {
            link.send(epoch, 100, ());
            let is_lost = link.poll(epoch).is_none();
            lost += f64::from(u8::from(is_lost));
            bursts += f64::from(u8::from(is_lost && !was_lost));
            was_lost = is_lost;
        }
        // Five standard deviations of the less precise estimate are about 12 %.
        let seen = lost / count as f64;
        prop_assert!((seen / mean - 1.0).abs() < 0.12, "{seen} lost for {mean}");
        prop_assert!((lost / bursts / length - 1.0).abs() < 0.12, "{} long for {length}", lost / bursts);
    }
}

#[test]
fn random_loss_has_the_requested_share() {
    for percent in [1, 2, 5, 10, 50] {
        let profile =
            Profile { loss: Loss::Random(f64::from(percent) / 100.0), ..Profile::default() };
        let (_, counts) = run(profile, 7, &steady(60_000, Duration::ZERO, 100));
        let seen = counts.lost as f64 / 600.0;
        assert!((seen / f64::from(percent) - 1.0).abs() < 0.1, "{seen} % for {percent} %");
    }
}

#[test]
fn other_impairments_do_not_change_which_datagrams_are_lost() {
    let lost = |text: &str| {
        let (arrived, _) = run(text.parse().expect("a profile"), 3, &steady(2_000, ms(1), 100));
        let mut numbers: Vec<_> = arrived.into_iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    assert_eq!(lost("loss=5"), lost("loss=5,jitter-reorder=30,duplicate=5,reorder=10,rate=9000"));
}

#[test]
fn reordered_datagrams_are_late_and_the_others_in_time() {
    let profile: Profile = "delay=10,reorder=5,reorder-by=20".parse().expect("a profile");
    let traffic = steady(10_000, ms(3), 500);
    let sent = sent_at(&traffic);
    let (arrived, _) = run(profile, 11, &traffic);
    let late = arrived.iter().filter(|(number, at)| *at == sent[*number as usize] + ms(30)).count();
    let timely =
        arrived.iter().filter(|(number, at)| *at == sent[*number as usize] + ms(10)).count();
    assert_eq!(late + timely, 10_000);
    assert!((400..600).contains(&late), "{late}");
}

/// 1 Mbit/s with 16 KB: a full bucket passes at once, then one datagram for each refill.
#[test]
fn policer_passes_its_rate_and_its_burst() {
    let profile: Profile = "police=1000,police-burst=16000".parse().expect("a profile");
    let traffic = steady(10_000, ms(1), 972);
    let (arrived, counts) = run(profile, 1, &traffic);
    // 1,000 bytes with headers: 125 a second for 10 s, and a bucket of 16.
    let expected = 1_250 + 16;
    assert!(arrived.len().abs_diff(expected) <= 1, "{}", arrived.len());
    assert_eq!(counts.policed + arrived.len() as u64, 10_000);
    let sent = sent_at(&traffic);
    assert!(arrived.iter().all(|(number, at)| *at == sent[*number as usize]), "there is no queue");
}

#[test]
fn datagrams_above_the_mtu_are_dropped() {
    let profile: Profile = "mtu=1280".parse().expect("a profile");
    let (arrived, counts) = run(profile, 1, &[(ms(1), 1_252), (ms(1), 1_253)]);
    assert_eq!((arrived.len(), counts.too_large), (1, 1));
}

/// A rate of 4, 0.8 and 4 Mbit/s with 2 Mbit/s of traffic: the queue fills, stays full, and
/// empties.
#[test]
fn trace_fills_and_empties_the_queue() {
    let trace = Trace::parse("0 4000\n5000 800\n10000 4000").expect("a trace");
    let profile = Profile { rate: Some(trace), queue_bytes: 30_000, ..Profile::default() };
    let epoch = epoch();
    let mut link = Link::new(profile, 1, epoch);
    let mut filled = Vec::new();
    for n in 0..15_000u64 {
        let now = epoch + ms(n);
        while link.poll(now).is_some() {}
        if n % 4 == 0 {
            link.send(now, 972, ());
        }
        filled.push(link.backlog_bytes(now));
    }
    assert!(filled[..5_000].iter().all(|bytes| *bytes <= 1_000), "a fast link has no queue");
    assert!(filled[6_000..10_000].iter().all(|bytes| (28_000..=30_000).contains(bytes)));
    assert!(filled[10_150..].iter().all(|bytes| *bytes <= 1_000), "30 KB leave within 0.15 s");
    // Of the 1,250 sent in 5 s, 500 pass and 30 wait.
    assert!(link.counts().overflowed.abs_diff(720) < 5, "{}", link.counts().overflowed);
}

#[test]
fn shorter_delay_does_not_change_the_order() {
    let epoch = epoch();
    let mut link = Link::new(Profile::delay(ms(120)), 1, epoch);
    link.send(epoch, 100, 1);
    link.change(epoch + ms(5), Profile::delay(ms(20)));
    link.send(epoch + ms(6), 100, 2);
    link.send(epoch + ms(300), 100, 3);
    assert_eq!(link.next_timeout(), Some(epoch + ms(120)));
    assert_eq!([link.poll(epoch + ms(120)), link.poll(epoch + ms(120))], [Some(1), Some(2)]);
    assert_eq!(link.next_timeout(), Some(epoch + ms(320)));
}

#[test]
fn link_holds_no_more_than_its_limit() {
    let epoch = epoch();
    let mut link = Link::new(Profile::delay(ms(1_000)), 1, epoch);
    for _ in 0..IN_FLIGHT_MAX + 5 {
        link.send(epoch, 10, ());
    }
    assert_eq!((link.queued(), link.counts().overflowed), (IN_FLIGHT_MAX, 5));
}

#[test]
fn streams_of_one_seed_differ() {
    let draw = |stream| Rng::new(9, stream).next_u64();
    let draws: std::collections::HashSet<_> = (0..1_000).map(draw).collect();
    assert_eq!(draws.len(), 1_000);
}
