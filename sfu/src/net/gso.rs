//! Memory of the paths that refused several datagrams in one send call (UDP GSO).
//!
//! A NIC without checksum offload, a tunnel or a small MTU makes the kernel refuse the call. `socket.rs` then
//! sends the same datagrams one by one and tries GSO again after a while, since routes change. `quinn-udp` has
//! such a memory too, but for the whole socket, for ever, and after any invalid argument: one datagram to port 0
//! would end GSO for all viewers. So its memory is not used. Pure: time is an argument. Called by `socket.rs`.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Time after which a path that refused is tried again: one failed call per path and minute.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Maximum paths remembered. If more refuse, the cause is the NIC, and no path is tried for [`RETRY_AFTER`].
const REFUSALS_MAX: usize = 256;

/// Paths that refused, each with the time until which it is not tried.
#[derive(Debug, Default)]
pub(super) struct GsoMemory {
    /// Single paths by the address of the peer, with the end of the pause.
    refused: HashMap<IpAddr, Instant>,
    /// End of the pause of all paths.
    all: Option<Instant>,
    unsupported: bool,
}

impl GsoMemory {
    /// Memory without refusals; `supported` tells whether the kernel has GSO at all.
    pub(super) fn new(supported: bool) -> Self {
        Self { unsupported: !supported, ..Self::default() }
    }

    /// Whether to try GSO. `clock` is read only while some path is refused.
    pub(super) fn allows(&mut self, remote: IpAddr, clock: impl FnOnce() -> Instant) -> bool {
        if self.unsupported {
            return false;
        }
        if self.refused.is_empty() && self.all.is_none() {
            return true;
        }
        let now = clock();
        if self.all.is_some_and(|until| now < until) {
            return false;
        }
        self.all = None;
        match self.refused.get(&remote) {
            Some(until) if now < *until => false,
            Some(_) => {
                self.refused.remove(&remote);
                true
            }
            None => true,
        }
    }

    /// Notes that a path refused segments and took the same datagrams one by one.
    pub(super) fn refuse(&mut self, remote: IpAddr, now: Instant) {
        if self.refused.len() >= REFUSALS_MAX {
            self.refused.retain(|_, until| now < *until);
        }
        if self.refused.len() >= REFUSALS_MAX && !self.refused.contains_key(&remote) {
            self.refused.clear();
            self.all = Some(now + RETRY_AFTER);
        } else {
            self.refused.insert(remote, now + RETRY_AFTER);
        }
    }

    /// Number of paths that are not tried now; `None` if it is all paths.
    pub(super) fn spared(&self) -> Option<usize> {
        (!self.unsupported && self.all.is_none()).then_some(self.refused.len())
    }
}

/// Whether the error of a send call with segments may be caused by the segments: no checksum offload (EIO),
/// segments larger than the MTU of the route, or too many of them (EINVAL, EMSGSIZE).
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::INVAL | Errno::MSGSIZE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn viewer(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    #[test]
    fn path_that_refused_is_not_tried_for_a_minute_and_others_are() {
        let now = Instant::now();
        let mut memory = GsoMemory::new(true);
        assert!(
            memory.allows(viewer(1), || unreachable!("no clock is read while no path refuses"))
        );
        memory.refuse(viewer(1), now);
        assert!(!memory.allows(viewer(1), || now + RETRY_AFTER - Duration::from_millis(1)));
        assert!(memory.allows(viewer(2), || now));
        assert_eq!(memory.spared(), Some(1));
        assert!(memory.allows(viewer(1), || now + RETRY_AFTER), "routes change");
        assert_eq!(memory.spared(), Some(0));
    }

    #[test]
    fn nic_that_refuses_every_path_is_remembered_as_one() {
        let now = Instant::now();
        let mut memory = GsoMemory::new(true);
        for n in 0..REFUSALS_MAX as u32 {
            memory.refuse(viewer(n), now);
        }
        memory.refuse(viewer(0), now);
        assert_eq!(memory.spared(), Some(REFUSALS_MAX), "at the limit");
        assert!(memory.allows(viewer(9_999), || now));
        memory.refuse(viewer(9_999), now);
        assert_eq!(memory.spared(), None, "one past it");
        assert!(!memory.allows(viewer(123_456), || now + RETRY_AFTER / 2));
        assert!(memory.allows(viewer(0), || now + RETRY_AFTER));
        assert_eq!(memory.spared(), Some(0));
    }

    #[test]
    fn old_refusals_are_forgotten_before_all_paths_are_paused() {
        let now = Instant::now();
        let mut memory = GsoMemory::new(true);
        for n in 0..REFUSALS_MAX as u32 {
            memory.refuse(viewer(n), now);
        }
        memory.refuse(viewer(9_999), now + RETRY_AFTER);
        assert_eq!(memory.spared(), Some(1));
    }

    #[test]
    fn kernel_without_gso_is_never_tried() {
        let mut memory = GsoMemory::new(false);
        assert!(!memory.allows(viewer(1), || unreachable!("nothing to look up")));
        assert_eq!(memory.spared(), None);
    }
}
