//! CPU time and memory of another process, from Linux's `/proc`.
//!
//! Called by `run` around and inside the counted window.

/// `/proc` counts CPU time in this many ticks per second on every Linux architecture we run on (USER_HZ).
const TICKS_PER_S: f64 = 100.0;

/// CPU seconds (user and system, all threads) used by `pid` so far; `None` if there is no such process.
pub(crate) fn cpu_s(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_cpu(&stat)
}

/// Resident memory of `pid` in bytes.
pub(crate) fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    parse_rss(&status)
}

fn parse_cpu(stat: &str) -> Option<f64> {
    // The name in parentheses may contain anything: count fields behind the last one. utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_S)
}

fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_process_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0";
        assert_eq!(parse_cpu(stat), Some(3.0));
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
    }

    #[test]
    fn this_process_uses_memory_and_a_missing_one_is_none() {
        assert!(rss_bytes(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
        assert!(cpu_s(std::process::id()).is_some());
        assert_eq!(cpu_s(u32::MAX), None);
    }
}
