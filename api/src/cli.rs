//! The command line: subcommands, `--config`, and the examples of the help.
//!
//! The settings are declared in `settings.rs`; `config.rs` merges, checks and explains them. Called
//! by `main.rs`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, CommandFactory, Parser, Subcommand};

use crate::setting::Setting;
use crate::settings::{SETTINGS, Settings};

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
            && !args.iter().any(|arg| gives(arg, value))
        {
            let variable = ContextValue::String(setting.env.to_owned());
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

/// Variables that look like settings of this server and are none.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let is_known = |name: &str| name == CONFIG_ENV || SETTINGS.iter().any(|s| s.env == name);
    let names = names.filter_map(|name| name.into_string().ok());
    let mut unknown: Vec<_> =
        names.filter(|name| name.starts_with("WEIR_") && !is_known(name)).collect();
    unknown.sort_unstable();
    unknown
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
        let names = ["WEIR_HTTP", "WEIR_HTPP", "PATH", "WEIR_CONFIG", "WEIR_", "weir_http"];
        let unknown = unknown_variables(names.into_iter().map(OsString::from));
        assert_eq!(unknown, ["WEIR_", "WEIR_HTPP"]);
    }

    #[test]
    fn switches_take_an_optional_value_and_lists_a_comma() {
        let cli = Cli::try_parse_from(["weir", "--strict", "--insecure-open=no"]).unwrap();
        assert_eq!((cli.settings.strict, cli.settings.insecure_open), (Some(true), Some(false)));
        let cli = Cli::try_parse_from(["weir", "check-config", "--public-ip", "::1,10.0.0.1:7"]);
        let settings = cli.unwrap().settings;
        let list = List(vec!["::1".into(), "10.0.0.1:7".into()]);
        assert_eq!(settings.advertise, Some(list));
    }
}
