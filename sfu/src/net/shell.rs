//! Loop of one worker's thread: wait, read, let the worker work, send. Decides only how long to wait.
//!
//! The shell outlives its worker: a panic outside a session ends the worker's sessions, not the thread,
//! the socket or the rings. Never decides about a packet or a session. Started by `thread.rs`; next:
//! `worker/mod.rs`.

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
use super::messages::{Inbox, Message, Notice};
use super::shell_report::ShellReport;
use super::socket::{MediaSocket, ReceiveBuffers, SocketEgress};
use super::tick::Tick;
use super::wait::WaitingPlace;
use crate::error::CloseReason;
use crate::worker::{Command, Lobby, Worker, WorkerConfig};

/// Maximum messages handled per turn, so that media does not wait for them.
const MESSAGES_PER_TURN: usize = 64;

/// Maximum receive calls per turn (each up to 32 buffers), so that timers do not wait for them.
const RECEIVES_PER_TURN: usize = 2;

/// Maximum time per turn for deferred work beyond its first step, so that media does not wait for it.
const DEFERRED_TIME_MAX: Duration = Duration::from_millis(1);

/// Longest sleep of an idle worker.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Pause before a worker that panicked again within [`REBUILD_CALM`] is rebuilt, so that a panic which
/// comes back at once cannot take the whole core.
const REBUILD_PAUSE: Duration = Duration::from_millis(100);

/// Time without a panic after which a rebuilt worker counts as stable.
const REBUILD_CALM: Duration = Duration::from_secs(1);

/// One worker's thread, without the worker.
pub(super) struct Shell {
    place: WaitingPlace,
    socket: MediaSocket,
    buffers: ReceiveBuffers,
    inbox: Inbox,
    lobby: Arc<Lobby>,
    index: usize,
    pool_packets: usize,

    /// Latest time that the worker was given; it never goes back.
    now: Instant,
    turn_began: Instant,
    /// The socket has, or may have, datagrams to read.
    readable: bool,
    /// The last turn had datagrams or ring items.
    worked: bool,
    /// Time by which the tick delayed this turn.
    held: Duration,
    pending: Option<Message>,

    tick: Tick,
    busy: Duration,
    cpu_time: Duration,
    forward_latency: ForwardLatency,
    tick_wait: Latency,

    /// Notices about a worker that panicked: at most a few per session that it had.
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

    /// Runs the thread until [`Message::Stop`].
    pub(super) fn run(mut self, config: WorkerConfig) {
        WaitingPlace::prepare_thread();
        if let Some(cpu) = self.inbox.cpu
            && let Err(error) = affinity::pin(cpu)
        {
            tracing::warn!(%error, worker = self.index, cpu, "the worker could not be kept on its CPU");
        }
        let mut worker = Worker::new(config);
        // The panic hook has logged where. Unwind safe: of the broken worker only the rings and counters
        // are used again, and each of their operations is complete or has not begun.
        while catch_unwind(AssertUnwindSafe(|| self.turns(&mut worker))).is_err() {
            worker = self.rebuild(worker);
        }
    }

    /// Runs turns until [`Message::Stop`].
    fn turns(&mut self, worker: &mut Worker) {
        loop {
            self.wait_for_work(worker);
            self.turn(worker);
            let go_on = self.take_messages(worker);
            self.send_notices(worker);
            if !go_on {
                return;
            }
        }
    }

    /// Does deferred work until there is other work, and waits if there is none. On a busy core it
    /// waits a little longer, so that packets which arrive meanwhile share send calls.
    fn wait_for_work(&mut self, worker: &mut Worker) {
        let now = Instant::now();
        self.busy += now.saturating_duration_since(self.turn_began);
        if self.tick.is_due(now) {
            self.measure_load(now);
        }
        let turn_at = self.turn_began + self.tick.interval();
        let rest = turn_at.saturating_duration_since(now);
        self.held = Duration::ZERO;
        if self.worked && !rest.is_zero() {
            // At most a millisecond: a system call that could end it earlier does not pay.
            std::thread::sleep(self.run_deferred(worker, turn_at));
            self.readable = true;
            self.turn_began = Instant::now();
            self.held = self.turn_began.saturating_duration_since(now);
            return;
        }
        // When there is work, the socket is read without `ppoll`: an empty read costs no more.
        if !self.readable && !self.has_work(worker) {
            let wake = self.place.wake();
            // The flag is set before the last look at the queues (router/wake.rs).
            wake.prepare_sleep();
            self.pending = self.inbox.messages.try_recv().ok();
            if !self.has_work(worker) {
                self.readable = self.wait(now, worker);
            }
            self.place.wake().awake();
        }
        self.turn_began = Instant::now();
    }

    /// Runs deferred work until `until`, at least one step of it. Returns the time that is left.
    fn run_deferred(&mut self, worker: &mut Worker, until: Instant) -> Duration {
        let mut egress =
            SocketEgress { socket: &mut self.socket, forward_latency: &mut self.forward_latency };
        // The worker's time does not move meanwhile: a datagram that the kernel receives during this keeps
        // its own receive time.
        loop {
            let more = worker.handle_timeout(self.now, &mut egress);
            let now = Instant::now();
            let rest = until.saturating_duration_since(now);
            if !more || rest.is_zero() {
                egress.forward_latency.look(now);
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
            // The kernel has no memory: the only remedy is to try again a little later.
            tracing::error!(%error, worker = self.index, "waiting failed");
            std::thread::sleep(REBUILD_PAUSE);
            true
        })
    }

