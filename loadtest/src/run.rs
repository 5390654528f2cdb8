//! One run from the first POST to the last DELETE: publishers, ramp, warm-up, the counted window, drain.
//!
//! Called by `main.rs` and by tests; spawns `publisher` and `viewer`, or the sessions of `full`.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::dtls::Identity;
use crate::full;
use crate::live::{Line, Live};
use crate::options::{Client, Options};
use crate::procfs;
use crate::report::{PublisherPart, Report, ViewerPart};
use crate::session::{Context, Phase, Settled};
use crate::whip::Http;
use crate::{publisher, viewer};

/// Between the last publisher's connection and the first viewer: some servers know a stream only once media flows.
const SETTLE: Duration = Duration::from_millis(500);

/// Between the last viewer's first frame and the counted window.
const WARM_UP: Duration = Duration::from_secs(1);

/// After the window, for repairs of what was lost at its end.
const DRAIN: Duration = Duration::from_millis(1200);

/// Sessions that do not come back from their DELETE within this are left behind.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs what `options` say. Ends early, but orderly, on the first interrupt.
///
/// # Errors
/// If the run could not begin; whatever happens in it is part of the report.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    if let Some(pid) = options.server_pid {
        anyhow::ensure!(
            procfs::cpu_s(pid).is_some(),
            "--server-pid {pid}: there is no such process"
        );
    }
    let context = Arc::new(Context {
        options: options.clone(),
        identity: Arc::new(Identity::new()?),
        http: Http::new(options.token.clone())?,
        live: Arc::new(Live::default()),
        run: rand::random(),
    });
    // The clock's epoch is before the first stamp.
    crate::since_start_us(Instant::now());
    Conductor { line: Line::new(), context }.run().await
}

struct Conductor {
    context: Arc<Context>,
    line: Line,
}

impl Conductor {
    async fn run(mut self) -> anyhow::Result<Report> {
        let options = self.context.options.clone();
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);

        let (publish_phase, phases) = watch::channel(Phase::Ramp);
        let (watch_phase, watch_phases) = watch::channel(Phase::Ramp);
        let mut publishers: JoinSet<PublisherPart> = JoinSet::new();
        let mut viewers: JoinSet<ViewerPart> = JoinSet::new();

        let mut window_s = 0.0;
        let mut server = None;
        tokio::select! {
            _ = &mut interrupted => {}
            () = async {
                let (settled, wait) = mpsc::channel(1);
                let context = self.context.clone();
                self.ramp(options.publishers, settled, wait, "publishers", |n, settled| {
                    let (context, phases) = (context.clone(), phases.clone());
                    match context.options.client {
                        Client::Light => publishers.spawn(publisher::publish(context, n, settled, phases)),
                        Client::Full => publishers.spawn(full::publish(context, n, settled, phases)),
                    };
                }).await;
                self.pause(SETTLE, "publishers").await;
                let (settled, wait) = mpsc::channel(1);
                self.ramp(options.viewers, settled, wait, "ramp", |n, settled| {
                    let (context, phases) = (context.clone(), watch_phases.clone());
                    match context.options.client {
                        Client::Light => viewers.spawn(viewer::watch(context, n, settled, phases)),
                        Client::Full => viewers.spawn(full::watch(context, n, settled, phases)),
                    };
                }).await;
            } => {
                if !self.everybody_failed(publishers.len(), viewers.len()) {
                    let phases = (&publish_phase, &watch_phase);
                    (window_s, server) = self.window(phases, interrupted.as_mut()).await;
                }
            }
        }

