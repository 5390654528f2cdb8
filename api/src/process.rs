//! Resources of this process: memory, CPU time, open files, tasks.
//!
//! Reads Linux `/proc` and the tokio runtime; keeps no state. Called by `metrics.rs` at each
//! scrape.

/// Resources of this process at one moment; a figure of the kernel is absent without Linux `/proc`.
#[derive(Debug)]
pub struct Process {
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// CPU time since the start, user and system.
    pub cpu_seconds: Option<f64>,
    /// Open file descriptors.
    pub open_files: Option<usize>,
    /// Live tasks of the control plane and of HTTP connections.
    pub tasks: usize,
}

/// CPU ticks of `/proc` per second: Linux counts them in 1/100 s on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    /// Reads the figures of now.
    pub fn read() -> Self {
        let page = rustix::param::page_size() as u64;
        let statm = std::fs::read_to_string("/proc/self/statm").ok();
        let stat = std::fs::read_to_string("/proc/self/stat").ok();
        Self {
            resident_bytes: statm.and_then(|text| resident_pages(&text)).map(|n| n * page),
            cpu_seconds: stat
                .and_then(|text| cpu_ticks(&text))
                .map(|n| n as f64 / TICKS_PER_SECOND),
            open_files: std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
            tasks: tokio::runtime::Handle::try_current()
                .map_or(0, |runtime| runtime.metrics().num_alive_tasks()),
        }
    }
}

/// Resident pages: the second field of `/proc/self/statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// utime + stime: fields 14 and 15 of `/proc/self/stat`. The second field, the command, may hold
/// spaces and parentheses, so the fields are counted after the last parenthesis.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_full_of_parentheses_does_not_shift_the_cpu_time() {
        let stat = "7 (we) ir (x) S 1 7 7 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 4 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(280));
        assert_eq!(resident_pages("100 42 7 1 0 9 0"), Some(42));
        assert_eq!(cpu_ticks(""), None);
    }
}
