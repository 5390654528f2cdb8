//! One run from the first POST to the last DELETE: publishers, ramp, warm-up, the counted window, drain.
//!
//! Called by `main.rs` and by tests; spawns `publisher` and `viewer`, or the sessions of `full`; keeps `crowd`.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::crowd::Crowd;
use crate::dtls::Identity;
use crate::generator::{GeneratorHealth, GeneratorMonitor};
use crate::live::{Line, Live};
use crate::measures::{PublisherResult, ViewerResult};
use crate::options::{Client, Options, Pattern};
use crate::pool::Pool;
use crate::report::Report;
use crate::report::totals::Totals;
use crate::seat::Phase;
use crate::session::{Context, Settled};
use crate::timeline::Timeline;
use crate::whip::Http;
use crate::{full, machine, procfs, publisher, viewer};

/// Between the last publisher's connection and the first viewer: some servers know a stream only once media flows.
const SETTLE: Duration = Duration::from_millis(500);

/// Between the last viewer's first frame and the counted window.
const WARM_UP: Duration = Duration::from_secs(1);

/// After the window, for repairs of what was lost at its end.
const DRAIN: Duration = Duration::from_millis(1200);

/// Sessions that do not come back from their DELETE within this are left behind.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the line is redrawn and the timeline looks at the clock.
const TICK: Duration = Duration::from_millis(500);

/// Runs what `options` say. Ends early, but orderly, on the first interrupt.
///
/// # Errors
/// If the run could not begin; whatever happens in it is part of the report.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(pid) = options.common.server_pid {
        anyhow::ensure!(procfs::cpu(pid).is_some(), "--server-pid {pid}: there is no such process");
        if let Some(cpus) = &options.common.server_cpu {
            machine::move_process(pid, cpus)?;
        }
    }
    machine::make_room_for(options.publishers.saturating_add(options.viewers))?;
    let threads = options.common.threads.unwrap_or_else(machine::cpus) as usize;
    let context = Arc::new(Context {
        options: options.clone(),
        identity: Arc::new(Identity::new()?),
        http: Http::new(options.common.token.clone())?,
        live: Arc::new(Live::new()),
        run: rand::random(),
        publishing: Pool::start("publish", threads.min(options.publishers as usize))?,
        watching: Pool::start("watch", threads.min(options.viewers as usize))?,
    });
    // The clock's epoch is before the first stamp.
    crate::since_start_us(Instant::now());
    Conductor::new(context).run().await
}

struct Conductor {
    context: Arc<Context>,
    line: Line,
    tick: Interval,
    timeline: Timeline,
    counting: bool,
    publishers: Crowd<PublisherResult>,
    viewers: Crowd<ViewerResult>,
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

impl Conductor {
    fn new(context: Arc<Context>) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let churns = matches!(context.options.pattern, Pattern::Churn(_));
        let server = context.options.common.server_pid;
        Self {
            line: Line::new(),
            tick,
            timeline: Timeline::new(Instant::now(), &context.live, server),
            counting: false,
            publishers: Crowd::new(false),
            viewers: Crowd::new(churns),
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
            () = self.gather() => true,
        };
        if ready && !self.everybody_failed() {
            window = self.window(interrupted.as_mut()).await;
        }

        self.say(Phase::Stop);
        self.leave().await;
        self.line.clear();
        let vanished = (self.viewers.vanished(), self.publishers.vanished());
        let mut report = self.totals.finish(window.seconds);
        report.add_sessions_without_result(vanished.0, vanished.1);
        report.scenario = self.context.options.scenario;
        report.generator = window.generator;
        report.timeline = self.timeline.finish();
        if let Some((cpu_s, rss)) = window.server {
            report.add_server(cpu_s, rss);
        }
        Ok(report)
    }

    /// Publishers, then viewers, until each has settled.
    async fn gather(&mut self) {
        let (publishers, viewers) = (self.context.options.publishers, self.context.options.viewers);
        self.ramp(publishers, "publishers", Self::add_publisher).await;
        self.pause(SETTLE, "publishers").await;
        self.ramp(viewers, "ramp", |this, settled| {
            this.add_viewer(settled);
        })
        .await;
    }

