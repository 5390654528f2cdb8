//! What the operator asked for, merged, checked and explained.
//!
//! Flags > `WEIR_*` > file > defaults. Nothing else in the process reads flags, environment or the
//! file. [`Config::media`] is the one place that turns it into the media plane's own
//! configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::Uri;
use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::de::DeserializeOwned;

use weir_sfu::config::WORKERS_MAX;
use weir_sfu::net::{StartMode, UnknownStartMode, usable_cpus};

use crate::advertise::{Advertise, Interface};
use crate::cli::{Cli, LogFormat, Settings};
use crate::cpus::WorkerCpus;

/// The configuration, complete and valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where WHIP, WHEP and the pages are served.
    pub http: SocketAddr,
    /// UDP port for media; 0 takes a free one.
    pub media_port: u16,
    /// Addresses for clients; `None` if nobody asked, which is `auto`.
    pub advertise: Option<Advertise>,
    /// Whether those without authentication are served off loopback.
    pub insecure_open: bool,
    /// Where the admin API is served besides.
    pub admin_http: Option<SocketAddr>,
    /// Media threads, at least one.
    pub workers: usize,
    /// CPUs to keep them on.
    pub worker_cpus: WorkerCpus,
    /// How logs look.
    pub log_format: LogFormat,
    /// What to log.
    pub log: String,
    /// The rest of what SIGHUP can change.
    pub live: Live,
}

/// Settings that requests read as they are at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Base of session URLs, without a slash at its end.
    pub public_url: Option<String>,
    /// Whether a PATCH without If-Match is refused.
    pub strict: bool,
    /// POSTs per second and client network; 0 is no limit.
    pub post_rate: u32,
    /// How much of the past a viewer gets that does not say.
    pub start: StartMode,
}

/// A setting that cannot be used. The text names its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad configuration: {key}: {problem}")]
pub struct ConfigError {
    /// The setting: the long flag without dashes in front, and the key in the file.
    pub key: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

/// Keys that a running server can take over from the file; the others need a restart.
const LIVE_KEYS: [&str; 5] = ["public-url", "strict", "post-rate", "start", "log"];

impl Config {
    /// Merges what `cli` and its file say, and checks it. `rust_log` is `RUST_LOG`.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn load(cli: &Cli, rust_log: Option<String>) -> Result<Self, ConfigError> {
        let env = Settings { log: rust_log, ..Settings::default() };
        Self::resolve(cli.settings.clone().or(env).or(read_file(cli)?))
    }

