//! Limits and CPUs of this process and of the server: set before a run.
//!
//! Called by `command` and `run`. Measuring is the task of `procfs` and `loop_stats`.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::options::CpuList;

/// File descriptors needed in addition to one socket per session: HTTP connections, event loops,
/// files.
const OTHER_DESCRIPTORS: u64 = 512;

/// Maximum threads of a server process that are moved.
const THREADS_MAX: usize = 4096;

/// Raises the limit of open files of this process, if `sessions` need more.
///
/// # Errors
/// If the maximum is too low for that many sessions.
pub(crate) fn raise_open_file_limit(sessions: u32) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::from(sessions) + OTHER_DESCRIPTORS;
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if enough(limit.current) {
        return Ok(());
    }
    // Only the superuser may raise the maximum as well.
    let maximum = if enough(limit.maximum) { limit.maximum } else { Some(needed) };
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map_err(|error| {
        anyhow::anyhow!("{sessions} sessions need {needed} open files (`ulimit -n`): {error}")
    })
}

/// Binds this thread, and all threads it will start, to `cpus`.
///
/// # Errors
/// If there are no such CPUs, or if this process may not use them.
pub(crate) fn pin_thread(cpus: &CpuList) -> anyhow::Result<()> {
    sched_setaffinity(None, &set_of(cpus)?)
        .map_err(|error| anyhow::anyhow!("--cpu {cpus}: {error}"))
}

/// Moves every thread of process `pid` to `cpus`.
///
/// # Errors
/// If there are no such CPUs or no such process, or if this process may not move it.
pub(crate) fn pin_process(pid: u32, cpus: &CpuList) -> anyhow::Result<()> {
    let set = set_of(cpus)?;
    let move_all = || -> std::io::Result<()> {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.take(THREADS_MAX) {
            let number = thread?.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(thread) = number.and_then(Pid::from_raw) {
                sched_setaffinity(Some(thread), &set)?;
            }
        }
        Ok(())
    };
    move_all().map_err(|error| anyhow::anyhow!("--server-cpu {cpus} for process {pid}: {error}"))
}

/// Number of CPUs that this process may use.
pub(crate) fn available_cpus() -> u32 {
    sched_getaffinity(None).map_or(1, |set| set.count()).max(1)
}

fn set_of(cpus: &CpuList) -> anyhow::Result<CpuSet> {
    let mut set = CpuSet::new();
    for cpu in &cpus.0 {
        anyhow::ensure!(*cpu < CpuSet::MAX_CPU, "there is no CPU {cpu}");
        set.set(*cpu);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_file_limit_is_raised_or_the_error_names_it() {
        raise_open_file_limit(10).expect("ten sessions fit any machine");
        if let Some(error) = raise_open_file_limit(u32::MAX).err() {
            assert!(error.to_string().contains("ulimit"), "{error}");
        }
    }

    #[test]
    fn pinned_thread_runs_on_its_cpus_only() {
        let thread = std::thread::spawn(|| {
            let all = sched_getaffinity(None).expect("is readable");
            let one =
                (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("one CPU is allowed");
            pin_thread(&CpuList(vec![one])).expect("this CPU is allowed");
            assert_eq!(available_cpus(), 1);
        });
        thread.join().expect("does not panic");
        assert!(pin_thread(&CpuList(vec![CpuSet::MAX_CPU])).is_err());
    }
}
