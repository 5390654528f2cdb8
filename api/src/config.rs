//! The effective configuration: merged from all sources, checked, explained.
//!
//! Order of precedence: flags, `WEIR_*` variables, file, defaults. Nothing else in the process
//! reads flags, environment or the file. [`Config::media`] is the one place that turns it into the
//! media plane's configuration. Called by `main.rs`; each setting by itself is in `settings.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::de::DeserializeOwned;
use weir_sfu::config::PublisherLimits;

use crate::advertise::{Advertise, Interface};
use crate::cli::Cli;
use crate::log::LogFormat;
use crate::nearest::nearest;
use crate::refused_offers::shortened;
pub use crate::setting::ConfigError;
use crate::setting::Setting;
use crate::settings::SETTINGS;
pub use crate::settings::{Config, Settings};

/// Maximum bytes of the file; a longer one is refused.
const FILE_MAX: u64 = 1024 * 1024;
/// Maximum characters of a line of the file that an error shows; the rest is cut.
const LINE_MAX: usize = 120;
/// Maximum characters of what the TOML reader says, which has parts of the file in it; the rest is cut.
const PROBLEM_MAX: usize = 400;

impl Config {
    /// Merges what `cli` and its file say, and checks it. `rust_log` is the value of `RUST_LOG`.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn load(cli: &Cli, rust_log: Option<String>) -> Result<Self, ConfigError> {
        let env = Settings { log: rust_log, ..Settings::default() };
        Self::new(&cli.settings.clone().or(env).or(read_file(cli)?))
    }

    /// The configuration that these settings give.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let config = Self::read(settings)?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the settings mean together.
    fn check(&self) -> Result<(), ConfigError> {
        for (key, addr) in [("http", Some(self.http)), ("admin-http", self.admin_http)] {
            let Some(addr) = addr else { continue };
            if !addr.ip().is_loopback() && !self.insecure_open {
                return bad(
                    key,
                    format!(
                        "{addr} is not a loopback address and no authentication is set up; serve on \
                         127.0.0.1, or let in anyone who can reach the server with --insecure-open"
                    ),
                );
            }
        }
        if self.admin_http.is_some_and(|admin| admin == self.http && admin.port() != 0) {
            return bad("admin-http", "is the same address as http; give another port");
        }
        Ok(())
    }

    /// A complaint if several media threads are kept on one CPU: they slow each other down.
    pub fn shared_cpus(&self) -> Option<String> {
        let (workers, cpus) = (self.workers, self.worker_cpus.cpus().len());
        (1..workers).contains(&cpus).then(|| {
            format!(
                "workers is {workers}, and worker-cpus ({}) has {cpus}: media threads share a CPU; \
                 name {workers} CPUs, or leave out workers",
                self.worker_cpus
            )
        })
    }

    /// The media plane's configuration. Media is bound to all addresses, also with HTTP on loopback:
    /// a session can only be made through HTTP, and media is authenticated.
    pub fn media(&self, interfaces: &[Interface]) -> weir_sfu::config::Config {
        weir_sfu::config::Config {
            media_addr: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.media_port),
            workers: self.workers,
            worker_cpus: self.worker_cpus.cpus().to_vec(),
            advertise: self.candidates(interfaces),
            takeover: self.takeover,
            viewer_wait: Duration::from_secs(self.viewer_wait),
            publisher_limits: PublisherLimits::new(self.publisher_bitrate, self.publisher_packets),
            ..weir_sfu::config::Config::default()
        }
    }

    /// Candidates of answers, the best first; empty while the machine has no address for them. Port
    /// 0 stands for the port that media is bound to.
    pub fn candidates(&self, interfaces: &[Interface]) -> Vec<SocketAddr> {
        let advertise = self.advertise.as_ref().unwrap_or(&Advertise::Auto);
        // Behind a proxy, which is named by its public URL, clients are other machines.
        let local_clients = self.http.ip().is_loopback() && self.public_url.is_none();
        advertise.candidates(self.media_port, local_clients, interfaces)
    }

    /// Settings whose values differ in `new`.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let entries = self.entries().into_iter().zip(new.entries()).zip(SETTINGS);
        let changed = entries.filter(|(((_, old), (_, new)), _)| old != new);
        changed
            .map(|(((key, old), (_, new)), setting)| Change {
                key,
                old,
                new,
                needs_restart: !setting.reload,
            })
            .collect()
    }
}

