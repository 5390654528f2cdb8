//! The command `weir-loadtest`: parses the command line, runs the task, writes the reports, chooses
//! the exit code.
//!
//! Called by `main.rs`. Next: `options`, `run`, `relay`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::options::{Options, Task};
use crate::relay::RelayOptions;
use crate::report::RunVerdict;
use crate::{html, machine, relay, run};

/// Runs the command line `args`, whose first argument is the name of the program. Exits the process
/// if the command line is wrong or asks for help.
///
/// # Errors
/// If the run or the relay could not begin, or if a report could not be written.
pub fn execute(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    match Task::parse_from(args).unwrap_or_else(|error| error.exit()) {
        Task::Load(options) => load(&options),
        Task::Relay(options) => relay(&options),
    }
}

fn relay(options: &RelayOptions) -> anyhow::Result<ExitCode> {
    // On stderr, so that stdout has only the summary.
    let ready = |listen| eprintln!("weir-loadtest relay ready listen={listen}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(relay::run(options, ready))?;
    println!("{}", serde_json::to_string_pretty(&summary)?);
    Ok(ExitCode::SUCCESS)
}

fn load(options: &Options) -> anyhow::Result<ExitCode> {
    // Before other threads exist, because they inherit the CPUs.
    if let Some(cpus) = &options.common.cpu {
        machine::pin_thread(cpus)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(options))?;

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
        write("--html", path, html::page(&report, options))?;
    }
    for reason in &report.generator.reasons {
        eprintln!("weir-loadtest: this generator was at its limit: {reason}");
    }
    Ok(match report.verdict() {
        RunVerdict::Failed | RunVerdict::Inconclusive if options.common.allow_failures => {
            ExitCode::SUCCESS
        }
        verdict => ExitCode::from(verdict.exit_code()),
    })
}

fn write(flag: &str, path: &Path, text: String) -> anyhow::Result<()> {
    std::fs::write(path, text)
        .map_err(|error| anyhow::anyhow!("{flag} {}: {error}", path.display()))
}
