//! The `weir-loadtest` binary: sets up logging and calls the library.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("WEIR_LOADTEST_LOG"))
        .with_writer(std::io::stderr)
        .init();
    weir_loadtest::execute(std::env::args_os())
}