/// Setting that a reload finds changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub key: &'static str,
    /// Its value until now, as TOML.
    pub old: String,
    /// Its value in the file, as TOML.
    pub new: String,
    /// Whether a running server cannot take it over.
    pub needs_restart: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, old, new, .. } = self;
        write!(f, "{key} = {new} (was {old})")
    }
}

/// Origin of each value: `flag`, a variable or `file`; a key that is absent has its default. It is
/// read from the raw arguments because merging loses it. `rust_log` says whether `RUST_LOG` is set.
///
/// # Errors
/// `config`, when the file cannot be read any more.
pub fn origins(
    matches: &ArgMatches,
    cli: &Cli,
    rust_log: bool,
) -> Result<BTreeMap<&'static str, String>, ConfigError> {
    let keys = read_file::<toml::Table>(cli)?;
    let named = |setting: &&Setting| {
        keys.contains_key(setting.key)
            || setting.alias.is_some_and(|alias| keys.contains_key(alias))
    };
    let in_file = SETTINGS.iter().filter(named);
    let mut origins: BTreeMap<_, _> = in_file.map(|s| (s.key, "file".to_owned())).collect();
    if rust_log {
        origins.insert("log", "RUST_LOG".into());
    }
    for setting in SETTINGS {
        let origin = match matches.value_source(setting.key) {
            Some(ValueSource::CommandLine) => "flag".into(),
            Some(ValueSource::EnvVariable) => setting.env_in_use().into(),
            _ => continue,
        };
        origins.insert(setting.key, origin);
    }
    Ok(origins)
}

/// Names the place where a setting that cannot be used was given: its flag, its variable, or the
/// file.
pub fn name_origin(
    error: ConfigError,
    cli: &Cli,
    origins: &BTreeMap<&'static str, String>,
) -> String {
    let ConfigError { key, problem } = error;
    let place = match (origins.get(key).map(String::as_str), &cli.config) {
        (Some("flag"), _) => format!("--{key}"),
        (Some("file"), Some(path)) => format!("{key} in {}", path.display()),
        (Some(variable), _) => variable.to_owned(),
        (None, _) => key.to_owned(),
    };
    ConfigError::text(&place, &problem)
}

/// The effective configuration for people (TOML with comments) or for machines (one JSON line).
pub fn describe(config: &Config, origins: &BTreeMap<&'static str, String>) -> String {
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

/// The file as keys and values, or as settings; empty without `--config`.
fn read_file<T: DeserializeOwned + Default>(cli: &Cli) -> Result<T, ConfigError> {
    let Some(path) = &cli.config else { return Ok(T::default()) };
    let path_text = path.display();
    let text =
        read_text(path).or_else(|problem| bad("config", format!("{path_text}: {problem}")))?;
    toml::from_str(&text).or_else(|problem| {
        let at = problem.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or(&text);
        let number = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let line = text.lines().nth(number - 1).unwrap_or("").trim();
        let shown = shortened(line, LINE_MAX);
        let mut problem = shortened(&file_problem(problem.message()), PROBLEM_MAX);
        if let Some(hint) = quoting_hint(line) {
            problem = format!("{problem}; {hint}");
        }
        bad("config", format!("{path_text}, line {number}, `{shown}`: {problem}"))
    })
}

/// Reads a regular file of at most [`FILE_MAX`] bytes. A pipe or a device could block the server, or never end.
fn read_text(path: &Path) -> io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file; name a file that can be read again"));
    }
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        let problem = format!("it is longer than {FILE_MAX} bytes; is it a configuration?");
        return Err(io::Error::other(problem));
    }
    Ok(text)
}

/// Text of the TOML reader on one line, in words for the operator.
fn file_problem(message: &str) -> String {
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    if let Some((key, _)) = unknown {
        let key = &*shortened(key, LINE_MAX);
        let known = SETTINGS.iter().flat_map(|s| [Some(s.key), s.alias]).flatten();
        return match nearest(key, known) {
            Some(meant) => format!("there is no setting `{key}`; is `{meant}` meant?"),
            None => format!("there is no setting `{key}`; see weir --help"),
        };
    }
    let mut text = message.lines().collect::<Vec<_>>().join("; ");
    for (jargon, plain) in [
        ("expected u16", "expected a whole number of 0 to 65535"),
        ("expected u32", "expected a whole number of 0 or more"),
        ("expected u64", "expected a whole number of 0 or more"),
        ("expected usize", "expected a whole number of 0 or more"),
        (
            "data did not match any variant of untagged enum OneOrMany",
            "expected a text such as \"203.0.113.7\", or several in [ ]",
        ),
    ] {
        text = text.replace(jargon, plain);
    }
    text
}

