//! CPUs that a worker's thread may run on.
//!
//! Reads and sets the kernel's affinity mask; decides nothing. Called by `handle.rs` at the start, by `shell.rs`
//! on the thread that is pinned, and by `api` to check its configuration.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs that this process may use, ascending; empty if the kernel does not tell.
pub fn usable_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Keeps the calling thread on one CPU.
pub(super) fn pin(cpu: usize) -> io::Result<()> {
    // A number beyond the set would panic in the crate.
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_thread_runs_on_its_cpu_and_other_threads_are_not_affected() {
        let before = usable_cpus();
        let last = *before.last().expect("this process runs on some CPU");
        let pinned = std::thread::spawn(move || {
            pin(last).unwrap();
            usable_cpus()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
        assert_eq!(usable_cpus(), before);
        assert!(pin(usize::MAX).is_err());
    }
}
