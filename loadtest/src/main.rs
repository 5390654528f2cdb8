//! The `weir-loadtest` command: reads the options, runs, prints, and chooses the exit code. Everything else is in the library.
#![expect(clippy::disallowed_methods, reason = "the process root starts the async runtime")]

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use weir_loadtest::machine;
use weir_loadtest::options::{Options, Task};
use weir_loadtest::relay::RelayOptions;
use weir_loadtest::report::RunVerdict;

fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("WEIR_LOADTEST_LOG"))
        .with_writer(std::io::stderr)
        .init();
    match Task::parse_from(std::env::args_os()).unwrap_or_else(|error| help_or_exit(&error)) {
        Task::Load(options) => load(&options),
        Task::Relay(options) => relay(&options),
    }
}

fn relay(options: &RelayOptions) -> anyhow::Result<ExitCode> {
    // On stderr, so that stdout is nothing but the summary.
    let ready = |listen| eprintln!("weir-loadtest relay ready listen={listen}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(weir_loadtest::relay::run(options, ready))?;
    println!("{}", serde_json::to_string_pretty(&summary)?);
    Ok(ExitCode::SUCCESS)
}

fn load(options: &Options) -> anyhow::Result<ExitCode> {
    // Before there are other threads: they inherit it.
    if let Some(cpus) = &options.common.cpu {
        machine::run_on(cpus)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(weir_loadtest::run::run(options))?;

    let json = serde_json::to_string_pretty(&report.json())?;
    match options.common.json.as_deref() {
        Some(path) if path.as_os_str() == "-" => println!("{json}"),
        Some(path) => {
            write("--json", path, json + "\n")?;
            println!("{report}");
        }
        None => println!("{report}"),
    }
    if let Some(path) = &options.common.html {
        write("--html", path, weir_loadtest::html::page(&report, options))?;
    }
    for reason in &report.generator.reasons {
        eprintln!("weir-loadtest: this generator was at its limit: {reason}");
    }
    Ok(match report.verdict() {
        RunVerdict::Failed | RunVerdict::Inconclusive if options.common.allow_failures => ExitCode::SUCCESS,
        verdict => ExitCode::from(verdict.exit_code()),
    })
}

fn write(option: &str, path: &Path, text: String) -> anyhow::Result<()> {
    std::fs::write(path, text)
        .map_err(|error| anyhow::anyhow!("{option} {}: {error}", path.display()))
}

/// Shows the help, or what is wrong. In help texts clap takes `{n}` for a line break: they write `{#n}` instead.
fn help_or_exit(error: &clap::Error) -> ! {
    if !matches!(error.kind(), ErrorKind::DisplayHelp) {
        error.exit();
    }
    let text = error.render();
    let text =
        if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    print!("{}", text.replace("{#", "{"));
    std::process::exit(0)
}