    /// Starts `count` sessions at the ramp's rate, and waits until each has dropped its `settled`.
    async fn ramp(&mut self, count: u32, phase: &str, start: impl Fn(&mut Self, Settled)) {
        let (settled, mut wait) = mpsc::channel(1);
        let began = Instant::now();
        for n in 0..count {
            start(self, settled.clone());
            let ramp = self.context.options.common.ramp;
            let next = began + Duration::from_secs_f64(f64::from(n + 1) / ramp);
            let left = next.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.pause(left, phase).await;
            }
        }
        drop(settled);
        // Nobody ever sends: the channel ends when the last session is settled. Each has its own time limits.
        let all = async move { while wait.recv().await.is_some() {} };
        self.meanwhile(phase, all).await;
    }

    fn add_publisher(&mut self, settled: Settled) {
        let context = self.context.clone();
        self.publishers.add(|n, phases| async move {
            match context.options.common.client {
                Client::Light => publisher::publish(context, n, settled, phases).await,
                Client::Full => full::publish(context, n, settled, phases).await,
            }
        });
    }

    fn add_viewer(&mut self, settled: Settled) {
        let context = self.context.clone();
        self.viewers.add(|n, phases| async move {
            match context.options.common.client {
                Client::Light => viewer::watch(context, n, settled, phases).await,
                Client::Full => full::watch(context, n, settled, phases).await,
            }
        });
    }

    /// The warm-up and the counted window.
    async fn window(&mut self, interrupted: std::pin::Pin<&mut impl Future>) -> Window {
        self.pause(WARM_UP, "warm-up").await;
        let context = self.context.clone();
        let pools = [&context.publishing, &context.watching];
        let pid = context.options.common.server_pid;
        let cpu = |pid| procfs::cpu(pid).map(procfs::Cpu::total_s);
        let began = Instant::now();
        let cpu_before = pid.and_then(cpu);
        let mut monitor = GeneratorMonitor::begin(pools);
        self.counting = true;
        self.say(Phase::Count);

        let end = began + Duration::from_secs(context.options.common.duration.into());
        let mut rss = 0;
        tokio::select! {
            _ = interrupted => {}
            () = async {
                let mut next_look = began;
                let mut next_join = began;
                loop {
                    let now = Instant::now();
                    if now >= next_look {
                        rss = pid.and_then(procfs::rss_bytes).unwrap_or(0).max(rss);
                        monitor.look(pools);
                        next_look = now + Duration::from_secs(1);
                    }
                    if let Pattern::Churn(per_second) = context.options.pattern {
                        if now >= next_join {
                            self.replace_one(now);
                            next_join += Duration::from_secs_f64(1.0 / per_second);
                        }
                        self.viewers.let_go(now);
                    } else {
                        next_join = end;
                    }
                    if now >= end {
                        break;
                    }
                    let next = next_look.min(next_join).min(end);
                    self.pause(next.saturating_duration_since(now), "counting").await;
                }
            } => {}
        }

        self.say(Phase::Drain);
        let seconds = began.elapsed().as_secs_f64();
        let cpu_after = pid.and_then(cpu);
        let generator = monitor.finish(pools);
        self.counting = false;
        self.pause(DRAIN, "drain").await;
        let server = cpu_before.zip(cpu_after).map(|(before, after)| (after - before, rss));
        Window { seconds, server, generator }
    }

    /// Churn: the oldest viewer leaves, a new one joins.
    fn replace_one(&mut self, now: Instant) {
        self.viewers.dismiss_oldest(now + DRAIN);
        self.context.watching.ring();
        // Nobody waits for it.
        let (settled, _) = mpsc::channel(1);
        self.add_viewer(settled);
    }

    /// Tells everybody how the run goes on. Viewers first: what is sent must not be more than what is counted.
    fn say(&mut self, phase: Phase) {
        self.viewers.say(phase);
        self.context.watching.ring();
        self.publishers.say(phase);
        self.context.publishing.ring();
    }

    /// Waits until all have left, but not for ever.
    async fn leave(&mut self) {
        let give_up = Instant::now() + LEAVE_TIMEOUT;
        while self.viewers.present() + self.publishers.present() > 0 && Instant::now() < give_up {
            self.pause(Duration::from_millis(10), "leaving").await;
            self.reap();
        }
    }

    /// Adds up the parts of those who have left.
    fn reap(&mut self) {
        while let Some(result) = self.viewers.next_part() {
            self.totals.add_viewer(result);
        }
        while let Some(result) = self.publishers.next_part() {
            self.totals.add_publisher(result);
        }
    }

    fn everybody_failed(&self) -> bool {
        let all = self.publishers.present() + self.viewers.present();
        Live::read(&self.context.live.failed) >= all as u64
    }

    async fn pause(&mut self, time: Duration, phase: &str) {
        self.meanwhile(phase, tokio::time::sleep(time)).await;
    }

    /// Keeps the line and the timeline alive while something happens.
    async fn meanwhile(&mut self, phase: &str, happens: impl Future<Output = ()>) {
        tokio::pin!(happens);
        loop {
            tokio::select! {
                () = &mut happens => return,
                _ = self.tick.tick() => {
                    let now = Instant::now();
                    self.line.draw(now, phase, &self.context.live);
                    self.timeline.tick(now, &self.context.live, self.counting);
                    if self.counting {
                        self.reap();
                    }
                }
            }
        }
    }
}
