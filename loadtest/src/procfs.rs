//! What Linux's `/proc` says: CPU time and memory of a process, and datagrams dropped at sockets.
//!
//! Called by `run` and `generator` around and inside the counted window.

use std::collections::{HashMap, HashSet};

/// `/proc` counts CPU time in this many ticks per second on every Linux architecture we run on (USER_HZ).
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds of a process, all threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cpu {
    /// In the program itself.
    pub(crate) user_s: f64,
    /// In the kernel on its behalf.
    pub(crate) system_s: f64,
}

impl Cpu {
    /// Both.
    pub(crate) fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}

/// CPU time used by `pid` so far; `None` if there is no such process.
pub(crate) fn cpu(pid: u32) -> Option<Cpu> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_cpu(&stat)
}

/// Resident memory of `pid` in bytes.
pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse_rss(&status)
}

/// Datagrams that the kernel dropped at our UDP sockets because we did not read them in time, by local port: those of `ports`
/// only, as others on this machine have sockets too. `None` where the kernel does not tell.
pub(crate) fn socket_drops(ports: &HashSet<u16>) -> Option<HashMap<u16, u64>> {
    let mut drops = HashMap::new();
    let mut told = false;
    for file in ["/proc/net/udp", "/proc/net/udp6"] {
        if let Ok(table) = std::fs::read_to_string(file) {
            told = true;
            drops.extend(table.lines().filter_map(parse_drops).filter(|(p, _)| ports.contains(p)));
        }
    }
    told.then_some(drops)
}

fn parse_cpu(stat: &str) -> Option<Cpu> {
    // The name in parentheses may contain anything: count fields behind the last one. utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_S);
    Some(Cpu { user_s: seconds()?, system_s: seconds()? })
}

fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A line of the table: the local port in hexadecimal, and the drops in the last column.
fn parse_drops(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, fields.next_back()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_process_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(parse_cpu(stat), Some(Cpu { user_s: 2.5, system_s: 0.5 }));
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
    }

    #[test]
    fn this_process_uses_memory_and_a_missing_one_is_none() {
        assert!(rss_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu(std::process::id()).is_some());
        assert_eq!(cpu(u32::MAX), None);
    }

    #[test]
    fn overflowing_socket_is_seen_and_only_the_ones_asked_for() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let to = socket.local_addr().expect("is bound");
        let ours = HashSet::from([to.port()]);
        let drops = || socket_drops(&ours).and_then(|drops| drops.get(&to.port()).copied());
        assert_eq!(drops(), Some(0));
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        // Far more than any receive buffer holds, and nobody reads.
        for _ in 0..20_000 {
            sender.send_to(&[0; 1200], to).expect("loopback takes it");
        }
        assert!(drops().is_some_and(|drops| drops > 0), "{:?}", drops());
        assert_eq!(socket_drops(&HashSet::new()), Some(HashMap::new()));
    }
}
