//! Models of several threads that use the shipped code at the same time; one copy per facade.
//!
//! A worker's thread waits on an event descriptor. If a wake is lost no thread is left to run, and
//! loom reports a deadlock.

// Not loom's: its reference counts panic once more while a deadlock unwinds.
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Counter;

use loom::sync::Notify;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::keyframe_requests::KeyframeRequestBits;
use super::ring::{LayerInfoUpdate, MediaItem, RingPort, StrayKind, mesh};
use super::table::StreamId;
use super::wake::{WakeFlag, Waker};
use crate::ids::{Epoch, LayerIdx, LayerKey, TrackIdx};
use crate::transport::FiveTuple;

const TRACK: TrackIdx = TrackIdx(0);

/// Object on which a worker's thread waits: a wake makes the current or next wait return.
struct EventDescriptor {
    ready: Notify,
    wakes: Counter,
}

impl EventDescriptor {
    fn wait(&self) {
        self.ready.wait();
    }

    fn wakes(&self) -> usize {
        self.wakes.load(Ordering::Relaxed)
    }
}

struct Wakes(Arc<EventDescriptor>);

impl Waker for Wakes {
    fn wake(&self) {
        self.0.wakes.fetch_add(1, Ordering::Relaxed);
        self.0.ready.notify();
    }
}

fn sleeper() -> (Arc<EventDescriptor>, WakeFlag) {
    let descriptor = Arc::new(EventDescriptor { ready: Notify::new(), wakes: Counter::new(0) });
    let flag = WakeFlag::new(Arc::new(Wakes(Arc::clone(&descriptor))));
    (descriptor, flag)
}

/// Moment at which a worker reads its queues for the last time before it sleeps.
#[derive(Clone, Copy)]
pub(crate) enum LastLook {
    AfterSayingSo,
    BeforeSayingSo,
}

/// One writer, one item, one worker that is about to sleep.
pub(crate) fn falling_asleep(last_look: LastLook) {
    loom::model(move || {
        let (descriptor, flag) = sleeper();
        let queue = Arc::new(AtomicUsize::new(0));
        let writer = {
            let (flag, queue) = (flag.clone(), Arc::clone(&queue));
            thread::spawn(move || {
                queue.store(1, Ordering::Release);
                flag.notify();
            })
        };
        while queue.load(Ordering::Acquire) == 0 {
            let look = || queue.load(Ordering::Acquire) == 0;
            let empty = match last_look {
                LastLook::AfterSayingSo => {
                    flag.prepare_sleep();
                    look()
                }
                LastLook::BeforeSayingSo => {
                    let empty = look();
                    flag.prepare_sleep();
                    empty
                }
            };
            if empty {
                descriptor.wait();
            }
            flag.awake();
        }
        writer.join().expect("it ends");
    });
}

/// Two items, so that the worker's second sleep meets the flag that the first wake cleared.
pub(crate) fn falling_asleep_again() {
    loom::model(|| {
        let (descriptor, flag) = sleeper();
        let queue = Arc::new(AtomicUsize::new(0));
        let writer = {
            let (flag, queue) = (flag.clone(), Arc::clone(&queue));
            thread::spawn(move || {
                for items in 1..=2 {
                    queue.store(items, Ordering::Release);
                    flag.notify();
                }
            })
        };
        let mut taken = 0;
        while taken < 2 {
            flag.prepare_sleep();
            if queue.load(Ordering::Acquire) == taken {
                descriptor.wait();
            }
            flag.awake();
            taken = queue.load(Ordering::Acquire);
        }
        writer.join().expect("it ends");
    });
}

/// Two workers write to a third that sleeps.
pub(crate) fn two_writers() {
    loom::model(|| {
        let (descriptor, flag) = sleeper();
        flag.prepare_sleep();
        let writers = [flag.clone(), flag].map(|flag| thread::spawn(move || flag.notify()));
        let woke = writers.map(|writer| writer.join().expect("it ends"));
        assert!(woke.contains(&true), "not woken");
        assert!(woke.contains(&false) && descriptor.wakes() == 1, "woken twice");
    });
}

/// Moment at which a writer wakes the reader of its ring.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wake {
    AfterTheBatch,
    AfterEachItem,
    BeforeTheBatch,
}

