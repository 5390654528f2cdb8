//! The loop of one worker's thread: wait, read, let the worker work, send. Decides only how long to wait.
//!
//! The shell outlives its worker: a panic outside a session ends the worker's sessions, not the thread,
//! the socket or the rings. Made by `thread.rs`.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use quinn_udp::BATCH_SIZE;
use rustix::time::{ClockId, clock_gettime};

use super::affinity;
use super::latency::{ForwardLatency, Latency};
use super::socket::{MediaSocket, ReceiveBuffers, SocketStats};
use super::socket_egress::SocketEgress;
use super::thread::{Inbox, Message, Notice};
use super::tick::Tick;
use super::wait::WaitingPlace;
use crate::error::CloseReason;
use crate::worker::{Command, Lobby, Worker, WorkerConfig};

/// Orders carried out per turn, so that media is not kept waiting.
const MESSAGES_PER_TURN: usize = 64;

/// Receive calls per turn (each up to 32 buffers), so that timers are not kept waiting.
const RECEIVES_PER_TURN: usize = 2;

/// Time of a turn for what may wait, at most and beyond a first step, so that media is not kept waiting.
const LATER_TIME_MAX: Duration = Duration::from_millis(1);

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// A worker that broke again within [`REBUILD_CALM`] starts only after this pause, so that a panic
/// that comes back at once cannot take the core.
const REBUILD_PAUSE: Duration = Duration::from_millis(100);

/// A worker that lived this long had come to rest.
const REBUILD_CALM: Duration = Duration::from_secs(1);

/// What the shell counts and measures.
#[derive(Debug, Clone, Default)]
pub(super) struct ShellReport {
    /// What the socket did.
    pub socket: SocketStats,
    /// From the kernel's receipt to the return of the send call.
    pub forward: Latency,
    /// The part of it that went to viewers who are here for a while.
    pub forward_established: Latency,
    /// The part of it that datagrams waited for the tick.
    pub tick_wait: Latency,
    /// The tick now; zero: none.
    pub tick: Duration,
    /// How often the worker was rebuilt after a panic.
    pub rebuilds: u64,
}

/// One worker's thread, without the worker.
pub(super) struct Shell {
    place: WaitingPlace,
    socket: MediaSocket,
    buffers: ReceiveBuffers,
    inbox: Inbox,
    lobby: Arc<Lobby>,
    index: usize,
    pool_packets: usize,

    /// The latest time the worker was told; it never goes back.
    now: Instant,
    turn_began: Instant,
    /// The socket has, or may have, something to read.
    readable: bool,
    /// The last turn had datagrams or ring items.
    worked: bool,
    /// How long this turn was held back by the tick.
    held: Duration,
    pending: Option<Message>,

    tick: Tick,
    busy: Duration,
    cpu_time: Duration,
    forward_latency: ForwardLatency,
    tick_wait: Latency,

    /// What a broken worker leaves to tell: at most a few notices per session it had.
    pending_notices: VecDeque<Notice>,
    rebuilds: u64,
    rebuilt: Option<Instant>,
}

impl Shell {
    pub(super) fn new(
        place: WaitingPlace,
        config: &WorkerConfig,
        socket: MediaSocket,
        inbox: Inbox,
    ) -> Self {
        let now = Instant::now();
        Self {
            place,
            buffers: socket.receive_buffers(),
            socket,
            inbox,
            lobby: Arc::clone(&config.lobby),
            index: config.port.index,
            pool_packets: config.pool_packets,
            now,
            turn_began: now,
            readable: true,
            worked: false,
            held: Duration::ZERO,
            pending: None,
            tick: Tick::new(),
            busy: Duration::ZERO,
            cpu_time: thread_cpu_time(),
            forward_latency: ForwardLatency::default(),
            tick_wait: Latency::default(),
            pending_notices: VecDeque::new(),
            rebuilds: 0,
            rebuilt: None,
        }
    }

    /// The thread's life: until [`Message::Stop`].
    pub(super) fn run(mut self, config: WorkerConfig) {
        WaitingPlace::prepare_thread();
        if let Some(cpu) = self.inbox.cpu
            && let Err(error) = affinity::pin(cpu)
        {
            tracing::warn!(%error, worker = self.index, cpu, "the worker could not be kept on its CPU");
        }
        let mut worker = Worker::new(config);
        // The panic hook has told the place. Sound, because nothing of the broken worker is used again
        // but its rings and counters, whose operations are whole or not done at all.
        while catch_unwind(AssertUnwindSafe(|| self.turns(&mut worker))).is_err() {
            worker = self.rebuild(worker);
        }
    }

