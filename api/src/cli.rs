//! The command line: flags, their environment variables, and the help that teaches them.
//!
//! Only reads; `config.rs` merges, checks and explains. The same [`Settings`] are the keys of
//! `weir.toml`, so that each setting is declared once.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Deserializer};

/// Live video from one to many: WHIP in, WHEP out, one HTTP port, one UDP port.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_long_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// File with any of these settings: `key = value`, the key being the long flag without dashes
    /// in front. SIGHUP reads it again.
    #[arg(long, env = "WEIR_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// What flags and environment say.
    #[command(flatten)]
    pub settings: Settings,
}

/// What `weir` can do besides serving.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Check the configuration, print it with the origin of each value, and exit: 0 if it is good,
    /// 2 if not.
    CheckConfig,
}

/// Every setting, absent unless someone gave it. Flags win over `WEIR_*`, these over the file.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Where to serve WHIP, WHEP and the pages [default: 127.0.0.1:8080]. Port 0 takes a free one.
    #[arg(
        long,
        env = "WEIR_HTTP",
        value_name = "ADDR:PORT",
        global = true,
        help_heading = "Addresses"
    )]
    pub http: Option<String>,
    /// UDP port for all media [default: 8189]. Port 0 takes a free one.
    #[arg(
        long,
        env = "WEIR_MEDIA_PORT",
        value_name = "PORT",
        global = true,
        help_heading = "Addresses"
    )]
    pub media_port: Option<u16>,
    /// Addresses that clients send media to, best first, or `auto` for those of this machine
    /// [default: auto]. Behind NAT or in a container: the address clients can reach.
    #[arg(
        long,
        visible_alias = "public-ip",
        env = "WEIR_ADVERTISE",
        value_name = "auto|ADDR[:PORT],…",
        value_delimiter = ',',
        global = true,
        help_heading = "Addresses"
    )]
    #[serde(alias = "public-ip", deserialize_with = "one_or_many")]
    pub advertise: Option<Vec<String>>,
    /// Base of the session URLs in answers, when clients reach the server by another name or
    /// through a proxy, e.g. `https://live.example.org` [default: none, answers hold a path].
    #[arg(
        long,
        env = "WEIR_PUBLIC_URL",
        value_name = "URL",
        global = true,
        help_heading = "Addresses"
    )]
    pub public_url: Option<String>,

    /// Serve everyone who can reach the server, without authentication. Needed for --http or
    /// --admin-http off loopback, and behind a reverse proxy.
    #[arg(
        long,
        env = "WEIR_INSECURE_OPEN",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        global = true,
        help_heading = "Access"
    )]
    pub insecure_open: Option<bool>,
    /// Serve /metrics and /api/v1 here too [default: with --http if that is loopback, else
    /// nowhere].
    #[arg(
        long,
        env = "WEIR_ADMIN_HTTP",
        value_name = "ADDR:PORT",
        global = true,
        help_heading = "Access"
    )]
    pub admin_http: Option<String>,
    /// Sessions that one client address (IPv6: /64) may ask for per second, with a burst of four
    /// seconds' worth; 0 is no limit, loopback has none [default: 50].
    #[arg(long, env = "WEIR_POST_RATE", value_name = "N", global = true, help_heading = "Access")]
    pub post_rate: Option<u32>,
    /// Demand what RFC 9725 demands even where known clients fail it: If-Match on every PATCH.
    #[arg(
        long,
        env = "WEIR_STRICT",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new(),
        global = true,
        help_heading = "Access"
    )]
    pub strict: Option<bool>,

    /// What viewers get of the past at most, to see a picture at once: `fast-forward` (all since the last
    /// keyframe, where that is little), `poster` (that keyframe alone, until the next one comes) or
    /// `wait` (nothing) [default: fast-forward]. Each may ask for another by `?start=`.
    #[arg(long, env = "WEIR_START", value_name = "MODE", global = true, help_heading = "Running")]
    pub start: Option<String>,
    /// Media threads [default: one per CPU in --worker-cpus, else one per CPU this process may use].
    #[arg(long, env = "WEIR_WORKERS", value_name = "N", global = true, help_heading = "Running")]
    pub workers: Option<usize>,
    /// Keep each media thread on one CPU, in this order: a list such as `0,2-3`, `auto` for all CPUs
    /// this process may use, or `none` [default: none, the kernel decides].
    #[arg(
        long,
        env = "WEIR_WORKER_CPUS",
        value_name = "none|auto|LIST",
        global = true,
        help_heading = "Running"
    )]
    pub worker_cpus: Option<String>,
    /// What to log, e.g. `info`, `debug`, `weir_sfu=debug,info`; RUST_LOG works too [default:
    /// info].
    #[arg(long, env = "WEIR_LOG", value_name = "FILTER", global = true, help_heading = "Running")]
    pub log: Option<String>,
    /// How logs on stderr look [default: text].
    #[arg(
        long,
        env = "WEIR_LOG_FORMAT",
        value_name = "FORMAT",
        global = true,
        help_heading = "Running"
    )]
    pub log_format: Option<LogFormat>,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Settings {
    /// These settings, and where they are silent those of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            http: self.http.or(other.http),
            media_port: self.media_port.or(other.media_port),
            advertise: self.advertise.or(other.advertise),
            public_url: self.public_url.or(other.public_url),
            insecure_open: self.insecure_open.or(other.insecure_open),
            admin_http: self.admin_http.or(other.admin_http),
            post_rate: self.post_rate.or(other.post_rate),
            strict: self.strict.or(other.strict),
            start: self.start.or(other.start),
            workers: self.workers.or(other.workers),
            worker_cpus: self.worker_cpus.or(other.worker_cpus),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// `"auto"` and `["203.0.113.7", "2001:db8::7"]` are both fine in the file.
fn one_or_many<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(input)? {
        OneOrMany::One(one) => one.split(',').map(|part| part.trim().to_owned()).collect(),
        OneOrMany::Many(many) => many,
    }))
}

const EXAMPLES: &str = "\
Examples:
  weir
      On this machine only: open http://127.0.0.1:8080/, or publish with OBS to
      http://127.0.0.1:8080/whip/demo and watch at http://127.0.0.1:8080/watch/demo
  weir --http 0.0.0.0:8080 --insecure-open
      For a trusted network: anyone who can reach it may publish and watch
  weir --http 0.0.0.0:8080 --insecure-open --advertise 203.0.113.7
      On a server whose public address is 203.0.113.7; open UDP port 8189 in its firewall
  weir --insecure-open --public-url https://live.example.org --advertise 203.0.113.7
      Behind a TLS proxy on the same machine
  weir check-config --config weir.toml
      See what a configuration means before it is used

Flags win over WEIR_* variables, these over the --config file, that over the defaults.
SIGHUP reads the file again; SIGTERM ends all sessions and exits with 0.
Exit code 2: the configuration is bad, and the message names the setting.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn switches_take_an_optional_value_and_lists_a_comma() {
        let cli = Cli::try_parse_from(["weir", "--strict", "--insecure-open=no"]).unwrap();
        assert_eq!((cli.settings.strict, cli.settings.insecure_open), (Some(true), Some(false)));
        let cli = Cli::try_parse_from(["weir", "check-config", "--public-ip", "::1,10.0.0.1:7"]);
        let settings = cli.unwrap().settings;
        assert_eq!(settings.advertise, Some(vec!["::1".into(), "10.0.0.1:7".into()]));
    }
}