    /// Reads datagrams, and has the worker forward them; it sends through the socket at once.
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
            let mut egress = SocketEgress {
                socket: &mut self.socket,
                forward_latency: &mut self.forward_latency,
            };
            let mut datagrams = 0;
            self.buffers.for_each(count, unix_time(), |age, path, datagram| {
                // The kernel's receive time, except that the worker's time must not go back. It would do so
                // only where datagrams waited for more than one turn.
                let arrived = clock.checked_sub(age).unwrap_or(clock);
                *told = arrived.max(*told);
                lag = lag.max(told.saturating_duration_since(arrived));
                tick_wait.record(age.min(held), 1);
                datagrams += 1;
                worker.handle_datagram(*told, path, datagram, &mut egress);
            });
            if count < BATCH_SIZE {
                // The socket is empty. The rest of a frame may follow at once, and what is read now shares
                // its send calls. After a single datagram a second read does not pay.
                self.readable = false;
                if datagrams < 2 {
                    break;
                }
            }
        }
        self.now = self.now.max(clock);
        self.forward_latency.set_lag(lag);
        let mut egress =
            SocketEgress { socket: &mut self.socket, forward_latency: &mut self.forward_latency };
        worker.handle_rings(self.now, &mut egress);
        worker.flush(self.now, &mut egress);
        // As much time as the media took: a worker with long turns has few of them.
        let ended = Instant::now();
        self.forward_latency.look(ended);
        let share = ended.saturating_duration_since(self.turn_began).min(DEFERRED_TIME_MAX);
        self.run_deferred(worker, ended + share);
    }

    /// Handles messages of the control plane; false when the thread must stop.
    fn take_messages(&mut self, worker: &mut Worker) -> bool {
        for _ in 0..MESSAGES_PER_TURN {
            let message = self.pending.take().or_else(|| self.inbox.messages.try_recv().ok());
            let mut egress = SocketEgress {
                socket: &mut self.socket,
                forward_latency: &mut self.forward_latency,
            };
            match message {
                None => break,
                Some(Message::Command(command)) => {
                    worker.handle_command(self.now, command, &mut egress);
                }
                Some(Message::Inspect(inspect)) => inspect(worker, self.now),
                Some(Message::Report(answer)) => answer(worker.report(), self.report()),
                Some(Message::Stop) => return false,
            }
        }
        true
    }

    /// Sends notices to the control plane. Those that its queue cannot take are sent in the next turn.
    fn send_notices(&mut self, worker: &mut Worker) {
        while let Some(notice) = self.pending_notices.front() {
            if !(self.inbox.emit)(notice.clone()) {
                return;
            }
            self.pending_notices.pop_front();
        }
        worker.drain_events(|event| (self.inbox.emit)(Notice::Event(event)));
    }

    /// Measures the worker's load and adjusts the tick to it.
    fn measure_load(&mut self, now: Instant) {
        // CPU time includes what the kernel does while the thread goes to sleep and wakes up. Time at work
        // includes what other threads take of this core, by which the worker falls behind too. The larger
        // of the two counts.
        let cpu_time = thread_cpu_time();
        let busy = cpu_time.saturating_sub(std::mem::replace(&mut self.cpu_time, cpu_time));
        self.tick.observe(now, busy.max(std::mem::take(&mut self.busy)));
        self.inbox.load_permille.store(self.tick.load_permille(), Ordering::Relaxed);
        self.forward_latency.turn(now);
        self.tick_wait.turn(now);
    }

    /// Copies all counters and latencies.
    fn report(&self) -> ShellReport {
        ShellReport {
            socket: self.socket.stats(),
            forward: self.forward_latency.all().clone(),
            forward_established: self.forward_latency.established().clone(),
            tick_wait: self.tick_wait.clone(),
            tick: self.tick.interval(),
            rebuilds: self.rebuilds,
        }
    }

    /// Replaces a worker that panicked outside a session, since its state is unknown. Closes its sessions
    /// towards the clients as far as that still works, and moves its rings and counters to a new worker.
    fn rebuild(&mut self, mut broken: Worker) -> Worker {
        self.rebuilds += 1;
        tracing::error!(
            worker = self.index,
            "a worker panicked outside a session; its sessions end and it is rebuilt"
        );
        let again = self.rebuilt.is_some_and(|at| at.elapsed() < REBUILD_CALM);
        if again {
            std::thread::sleep(REBUILD_PAUSE);
        }
        self.rebuilt = Some(Instant::now());
        self.forward_latency.look(Instant::now());
        let mut egress =
            SocketEgress { socket: &mut self.socket, forward_latency: &mut self.forward_latency };
        let close = Command::CloseAll(CloseReason::WorkerLost);
        let closing = AssertUnwindSafe(|| broken.handle_command(self.now, close, &mut egress));
        if catch_unwind(closing).is_err() {
            tracing::warn!(
                worker = self.index,
                "clients of the broken worker were not sent close_notify"
            );
        }
        let pending_notices = &mut self.pending_notices;
        broken.drain_events(|event| {
            pending_notices.push_back(Notice::Event(event));
            true
        });
        // Sessions that it could not close are gone too.
        pending_notices.push_back(Notice::Lost);
        self.lobby.forget_worker(self.index);
        broken.rebuild(self.pool_packets)
    }
}

/// CPU time that the calling thread has used.
fn thread_cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