/// One worker puts a media item and a stray into another's rings; that one sleeps, wakes, takes
/// them.
pub(crate) fn batch_in_the_rings(wake: Wake) {
    loom::model(move || {
        let (descriptor, flag) = sleeper();
        let (_, own_flag) = sleeper();
        let mut ports = mesh(&[own_flag, flag.clone()]);
        let (Some(mut reader), Some(mut writer)) = (ports.pop(), ports.pop()) else {
            unreachable!("two flags, two ports")
        };
        let moment = Arc::new(Moment::default());
        let writing = {
            let moment = Arc::clone(&moment);
            thread::spawn(move || {
                if wake == Wake::BeforeTheBatch {
                    writer.notify();
                }
                moment.passes();
                write_media(&mut writer);
                if wake == Wake::AfterEachItem {
                    writer.notify();
                }
                moment.passes();
                write_stray(&mut writer);
                if wake != Wake::BeforeTheBatch {
                    writer.notify();
                }
            })
        };
        let (mut media, mut strays, mut buffer) = (0, 0, [0; 8]);
        while media < 1 || strays < 1 {
            flag.prepare_sleep();
            moment.passes();
            if !reader.has_incoming() {
                descriptor.wait();
            }
            flag.awake();
            moment.passes();
            media += std::iter::from_fn(|| reader.receive_media()).count();
            strays += std::iter::from_fn(|| reader.receive_stray(&mut buffer)).count();
        }
        writing.join().expect("it ends");
        assert!(descriptor.wakes() <= 1, "woken twice");
    });
}

/// Point where another thread may run: loom does not see the rings' own steps. It orders nothing.
#[derive(Default)]
struct Moment(AtomicUsize);

impl Moment {
    fn passes(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_media(port: &mut RingPort) {
    let update = LayerInfoUpdate { anchor: None, resolution: None };
    let stream = StreamId { index: 0, generation: 0 };
    let layer = LayerKey { epoch: Epoch(1), track: TRACK, layer: LayerIdx(0) };
    let item = MediaItem::Layer { stream, layer, update };
    assert!(port.send_media(1, item), "the ring has space");
}

fn write_stray(port: &mut RingPort) {
    let path = FiveTuple::udp(None, ([127, 0, 0, 1], 9).into());
    assert!(port.send_stray(1, StrayKind::Yours, path, b"stray"), "the ring has space");
}

/// One layer is requested already. A viewer requests another layer while the publisher's worker
/// takes the requests. `check` gets the number of times that each request was taken.
pub(crate) fn requests(check: fn(usize)) {
    loom::model(move || {
        let board = Arc::new(KeyframeRequestBits::default());
        board.request(TRACK, LayerIdx(0));
        let viewer = {
            let board = Arc::clone(&board);
            thread::spawn(move || board.request(TRACK, LayerIdx(1)))
        };
        let mut taken = vec![board.take(), board.take()];
        viewer.join().expect("it ends");
        taken.push(board.take());
        for layer in [0, 1] {
            check(
                taken.iter().filter(|requests| requests.contains(TRACK, LayerIdx(layer))).count(),
            );
        }
        assert!(board.take().is_empty());
    });
}

/// Two viewers request one layer each at the same time; `check` as for [`requests`].
pub(crate) fn requests_at_once(check: fn(usize)) {
    loom::model(move || {
        let board = Arc::new(KeyframeRequestBits::default());
        let viewers = [0, 1].map(|layer| {
            let board = Arc::clone(&board);
            thread::spawn(move || board.request(TRACK, LayerIdx(layer)))
        });
        for viewer in viewers {
            viewer.join().expect("it ends");
        }
        let taken = board.take();
        for layer in [0, 1] {
            check(usize::from(taken.contains(TRACK, LayerIdx(layer))));
        }
    });
}

/// A viewer requests, sees that the request was handled, and requests again at once. `tell` and
/// `see` are the memory orderings with which it sees that.
pub(crate) fn requesting_again(tell: Ordering, see: Ordering) {
    loom::model(move || {
        let board = Arc::new(KeyframeRequestBits::default());
        let told = Arc::new(AtomicUsize::new(0));
        board.request(TRACK, LayerIdx(0));
        let viewer = {
            let (board, told) = (Arc::clone(&board), Arc::clone(&told));
            thread::spawn(move || {
                let seen = told.load(see) == 1;
                if seen {
                    board.request(TRACK, LayerIdx(0));
                }
                seen
            })
        };
        assert!(board.take().contains(TRACK, LayerIdx(0)));
        told.store(1, tell);
        let seen = viewer.join().expect("it ends");
        assert_eq!(board.take().contains(TRACK, LayerIdx(0)), seen, "the second request was lost");
    });
}
