//! Lines for stderr: a bounded queue, and the thread that writes them.
//!
//! Nobody else writes to stderr while the server runs, because a pipe that nobody reads would stop the writer,
//! and with it whatever it does besides. A line that does not fit into the queue is dropped and counted. Called
//! by `log.rs` for log lines and by `main.rs` for its own.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum bytes of lines that wait to be written; a line that does not fit is dropped.
pub const QUEUE_MAX: usize = 1024 * 1024;
/// Time after which a writer that is not ready to take bytes is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// Queue of lines. Cheap to clone; clones are the same queue.
#[derive(Debug, Clone)]
pub struct StderrQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Lines came, or no more will.
    changed: Condvar,
    /// All lines were written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    /// Lines in `waiting`.
    lines: u64,
    /// Whether the thread writes.
    writing: bool,
    dropped: Dropped,
    /// Lines that were dropped and of which no line tells yet.
    untold: u64,
    closed: bool,
}

/// Lines that were never written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// They did not fit into the queue: stderr is read too slowly, or not at all.
    pub queue_full: u64,
    /// Writing them failed: stderr is closed.
    pub write_failed: u64,
}

impl StderrQueue {
    /// Starts the thread that writes to stderr. `tell` is called by it with the number of lines that were
    /// dropped, when writing works again.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(tell: impl FnMut(u64) + Send + 'static) -> io::Result<Self> {
        Self::start_with(io::stderr(), tell)
    }

    fn start_with(
        to: impl Write + Send + 'static,
        tell: impl FnMut(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let queue = Self(shared.clone());
        std::thread::Builder::new()
            .name("weir-log".into())
            .spawn(move || shared.write_lines(to, tell))?;
        Ok(queue)
    }

    /// Appends lines that belong together. Never waits for the writer.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        if queue.closed || queue.waiting.len() + line.len() > QUEUE_MAX {
            queue.dropped.queue_full += 1;
            queue.untold += 1;
            return;
        }
        queue.waiting.extend_from_slice(line);
        queue.lines += 1;
        drop(queue);
        self.0.changed.notify_one();
    }

    /// Lines that were dropped since the start.
    pub fn dropped(&self) -> Dropped {
        self.0.lock().dropped
    }

    /// Takes no more lines, and waits until those that it has are written, for this time at most.
    pub fn close(&self, wait: Duration) {
        let mut queue = self.0.lock();
        queue.closed = true;
        self.0.changed.notify_one();
        let busy = |queue: &mut Queue| queue.writing || !queue.waiting.is_empty();
        let waited = self.0.written.wait_timeout_while(queue, wait, busy);
        drop(waited);
    }
}

/// One log line: `tracing_subscriber` writes each in one piece.
impl Write for &StderrQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write_lines(&self, mut to: impl Write, mut tell: impl FnMut(u64)) {
        loop {
            let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
            let waited = self.changed.wait_while(self.lock(), idle);
            let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
            if queue.waiting.is_empty() {
                return;
            }
            let (bytes, lines) =
                (std::mem::take(&mut queue.waiting), std::mem::take(&mut queue.lines));
            queue.writing = true;
            drop(queue);
            let wrote = write_all(&mut to, &bytes);
            let mut queue = self.lock();
            queue.writing = false;
            if wrote.is_err() {
                queue.dropped.write_failed += lines;
                queue.untold += lines;
            }
            let untold = if wrote.is_ok() { std::mem::take(&mut queue.untold) } else { 0 };
            if queue.waiting.is_empty() {
                self.written.notify_all();
            }
            drop(queue);
            if untold > 0 {
                tell(untold);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all bytes, also to a pipe that does not block because another process made it so.
fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(RETRY);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    /// Takes bytes each time that it is allowed to, and fails when there is nobody to allow it.
    struct Gate(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Started = (StderrQueue, Sender<()>, Receiver<Vec<u8>>, Receiver<u64>);

    fn start() -> Started {
        let (allow, allowed) = channel();
        let (write, written) = channel();
        let (tell, told) = channel();
        let queue = StderrQueue::start_with(Gate(allowed, write), move |lines| {
            let _ = tell.send(lines);
        });
        (queue.unwrap(), allow, written, told)
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_counted_and_told_of() {
        let (queue, allow, written, told) = start();
        queue.push(b"first\n");
        while !queue.0.lock().writing {
            std::thread::yield_now();
        }
        let line = [b'x'; 1024];
        let begun = Instant::now();
        (0..QUEUE_MAX / line.len()).for_each(|_| queue.push(&line));
        assert_eq!(queue.dropped(), Dropped::default());
        queue.push(b"y");
        queue.push(b"z");
        assert_eq!(queue.dropped(), Dropped { queue_full: 2, write_failed: 0 });
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody waited for the writer");
        allow.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), b"first\n");
        assert_eq!(told.recv().unwrap(), 2);
        allow.send(()).unwrap();
        assert_eq!(written.recv().unwrap().len(), QUEUE_MAX);
        queue.push(b"fits again\n");
        allow.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), b"fits again\n");
    }

    #[test]
    fn a_closed_pipe_costs_its_lines_and_nothing_else() {
        let (queue, allow, _written, told) = start();
        drop(allow);
        for n in 1..=3 {
            queue.push(b"line\n");
            while queue.dropped().write_failed < n {
                std::thread::yield_now();
            }
        }
        assert!(told.try_recv().is_err(), "there is nobody to tell");
        queue.close(Duration::from_secs(5));
    }

    #[test]
    fn a_stop_writes_what_waits_and_does_not_wait_for_ever() {
        let (queue, allow, written, _told) = start();
        queue.push(b"a\n");
        queue.push(b"b\n");
        let begun = Instant::now();
        queue.close(Duration::from_millis(50));
        assert!((50..5_000).contains(&begun.elapsed().as_millis()), "the pipe is not read");
        allow.send(()).unwrap();
        // The writer may have taken both lines at once, and ended after the first write.
        _ = allow.send(());
        queue.close(Duration::from_secs(5));
        drop(allow);
        assert_eq!(written.iter().collect::<Vec<_>>().concat(), b"a\nb\n");
        queue.push(b"too late\n");
        assert_eq!(queue.dropped().queue_full, 1);
    }
}
