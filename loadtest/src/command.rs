//! The command `weir-loadtest`: parses the command line, runs the task, writes the reports, chooses
//! the exit code.
//!
//! Called by `main.rs`. Next: `options`, `run`, `relay`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

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
    // Before the run, so that a path that cannot be written costs nobody a run.
    let json_path = options.common.json.as_deref();
    let on_stdout = json_path.is_some_and(|path| path.as_os_str() == "-");
    let open = |flag| move |path| ReportFile::open(flag, path);
    let json_file = json_path.filter(|_| !on_stdout).map(open("--json")).transpose()?;
    let html_file = options.common.html.as_deref().map(open("--html")).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(options))?;

    let json = serde_json::to_string_pretty(&report.json())?;
    // First what cannot fail.
    if on_stdout {
        println!("{json}");
    } else {
        println!("{report}");
    }
    if let Some(file) = json_file {
        file.write(&(json + "\n"))?;
    }
    if let Some(file) = html_file {
        file.write(&html::page(&report, options))?;
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

/// File of a report, open since before the run.
struct ReportFile<'a> {
    flag: &'static str,
    path: &'a Path,
    file: File,
}

impl<'a> ReportFile<'a> {
    /// Opens or makes a file. What it holds stays until [`Self::write`].
    fn open(flag: &'static str, path: &'a Path) -> anyhow::Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("{flag} {}", path.display()))?;
        Ok(Self { flag, path, file })
    }

    /// Replaces the content of the file.
    fn write(mut self, text: &str) -> anyhow::Result<()> {
        let mut replace = || {
            // A pipe or a device has no length.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
            self.file.write_all(text.as_bytes())
        };
        replace().with_context(|| format!("{} {}", self.flag, self.path.display()))
    }
}
