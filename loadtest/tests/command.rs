//! The command as people run it: what is wrong is told before the run and not after it.
#![expect(clippy::disallowed_methods, reason = "a test root may read clocks")]

use std::ffi::OsString;
use std::time::{Duration, Instant};

fn execute(args: &[&str]) -> anyhow::Result<std::process::ExitCode> {
    let server = ["--whip", "http://127.0.0.1:1/whip/a", "--whep", "http://127.0.0.1:1/whep/a"];
    let args = ["weir-loadtest"].iter().chain(&server).chain(args);
    weir_loadtest::execute(args.map(OsString::from))
}

#[test]
fn report_that_cannot_be_written_is_told_before_the_run() {
    for flag in ["--json", "--html"] {
        let began = Instant::now();
        let path = "/does/not/exist/report";
        let error = execute(&[flag, path, "--duration", "60"]).expect_err("it does not run");
        let text = format!("{error:#}");
        assert!(text.contains(flag) && text.contains(path), "{text}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn report_of_a_failed_run_replaces_what_the_file_held() {
    let file = std::env::temp_dir().join(format!("weir-loadtest-{}.json", std::process::id()));
    let path = file.to_str().expect("is text");
    std::fs::write(&file, "x".repeat(1_000_000)).expect("is written");
    execute(&["--json", path, "--duration", "1"]).expect("the run begins");
    let text = std::fs::read_to_string(&file).expect("is text");
    std::fs::remove_file(&file).expect("is removed");
    let report: serde_json::Value = serde_json::from_str(&text).expect("is JSON and nothing else");
    assert!(report["failures"].is_object(), "{text}");
}