    /// Turn after turn, until [`Message::Stop`].
    fn turns(&mut self, worker: &mut Worker) {
        loop {
            self.gather(worker);
            self.turn(worker);
            let go_on = self.take_messages(worker);
            self.tell(worker);
            if !go_on {
                return;
            }
        }
    }

    /// Waits until there is something to do, and with a busy core a little longer: what comes meanwhile
    /// shares send calls.
    fn gather(&mut self, worker: &mut Worker) {
        let now = Instant::now();
        self.busy += now.saturating_duration_since(self.turn_began);
        if self.tick.is_due(now) {
            self.look_at_load(now);
        }
        let turn_at = self.turn_began + self.tick.interval();
        let rest = turn_at.saturating_duration_since(now);
        self.held = Duration::ZERO;
        if self.worked && !rest.is_zero() {
            // At most a millisecond, so nothing that could end it earlier is worth a system call.
            std::thread::sleep(self.work_off(worker, turn_at));
            self.readable = true;
            self.turn_began = Instant::now();
            self.held = self.turn_began.saturating_duration_since(now);
            return;
        }
        // With work at hand the socket is just read: an empty read costs no more than to ask.
        if !self.readable && !self.has_work(worker) {
            let wake = self.place.wake();
            // Say that we sleep before looking at the queues for the last time (router/wake.rs).
            wake.prepare_sleep();
            self.pending = self.inbox.messages.try_recv().ok();
            if !self.has_work(worker) {
                self.readable = self.wait(now, worker);
            }
            self.place.wake().awake();
        }
        self.turn_began = Instant::now();
    }

    /// What may wait gets the time until then, but at least a step; how much of it is left.
    fn work_off(&mut self, worker: &mut Worker, until: Instant) -> Duration {
        let mut outlet =
            SocketEgress { socket: &mut self.socket, forward_latency: &mut self.forward_latency };
        // The worker's time stands still meanwhile: what the kernel receives now came now.
        loop {
            let more = worker.handle_timeout(self.now, &mut outlet);
            let now = Instant::now();
            let rest = until.saturating_duration_since(now);
            if !more || rest.is_zero() {
                outlet.forward_latency.look(now);
                return rest;
            }
        }
    }

    fn has_work(&self, worker: &Worker) -> bool {
        self.pending.is_some() || worker.has_ring_work()
    }

    fn wait(&self, now: Instant, worker: &Worker) -> bool {
        let deadline = worker.next_timeout().map(|at| at.saturating_duration_since(now));
        let timeout = deadline.map_or(SLEEP_MAX, |deadline| deadline.min(SLEEP_MAX));
        self.place.wait(&self.socket, timeout).unwrap_or_else(|error| {
            // No memory in the kernel: nothing to do but to try again a little later.
            tracing::error!(%error, worker = self.index, "waiting failed");
            std::thread::sleep(REBUILD_PAUSE);
            true
        })
    }

