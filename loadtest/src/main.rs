//! The `weir-loadtest` binary: sets up logging and calls the library.

use std::process::ExitCode;

use anyhow::Context;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> anyhow::Result<ExitCode> {
    let filter: Targets = match std::env::var("WEIR_LOADTEST_LOG") {
        Ok(filter) => {
            filter.parse().context("WEIR_LOADTEST_LOG is no log filter, such as `debug`")?
        }
        Err(_) => Targets::new().with_default(LevelFilter::ERROR),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    weir_loadtest::execute(std::env::args_os())
}
