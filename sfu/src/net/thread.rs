//! One worker's thread as the control plane sees it: its queue, its wake-up, its load, its end.
//!
//! Starts the thread and sends it `messages.rs`; what happens on the thread is in `shell.rs`. Started by
//! `handle.rs`, used by `workers.rs`.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::messages::{Emit, Inbox, Message};
use super::shell::Shell;
use super::socket::MediaSocket;
use super::wait::WaitingPlace;
use crate::router::WakeFlag;
use crate::worker::WorkerConfig;

/// Maximum messages in the queue of one worker. When it is full, the caller waits or answers 503.
const COMMANDS_MAX: usize = 4_096;

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

    /// Load of the thread over the last tick window, in thousandths of a core.
    pub(super) fn load_permille(&self) -> u32 {
        self.load_permille.load(Ordering::Relaxed)
    }

    /// Waits for the thread to end after [`Message::Stop`].
    pub(super) fn join(&self) {
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if let Some(thread) = thread {
            // The panic hook has reported a panic of the thread itself; nothing is left to do.
            _ = thread.join();
        }
    }
}

/// Thread that is ready to start: its waiting place exists, so that others can already wake it.
pub(super) struct PreparedThread(WaitingPlace);

impl PreparedThread {
    pub(super) fn new() -> io::Result<Self> {
        WaitingPlace::new().map(Self)
    }

    pub(super) fn wake(&self) -> WakeFlag {
        self.0.wake().clone()
    }

    /// Starts the thread and keeps it on `cpu` if one is given.
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

#[cfg(test)]
impl WorkerHandle {
    /// Handle without a thread: the test takes the messages and sets the load.
    pub(super) fn detached() -> (Self, std::sync::mpsc::Receiver<Message>, Arc<AtomicU32>) {
        let (commands, messages) = sync_channel(COMMANDS_MAX);
        let load_permille = Arc::new(AtomicU32::new(0));
        let wake = WaitingPlace::new().unwrap().wake().clone();
        let load = Arc::clone(&load_permille);
        (Self { commands, wake, load_permille, thread: Mutex::new(None) }, messages, load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_gives_the_message_back() {
        let (handle, messages, _) = WorkerHandle::detached();
        for _ in 0..COMMANDS_MAX {
            assert!(handle.send(Message::Stop).is_ok());
        }
        assert!(handle.send(Message::Stop).is_err(), "one past the limit");
        messages.recv().unwrap();
        assert!(handle.send(Message::Stop).is_ok());
    }

    #[test]
    fn message_to_a_thread_that_ended_comes_back() {
        let (handle, messages, _) = WorkerHandle::detached();
        drop(messages);
        assert!(handle.send(Message::Stop).is_err());
        handle.join();
    }
}