    /// Reads, lets the worker work, sends.
    fn turn(&mut self, worker: &mut Worker) {
        let mut clock = self.turn_began;
        let mut lag = Duration::ZERO;
        self.worked = worker.has_ring_work();
        let reads = if self.readable { RECEIVES_PER_TURN } else { 0 };
        for _ in 0..reads {
            let count = match self.socket.receive(&mut self.buffers) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(error) => {
                    // An ICMP error of an earlier send; the socket itself is fine.
                    tracing::debug!(%error, "receive");
                    continue;
                }
            };
            clock = Instant::now();
            self.worked = true;
            let (told, held, tick_wait) = (&mut self.now, self.held, &mut self.tick_wait);
            let mut outlet = SocketEgress {
                socket: &mut self.socket,
                forward_latency: &mut self.forward_latency,
            };
            let mut datagrams = 0;
            self.buffers.for_each(count, unix_time(), |age, path, datagram| {
                // When the kernel had it; but time must not go back for the worker. It does only where
                // datagrams had to wait for more than one turn.
                let arrived = clock.checked_sub(age).unwrap_or(clock);
                *told = arrived.max(*told);
                lag = lag.max(told.saturating_duration_since(arrived));
                tick_wait.record(age.min(held), 1);
                datagrams += 1;
                worker.handle_datagram(*told, path, datagram, &mut outlet);
            });
            if count < BATCH_SIZE {
                // That was all there was. But of a frame the rest is on its way, and what is read now
                // shares its send calls; a lone datagram is not worth another look.
                self.readable = false;
                if datagrams < 2 {
                    break;
                }
            }
        }
        self.now = self.now.max(clock);
        self.forward_latency.set_lag(lag);
        let mut outlet =
            SocketEgress { socket: &mut self.socket, forward_latency: &mut self.forward_latency };
        worker.handle_rings(self.now, &mut outlet);
        worker.flush(self.now, &mut outlet);
        // As long again as the media took: a worker with long turns has few of them.
        let ended = Instant::now();
        self.forward_latency.look(ended);
        let share = ended.saturating_duration_since(self.turn_began).min(LATER_TIME_MAX);
        self.work_off(worker, ended + share);
    }

    /// Carries out what the control plane wants; false to stop.
    fn take_messages(&mut self, worker: &mut Worker) -> bool {
        for _ in 0..MESSAGES_PER_TURN {
            let message = self.pending.take().or_else(|| self.inbox.messages.try_recv().ok());
            let mut outlet = SocketEgress {
                socket: &mut self.socket,
                forward_latency: &mut self.forward_latency,
            };
            match message {
                None => break,
                Some(Message::Command(command)) => {
                    worker.handle_command(self.now, command, &mut outlet);
                }
                Some(Message::Inspect(inspect)) => inspect(worker, self, self.now),
                Some(Message::Stop) => return false,
            }
        }
        true
    }

    /// Tells the control plane what happened. What it cannot take now comes again next turn.
    fn tell(&mut self, worker: &mut Worker) {
        while let Some(notice) = self.pending_notices.front() {
            if !(self.inbox.emit)(*notice) {
                return;
            }
            self.pending_notices.pop_front();
        }
        worker.drain_events(|event| (self.inbox.emit)(Notice::Event(event)));
    }

    /// What the worker's load is, and what follows for the tick.
    fn look_at_load(&mut self, now: Instant) {
        // CPU time also holds what the kernel does while we go to sleep and wake up. Time at work also
        // holds what others on this core take from us; we fall behind then too.
        let cpu_time = thread_cpu_time();
        let busy = cpu_time.saturating_sub(std::mem::replace(&mut self.cpu_time, cpu_time));
        self.tick.observe(now, busy.max(std::mem::take(&mut self.busy)));
        self.inbox.load_permille.store(self.tick.load_permille(), Ordering::Relaxed);
        self.forward_latency.turn(now);
        self.tick_wait.turn(now);
    }

    /// What was counted and measured so far.
    pub(super) fn report(&self) -> ShellReport {
        ShellReport {
            socket: self.socket.stats(),
            forward: self.forward_latency.all().clone(),
            forward_established: self.forward_latency.established().clone(),
            tick_wait: self.tick_wait.clone(),
            tick: self.tick.interval(),
            rebuilds: self.rebuilds,
        }
    }

    /// A panic outside a session left the worker in an unknown state: says goodbye to its clients as far
    /// as that still works, and gives its rings and counters to a new one.
    fn rebuild(&mut self, mut broken: Worker) -> Worker {
        self.rebuilds += 1;
        tracing::error!(
            worker = self.index,
            "a worker panicked outside a session; its sessions end, and it starts anew"
        );
        let again = self.rebuilt.is_some_and(|at| at.elapsed() < REBUILD_CALM);
        if again {
            std::thread::sleep(REBUILD_PAUSE);
        }
        self.rebuilt = Some(Instant::now());
        self.forward_latency.look(Instant::now());
        let mut outlet =
            SocketEgress { socket: &mut self.socket, forward_latency: &mut self.forward_latency };
        let close = Command::CloseAll(CloseReason::WorkerLost);
        let closing = AssertUnwindSafe(|| broken.handle_command(self.now, close, &mut outlet));
        if catch_unwind(closing).is_err() {
            tracing::warn!(worker = self.index, "clients of the broken worker were not told");
        }
        let pending_notices = &mut self.pending_notices;
        broken.drain_events(|event| {
            pending_notices.push_back(Notice::Event(event));
            true
        });
        // Whatever it had and did not close is gone too.
        pending_notices.push_back(Notice::Lost);
        self.lobby.forget_worker(self.index);
        broken.rebuild(self.pool_packets)
    }
}

/// CPU time of the calling thread.
fn thread_cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
