//! The `weir-loadtest` command: reads the options, runs, prints, and chooses the exit code. Everything else is in the library.
#![expect(clippy::disallowed_methods, reason = "the process root starts the async runtime")]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use weir_loadtest::options::{Command, Options};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("WEIR_LOADTEST_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let options = Options::try_parse().unwrap_or_else(|error| help_or_exit(&error));
    if let Some(Command::Relay(relay)) = &options.command {
        // On stderr, so that stdout is nothing but the summary.
        let ready = |listen| eprintln!("weir-loadtest relay ready listen={listen}");
        let summary = weir_loadtest::relay::run(relay, ready).await?;
        println!("{}", serde_json::to_string_pretty(&summary)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(problem) = options.check() {
        Options::command().error(ErrorKind::ValueValidation, problem).exit();
    }

    let report = weir_loadtest::run::run(&options).await?;
    let json = serde_json::to_string_pretty(&report.figures)?;
    match options.json.as_deref() {
        Some(path) if path.as_os_str() == "-" => println!("{json}"),
        Some(path) => {
            std::fs::write(path, json + "\n")
                .map_err(|error| anyhow::anyhow!("--json {}: {error}", path.display()))?;
            println!("{report}");
        }
        None => println!("{report}"),
    }
    Ok(if report.all_well() || options.allow_failures {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// Shows the help, or what is wrong. In help texts clap takes `{n}` for a line break: they write `{#n}` instead.
fn help_or_exit(error: &clap::Error) -> ! {
    if !matches!(error.kind(), ErrorKind::DisplayHelp) {
        error.exit();
    }
    let text = error.render();
    let text =
        if std::io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    print!("{}", text.replace("{#n}", "{n}"));
    std::process::exit(0)
}
