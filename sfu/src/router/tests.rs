//! Tests of rings, wake flag and keyframe requests in one thread; `tests/loom.rs` has those with
//! several.
//!
//! They are in a file of their own, because the tested files are compiled under loom too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ring::{STRAY_HEADER_BYTES, STRAY_RING_BYTES};
use super::*;
use crate::ids::{LayerIdx, TrackIdx};
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
fn strays_keep_address_and_bytes_over_the_wrap() {
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
            assert!(a.send_stray(1, path, &datagram));
            let (got, len) = b.receive_stray(&mut buffer).unwrap();
            assert_eq!((got, &buffer[..len]), (path, &datagram[..]));
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
        assert!(a.send_stray(1, path, &[7; 1000]));
    }
    assert!(!a.send_stray(1, path, &[7; 1000]));
    let mut buffer = [0; 1500];
    for _ in 0..fits {
        assert_eq!(b.receive_stray(&mut buffer), Some((path, 1000)));
    }
    assert!(b.receive_stray(&mut buffer).is_none());
    assert!(!a.send_stray(0, path, &[1]), "no worker sends to itself");
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

#[test]
fn worker_with_a_full_ring_does_not_starve_the_others() {
    let wakes: Vec<_> = (0..3).map(|_| WakeFlag::new(Arc::new(NoWaker))).collect();
    let mut ports = mesh(&wakes);
    let mut reader = ports.remove(0);
    let from = [1, 2].map(|n| FiveTuple::udp(None, format!("192.0.2.{n}:9").parse().unwrap()));
    for _ in 0..10 {
        for (port, path) in ports.iter_mut().zip(from) {
            assert!(port.send_stray(0, path, &[7]));
        }
    }
    let mut buffer = [0; 1500];
    let got: Vec<_> = (0..6).map(|_| reader.receive_stray(&mut buffer).unwrap().0).collect();
    assert_eq!(got.iter().filter(|path| **path == from[0]).count(), 3, "{got:?}");
}
