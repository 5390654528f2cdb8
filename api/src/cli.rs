//! The command line: subcommands, `--config`, and the examples of the help.
//!
//! The settings are declared in `settings.rs`; `config.rs` merges, checks and explains them. Called
//! by `main.rs`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, CommandFactory, Parser, Subcommand};

use crate::nearest::nearest;
use crate::setting::Setting;
use crate::settings::{SETTINGS, Settings};

/// Beginning of all variables of this server.
const PREFIX: &str = "WEIR_";

/// Variable of `--config`.
const CONFIG_ENV: &str = "WEIR_CONFIG";

/// Live video from one to many: WHIP in, WHEP out, one HTTP port, one UDP port.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_long_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Action to take instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// TOML file with any of these settings: `key = value`, where the key is the long flag without
    /// its dashes. SIGHUP reads it again.
    #[arg(long, env = CONFIG_ENV, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Settings that flags and environment give.
    #[command(flatten)]
    pub settings: Settings,
}

/// Actions of `weir` besides serving.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Check the configuration, print it with the origin of each value, and exit: 0 if it is valid,
    /// 2 if not.
    CheckConfig,
}

/// Parses a command line and the environment. A value of a variable that cannot be used is reported
/// by the variable's name: clap names the flag, which nobody gave.
///
/// # Errors
/// What is wrong with the command line, also a request for help.
pub fn matches_of(args: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    Cli::command().try_get_matches_from(&args).map_err(|mut error| {
        if let Some(ContextValue::String(named)) = error.get(ContextKind::InvalidArg)
            && let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
            && let Some(setting) = SETTINGS.iter().find(|setting| is_named(setting, named))
            && std::env::var(setting.env_in_use()).is_ok_and(|given| given == *value)
            && !args.iter().any(|arg| gives(arg, value))
        {
            let variable = ContextValue::String(setting.env_in_use().to_owned());
            error.insert(ContextKind::InvalidArg, variable);
        }
        error
    })
}

/// Whether clap's name of an argument, such as `--http <ADDR:PORT>`, is that of the setting.
fn is_named(setting: &Setting, named: &str) -> bool {
    let flag = named.split([' ', '=', '[']).next().and_then(|flag| flag.strip_prefix("--"));
    flag == Some(setting.key)
}

/// Whether an argument is the value of a flag, or ends with it: `99999` or `--media-port=99999`.
fn gives(arg: &OsStr, value: &str) -> bool {
    let value_of = |arg: &str| arg == value || arg.split_once('=').is_some_and(|(_, v)| v == value);
    arg.to_str().is_some_and(value_of)
}

/// Complaints about variables that look like settings of this server and are none. A warning and no
/// error: others may set them, such as an orchestrator that has a service of this name.
pub fn unknown_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let known = || SETTINGS.iter().flat_map(|s| [Some(s.env), s.env_alias]).flatten();
    let is_known = |name: &str| name == CONFIG_ENV || known().any(|known| known == name);
    let texts = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let mut complaints: Vec<_> = texts
        .filter(|(name, _)| name.starts_with(PREFIX) && !is_known(name))
        .filter(|(name, value)| !is_service_link(name, &value.to_string_lossy()))
        .map(|(name, _)| {
            let own = |name: &'static str| name.strip_prefix(PREFIX).unwrap_or(name);
            let wanted = name.strip_prefix(PREFIX).unwrap_or(&name);
            let meant = match nearest(wanted, known().chain([CONFIG_ENV]).map(own)) {
                Some(meant) => format!("is {PREFIX}{meant} meant?"),
                None => "see --help".to_owned(),
            };
            format!("{name} is set in the environment, and there is no such setting; {meant}")
        })
        .collect();
    complaints.sort_unstable();
    complaints
}

/// Whether Kubernetes or Docker set a variable for a service or a linked container whose name begins
/// with `weir`: `WEIR_SERVICE_HOST`, `WEIR_PORT=tcp://10.0.0.1:80`, `WEIR_PORT_80_TCP_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|begin| value.starts_with(begin));
    let of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let number = rest.split('_').next().unwrap_or(rest);
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    });
    let of_service = name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    of_service || of_port || (name.ends_with("_PORT") && is_address)
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
  weir --insecure-open --public-url https://live.example.org --advertise 203.0.113.7 \
       --trusted-proxy 127.0.0.1
      Behind a TLS proxy on the same machine that adds X-Forwarded-For
  weir check-config --config weir.toml
      See what a configuration means before it is used

Flags win over WEIR_* variables, these over the --config file, that over the defaults.
SIGHUP reads the file again; SIGTERM ends all sessions and exits with 0.
Exit code 2: the configuration is not valid or a port is in use, and the message names the setting.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::List;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn variables_that_are_no_settings_are_found() {
        let complaints = |names: &[(&str, &str)]| {
            unknown_variables(names.iter().map(|(name, value)| (name.into(), value.into())))
        };
        let known = ["WEIR_HTTP", "PATH", "WEIR_CONFIG", "WEIR_PUBLIC_IP", "weir_http"];
        assert_eq!(complaints(&known.map(|name| (name, "x"))), [""; 0]);
        for (name, meant) in [
            ("WEIR_HTPP", "is WEIR_HTTP meant?"),
            ("WEIR_MEDIAPORT", "is WEIR_MEDIA_PORT meant?"),
            ("WEIR_FOO", "see --help"),
            ("WEIR_", "see --help"),
            ("WEIR_PORT", "see --help"),
        ] {
            let complaint = complaints(&[(name, "9000")]).concat();
            assert!(complaint.starts_with(name) && complaint.ends_with(meant), "{complaint}");
        }
    }

    #[test]
    fn variables_of_a_service_that_has_the_name_of_this_server_are_no_complaint() {
        for (name, value) in [
            ("WEIR_SERVICE_HOST", "10.0.0.1"),
            ("WEIR_SERVICE_PORT", "8080"),
            ("WEIR_SERVICE_PORT_HTTP", "8080"),
            ("WEIR_PORT", "tcp://10.0.0.1:8080"),
            ("WEIR_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("WEIR_PORT_8189_UDP_PROTO", "udp"),
            ("WEIR_ADMIN_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ] {
            let variable = std::iter::once((name.into(), value.into()));
            assert_eq!(unknown_variables(variable), [""; 0], "{name}");
        }
    }

    #[test]
    fn switches_take_an_optional_value_and_lists_a_comma() {
        let cli = Cli::try_parse_from(["weir", "--strict", "--insecure-open=no"]).unwrap();
        assert_eq!((cli.settings.strict, cli.settings.insecure_open), (Some(true), Some(false)));
        let cli = Cli::try_parse_from(["weir", "check-config", "--public-ip", "::1,10.0.0.1:7"]);
        let settings = cli.unwrap().settings;
        let list = List(vec!["::1".into(), "10.0.0.1:7".into()]);
        assert_eq!(settings.advertise, Some(list));
        let args = ["weir", "--trusted-proxy", "::1,10.0.0.0/8", "--trusted-proxy=10.9.9.9"];
        let list = Cli::try_parse_from(args).unwrap().settings.trusted_proxy;
        assert_eq!(list.unwrap().0, ["::1", "10.0.0.0/8", "10.9.9.9"]);
    }
}
