//! Workers as the control plane talks to them: commands, questions, load, and their end.
//!
//! Owns the handles of all threads; knows no session. Used by `control.rs`, the views of `Sfu` and
//! `status_writer.rs`; what a thread does with a message is in `shell.rs`.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::messages::Message;
use super::shell_report::ShellReport;
use super::thread::WorkerHandle;
use crate::worker::{Command, Worker, WorkerReport};

/// Time that a worker has to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Tries to queue a command, [`RETRY_PAUSE`] apart.
const SEND_TRIES: u32 = 2_000;

/// Pause between two tries to queue a command.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// All workers, by their index.
pub(super) struct Workers(Vec<WorkerHandle>);

impl Workers {
    /// Workers that run.
    pub(super) fn new(handles: Vec<WorkerHandle>) -> Self {
        Self(handles)
    }

    /// Number of workers.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Load of a worker in thousandths of a core; the largest number for one that does not exist.
    pub(super) fn load_permille(&self, worker: usize) -> u32 {
        self.0.get(worker).map_or(u32::MAX, WorkerHandle::load_permille)
    }

    /// Queues a command if the worker's queue has room; false otherwise.
    pub(super) fn try_command(&self, worker: usize, command: Command) -> bool {
        self.try_send(worker, Message::Command(command))
    }

    /// Queues a command and waits for room in the worker's queue, up to two seconds; false if there is none.
    pub(super) async fn command(&self, worker: usize, command: impl Fn() -> Command) -> bool {
        if worker >= self.len() {
            return false;
        }
        for _ in 0..SEND_TRIES {
            if self.try_command(worker, command()) {
                return true;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        false
    }

    /// Sends a question to a worker at once. The future waits for the answer: `None` if there is none in time.
    /// So several workers can be asked before the first answer is awaited.
    pub(super) fn inspect<T: Send + 'static, F>(
        &self,
        worker: usize,
        look: F,
    ) -> impl Future<Output = Option<T>> + Send + use<T, F>
    where
        F: FnOnce(&mut Worker, Instant) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let question = Message::Inspect(Box::new(move |worker, now| {
            // An error means that nobody waits for the answer any more.
            _ = answer.send(look(worker, now));
        }));
        // A question that cannot be queued is dropped, which ends the wait for its answer.
        self.try_send(worker, question);
        in_time(answered)
    }

    /// Asks a worker's thread for all its counters, in the same way.
    pub(super) fn report(
        &self,
        worker: usize,
    ) -> impl Future<Output = Option<(WorkerReport, ShellReport)>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let question = Message::Report(Box::new(move |worker, shell| {
            _ = answer.send((worker, shell));
        }));
        self.try_send(worker, question);
        in_time(answered)
    }

    /// Ends all threads and waits for them. Blocks the calling thread.
    pub(super) fn stop(&self) {
        for worker in &self.0 {
            if worker.send(Message::Stop).is_ok() {
                worker.join();
            }
        }
    }

    fn try_send(&self, worker: usize, message: Message) -> bool {
        self.0.get(worker).is_some_and(|handle| handle.send(message).is_ok())
    }
}

/// Waits for an answer; the time begins now, not when the future is first polled.
fn in_time<T: Send>(
    answered: oneshot::Receiver<T>,
) -> impl Future<Output = Option<T>> + Send + use<T> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answered);
    async move { answer.await.ok()?.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseReason;
    use std::sync::mpsc::Receiver;

    fn one() -> (Workers, Receiver<Message>) {
        let (worker, messages, _) = WorkerHandle::detached();
        (Workers::new(vec![worker]), messages)
    }

    fn command() -> Command {
        Command::CloseAll(CloseReason::Shutdown)
    }

    #[tokio::test(start_paused = true)]
    async fn command_waits_two_seconds_for_room_in_the_queue() {
        let (workers, messages) = one();
        while workers.try_command(0, command()) {}
        let began = tokio::time::Instant::now();
        assert!(!workers.command(0, command).await);
        assert!(began.elapsed() >= RETRY_PAUSE * SEND_TRIES);
        messages.recv().unwrap();
        assert!(workers.command(0, command).await);
        assert!(!workers.command(1, command).await, "no such worker");
    }

    #[tokio::test(start_paused = true)]
    async fn question_has_no_answer_after_a_second_or_at_once_if_it_cannot_be_queued() {
        let (workers, messages) = one();
        let began = tokio::time::Instant::now();
        assert_eq!(workers.inspect(0, |_, _| ()).await, None, "nobody reads it");
        assert!(began.elapsed() >= ANSWER_TIMEOUT);
        let began = tokio::time::Instant::now();
        while workers.try_command(0, command()) {}
        assert_eq!(workers.inspect(0, |_, _| ()).await, None, "the queue is full");
        drop(messages);
        assert!(workers.report(0).await.is_none(), "the thread is gone");
        assert!(workers.report(1).await.is_none(), "no such worker");
        assert!(began.elapsed() < ANSWER_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn time_for_an_answer_begins_with_the_question() {
        let (workers, _messages) = one();
        let questions = [0, 0].map(|worker| workers.inspect(worker, |_, _| ()));
        let began = tokio::time::Instant::now();
        for question in questions {
            assert_eq!(question.await, None);
        }
        assert!(began.elapsed() < ANSWER_TIMEOUT * 2, "both waits run at the same time");
    }
}
