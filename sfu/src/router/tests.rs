//! Tests of rings, wake flag and keyframe requests in one thread; `tests/loom.rs` has those with
//! several.
//!
//! They are in a file of their own, because the tested files are compiled under loom too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ring::{STRAY_HEADER_BYTES, STRAY_RING_BYTES};
use super::*;
use crate::ids::{Epoch, LayerIdx, LayerKey, TrackIdx};
use crate::transport::FiveTuple;

struct NoWaker;

impl Waker for NoWaker {
    fn wake(&self) {}
}

fn pair() -> (RingPort, RingPort) {
    let wakes: Vec<_> = (0..2).map(|_| WakeFlag::new(Arc::new(NoWaker))).collect();
    let mut ports = mesh(&wakes);
    let second = ports.pop().unwrap();
    (ports.pop().unwrap(), second)
}

#[test]
fn strays_keep_address_purpose_and_bytes_over_the_wrap() {
    use StrayKind::{Claim, Granted, Kept, Taken, Yours};
    const KINDS: [StrayKind; 5] = [Yours, Claim, Granted, Kept, Taken];
    let (mut a, mut b) = pair();
    let mut buffer = [0; 1500];
    let paths = [
        FiveTuple::udp(None, "192.0.2.1:40000".parse().unwrap()),
        FiveTuple::udp(Some("2001:db8::1".parse().unwrap()), "[2001:db8::2]:1".parse().unwrap()),
        FiveTuple::udp(Some("127.0.0.1".parse().unwrap()), "127.0.0.1:9".parse().unwrap()),
    ];
    for round in 0..200usize {
        for path in paths {
            let datagram: Vec<u8> = (0..round * 7).map(|n| n as u8).collect();
            let kind = KINDS[round % KINDS.len()];
            assert!(a.send_stray(1, kind, path, &datagram));
            let got = b.receive_stray(&mut buffer).unwrap();
            assert_eq!(got, StrayItem { from: 0, kind, path, len: datagram.len() });
            assert_eq!(&buffer[..got.len], &datagram[..]);
        }
    }
    assert!(b.receive_stray(&mut buffer).is_none() && !b.has_incoming());
}

#[test]
fn full_ring_refuses_items_and_keeps_those_it_has() {
    let (mut a, mut b) = pair();
    let path = FiveTuple::udp(None, "127.0.0.1:9".parse().unwrap());
    let fits = STRAY_RING_BYTES / (STRAY_HEADER_BYTES + 1000);
    for _ in 0..fits {
        assert!(a.send_stray(1, StrayKind::Yours, path, &[7; 1000]));
    }
    assert!(!a.send_stray(1, StrayKind::Yours, path, &[7; 1000]));
    let mut buffer = [0; 1500];
    for _ in 0..fits {
        let stray = b.receive_stray(&mut buffer).unwrap();
        assert_eq!((stray.path, stray.len), (path, 1000));
    }
    assert!(b.receive_stray(&mut buffer).is_none());
    assert!(!a.send_stray(0, StrayKind::Yours, path, &[1]), "no worker sends to itself");
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Waker for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn batch_wakes_a_sleeping_worker_once_and_an_awake_worker_never() {
    let count = Arc::new(Count::default());
    let flag = WakeFlag::new(Arc::clone(&count) as Arc<dyn Waker>);
    assert!(!flag.notify());
    flag.prepare_sleep();
    assert!(flag.notify());
    assert!(!flag.notify());
    flag.prepare_sleep();
    flag.awake();
    assert!(!flag.notify());
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
}

#[test]
fn requests_are_taken_once_and_never_mixed_up() {
    let bits = KeyframeRequestBits::default();
    assert!(bits.take().is_empty());
    bits.request(TrackIdx(7), LayerIdx(7));
    bits.request(TrackIdx(0), LayerIdx(1));
    bits.request(TrackIdx(8), LayerIdx(0));
    bits.request(TrackIdx(0), LayerIdx(8));
    let requests = bits.take();
    assert!(
        requests.contains(TrackIdx(7), LayerIdx(7)) && requests.contains(TrackIdx(0), LayerIdx(1))
    );
    assert!(
        !requests.contains(TrackIdx(1), LayerIdx(0))
            && !requests.contains(TrackIdx(8), LayerIdx(0))
            && !requests.contains(TrackIdx(0), LayerIdx(8))
    );
    assert!(bits.take().is_empty());
}

/// Under overload a reader takes fewer items than come. Each of the others gets its share of them.
#[test]
fn four_workers_with_full_rings_are_read_in_turn() {
    let wakes: Vec<_> = (0..4).map(|_| WakeFlag::new(Arc::new(NoWaker))).collect();
    let mut ports = mesh(&wakes);
    let mut reader = ports.remove(0);
    let stream = |worker: usize| StreamId { index: worker as u32, generation: 0 };
    let path = |worker: usize| FiveTuple::udp(None, format!("192.0.2.{worker}:9").parse().unwrap());
    let item = |worker| MediaItem::Layer {
        stream: stream(worker),
        layer: LayerKey { epoch: Epoch(1), track: TrackIdx(0), layer: LayerIdx(0) },
        update: LayerInfoUpdate { anchor: None, resolution: None },
    };
    for port in &mut ports {
        while port.send_media(0, item(port.index)) {}
        while port.send_stray(0, StrayKind::Yours, path(port.index), &[7; 1000]) {}
    }
    let mut buffer = [0; 1500];
    for taken in 1..=60 {
        let mut media = [0; 4];
        let mut strays = [0; 4];
        for _ in 0..taken {
            let Some(MediaItem::Layer { stream, .. }) = reader.receive_media() else { panic!() };
            media[stream.index as usize] += 1;
            let stray = reader.receive_stray(&mut buffer).unwrap();
            assert_eq!(stray.path, path(stray.from));
            strays[stray.from] += 1;
        }
        // What was taken is sent again: the rings stay full, and the next round goes on.
        for port in &mut ports {
            for _ in 0..media[port.index] {
                assert!(port.send_media(0, item(port.index)));
                assert!(port.send_stray(0, StrayKind::Yours, path(port.index), &[7; 1000]));
            }
        }
        for counts in [media, strays] {
            let [_, others @ ..] = counts;
            let (least, most) = (others.iter().min().unwrap(), others.iter().max().unwrap());
            assert!(most - least <= 1, "{counts:?} of {taken}");
        }
    }
}
