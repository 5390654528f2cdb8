//! The binary `weir`: reads the configuration, starts media and HTTP, waits for signals.
//!
//! Prints one line on stdout when it is ready, and everything else on stderr. Exit codes: 0 after a
//! drained stop, 2 for a configuration that is not valid or a port in use, 1 if it could not start
//! for another reason.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgMatches, FromArgMatches};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use weir::access::ListenerAccess;
use weir::activity::Timeouts;
use weir::addresses::Addresses;
use weir::advertise::interfaces;
use weir::cli::{self, Cli, Command};
use weir::config::{self, Config, ConfigError};
use weir::connections;
use weir::log::{Log, LogFilter};
use weir::{AppState, admin_app, app, server};
use weir_sfu::net::{Sfu, StartError};

/// Number of HTTP threads; media has threads of its own.
const HTTP_THREADS: usize = 2;

/// Niceness of HTTP threads, so that media threads run first (19 is the maximum).
#[cfg(target_os = "linux")]
const HTTP_NICE: i32 = 10;

/// Time in which sessions are closed when the server stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which the machine's addresses are looked at without a request, and repeated log lines are
/// summed up.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Exit code for a setting that cannot be used, or a port that another program has.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let matches = cli::matches_of(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match configure(&matches, &cli) {
        Ok((config, _, text)) if matches!(cli.command, Some(Command::CheckConfig)) => {
            // A reader that has seen enough may close the pipe.
            let _ = writeln!(std::io::stdout(), "{text}");
            complaints(&config).for_each(|complaint| complain(&format!("warning: {complaint}")));
            ExitCode::SUCCESS
        }
        Ok((config, media, text)) => match Log::start() {
            Ok(log) => {
                log.text(&text);
                let code = match run(&matches, &cli, config, media, &log) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => {
                        log.text(&format!("weir: {error:#}"));
                        match error.is::<ConfigError>() || error.is::<StartError>() {
                            true => ExitCode::from(BAD_CONFIGURATION),
                            false => ExitCode::FAILURE,
                        }
                    }
                };
                log.close();
                code
            }
            Err(error) => {
                complain(&format!("the thread of the log could not start: {error}"));
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            let origins = config::origins(&matches, &cli, rust_log().is_some()).unwrap_or_default();
            complain(&config::name_origin(error, &cli, &origins));
            ExitCode::from(BAD_CONFIGURATION)
        }
    }
}

/// Writes a line on stderr before there is a log. Nothing is to be done when it is closed.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "weir: {text}");
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
    let media = config.media(&interfaces);
    let origins = config::origins(matches, cli, rust_log().is_some())?;
    let text = config::describe(&config, &origins);
    Ok((config, media, text))
}

fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the main thread owns no media; it only waits here")]
fn run(
    matches: &ArgMatches,
    cli: &Cli,
    config: Config,
    media: weir_sfu::config::Config,
    log: &Log,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("weir-http")
        .on_thread_start(yield_to_media)
        .enable_all()
        .build()
        .context("the HTTP threads could not start")?;
    runtime.block_on(serve(matches, cli, config, media, log))
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

/// What is odd about the settings, although the server can start with them.
fn complaints(config: &Config) -> impl Iterator<Item = String> {
    cli::unknown_variables(std::env::vars_os()).into_iter().chain(config.shared_cpus())
}

async fn serve(
    matches: &ArgMatches,
    cli: &Cli,
    mut config: Config,
    media: weir_sfu::config::Config,
    log: &Log,
) -> anyhow::Result<()> {
    let filter = log.init(&config.log, config.log_format);
    // Before anything else, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    for complaint in complaints(&config) {
        tracing::warn!("{complaint}");
    }
    let open_files = server::raise_open_files();
    let (places, per_network) = connections::places(open_files);
    if let Some(files) = open_files.filter(|_| places < connections::CONNECTIONS_MAX) {
        tracing::warn!(
            "the limit of open files is {files}, so there are {places} places for HTTP connections, {per_network} \
             per client network{}",
            server::OPEN_FILES_REMEDY
        );
    }

    let http = listen("http", config.http)?;
    let http_addr = http.local_addr()?;
    let sfu = Sfu::start(media)?;
    let addresses = Addresses::following(interfaces);
    let state = AppState::with_addresses(sfu.clone(), config.clone(), addresses);
    let access = ListenerAccess::of_http(config.http, config.insecure_open);

    let (stop, stopped) = watch::channel(false);
    let (limit, timeouts) = (state.connections.clone(), Timeouts::default());
    limit.set_places(places, per_network);
    state.listeners.set_places(places);
    limit.set_trusted(config.trusted_proxy.clone());
    let mut servers = tokio::task::JoinSet::new();
    let app = app(state.clone(), access);
    servers.spawn(server::serve(http, app, limit.clone(), timeouts, stopped.clone()));
    if let Some(addr) = config.admin_http {
        let admin = listen("admin-http", addr)?;
        tracing::info!(addr = %admin.local_addr()?, "admin API and metrics");
        let app = admin_app(state.clone(), ListenerAccess::of_admin_http(addr));
        servers.spawn(server::serve(admin, app, limit, timeouts, stopped));
    }
    state.refresh_addresses();
    print_ready(http_addr, sfu.media_addr());

    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {
                state.refresh_addresses();
                log.sum_up();
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(matches, cli, &mut config, &state, &filter),
        }
    }

    tracing::info!(
        "stopping: no new sessions are accepted; streams to close: {}",
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

fn listen(key: &'static str, addr: SocketAddr) -> Result<TcpListener, ConfigError> {
    server::listen(addr).map_err(|error| {
        let taken = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another program has this port, perhaps another weir: stop it or choose another port"
            }
            _ => "",
        };
        ConfigError { key, problem: format!("cannot listen on {addr}: {error}{taken}") }
    })
}

/// Writes the line that scripts wait for: exactly this text, once, on stdout. In a thread of its own: a pipe
/// that is full already must not stop the server.
fn print_ready(http: SocketAddr, media: SocketAddr) {
    let print = move || {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "weir ready http={http} media={media}");
        let _ = stdout.flush();
    };
    if let Err(error) = std::thread::Builder::new().name("weir-ready".into()).spawn(print) {
        tracing::warn!(%error, "the ready line could not be printed");
    }
}

/// Reads the file again (SIGHUP). A file that is not valid changes nothing.
fn reload(
    matches: &ArgMatches,
    cli: &Cli,
    config: &mut Config,
    state: &AppState,
    filter: &LogFilter,
) {
    let new = match Config::load(cli, rust_log()) {
        Ok(new) => new,
        Err(error) => {
            let origins = config::origins(matches, cli, rust_log().is_some()).unwrap_or_default();
            let problem = config::name_origin(error, cli, &origins);
            tracing::error!("reload: {problem}; nothing was changed");
            return;
        }
    };
    let changes = config.changes(&new);
    let list = |needs_restart| {
        let texts = changes.iter().filter(|change| change.needs_restart == needs_restart);
        texts.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (changed, restart) = (list(false), list(true));
    if !restart.is_empty() {
        tracing::warn!("reload: these settings take effect after a restart: {restart}");
    }
    config.apply_reloadable(new);
    filter.set(&config.log);
    state.connections.set_trusted(config.trusted_proxy.clone());
    state.set_config(config.clone());
    match (&cli.config, changed.as_str()) {
        (None, _) => tracing::info!("reload: there is no --config file to read"),
        (Some(_), "") => tracing::info!("reload: no setting that a reload applies has changed"),
        (Some(_), changed) => tracing::info!("reload: changed: {changed}"),
    }
}
