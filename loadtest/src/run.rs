//! One run from the first POST to the last DELETE: publishers, ramp, warm-up, window, drain.
//!
//! Called by `command` and by tests. Starts `publisher` and `viewer`, or those of `full`, in two
//! `session_group`s.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::context::{RunContext, StartupGuard};
use crate::dtls::Identity;
use crate::event_loop::LoopPool;
use crate::generator::{GeneratorHealth, GeneratorMonitor};
use crate::live::LiveCounters;
use crate::measures::{PublisherResult, ViewerResult};
use crate::options::{Client, Options, Pattern};
use crate::phase::Phase;
use crate::progress_line::ProgressLine;
use crate::report::Report;
use crate::report::totals::Totals;
use crate::session_group::SessionGroup;
use crate::timeline::Timeline;
use crate::whip::Http;
use crate::{full, machine, procfs, publisher, viewer};

/// Time between the last publisher's connection and the first viewer: some servers know a stream
/// only once media flows.
const PUBLISHER_SETTLE: Duration = Duration::from_millis(500);

/// Time between the last viewer's first frame and the window.
const WARM_UP: Duration = Duration::from_secs(1);

/// Time after the window, in which retransmissions of its last packets may arrive.
const DRAIN: Duration = Duration::from_millis(1200);

/// Maximum time for all sessions to end. Those that have not ended by then are left behind.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two updates of the progress line and looks at the timeline.
const TICK: Duration = Duration::from_millis(500);

/// Time between two looks at the server's memory and at the generator's sockets within the window.
const MONITOR_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two looks for sessions that have ended, at the end of a run.
const STOP_POLL: Duration = Duration::from_millis(10);

/// Runs what `options` say. The first interrupt ends the run early, but in order.
///
/// # Errors
/// If the run could not begin. What happens later is part of the report.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(pid) = options.common.server_pid {
        anyhow::ensure!(procfs::cpu(pid).is_some(), "--server-pid {pid}: there is no such process");
        if let Some(cpus) = &options.common.server_cpu {
            machine::pin_process(pid, cpus)?;
        }
    }
    machine::raise_open_file_limit(options.publishers.saturating_add(options.viewers))?;
    let threads = options.common.threads.unwrap_or_else(machine::available_cpus) as usize;
    let context = Arc::new(RunContext {
        options: options.clone(),
        identity: Arc::new(Identity::new()?),
        http: Http::new(options.common.token.clone())?,
        live: Arc::new(LiveCounters::new()),
        run: rand::random(),
        publisher_loops: LoopPool::start("publish", threads.min(options.publishers as usize))?,
        viewer_loops: LoopPool::start("watch", threads.min(options.viewers as usize))?,
    });
    // Sets the clock's epoch before the first stamp.
    crate::clock::since_start_us(Instant::now());
    Runner::new(context).run().await
}

struct Runner {
    context: Arc<RunContext>,
    progress: ProgressLine,
    tick: Interval,
    timeline: Timeline,
    counting: bool,
    publishers: SessionGroup<PublisherResult>,
    viewers: SessionGroup<ViewerResult>,
    totals: Totals,
}

/// What was measured around the window.
#[derive(Default)]
struct Window {
    seconds: f64,
    /// CPU seconds and peak memory of the server.
    server: Option<(f64, u64)>,
    generator: GeneratorHealth,
}