    fn resolve(settings: Settings) -> Result<Self, ConfigError> {
        let insecure_open = settings.insecure_open.unwrap_or(false);
        let http = listener("http", settings.http.as_deref().unwrap_or("127.0.0.1:8080"))?;
        let admin_http =
            settings.admin_http.as_deref().map(|text| listener("admin-http", text)).transpose()?;
        for (key, addr) in [("http", Some(http)), ("admin-http", admin_http)] {
            let Some(addr) = addr else { continue };
            if !addr.ip().is_loopback() && !insecure_open {
                return bad(
                    key,
                    format!(
                        "{addr} is not a loopback address and no authentication is set up; serve on \
                         127.0.0.1, or let in anyone who can reach the server with --insecure-open"
                    ),
                );
            }
        }
        if admin_http.is_some_and(|admin| admin == http && admin.port() != 0) {
            return bad("admin-http", "is the same address as http; give another port");
        }
        let advertise = settings.advertise.as_deref().map(Advertise::parse).transpose();
        let advertise = advertise.or_else(|problem| bad("advertise", problem))?;
        let worker_cpus =
            WorkerCpus::parse(settings.worker_cpus.as_deref().unwrap_or("none"), &usable_cpus());
        let worker_cpus = worker_cpus.or_else(|problem| bad("worker-cpus", problem))?;
        let workers = match settings.workers {
            Some(n) if !(1..=WORKERS_MAX).contains(&n) => {
                return bad("workers", format!("is {n}; give 1 to {WORKERS_MAX}"));
            }
            Some(n) => n,
            None if !worker_cpus.cpus().is_empty() => worker_cpus.cpus().len().min(WORKERS_MAX),
            None => std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX),
        };
        let log = settings.log.unwrap_or_else(|| "info".into());
        if let Err(problem) = tracing_subscriber::EnvFilter::try_new(&log) {
            return bad("log", format!("`{log}`: {problem}"));
        }
        let start: Result<Option<StartMode>, UnknownStartMode> =
            settings.start.as_deref().map(str::parse).transpose();
        let start = start.or_else(|problem| bad("start", problem.to_string()))?;
        let live = Live {
            public_url: settings.public_url.as_deref().map(public_url).transpose()?,
            strict: settings.strict.unwrap_or(false),
            post_rate: settings.post_rate.unwrap_or(50),
            start: start.unwrap_or_default(),
        };
        Ok(Self {
            http,
            media_port: settings.media_port.unwrap_or(8189),
            advertise,
            insecure_open,
            admin_http,
            workers,
            worker_cpus,
            log_format: settings.log_format.unwrap_or_default(),
            log,
            live,
        })
    }

    /// The media plane's configuration. With HTTP on loopback and nothing advertised, media stays
    /// on loopback too. A candidate with port 0 means the port that media gets bound to.
    ///
    /// # Errors
    /// `advertise`, when this machine has no address to offer.
    pub fn media(&self, interfaces: &[Interface]) -> Result<weir_sfu::config::Config, ConfigError> {
        let local_clients = self.http.ip().is_loopback();
        let (ip, interfaces): (IpAddr, _) = match &self.advertise {
            None if local_clients => (Ipv4Addr::LOCALHOST.into(), &[][..]),
            _ => (Ipv6Addr::UNSPECIFIED.into(), interfaces),
        };
        let advertise = self.advertise.as_ref().unwrap_or(&Advertise::Auto);
        let candidates = advertise.candidates(self.media_port, local_clients, interfaces);
        if candidates.is_empty() {
            return bad(
                "advertise",
                "this machine has no address that others can reach; give --advertise ADDR",
            );
        }
        Ok(weir_sfu::config::Config {
            media_addr: SocketAddr::new(ip, self.media_port),
            workers: self.workers,
            worker_cpus: self.worker_cpus.cpus().to_vec(),
            advertise: candidates,
            ..weir_sfu::config::Config::default()
        })
    }

    /// Keys that differ in `new` and that a running server cannot take over.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changed = self.entries().into_iter().zip(new.entries()).filter(|(old, new)| old != new);
        changed.map(|((key, _), _)| key).filter(|key| !LIVE_KEYS.contains(key)).collect()
    }

    /// Every key with its value as TOML, in the order of the help.
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let unset = || "unset".to_owned();
        let advertise = self.advertise.as_ref().map_or("auto".into(), ToString::to_string);
        let log_format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        vec![
            ("http", quoted(&self.http.to_string())),
            ("media-port", self.media_port.to_string()),
            ("advertise", quoted(&advertise)),
            ("public-url", self.live.public_url.as_deref().map_or_else(unset, quoted)),
            ("insecure-open", self.insecure_open.to_string()),
            ("admin-http", self.admin_http.map_or_else(unset, |a| quoted(&a.to_string()))),
            ("post-rate", self.live.post_rate.to_string()),
            ("strict", self.live.strict.to_string()),
            ("start", quoted(self.live.start.label())),
            ("workers", self.workers.to_string()),
            ("worker-cpus", quoted(&self.worker_cpus.to_string())),
            ("log", quoted(&self.log)),
            ("log-format", quoted(log_format)),
        ]
    }
}

/// Where each value comes from: `flag`, a variable or `file`; a key that is absent has its default.
/// Read from the raw arguments because merging forgets it. `rust_log` tells that `RUST_LOG` is set.
///
/// # Errors
/// `config`, when the file cannot be read any more.
pub fn origins(
    matches: &ArgMatches,
    cli: &Cli,
    rust_log: bool,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let keys = read_file::<toml::Table>(cli)?;
    let in_file = keys.keys().map(|key| key.replace("public-ip", "advertise"));
    let mut origins: BTreeMap<_, _> = in_file.map(|key| (key, "file".to_owned())).collect();
    if rust_log {
        origins.insert("log".into(), "RUST_LOG".into());
    }
    for id in matches.ids().map(clap::Id::as_str) {
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag".into(),
            Some(ValueSource::EnvVariable) => format!("WEIR_{}", id.to_ascii_uppercase()),
            _ => continue,
        };
        origins.insert(id.replace('_', "-"), origin);
    }
    Ok(origins)
}

