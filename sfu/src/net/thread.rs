//! One worker's thread as the control plane sees it: its inbox, its wake-up, its load, its end.
//!
//! Starts the thread and talks to it; what happens there is in `shell.rs`.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use super::shell::Shell;
use super::socket::MediaSocket;
use super::wait::WaitingPlace;
use crate::router::WakeFlag;
use crate::worker::{Command, Event, Worker, WorkerConfig};

/// Orders waiting for one worker. Full: the caller waits or refuses with 503.
const COMMANDS_MAX: usize = 4_096;

/// A look at a worker from outside, on its own thread.
type Inspect = dyn FnOnce(&mut Worker, &Shell, Instant) + Send;

/// What travels to a worker's thread.
pub(super) enum Message {
    /// For the worker itself.
    Command(Command),
    /// Runs on the thread with the worker at hand; answers go through what it captured.
    Inspect(Box<Inspect>),
    /// Ends the thread.
    Stop,
}

/// What a worker's thread tells the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Something happened to a session.
    Event(Event),
    /// The worker broke and was rebuilt without sessions: all it had are gone.
    Lost,
}

/// Takes notices without blocking and says whether it could.
pub(super) type Emit = Box<dyn Fn(Notice) -> bool + Send>;

/// The control plane's end of one worker.
pub(super) struct WorkerHandle {
    commands: SyncSender<Message>,
    wake: WakeFlag,
    load_permille: Arc<AtomicU32>,
    thread: Mutex<Option<JoinHandle<()>>>,
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

    /// How busy the thread was of late, in thousandths of a core.
    pub(super) fn load_permille(&self) -> u32 {
        self.load_permille.load(Ordering::Relaxed)
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

/// What a worker's thread is given.
pub(super) struct Inbox {
    pub messages: Receiver<Message>,
    pub emit: Emit,
    /// Where the thread writes how busy it is.
    pub load_permille: Arc<AtomicU32>,
    /// The CPU to stay on.
    pub cpu: Option<usize>,
}

/// A thread that is ready to start: its waiting place exists, so that others can already wake it.
pub(super) struct PreparedThread(WaitingPlace);

impl PreparedThread {
    pub(super) fn new() -> io::Result<Self> {
        WaitingPlace::new().map(Self)
    }

    pub(super) fn wake(&self) -> WakeFlag {
        self.0.wake().clone()
    }

    /// Starts the thread, on one CPU if one is given.
    pub(super) fn start(
        self,
        config: WorkerConfig,
        socket: MediaSocket,
        cpu: Option<usize>,
        emit: Emit,
    ) -> io::Result<WorkerHandle> {
        let (commands, messages) = sync_channel(COMMANDS_MAX);
        let load_permille = Arc::new(AtomicU32::new(0));
        let inbox = Inbox { messages, emit, load_permille: Arc::clone(&load_permille), cpu };
        let wake = self.wake();
        let name = format!("weir-worker-{}", config.port.index);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || Shell::new(self.0, &config, socket, inbox).run(config))?;
        Ok(WorkerHandle { commands, wake, load_permille, thread: Mutex::new(Some(thread)) })
    }
}