impl Runner {
    fn new(context: Arc<RunContext>) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let viewers = match context.options.pattern {
            Pattern::Churn(_) => SessionGroup::with_retirement(),
            Pattern::RoundRobin | Pattern::Rooms(_) => SessionGroup::new(),
        };
        let server = context.options.common.server_pid;
        Self {
            progress: ProgressLine::new(),
            tick,
            timeline: Timeline::new(Instant::now(), &context.live, server),
            counting: false,
            publishers: SessionGroup::new(),
            viewers,
            totals: Totals::new(),
            context,
        }
    }

    async fn run(mut self) -> anyhow::Result<Report> {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut window = Window::default();
        let ready = tokio::select! {
            _ = &mut interrupted => false,
            () = self.start_sessions() => true,
        };
        if ready && !self.all_failed() {
            window = self.window(interrupted.as_mut()).await;
        }

        self.set_phase(Phase::Stop);
        self.wait_for_end().await;
        self.progress.clear();
        let mut report = self.totals.finish(window.seconds);
        report.add_sessions_without_result(
            self.viewers.without_result(),
            self.publishers.without_result(),
        );
        report.scenario = self.context.options.scenario;
        report.generator = window.generator;
        report.timeline = self.timeline.finish();
        if let Some((cpu_s, rss)) = window.server {
            report.add_server(cpu_s, rss);
        }
        Ok(report)
    }

    /// Starts publishers, then viewers, and waits until the startup of each is over.
    async fn start_sessions(&mut self) {
        let (publishers, viewers) = (self.context.options.publishers, self.context.options.viewers);
        self.ramp(publishers, "publishers", Self::add_publisher).await;
        self.pause(PUBLISHER_SETTLE, "publishers").await;
        self.ramp(viewers, "ramp", Self::add_viewer).await;
    }

    /// Starts `count` sessions at the rate of `--ramp`, and waits until each has dropped its guard.
    async fn ramp(&mut self, count: u32, step: &str, start: impl Fn(&mut Self, StartupGuard)) {
        let (guard, mut wait) = mpsc::channel(1);
        let began = Instant::now();
        for n in 0..count {
            start(self, guard.clone());
            let per_s = self.context.options.common.ramp;
            let next = began + Duration::from_secs_f64(f64::from(n + 1) / per_s);
            let left = next.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.pause(left, step).await;
            }
        }
        drop(guard);
        // Nothing is ever sent: the channel closes when the last guard is dropped. Each session has
        // its own time limits.
        let all = async move { while wait.recv().await.is_some() {} };
        self.wait_for(step, all).await;
    }

    fn add_publisher(&mut self, startup: StartupGuard) {
        let context = self.context.clone();
        self.publishers.add(|n, phases| async move {
            match context.options.common.client {
                Client::Light => publisher::publish(context, n, startup, phases).await,
                Client::Full => full::publish(context, n, startup, phases).await,
            }
        });
    }

    fn add_viewer(&mut self, startup: StartupGuard) {
        let context = self.context.clone();
        self.viewers.add(|n, phases| async move {
            match context.options.common.client {
                Client::Light => viewer::watch(context, n, startup, phases).await,
                Client::Full => full::watch(context, n, startup, phases).await,
            }
        });
    }

    /// The warm-up, the window, and the drain.
    async fn window(&mut self, interrupted: std::pin::Pin<&mut impl Future>) -> Window {
        self.pause(WARM_UP, "warm-up").await;
        let context = self.context.clone();
        let pools = [&context.publisher_loops, &context.viewer_loops];
        let pid = context.options.common.server_pid;
        let cpu = |pid| procfs::cpu(pid).map(procfs::Cpu::total_s);
        let began = Instant::now();
        let cpu_before = pid.and_then(cpu);
        let mut monitor = GeneratorMonitor::start(pools);
        let mut rss = 0;
        self.counting = true;
        self.set_phase(Phase::Count);

        tokio::select! {
            _ = interrupted => {}
            () = self.count(began, &mut monitor, &mut rss) => {}
        }

        self.set_phase(Phase::Drain);
        let seconds = began.elapsed().as_secs_f64();
        let cpu_after = pid.and_then(cpu);
        let generator = monitor.finish(pools);
        self.counting = false;
        self.pause(DRAIN, "drain").await;
        let server = cpu_before.zip(cpu_after).map(|(before, after)| (after - before, rss));
        Window { seconds, server, generator }
    }

    /// Waits for the end of the window that opened at `began`. Meanwhile it monitors the generator
    /// and the server's memory, and in a churn run it replaces viewers.
    async fn count(&mut self, began: Instant, monitor: &mut GeneratorMonitor, rss: &mut u64) {
        let context = self.context.clone();
        let pools = [&context.publisher_loops, &context.viewer_loops];
        let options = &context.options;
        let end = began + Duration::from_secs(options.common.duration.into());
        let mut next_look = began;
        let mut next_join = began;
        loop {
            let now = Instant::now();
            if now >= next_look {
                let rss_now = options.common.server_pid.and_then(procfs::rss_bytes);
                *rss = rss_now.unwrap_or(0).max(*rss);
                monitor.look(pools);
                next_look = now + MONITOR_INTERVAL;
            }
            if let Pattern::Churn(per_second) = options.pattern {
                if now >= next_join {
                    self.replace_oldest_viewer(now);
                    next_join += Duration::from_secs_f64(1.0 / per_second);
                }
                self.viewers.stop_retired(now);
            } else {
                next_join = end;
            }
            if now >= end {
                return;
            }
            let next = next_look.min(next_join).min(end);
            self.pause(next.saturating_duration_since(now), "counting").await;
        }
    }

    /// Retires the oldest viewer and starts a new one.
    fn replace_oldest_viewer(&mut self, now: Instant) {
        self.viewers.retire_oldest(now + DRAIN);
        self.context.viewer_loops.wake();
        // Nothing waits for the startup of this viewer.
        let (startup, _) = mpsc::channel(1);
        self.add_viewer(startup);
    }

    /// Sets the phase of all sessions. Viewers first, so that not more packets are counted as sent
    /// than as received.
    fn set_phase(&mut self, phase: Phase) {
        self.viewers.set_phase(phase);
        self.context.viewer_loops.wake();
        self.publishers.set_phase(phase);
        self.context.publisher_loops.wake();
    }

    /// Waits until all sessions have ended, at most for [`STOP_TIMEOUT`].
    async fn wait_for_end(&mut self) {
        let give_up = Instant::now() + STOP_TIMEOUT;
        while self.running() > 0 && Instant::now() < give_up {
            self.pause(STOP_POLL, "leaving").await;
            self.collect_results();
        }
    }

    /// Adds up the results of sessions that have ended.
    fn collect_results(&mut self) {
        while let Some(result) = self.viewers.next_result() {
            self.totals.add_viewer(result);
        }
        while let Some(result) = self.publishers.next_result() {
            self.totals.add_publisher(result);
        }
    }

    fn running(&self) -> usize {
        self.publishers.running() + self.viewers.running()
    }

    fn all_failed(&self) -> bool {
        LiveCounters::read(&self.context.live.failed) >= self.running() as u64
    }

    async fn pause(&mut self, time: Duration, step: &str) {
        self.wait_for(step, tokio::time::sleep(time)).await;
    }

    /// Waits for `future`, and meanwhile updates the progress line and the timeline.
    async fn wait_for(&mut self, step: &str, future: impl Future<Output = ()>) {
        tokio::pin!(future);
        loop {
            tokio::select! {
                () = &mut future => return,
                _ = self.tick.tick() => {
                    let now = Instant::now();
                    self.progress.draw(now, step, &self.context.live);
                    self.timeline.tick(now, &self.context.live, self.counting);
                    if self.counting {
                        self.collect_results();
                    }
                }
            }
        }
    }
}
