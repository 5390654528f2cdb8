//! Where a worker's thread waits: for its socket, for a wake-up by others, for a deadline.
//!
//! Two descriptors, so `ppoll` serves: it keeps deadlines to the microsecond on every kernel, which
//! `epoll` does only since 5.11, and tells the socket's state rather than its changes, so nothing has to
//! be read until it is empty. Called by `shell.rs`.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};

use crate::router::{WakeFlag, Waker};

/// How much later than asked the kernel may end a wait, so that it can end several at once. Its
/// default of 50 µs is as long as the shortest tick.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::new(1_000).expect("it is not zero");

struct EventWaker(Arc<OwnedFd>);

impl Waker for EventWaker {
    fn wake(&self) {
        match write(&*self.0, &1u64.to_ne_bytes()) {
            // Full: 2^64 wake-ups wait to be noticed, one of them is enough.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!(%error, "waking a worker failed"),
        }
    }
}

/// One worker's place to wait. Made before its thread, so that others can already wake it.
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

    /// The flag that others wake this worker with.
    pub(super) fn wake(&self) -> &WakeFlag {
        &self.wake
    }

    /// Makes the calling thread's waits end in time.
    pub(super) fn prepare_thread() {
        // Refused only by exotic sandboxes; deadlines are then up to 50 µs late.
        _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS));
    }

    /// Waits until `socket` can be read (true), somebody wakes us, or the time is over.
    pub(super) fn wait(&self, socket: &impl AsFd, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut fds =
            [PollFd::new(socket, PollFlags::IN), PollFd::new(&*self.event, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // An error of the socket is told by reading it.
        let [readable, woken] = fds.map(|fd| !fd.revents().is_empty());
        if woken {
            // The count does not matter, only that it is zero again.
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
    fn a_wait_ends_with_a_datagram_a_wake_up_or_the_time() {
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
        assert!(place.wait(&socket, long).unwrap(), "the state, not the change");
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
