//! The binary `weir`: reads the configuration, starts media and HTTP, waits for signals.
//!
//! Prints one line on stdout when it is ready, and everything else on stderr. Exit codes: 0 after a
//! drained stop, 1 if it could not start, 2 for a configuration that is not valid.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use weir::access::ListenerAccess;
use weir::advertise::interfaces;
use weir::cli::{Cli, Command};
use weir::config::{self, Config, ConfigError};
use weir::limits::ConnectionLimit;
use weir::{AppState, admin_app, app, log, server};
use weir_sfu::net::Sfu;

/// Number of HTTP threads; media has threads of its own.
const HTTP_THREADS: usize = 2;

/// Niceness of HTTP threads, so that media threads run first (19 is the maximum).
#[cfg(target_os = "linux")]
const HTTP_NICE: i32 = 10;

/// Time in which sessions are closed when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match configure(&matches, &cli) {
        Ok((_, _, text)) if matches!(cli.command, Some(Command::CheckConfig)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok((config, media, text)) => {
            eprintln!("{text}");
            match run(&cli, config, media) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("weir: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::from(2)
        }
    }
}

/// The configuration, the media plane's part of it, and the text that explains both.
fn configure(
    matches: &ArgMatches,
    cli: &Cli,
) -> Result<(Config, weir_sfu::config::Config, String), ConfigError> {
    let config = Config::load(cli, rust_log())?;
    let interfaces = interfaces().map_err(|error| ConfigError {
        key: "advertise",
        problem: format!("the addresses of this machine cannot be listed: {error}"),
    })?;
    let media = config.media(&interfaces)?;
    let origins = config::origins(matches, cli, rust_log().is_some())?;
    let text = config::describe(&config, &origins);
    Ok((config, media, text))
}

fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the main thread owns no media; it only waits here")]
fn run(cli: &Cli, config: Config, media: weir_sfu::config::Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("weir-http")
        .on_thread_start(yield_to_media)
        .enable_all()
        .build()
        .context("the HTTP threads could not start")?;
    runtime.block_on(serve(cli, config, media))
}

/// Lowers the priority of an HTTP thread where HTTP and media share a core. A join storm keeps HTTP
/// busy, and a media thread that wakes up meanwhile would wait for the rest of its time slice. HTTP
/// still gets about a tenth of a core that media keeps busy.
fn yield_to_media() {
    // On other systems it would lower the priority of the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(HTTP_NICE) {
        tracing::debug!(%error, "the priority of an HTTP thread cannot be lowered");
    }
}

async fn serve(
    cli: &Cli,
    mut config: Config,
    media: weir_sfu::config::Config,
) -> anyhow::Result<()> {
    let filter = log::init(&config.log, config.log_format);
    // Before anything else, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let open_files = server::raise_open_files();
    tracing::debug!(?open_files, "limit of open files");

    let http = listen("http", config.http).await?;
    let http_addr = http.local_addr()?;
    let sfu = Sfu::start(media)?;
    let state = AppState::new(sfu.clone(), config.clone());
    let access = ListenerAccess::of_http(config.http, config.insecure_open);

    let (stop, stopped) = watch::channel(false);
    let connections = ConnectionLimit::default();
    let mut servers = tokio::task::JoinSet::new();
    let app = app(state.clone(), access);
    servers.spawn(server::serve(http, app, connections.clone(), stopped.clone()));
    if let Some(addr) = config.admin_http {
        let admin = listen("admin-http", addr).await?;
        tracing::info!(addr = %admin.local_addr()?, "admin API and metrics");
        let app = admin_app(state.clone(), ListenerAccess::of_admin_http(addr));
        servers.spawn(server::serve(admin, app, connections, stopped));
    }
    print_ready(http_addr, sfu.media_addr());

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(cli, &mut config, &state, &filter),
        }
    }

    tracing::info!(
        "stopping: no new sessions are accepted, {} streams are closed",
        sfu.inspection().streams().await.len()
    );
    sfu.operations().drain();
    let stopping = async {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, sfu.operations().shutdown()).await;
        stop.send_replace(true);
        servers.join_all().await;
    };
    tokio::select! {
        () = stopping => {}
        _ = terminate.recv() => tracing::warn!("second signal: stopping at once"),
        _ = interrupt.recv() => tracing::warn!("second signal: stopping at once"),
    }
    Ok(())
}

async fn listen(key: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("{key}: cannot listen on {addr}"))
}

/// Writes the line that scripts wait for: exactly this text, once, on stdout.
fn print_ready(http: SocketAddr, media: SocketAddr) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "weir ready http={http} media={media}");
    let _ = stdout.flush();
}

/// Reads the file again (SIGHUP). A file that is not valid changes nothing.
fn reload(cli: &Cli, config: &mut Config, state: &AppState, filter: &log::LogFilter) {
    let new = match Config::load(cli, rust_log()) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!("reload: {error}; nothing was changed");
            return;
        }
    };
    let restart = config.needs_restart(&new);
    if !restart.is_empty() {
        tracing::warn!(
            keys = restart.join(", "),
            "reload: these settings take effect after a restart"
        );
    }
    config.apply_reloadable(new);
    filter.set(&config.log);
    state.set_config(config.clone());
    tracing::info!("configuration reloaded");
}
