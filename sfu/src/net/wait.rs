//! Wait of a worker's thread: for its socket, for a wake-up by another thread, or for a deadline.
//!
//! There are only two descriptors, so `ppoll` is used. It keeps deadlines to the microsecond on every kernel,
//! which `epoll` does only since 5.11. It tells the socket's state instead of changes, so the socket need not be
//! read until it is empty. Decides nothing. Called by `shell.rs`.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};

use crate::router::{WakeFlag, Waker};

/// Time by which the kernel may end a wait late, so that it can end several at once. Its default of 50 µs is as
/// long as the shortest tick.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::new(1_000).expect("it is not zero");

struct EventWaker(Arc<OwnedFd>);

impl Waker for EventWaker {
    fn wake(&self) {
        match write(&*self.0, &1u64.to_ne_bytes()) {
            // Full: 2^64 wake-ups wait to be seen; one of them is enough.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!(%error, "waking a worker failed"),
        }
    }
}

/// One worker's place to wait. It is made before the thread, so that other threads can already wake it.
pub(super) struct WaitingPlace {
    event: Arc<OwnedFd>,
    wake: WakeFlag,
}

impl WaitingPlace {
    pub(super) fn new() -> io::Result<Self> {
        let event = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let wake = WakeFlag::new(Arc::new(EventWaker(Arc::clone(&event))));
        Ok(Self { event, wake })
    }

    /// Flag by which other threads wake this worker.
    pub(super) fn wake(&self) -> &WakeFlag {
        &self.wake
    }

    /// Sets the timer slack of the calling thread, so that its waits end in time.
    pub(super) fn prepare_thread() {
        // Refused only by exotic sandboxes; deadlines are then up to 50 µs late.
        _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS));
    }

    /// Waits until `socket` can be read (true), another thread wakes this one, or the time is over.
    pub(super) fn wait(&self, socket: &impl AsFd, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut fds =
            [PollFd::new(socket, PollFlags::IN), PollFd::new(&*self.event, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // A read returns an error of the socket, so it counts as readable.
        let [readable, woken] = fds.map(|fd| !fd.revents().is_empty());
        if woken {
            // The count does not matter; it only has to be zero again.
            _ = read(&*self.event, &mut [0; 8]);
        }
        Ok(readable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Instant;

    #[test]
    fn wait_ends_with_a_datagram_a_wake_up_or_the_deadline() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let place = WaitingPlace::new().unwrap();
        let long = Duration::from_secs(60);
        assert!(!place.wait(&socket, Duration::from_micros(1)).unwrap());

        // A wake-up before the wait is not lost, and is noticed once.
        place.wake().prepare_sleep();
        assert!(place.wake().notify());
        assert!(!place.wait(&socket, long).unwrap());
        assert!(!place.wait(&socket, Duration::ZERO).unwrap());

        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert!(place.wait(&socket, long).unwrap());
        assert!(place.wait(&socket, long).unwrap(), "it tells the state, not the change");
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let place = WaitingPlace::new().unwrap();
        let wake = place.wake().clone();
        place.wake().prepare_sleep();
        let other = std::thread::spawn(move || while !wake.notify() {});
        let started = Instant::now();
        assert!(!place.wait(&socket, Duration::from_secs(600)).unwrap());
        other.join().unwrap();
        assert!(started.elapsed() < Duration::from_secs(600));
    }
}
