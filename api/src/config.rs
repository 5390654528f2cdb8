//! The effective configuration: merged from all sources, checked, explained.
//!
//! Order of precedence: flags, `WEIR_*` variables, file, defaults. Nothing else in the process
//! reads flags, environment or the file. [`Config::media`] is the one place that turns it into the
//! media plane's configuration. Called by `main.rs`; each setting by itself is in `settings.rs`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::de::DeserializeOwned;

use crate::advertise::{Advertise, Interface};
use crate::cli::Cli;
use crate::log::LogFormat;
pub use crate::setting::ConfigError;
use crate::setting::Setting;
use crate::settings::SETTINGS;
pub use crate::settings::{Config, Settings};

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

    /// The media plane's configuration. With HTTP on loopback and `--advertise` not given, media is
    /// bound to loopback too. A candidate with port 0 stands for the port that media is bound to.
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
                "auto finds no address of this machine that others can reach; give --advertise ADDR",
            );
        }
        Ok(weir_sfu::config::Config {
            media_addr: SocketAddr::new(ip, self.media_port),
            workers: self.workers,
            worker_cpus: self.worker_cpus.cpus().to_vec(),
            advertise: candidates,
            takeover: self.takeover,
            viewer_wait: Duration::from_secs(self.viewer_wait),
            ..weir_sfu::config::Config::default()
        })
    }

    /// Keys whose values differ in `new` and that a running server cannot take over.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let entries = self.entries().into_iter().zip(new.entries()).zip(SETTINGS);
        let changed = entries.filter(|((old, new), setting)| old != new && !setting.reload);
        changed.map(|(_, setting)| setting.key).collect()
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
            Some(ValueSource::EnvVariable) => setting.env.into(),
            _ => continue,
        };
        origins.insert(setting.key, origin);
    }
    Ok(origins)
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
    let complain = |problem: String| bad("config", format!("{}: {problem}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).or_else(|problem| complain(problem.to_string())),
        Err(problem) => complain(problem.to_string()),
    }
}

fn bad<T>(key: &'static str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { key, problem: problem.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches};
    use std::io::Write;
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
    fn a_list_of_cpus_gives_one_worker_each() {
        let cpu = usable_cpus()[0].to_string();
        let config = load(&["--worker-cpus", &cpu]).unwrap();
        assert_eq!((config.workers, config.worker_cpus.to_string()), (1, cpu.clone()));
        assert_eq!(load(&["--worker-cpus", &cpu, "--workers", "3"]).unwrap().workers, 3);
        assert_eq!(load(&["--worker-cpus", "auto"]).unwrap().workers, usable_cpus().len());
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
    fn a_public_url_keeps_its_path_without_the_last_slash() {
        let config = load(&["--public-url", "https://a.example:8443/weir/"]).unwrap();
        assert_eq!(config.public_url.unwrap(), "https://a.example:8443/weir");
    }

    #[test]
    fn media_stays_on_loopback_until_an_address_is_advertised() {
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
    fn media_gets_the_settings_that_concern_it() {
        let media = |args: &[&str]| load(args).unwrap().media(&[]).unwrap();
        let defaults = weir_sfu::config::Config::default();
        assert_eq!(media(&[]).takeover, defaults.takeover);
        assert_eq!(media(&[]).viewer_wait, defaults.viewer_wait);
        let set = media(&["--takeover=no", "--viewer-wait", "5", "--workers", "2"]);
        assert_eq!(
            (set.takeover, set.viewer_wait, set.workers),
            (false, Duration::from_secs(5), 2)
        );
    }

    #[test]
    fn a_reload_tells_what_needs_a_restart() {
        let old = load(&[]).unwrap();
        let new =
            load(&["--strict", "--media-port", "1", "--log", "debug", "--start", "wait"]).unwrap();
        assert_eq!(new.start, StartMode::Wait);
        assert_eq!(old.needs_restart(&new), ["media-port"]);
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
