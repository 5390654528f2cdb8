//! What we ask of the machine before a run: enough file descriptors, and the CPUs to run on.
//!
//! Called by `main.rs` and `run`; measuring is `procfs` and `vitals`.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::options::CpuList;

/// Descriptors beside one socket for each session: HTTP connections, loops, files.
const DESCRIPTORS_BESIDE: u64 = 512;

/// Threads of a server that are moved; none has more.
const THREADS_MAX: usize = 4096;

/// Raises our own limit of open files to its maximum.
///
/// # Errors
/// If even that is not enough for so many sessions.
pub(crate) fn make_room_for(sessions: u32) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::from(sessions) + DESCRIPTORS_BESIDE;
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if enough(limit.current) {
        return Ok(());
    }
    // The superuser may raise the maximum as well; others need not, usually.
    let maximum = if enough(limit.maximum) { limit.maximum } else { Some(needed) };
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map_err(|error| {
        anyhow::anyhow!("{sessions} sessions need {needed} open files (`ulimit -n`): {error}")
    })
}

/// Binds this thread, and all it will start, to `cpus`.
///
/// # Errors
/// If there are no such CPUs, or we may not use them.
pub fn run_on(cpus: &CpuList) -> anyhow::Result<()> {
    sched_setaffinity(None, &set_of(cpus)?)
        .map_err(|error| anyhow::anyhow!("--cpu {cpus}: {error}"))
}

/// Moves every thread of process `pid` to `cpus`.
///
/// # Errors
/// If there are no such CPUs or no such process, or we may not move it.
pub(crate) fn move_process(pid: u32, cpus: &CpuList) -> anyhow::Result<()> {
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

/// CPUs this process may use.
pub(crate) fn cpus() -> u32 {
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
    fn room_is_made_for_what_fits_and_refused_with_the_number_otherwise() {
        make_room_for(10).expect("ten sessions fit any machine");
        if let Some(error) = make_room_for(u32::MAX).err() {
            assert!(error.to_string().contains("ulimit"), "{error}");
        }
    }

    #[test]
    fn thread_runs_where_it_was_told_and_nowhere_else() {
        let thread = std::thread::spawn(|| {
            let all = sched_getaffinity(None).expect("is readable");
            let one = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).expect("runs somewhere");
            run_on(&CpuList(vec![one])).expect("is one of ours");
            assert_eq!(cpus(), 1);
        });
        thread.join().expect("does not panic");
        assert!(run_on(&CpuList(vec![CpuSet::MAX_CPU])).is_err());
    }
}
