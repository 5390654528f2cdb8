//! One worker's thread: wait, read, let the worker work, send. No decision is made here.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use super::latency::LatencyWindow;
use super::socket::{MediaSocket, SocketStats};
use crate::router::{WakeFlag, Waker};
use crate::worker::{Command, Event, Worker, WorkerConfig};

/// Orders waiting for one worker. Full: the caller waits or refuses with 503.
const COMMANDS_MAX: usize = 4_096;

/// Orders carried out per turn, so that media is not kept waiting.
const COMMANDS_PER_TURN: usize = 64;

/// Receive calls per turn (each up to 32 buffers), so that timers are not kept waiting.
const RECEIVES_PER_TURN: usize = 2;

/// The longest sleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);

const SOCKET: Token = Token(0);
const WAKE: Token = Token(1);

/// A look at a worker from outside, on its own thread.
type Inspect = dyn FnOnce(&mut Worker, &ShellReport, Instant) + Send;

/// What travels to a worker's thread.
pub(super) enum Message {
    /// For the worker itself.
    Command(Command),
    /// Runs on the thread with the worker at hand; answers go through what it captured.
    Inspect(Box<Inspect>),
    /// Ends the thread.
    Stop,
}

/// What the shell itself counts.
#[derive(Debug, Clone, Default)]
pub(super) struct ShellReport {
    pub socket: SocketStats,
    pub latency: LatencyWindow,
}

/// The control plane's end of one worker.
pub(super) struct WorkerHandle {
    commands: SyncSender<Message>,
    wake: WakeFlag,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl WorkerHandle {
    /// Queues a message; gives it back if the queue is full or the thread is gone.
    pub(super) fn send(&self, message: Message) -> Result<(), Message> {
        match self.commands.try_send(message) {
            Ok(()) => {
                self.wake.notify();
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => Err(message),
        }
    }

    /// Waits for the thread to end after [`Message::Stop`].
    pub(super) fn join(&self) {
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            // A panic of the thread itself was reported by the panic hook; nothing is left to do.
            _ = thread.join();
        }
    }
}

struct PollWaker(mio::Waker);

impl Waker for PollWaker {
    fn wake(&self) {
        if let Err(error) = self.0.wake() {
            tracing::error!(%error, "waking a worker failed");
        }
    }
}

/// A thread that is ready to start: its poll exists, so that others can already wake it.
pub(super) struct PreparedThread {
    poll: Poll,
    wake: WakeFlag,
}

impl PreparedThread {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKE)?;
        Ok(Self { poll, wake: WakeFlag::new(Arc::new(PollWaker(waker))) })
    }

    pub(super) fn wake(&self) -> WakeFlag {
        self.wake.clone()
    }

    /// Starts the thread. `emit` takes events without blocking and says whether it could.
    pub(super) fn start(
        self,
        config: WorkerConfig,
        socket: MediaSocket,
        emit: impl Fn(usize, Event) -> bool + Send + 'static,
    ) -> io::Result<WorkerHandle> {
        let (commands, inbox) = sync_channel(COMMANDS_MAX);
        let index = config.port.index;
        let wake = self.wake.clone();
        let thread =
            std::thread::Builder::new().name(format!("weir-worker-{index}")).spawn(move || {
                let mut shell =
                    Shell { worker: Worker::new(config), socket, report: ShellReport::default() };
                if let Err(error) =
                    shell.run(self.poll, &self.wake, &inbox, |event| emit(index, event))
                {
                    tracing::error!(%error, worker = index, "the worker's socket failed");
                }
            })?;
        Ok(WorkerHandle { commands, wake, thread: std::sync::Mutex::new(Some(thread)) })
    }
}

struct Shell {
    worker: Worker,
    socket: MediaSocket,
    report: ShellReport,
}

impl Shell {
    fn run(
        &mut self,
        mut poll: Poll,
        wake: &WakeFlag,
        inbox: &Receiver<Message>,
        emit: impl Fn(Event) -> bool,
    ) -> io::Result<()> {
        self.socket.register(poll.registry(), SOCKET)?;
        let mut buffers = self.socket.receive_buffers();
        let mut events = Events::with_capacity(8);
        let mut readable = true;
        let mut pending: Option<Message> = None;
        loop {
            // Say that we sleep before looking at the queues for the last time (router/wake.rs).
            wake.prepare_sleep();
            pending = pending.or_else(|| inbox.try_recv().ok());
            let busy = readable || pending.is_some() || self.worker.has_ring_work();
            let timeout = if busy { Duration::ZERO } else { self.sleep_time() };
            match poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            wake.awake();
            readable |= events.iter().any(|event| event.token() == SOCKET);

            let arrived = Instant::now();
            let sent_before = self.socket.stats().datagrams_out;
            let mut received = 0;
            while readable && received < RECEIVES_PER_TURN {
                received += 1;
                match self.socket.receive(&mut buffers) {
                    Ok(count) => {
                        let (worker, socket) = (&mut self.worker, &mut self.socket);
                        buffers.for_each(count, |path, datagram| {
                            worker.handle_datagram(arrived, path, datagram, socket);
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable = false,
                    // An ICMP error of an earlier send; the socket itself is fine.
                    Err(error) => tracing::debug!(%error, "receive"),
                }
            }
            self.worker.handle_rings(arrived, &mut self.socket);
            self.worker.handle_timeout(arrived, &mut self.socket);
            self.worker.flush(arrived, &mut self.socket);
            let sent = self.socket.stats().datagrams_out - sent_before;
            if received > 0 && sent > 0 {
                let done = Instant::now();
                self.report.latency.record(done, done - arrived, sent);
            }
            for _ in 0..COMMANDS_PER_TURN {
                let Some(message) = pending.take().or_else(|| inbox.try_recv().ok()) else { break };
                if !self.handle(message) {
                    self.worker.drain_events(&emit);
                    return Ok(());
                }
            }
            self.worker.drain_events(&emit);
        }
    }

    /// Carries out a message; false to stop.
    fn handle(&mut self, message: Message) -> bool {
        let now = Instant::now();
        match message {
            Message::Command(command) => {
                self.worker.handle_command(now, command, &mut self.socket);
            }
            Message::Inspect(inspect) => {
                self.report.socket = self.socket.stats();
                self.report.latency.turn(now);
                inspect(&mut self.worker, &self.report, now);
            }
            Message::Stop => return false,
        }
        true
    }

    fn sleep_time(&self) -> Duration {
        let now = Instant::now();
        self.worker
            .next_timeout()
            .map_or(SLEEP_MAX, |at| at.saturating_duration_since(now))
            .min(SLEEP_MAX)
    }
}