        let (viewers_in_all, publishers_in_all) = (viewers.len(), publishers.len());
        let viewer_parts = self.leave(&watch_phase, viewers).await;
        let publisher_parts = self.leave(&publish_phase, publishers).await;
        let vanished =
            (viewers_in_all - viewer_parts.len(), publishers_in_all - publisher_parts.len());
        self.line.clear();
        let mut report = Report::sum(window_s, publisher_parts, viewer_parts);
        report.add_vanished(vanished);
        if let Some((cpu_s, rss)) = server {
            report.add_server(cpu_s, rss);
        }
        Ok(report)
    }

    /// Starts `count` sessions at the ramp's rate, and waits until each has dropped its `settled`.
    async fn ramp(
        &mut self,
        count: u32,
        settled: Settled,
        mut wait: mpsc::Receiver<()>,
        phase: &str,
        mut start: impl FnMut(u32, Settled),
    ) {
        let began = Instant::now();
        for n in 0..count {
            start(n, settled.clone());
            let next =
                began + Duration::from_secs_f64(f64::from(n + 1) / self.context.options.ramp);
            let left = next.saturating_duration_since(Instant::now());
            self.pause(left, phase).await;
        }
        drop(settled);
        // Nobody ever sends: the channel ends when the last session is settled. Each has its own time limits.
        let all = async move { while wait.recv().await.is_some() {} };
        self.draw_while(phase, all).await;
    }

    /// The warm-up and the counted window: its length, and what the server used in it.
    async fn window(
        &mut self,
        (publish, watch): (&watch::Sender<Phase>, &watch::Sender<Phase>),
        interrupted: std::pin::Pin<&mut impl Future>,
    ) -> (f64, Option<(f64, u64)>) {
        self.pause(WARM_UP, "warm-up").await;
        let pid = self.context.options.server_pid;
        let began = Instant::now();
        let cpu_before = pid.and_then(procfs::cpu_s);
        publish.send_replace(Phase::Count);
        watch.send_replace(Phase::Count);

        let length = Duration::from_secs(self.context.options.duration.into());
        let mut rss = 0;
        tokio::select! {
            _ = interrupted => {}
            () = async {
                let mut left = length;
                while !left.is_zero() {
                    rss = pid.and_then(procfs::rss_bytes).unwrap_or(0).max(rss);
                    self.pause(left.min(Line::INTERVAL), "counting").await;
                    left = length.saturating_sub(began.elapsed());
                }
            } => {}
        }

        watch.send_replace(Phase::Drain);
        publish.send_replace(Phase::Drain);
        let window_s = began.elapsed().as_secs_f64();
        let cpu_after = pid.and_then(procfs::cpu_s);
        self.pause(DRAIN, "drain").await;
        let server = cpu_before.zip(cpu_after).map(|(before, after)| (after - before, rss));
        (window_s, server)
    }

    /// Tells everybody to leave, and collects their parts.
    async fn leave<T: 'static + Send>(
        &mut self,
        phase: &watch::Sender<Phase>,
        mut sessions: JoinSet<T>,
    ) -> Vec<T> {
        phase.send_replace(Phase::Stop);
        let mut parts = Vec::with_capacity(sessions.len());
        let all = async {
            while let Some(part) = sessions.join_next().await {
                match part {
                    Ok(part) => parts.push(part),
                    Err(error) => tracing::error!("a session panicked: {error}"),
                }
            }
        };
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, self.draw_while("leaving", all)).await;
        parts
    }

    fn everybody_failed(&self, publishers: usize, viewers: usize) -> bool {
        let failed = self.context.live.failed.load(std::sync::atomic::Ordering::Relaxed);
        failed >= (publishers + viewers) as u64
    }

    async fn pause(&mut self, time: Duration, phase: &str) {
        self.draw_while(phase, tokio::time::sleep(time)).await;
    }

    /// Keeps the progress line alive while something happens.
    async fn draw_while(&mut self, phase: &str, happens: impl Future<Output = ()>) {
        tokio::pin!(happens);
        loop {
            tokio::select! {
                () = &mut happens => return,
                () = tokio::time::sleep(Line::INTERVAL) => self.line.draw(phase, &self.context.live),
            }
        }
    }
}
