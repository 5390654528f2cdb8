//! The command line: subcommands, `--config`, and the examples of the help.
//!
//! The settings are declared in `settings.rs`; `config.rs` merges, checks and explains them. Called
//! by `main.rs`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::settings::Settings;

/// Live video from one to many: WHIP in, WHEP out, one HTTP port, one UDP port.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_long_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Action to take instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// TOML file with any of these settings: `key = value`, where the key is the long flag without
    /// its dashes. SIGHUP reads it again.
    #[arg(long, env = "WEIR_CONFIG", value_name = "FILE", global = true)]
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
Exit code 2: the configuration is not valid, and the message names the setting.";

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
    fn switches_take_an_optional_value_and_lists_a_comma() {
        let cli = Cli::try_parse_from(["weir", "--strict", "--insecure-open=no"]).unwrap();
        assert_eq!((cli.settings.strict, cli.settings.insecure_open), (Some(true), Some(false)));
        let cli = Cli::try_parse_from(["weir", "check-config", "--public-ip", "::1,10.0.0.1:7"]);
        let settings = cli.unwrap().settings;
        let list = List(vec!["::1".into(), "10.0.0.1:7".into()]);
        assert_eq!(settings.advertise, Some(list));
    }
}
