//! A network namespace of this process's own, with a device that takes datagrams and drops them.
//!
//! What is sent there costs the sender the way through the kernel and nothing behind it: no receiver, no
//! wire. Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN), `unshare`, `ip`, and a kernel with `ifb`; says
//! which is missing. The namespace ends with the process. Used by the programs in `src/bin`.

use std::fs;
use std::process::{Command, exit};

use crate::session::{FIRST_ADDRESS, SERVER_ADDRESS};

/// Set in the process that runs inside.
const INSIDE: &str = "WEIR_BENCH_NETNS";

/// The device's name; nobody else is in the namespace.
const DEVICE: &str = "weir0";

/// Where datagrams to the viewers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// An `ifb` device, which drops them in its driver.
    Ifb,
    /// Loopback, to sockets of this process: the receiver's part of the kernel's work is booked on the
    /// sender too.
    Loopback,
}

impl Device {
    /// Its name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ifb => "ifb",
            Self::Loopback => "loopback",
        }
    }

    /// Sends all viewers' datagrams here from now on. Call after [`enter`]. There is no way back from
    /// loopback, so `ifb` comes first.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn route(self) -> Result<(), String> {
        let viewers = format!("{FIRST_ADDRESS}/15");
        match self {
            Self::Ifb => ip(&["route", "replace", &viewers, "dev", DEVICE]),
            Self::Loopback => ip(&["route", "replace", "local", &viewers, "dev", "lo"]),
        }
    }
}

/// Starts this program again inside a fresh namespace and ends with its exit code; returns in there.
///
/// # Errors
/// What is missing.
pub fn enter() -> Result<(), String> {
    if std::env::var_os(INSIDE).is_none() {
        run("unshare", &["--net", "--", "true"])
            .map_err(|error| format!("no network namespace, which takes root: {error}"))?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let status = Command::new("unshare")
            .args(["--net", "--"])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .status()
            .map_err(|error| format!("unshare: {error}"))?;
        exit(status.code().unwrap_or(1));
    }
    ip(&["link", "set", "lo", "up"])?;
    ip(&["addr", "add", &format!("{SERVER_ADDRESS}/32"), "dev", "lo"])?;
    ip(&["link", "add", DEVICE, "type", "ifb"])
        .map_err(|error| format!("this kernel makes no ifb device: {error}"))?;
    ip(&["link", "set", DEVICE, "up"])
}

/// Messages that the device took so far; a message of segments counts once, unless the kernel had to
/// split it before.
///
/// # Errors
/// When the device is not there.
pub fn taken() -> Result<u64, String> {
    // Not /sys: that shows the namespace it was mounted in.
    let text = fs::read_to_string("/proc/net/dev").map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
    // Bytes, packets, errors, drops.
    let dropped = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    dropped.ok_or_else(|| format!("{DEVICE} is not in /proc/net/dev"))
}

fn ip(args: &[&str]) -> Result<(), String> {
    run("ip", args)
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {}: {}", args.join(" "), said.trim())),
    }
}
