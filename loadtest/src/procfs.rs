//! Values from Linux's `/proc`: CPU time and memory of a process, and datagrams dropped at sockets.
//!
//! Called by `run`, `timeline` and `generator`.

use std::collections::{HashMap, HashSet};

/// Ticks per second in which `/proc` counts CPU time (USER_HZ). It is the same on all common Linux
/// architectures.
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds of all threads of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cpu {
    /// User time: in the program itself.
    pub(crate) user_s: f64,
    /// System time: in the kernel for the program.
    pub(crate) system_s: f64,
}

impl Cpu {
    /// User and system time.
    pub(crate) fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}

/// CPU time of process `pid` since its start; `None` if there is no such process.
pub(crate) fn cpu(pid: u32) -> Option<Cpu> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_cpu(&stat)
}

/// Resident memory of process `pid` in bytes.
pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse_rss(&status)
}

/// Datagrams that the kernel dropped because they were not read in time, by local port. Only
/// `ports` are counted, because other processes have sockets too. `None` if the kernel has no such
/// table.
pub(crate) fn socket_drops(ports: &HashSet<u16>) -> Option<HashMap<u16, u64>> {
    let mut drops = HashMap::new();
    let mut found = false;
    for file in ["/proc/net/udp", "/proc/net/udp6"] {
        if let Ok(table) = std::fs::read_to_string(file) {
            found = true;
            drops.extend(table.lines().filter_map(parse_drops).filter(|(p, _)| ports.contains(p)));
        }
    }
    found.then_some(drops)
}

fn parse_cpu(stat: &str) -> Option<Cpu> {
    // The name in parentheses may contain anything: fields are counted after the last parenthesis.
    // utime is field 14, stime 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_S);
    Some(Cpu { user_s: seconds()?, system_s: seconds()? })
}

fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Local port (hexadecimal) and drops (last column) of one line of the table.
fn parse_drops(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, fields.next_back()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_after_any_process_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(parse_cpu(stat), Some(Cpu { user_s: 2.5, system_s: 0.5 }));
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
    }

    #[test]
    fn missing_process_has_no_cpu_time() {
        assert!(rss_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu(std::process::id()).is_some());
        assert_eq!(cpu(u32::MAX), None);
    }

    #[test]
    fn drops_of_a_full_socket_are_counted_for_the_given_ports() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let to = socket.local_addr().expect("is bound");
        let ours = HashSet::from([to.port()]);
        let drops = || socket_drops(&ours).and_then(|drops| drops.get(&to.port()).copied());
        assert_eq!(drops(), Some(0));
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        // More than any receive buffer holds, and nothing reads it.
        for _ in 0..20_000 {
            sender.send_to(&[0; 1200], to).expect("loopback takes it");
        }
        assert!(drops().is_some_and(|drops| drops > 0), "{:?}", drops());
        assert_eq!(socket_drops(&HashSet::new()), Some(HashMap::new()));
    }
}