/// Advice for a line of the form `key = value` whose value lacks its quotes; none for other lines.
fn quoting_hint(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let key = SETTINGS.iter().find(|setting| setting.key == key.trim())?.key;
    let is_bare = !value.is_empty() && !value.contains(['"', '\'', '[', '{']);
    let as_text = value.parse::<toml::Value>().is_err() && value.parse::<bool>().is_err();
    (is_bare && as_text).then(|| format!("put the value into quotes: {key} = \"{value}\""))
}

fn bad<T>(key: &'static str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { key, problem: problem.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};
    use std::io::Write;
    use weir_sfu::config::Takeover;
    use weir_sfu::net::{StartMode, usable_cpus};

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
    fn defaults_serve_this_machine_alone() {
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
    fn trusted_proxies_are_given_by_repeated_flags_or_an_array_of_the_file() {
        let (_file, path) = file("trusted-proxy = [\"127.0.0.1\", \"10.0.0.0/8\"]");
        let shown = |args: &[&str]| load(args).unwrap().trusted_proxy.to_string();
        assert_eq!(shown(&["--config", &path]), "127.0.0.1,10.0.0.0/8");
        let flags = ["--config", &path, "--trusted-proxy", "::1", "--trusted-proxy", "10.0.0.7"];
        assert_eq!(shown(&flags), "::1,10.0.0.7");
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn a_list_of_cpus_gives_one_worker_each() {
        let cpu = usable_cpus()[0].to_string();
        let config = load(&["--worker-cpus", &cpu]).unwrap();
        assert_eq!((config.workers, config.worker_cpus.to_string()), (1, cpu.clone()));
        assert_eq!(load(&["--worker-cpus", &cpu, "--workers", "3"]).unwrap().workers, 3);
        assert_eq!(load(&["--worker-cpus", "auto"]).unwrap().workers, usable_cpus().len());
    }

    #[test]
    fn media_threads_that_share_a_cpu_are_a_complaint() {
        let cpu = usable_cpus()[0].to_string();
        let complaint = |args: &[&str]| load(args).unwrap().shared_cpus();
        let shared = complaint(&["--worker-cpus", &cpu, "--workers", "2"]).unwrap();
        assert!(shared.contains("workers is 2") && shared.contains(&cpu), "{shared}");
        assert_eq!(complaint(&["--worker-cpus", &cpu]), None);
        assert_eq!(complaint(&["--workers", "2"]), None);
    }

    #[test]
    fn rust_log_comes_after_the_flag_and_before_the_file() {
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
        assert_eq!(key_of(&["--viewer-wait", "0"]), "viewer-wait");
        assert_eq!(key_of(&["--viewer-wait", "604801"]), "viewer-wait");
        assert_eq!(key_of(&["--worker-cpus", "999999"]), "worker-cpus");
        assert_eq!(key_of(&["--advertise", "example.org"]), "advertise");
        assert_eq!(key_of(&["--log", "weir=loudly"]), "log");
        assert_eq!(key_of(&["--start", "slowly"]), "start");
        assert_eq!(key_of(&["--takeover", "no"]), "takeover");
        assert_eq!(key_of(&["--admin-http", "127.0.0.1:8080"]), "admin-http");
        assert_eq!(key_of(&["--trusted-proxy", "localhost"]), "trusted-proxy");
        assert_eq!(key_of(&["--trusted-proxy", "10.0.0.0/8,0.0.0.0/0"]), "trusted-proxy");
        assert_eq!(key_of(&["--config", "/does/not/exist"]), "config");
        for url in ["live.example.org", "ftp://a", "https://a/?b", "https://u@a", "https://a b"] {
            assert_eq!(key_of(&["--public-url", url]), "public-url", "{url}");
        }
        for (text, named) in [
            ("htpp = 1", "htpp"),
            ("workers = \"x\"", "workers"),
            ("workers = 2\nhttp = 127.0.0.1:8080 # here", "http = \"127.0.0.1:8080\""),
            ("start = poster", "start = \"poster\""),
            ("log = info", "log = \"info\""),
            ("advertise = 203.0.113.7", "advertise = \"203.0.113.7\""),
            ("=", "line 1, `=`: "),
            ("media_port = 9000", "`media_port`; is `media-port` meant?"),
            ("\ntakeove = \"reject\"", "line 2, `takeove = \"reject\"`: there is no setting"),
            ("foo = 1", "there is no setting `foo`; see weir --help"),
            ("media-port = \"x\"", "expected a whole number of 0 to 65535"),
            ("viewer-wait = -1", "expected a whole number of 0 or more"),
            ("advertise = 7", "expected a text such as \"203.0.113.7\""),
        ] {
            let (_file, path) = file(text);
            let error = load(&["--config", &path]).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
            assert!(error.contains(&path) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_public_url_keeps_its_path_without_the_last_slash() {
        let config = load(&["--public-url", "https://a.example:8443/weir/"]).unwrap();
        assert_eq!(config.public_url.unwrap(), "https://a.example:8443/weir");
    }

    #[test]
    fn media_binds_to_all_addresses_and_answers_offer_those_that_clients_reach() {
        let lan =
            Interface { name: "eth0".into(), ip: "10.0.0.7".parse().unwrap(), default_route: true };
        let text = |args: &[&str], interfaces: &[Interface]| {
            let config = load(args).unwrap().media(interfaces);
            let candidates: Vec<_> = config.advertise.iter().map(ToString::to_string).collect();
            format!("{} {}", config.media_addr, candidates.join(" "))
        };
        let lan = [lan];
        let this_machine = "[::]:8189 10.0.0.7:8189 127.0.0.1:8189";
        assert_eq!(text(&[], &lan), this_machine);
        assert_eq!(text(&["--advertise", "auto"], &lan), this_machine);
        assert_eq!(text(&[], &[]), "[::]:8189 127.0.0.1:8189");
        let behind_a_proxy = ["--public-url", "https://a.example"];
        assert_eq!(text(&behind_a_proxy, &lan), "[::]:8189 10.0.0.7:8189");
        let open = ["--http", "0.0.0.0:80", "--insecure-open", "--media-port", "0"];
        assert_eq!(text(&open, &lan), "[::]:0 10.0.0.7:0");
        assert_eq!(text(&open, &[]), "[::]:0 ", "it has no address yet");
    }

    #[test]
    fn media_gets_the_settings_that_concern_it() {
        let media = |args: &[&str]| load(args).unwrap().media(&[]);
        let defaults = weir_sfu::config::Config::default();
        assert_eq!(media(&[]).takeover, defaults.takeover);
        assert_eq!(media(&[]).viewer_wait, defaults.viewer_wait);
        assert_eq!(media(&[]).publisher_limits, defaults.publisher_limits);
        let limits = media(&["--publisher-bitrate", "20", "--publisher-packets", "3000"]);
        assert_eq!(limits.publisher_limits, PublisherLimits::new(20, 3_000));
        assert_eq!(load(&["--publisher-bitrate", "0"]).unwrap_err().key, "publisher-bitrate");
        assert_eq!(load(&["--publisher-packets", "0"]).unwrap_err().key, "publisher-packets");
        let set = media(&["--takeover", "reject", "--viewer-wait", "5", "--workers", "2"]);
        assert_eq!(
            (set.takeover, set.viewer_wait, set.workers),
            (Takeover::Reject, Duration::from_secs(5), 2)
        );
    }

    #[test]
    fn a_reload_tells_what_needs_a_restart() {
        let old = load(&[]).unwrap();
        let new =
            load(&["--strict", "--media-port", "1", "--log", "debug", "--start", "wait"]).unwrap();
        assert_eq!(new.start, StartMode::Wait);
        let changes = old.changes(&new);
        let texts: Vec<_> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "media-port = 1 (was 8189)",
                "strict = true (was false)",
                "start = \"wait\" (was \"fast-forward\")",
                "log = \"debug\" (was \"info\")",
            ]
        );
        let restart: Vec<_> = changes.iter().filter(|c| c.needs_restart).map(|c| c.key).collect();
        assert_eq!(restart, ["media-port"]);
        assert_eq!(old.changes(&old), []);
        let mut running = old.clone();
        running.apply_reloadable(new.clone());
        assert_eq!((running.strict, running.media_port), (true, old.media_port));
        assert_eq!((running.log.as_str(), running.start), ("debug", StartMode::Wait));
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
