//! The threads that run light sessions: each an epoll loop over many sockets.
//!
//! Sessions arrive through a channel, stay until they are over, and return their role. One loop
//! serves thousands. It knows nothing of media: that is the session's. Started by `run`; sessions
//! come from `session`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::mpsc;

use crate::loop_stats::{LoopStats, SharedLoopStats};
use crate::media_session::{Clocks, PollSession, ReceiveBuffers};
use crate::session_error::SessionError;

/// Maximum sessions that wait to enter one loop. Above it [`LoopPool::add`] waits.
const NEW_SESSIONS_MAX: usize = 1024;

/// Maximum events taken from the kernel at once.
const EVENTS_MAX: usize = 1024;

/// A loop with more sessions than this sleeps between iterations. Then packets queue up, and
/// neither side pays one wake-up for each.
const SLEEP_FROM_SESSIONS: usize = 48;

/// Length of that sleep. It delays feedback but no measurement, because packets carry the kernel's
/// receive time.
const SLEEP: Duration = Duration::from_micros(500);

/// Token of the waker. All other tokens are indices of sessions.
const WAKER_TOKEN: Token = Token(usize::MAX);

/// The event loops of publishers, or those of viewers.
pub(crate) struct LoopPool {
    loops: Vec<LoopHandle>,
    next: AtomicUsize,
    ports: Mutex<HashSet<u16>>,
}

/// The pool's end of one event loop.
struct LoopHandle {
    /// `None` once the loop is told to end.
    new_sessions: Option<mpsc::Sender<Box<dyn PollSession>>>,
    waker: Arc<Waker>,
    stats: Arc<SharedLoopStats>,
    thread: Option<JoinHandle<()>>,
}

impl LoopPool {
    /// Starts `threads` loops named `name`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let loops = (0..threads).map(|n| LoopHandle::start(format!("{name}-{n}")));
        let loops = loops.collect::<std::io::Result<_>>()?;
        Ok(Self { loops, next: AtomicUsize::new(0), ports: Mutex::default() })
    }

    /// Gives a session to a loop, round robin.
    pub(crate) async fn add(&self, mut session: Box<dyn PollSession>) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len().max(1);
        if let Ok(local) = session.socket().local_addr() {
            self.ports.lock().expect("nobody panics while holding it").insert(local.port());
        }
        if let Some(handle) = self.loops.get(next)
            && let Some(new_sessions) = &handle.new_sessions
        {
            // This fails only if the loop broke. Then the session is dropped, and its task sees
            // that.
            let _ = new_sessions.send(session).await;
            let _ = handle.waker.wake();
        }
    }

    /// Makes every session look at the phase of the run.
    pub(crate) fn wake(&self) {
        for handle in &self.loops {
            let _ = handle.waker.wake();
        }
    }

    /// What each loop measures of itself.
    pub(crate) fn stats(&self) -> impl Iterator<Item = &SharedLoopStats> {
        self.loops.iter().map(|handle| handle.stats.as_ref())
    }

    /// Local ports of all sockets since the start.
    pub(crate) fn ports(&self) -> HashSet<u16> {
        self.ports.lock().expect("nobody panics while holding it").clone()
    }
}

impl Drop for LoopPool {
    fn drop(&mut self) {
        for handle in &mut self.loops {
            handle.new_sessions = None;
            let _ = handle.waker.wake();
        }
        for thread in self.loops.iter_mut().filter_map(|handle| handle.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("an event loop panicked (a bug of this tool)");
            }
        }
    }
}

impl LoopHandle {
    fn start(name: String) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER_TOKEN)?);
        let (new_sessions, receiver) = mpsc::channel(NEW_SESSIONS_MAX);
        let stats = Arc::new(SharedLoopStats::default());
        let shared = stats.clone();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || EventLoop::new(poll, receiver, shared).run())?;
        Ok(Self { new_sessions: Some(new_sessions), waker, stats, thread: Some(thread) })
    }
}

struct EventLoop {
    poll: Poll,
    new_sessions: mpsc::Receiver<Box<dyn PollSession>>,
    /// Sessions by token. Free places are `None`.
    sessions: Vec<Option<Entry>>,
    free: Vec<usize>,
    session_count: usize,
    /// Deadlines of sessions. An entry that does not match the session's own timer is stale.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    buffers: ReceiveBuffers,
    stats: LoopStats,
    shared_stats: Arc<SharedLoopStats>,
}

struct Entry {
    session: Box<dyn PollSession>,
    /// The earliest timer set for the session.
    timer: Option<Instant>,
}

