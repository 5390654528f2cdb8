//! Cost of reading a packet's route, and of changing it while others read.
//!
//! A worker reads the route of a stream for each packet through a cached handle. The control plane
//! publishes a new one at each join that brings a new worker in.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use arc_swap::{ArcSwap, Cache};
use weir_sfu::router::Route;

use crate::stopwatch::Case;

/// Reads per round.
const LOOKS: u64 = 10_000;

/// Changes per round.
const CHANGES: u64 = 1_000;

/// Reading in each way, and publishing with and without readers.
pub fn cases() -> Vec<Case> {
    let route = || Arc::new(ArcSwap::from_pointee(Route { destinations: vec![0, 1, 2, 3] }));
    let mut cached = Cache::new(route());
    let (guarded, counted, quiet) = (route(), route(), route());
    let mut busy = None;
    let group = "router_snapshot";
    vec![
        Case::new(group, "read, cached as a worker has it", move |watch| {
            watch.time(|| (0..LOOKS).for_each(|_| look(cached.load())));
            LOOKS
        }),
        Case::new(group, "read, guard", move |watch| {
            watch.time(|| (0..LOOKS).for_each(|_| look(&guarded.load())));
            LOOKS
        }),
        Case::new(group, "read, counted handle", move |watch| {
            watch.time(|| (0..LOOKS).for_each(|_| look(&counted.load_full())));
            LOOKS
        }),
        Case::new(group, "publish, no reader", move |watch| {
            watch.time(|| publish(&quiet));
            CHANGES
        }),
        Case::new(group, "publish, a reader on another core", move |watch| {
            let readers = busy.get_or_insert_with(|| Reader::new(route()));
            watch.time(|| publish(&readers.route));
            CHANGES
        }),
    ]
}

fn look(route: &Arc<Route>) {
    black_box(route.destinations.len());
}

fn publish(route: &ArcSwap<Route>) {
    for n in 0..CHANGES as usize {
        route.store(Arc::new(Route { destinations: vec![0, n] }));
    }
}

/// A thread that reads without pause until it is dropped.
struct Reader {
    route: Arc<ArcSwap<Route>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn new(route: Arc<ArcSwap<Route>>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let thread = {
            let (mut cached, done) = (Cache::new(Arc::clone(&route)), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    look(cached.load());
                }
            })
        };
        Self { route, done, thread: Some(thread) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}
