//! Cargo profile of a program, compared with that of the shipped binary.
//!
//! Owns the name of that profile. Never measures. Called first by the programs in `src/bin`, so
//! that `cargo run --release` measures the shipped profile too. The profiles are in `Cargo.toml` of
//! the workspace.

use std::env;
use std::process::{Command, exit};

/// Cargo profile of the shipped binary, as in `api/Dockerfile`.
pub const SHIPPED: &str = "dist";

/// Cargo profile that built this program: the folder of the target directory in which it is.
pub fn profile() -> String {
    let program = env::current_exe().unwrap_or_default();
    let folder = program.parent().and_then(|folder| folder.file_name());
    folder.map_or_else(|| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Builds program `bin` with [`SHIPPED`] and ends with its exit code, if cargo runs it with
/// `release`.
///
/// Returns with any other profile, and warns where no cargo is there to build it. Other profiles
/// are meant: `ci` proves that the program runs.
///
/// # Errors
///
/// Cargo cannot be started.
pub fn run_as_shipped(bin: &str) -> Result<(), String> {
    if profile() != "release" {
        return Ok(());
    }
    let Some(cargo) = env::var_os("CARGO") else {
        eprintln!(
            "built with profile release; `cargo run --profile {SHIPPED}` measures what is shipped"
        );
        return Ok(());
    };
    eprintln!("building with profile {SHIPPED}, that of the shipped binary");
    let status = Command::new(cargo)
        .args(["run", "--profile", SHIPPED, "-p", env!("CARGO_PKG_NAME"), "--bin", bin, "--"])
        .args(env::args_os().skip(1))
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    exit(status.code().unwrap_or(1));
}