impl EventLoop {
    fn new(
        poll: Poll,
        new_sessions: mpsc::Receiver<Box<dyn PollSession>>,
        shared_stats: Arc<SharedLoopStats>,
    ) -> Self {
        Self {
            poll,
            new_sessions,
            sessions: Vec::new(),
            free: Vec::new(),
            session_count: 0,
            timers: BinaryHeap::new(),
            buffers: ReceiveBuffers::new(),
            stats: LoopStats::new(),
            shared_stats,
        }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        // Sessions that had more to read than one iteration allows.
        let mut unfinished: Vec<usize> = Vec::new();
        loop {
            let timeout = if unfinished.is_empty() {
                self.timers
                    .peek()
                    .map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()))
            } else {
                Some(Duration::ZERO)
            };
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!("waiting for sockets: {error}");
                return;
            }
            let clocks = Clocks::read();
            let woken = events.iter().any(|event| event.token() == WAKER_TOKEN);
            let readable = events.iter().map(|event| event.token()).filter(|t| *t != WAKER_TOKEN);
            let again = std::mem::take(&mut unfinished);
            for index in readable.map(|token| token.0).chain(again) {
                if self.read(&clocks, index) {
                    unfinished.push(index);
                }
            }
            self.run_timers(Instant::now());
            if woken && !self.on_wake(Instant::now()) {
                return;
            }
            self.shared_stats.publish(&mut self.stats);
            if self.session_count > SLEEP_FROM_SESSIONS && unfinished.is_empty() {
                std::thread::sleep(SLEEP);
            }
        }
    }

    /// Reads a session's datagrams. Returns whether there may be more.
    fn read(&mut self, clocks: &Clocks, index: usize) -> bool {
        let Some(Some(entry)) = self.sessions.get_mut(index) else { return false };
        match entry.session.read(clocks, &mut self.buffers, &mut self.stats) {
            Ok(more) => {
                self.set_timer(index);
                more
            }
            Err(error) => {
                self.remove(index, clocks.now, Err(error));
                false
            }
        }
    }

    fn run_timers(&mut self, now: Instant) {
        while let Some(Reverse((at, index))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(Some(entry)) = self.sessions.get_mut(index) else { continue };
            if entry.timer != Some(at) {
                continue;
            }
            entry.timer = None;
            // Packets may have moved the deadline back since the timer was set.
            let due = entry.session.deadline();
            if due <= now {
                self.stats.on_timer(now.saturating_duration_since(due));
                if let Err(error) = entry.session.handle_timeout(now, &mut self.stats) {
                    self.remove(index, now, Err(error));
                    continue;
                }
            }
            self.set_timer(index);
        }
    }

    /// Takes new sessions, and makes every session look at the phase of the run. Returns `false`
    /// once the pool is gone and all sessions have ended.
    fn on_wake(&mut self, now: Instant) -> bool {
        let closed = loop {
            match self.new_sessions.try_recv() {
                Ok(session) => self.insert(session, now),
                Err(mpsc::error::TryRecvError::Empty) => break false,
                Err(mpsc::error::TryRecvError::Disconnected) => break true,
            }
        };
        for index in 0..self.sessions.len() {
            let Some(Some(entry)) = self.sessions.get_mut(index) else { continue };
            if entry.session.update_phase(now) || closed {
                self.remove(index, now, Ok(()));
            }
        }
        !closed
    }

    fn insert(&mut self, mut session: Box<dyn PollSession>, now: Instant) {
        let index = self.free.pop().unwrap_or(self.sessions.len());
        let registered =
            self.poll.registry().register(session.socket(), Token(index), Interest::READABLE);
        let started = match registered {
            Ok(()) => session.start(now, &mut self.stats),
            Err(error) => Err(SessionError::Final(format!("registering a socket: {error}"))),
        };
        let entry = Some(Entry { session, timer: None });
        match self.sessions.get_mut(index) {
            Some(place) => *place = entry,
            None => self.sessions.push(entry),
        }
        self.session_count += 1;
        match started {
            Ok(()) => self.set_timer(index),
            Err(error) => self.remove(index, now, Err(error)),
        }
    }

    fn remove(&mut self, index: usize, now: Instant, end: Result<(), SessionError>) {
        let Some(mut entry) = self.sessions.get_mut(index).and_then(Option::take) else { return };
        let _ = self.poll.registry().deregister(entry.session.socket());
        self.free.push(index);
        self.session_count -= 1;
        entry.session.close(now, end, &mut self.stats);
    }

    /// Sets a timer for a session, unless an earlier one is set.
    fn set_timer(&mut self, index: usize) {
        let Some(Some(entry)) = self.sessions.get_mut(index) else { return };
        let due = entry.session.deadline();
        if entry.timer.is_none_or(|timer| due < timer) {
            entry.timer = Some(due);
            self.timers.push(Reverse((due, index)));
        }
    }
}