/// The effective configuration for people (TOML with comments) or for machines (one JSON line).
pub fn describe(config: &Config, origins: &BTreeMap<String, String>) -> String {
    let origin = |key: &str| origins.get(key).map_or("default", String::as_str);
    match config.log_format {
        LogFormat::Text => {
            let line = |(key, value): (&str, String)| {
                let setting = format!("{key} = {value}");
                format!("{setting:<40} # {}", origin(key))
            };
            config.entries().into_iter().map(line).collect::<Vec<_>>().join("\n")
        }
        LogFormat::Json => {
            let values: serde_json::Map<_, _> = config
                .entries()
                .into_iter()
                .map(|(key, value)| {
                    let value = serde_json::from_str(&value).unwrap_or(serde_json::Value::Null);
                    (key.to_owned(), serde_json::json!({ "value": value, "from": origin(key) }))
                })
                .collect();
            serde_json::json!({ "configuration": values }).to_string()
        }
    }
}

/// The file as keys and values, or as settings; absent without `--config`.
fn read_file<T: DeserializeOwned + Default>(cli: &Cli) -> Result<T, ConfigError> {
    let Some(path) = &cli.config else { return Ok(T::default()) };
    let complain = |problem: String| bad("config", format!("{}: {problem}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).or_else(|problem| complain(problem.to_string())),
        Err(problem) => complain(problem.to_string()),
    }
}

fn bad<T>(key: &'static str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { key, problem: problem.into() })
}

fn listener(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    let numeric = match text.split_once(':') {
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    };
    numeric.parse().or_else(|_| {
        bad(key, format!("`{text}` is not ADDR:PORT; give for example 127.0.0.1:8080 or [::]:8080"))
    })
}

/// An absolute http or https URL without query, as it will be put before session paths.
fn public_url(text: &str) -> Result<String, ConfigError> {
    let plain =
        text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(['?', '#', ';', ',', '\'']);
    let uri: Option<Uri> = text.parse().ok().filter(|_| plain);
    let known = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    };
    if !uri.as_ref().is_some_and(known) {
        let problem = format!("`{text}` is not a URL such as https://live.example.org");
        return bad("public-url", problem);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};
    use std::io::Write;

    fn load(args: &[&str]) -> Result<Config, ConfigError> {
        Config::load(&parse(args).1, None)
    }

    fn parse(args: &[&str]) -> (ArgMatches, Cli) {
        let matches = Cli::command().get_matches_from(["weir"].iter().chain(args));
        let cli = Cli::from_arg_matches(&matches).unwrap();
        (matches, cli)
    }

    fn file(text: &str) -> (tempfile::NamedTempFile, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, path)
    }

    fn key_of(args: &[&str]) -> &'static str {
        load(args).unwrap_err().key
    }

    #[test]
    fn defaults_are_this_machine_only() {
        let config = load(&[]).unwrap();
        assert_eq!(config.http.to_string(), "127.0.0.1:8080");
        assert_eq!(config.media_port, 8189);
        assert!(config.workers >= 1);
        assert_eq!(load(&["--http", "localhost:0"]).unwrap().http.to_string(), "127.0.0.1:0");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let (_file, path) = file("media-port = 7000\nworkers = 3\nadvertise = \"10.0.0.1, ::1\"");
        let args = ["--config", &path, "--workers", "2"];
        let config = load(&args).unwrap();
        assert_eq!((config.media_port, config.workers), (7000, 2));
        assert_eq!(config.advertise.as_ref().unwrap().to_string(), "10.0.0.1,::1");

        let (matches, cli) = parse(&args);
        let text = describe(&config, &origins(&matches, &cli, true).unwrap());
        let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line("media-port = 7000").ends_with("# file"), "{text}");
        assert!(line("workers = 2").ends_with("# flag"), "{text}");
        assert!(line("http = ").ends_with("# default"), "{text}");
        assert!(line("log = ").ends_with("# RUST_LOG"), "{text}");
    }

    #[test]
    fn a_list_of_cpus_asks_for_as_many_workers() {
        let cpu = usable_cpus()[0].to_string();
        let config = load(&["--worker-cpus", &cpu]).unwrap();
        assert_eq!((config.workers, config.worker_cpus.to_string()), (1, cpu.clone()));
        assert_eq!(load(&["--worker-cpus", &cpu, "--workers", "3"]).unwrap().workers, 3);
        assert_eq!(load(&["--worker-cpus", "auto"]).unwrap().workers, usable_cpus().len());
    }

    #[test]
    fn rust_log_stands_between_flag_and_file() {
        let (_file, path) = file("log = \"warn\"");
        let with = |args: &[&str]| Config::load(&parse(args).1, Some("debug".into())).unwrap().log;
        assert_eq!(with(&["--config", &path]), "debug");
        assert_eq!(with(&["--config", &path, "--log", "error"]), "error");
    }

    #[test]
    fn off_loopback_needs_insecure_open() {
        assert_eq!(key_of(&["--http", "0.0.0.0:8080"]), "http");
        assert_eq!(key_of(&["--admin-http", "10.0.0.1:9"]), "admin-http");
        let open = ["--http", "0.0.0.0:8080", "--admin-http", "[::]:9", "--insecure-open"];
        assert!(load(&open).unwrap().insecure_open);
    }

    #[test]
    fn a_bad_value_is_named_by_its_key() {
        assert_eq!(key_of(&["--http", "8080"]), "http");
        assert_eq!(key_of(&["--workers", "0"]), "workers");
        assert_eq!(key_of(&["--workers", "257"]), "workers");
        assert_eq!(key_of(&["--worker-cpus", "999999"]), "worker-cpus");
        assert_eq!(key_of(&["--advertise", "example.org"]), "advertise");
        assert_eq!(key_of(&["--log", "weir=loudly"]), "log");
        assert_eq!(key_of(&["--start", "slowly"]), "start");
        assert_eq!(key_of(&["--admin-http", "127.0.0.1:8080"]), "admin-http");
        assert_eq!(key_of(&["--config", "/does/not/exist"]), "config");
        for url in ["live.example.org", "ftp://a", "https://a/?b", "https://u@a", "https://a b"] {
            assert_eq!(key_of(&["--public-url", url]), "public-url", "{url}");
        }
        for (text, named) in [
            ("htpp = 1", "htpp"),
            ("workers = \"x\"", "workers"),
            ("=", "TOML parse error at line 1"),
        ] {
            let (_file, path) = file(text);
            let error = load(&["--config", &path]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_public_url_keeps_its_path_and_loses_its_slash() {
        let config = load(&["--public-url", "https://a.example:8443/weir/"]).unwrap();
        assert_eq!(config.live.public_url.unwrap(), "https://a.example:8443/weir");
    }

    #[test]
    fn media_stays_on_loopback_until_someone_advertises() {
        let lan =
            Interface { name: "eth0".into(), ip: "10.0.0.7".parse().unwrap(), default_route: true };
        let lan = [lan];
        let media = |args: &[&str]| load(args).unwrap().media(&lan);
        let text = |config: weir_sfu::config::Config| {
            let candidates: Vec<_> = config.advertise.iter().map(ToString::to_string).collect();
            format!("{} {}", config.media_addr, candidates.join(" "))
        };
        assert_eq!(text(media(&[]).unwrap()), "127.0.0.1:8189 127.0.0.1:8189");
        let auto = media(&["--advertise", "auto"]).unwrap();
        assert_eq!(text(auto), "[::]:8189 10.0.0.7:8189 127.0.0.1:8189");
        let open =
            media(&["--http", "0.0.0.0:80", "--insecure-open", "--media-port", "0"]).unwrap();
        assert_eq!(text(open), "[::]:0 10.0.0.7:0");
        let alone = load(&["--http", "0.0.0.0:80", "--insecure-open"]).unwrap().media(&[]);
        assert_eq!(alone.unwrap_err().key, "advertise");
    }

    #[test]
    fn a_reload_tells_what_needs_a_restart() {
        let old = load(&[]).unwrap();
        let new =
            load(&["--strict", "--media-port", "1", "--log", "debug", "--start", "wait"]).unwrap();
        assert_eq!(new.live.start, StartMode::Wait);
        assert_eq!(old.needs_restart(&new), ["media-port"]);
    }

    #[test]
    fn the_json_form_is_one_line_with_every_key() {
        let config = load(&["--log-format", "json"]).unwrap();
        let text = describe(&config, &BTreeMap::new());
        assert!(!text.contains('\n'));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["configuration"]["http"]["value"], "127.0.0.1:8080");
        assert_eq!(json["configuration"]["public-url"]["value"], serde_json::Value::Null);
        assert_eq!(json["configuration"].as_object().unwrap().len(), config.entries().len());
    }
}
