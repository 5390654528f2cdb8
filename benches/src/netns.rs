//! Network namespace of this process, with a device that takes datagrams and drops them.
//!
//! A datagram sent there costs the sender the path through the kernel, without a receiver or a
//! wire. Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN), `unshare`, `ip`, and a kernel with `ifb`;
//! reports which is missing. The namespace ends with the process. Used by the programs in
//! `src/bin`.

use std::fs;
use std::process::{Command, exit};

use crate::session::{FIRST_ADDRESS, SERVER_ADDRESS};

/// Variable that is set in the process inside the namespace.
const INSIDE: &str = "WEIR_BENCH_NETNS";

/// Name of the device; the namespace has no other.
const DEVICE: &str = "weir0";

/// Destination of datagrams to the viewers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// An `ifb` device, which drops them in its driver.
    Ifb,
    /// Loopback, to sockets of this process: the receiver's part of the kernel's work is booked on
    /// the sender too.
    Loopback,
}

impl Device {
    /// Label in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ifb => "ifb",
            Self::Loopback => "loopback",
        }
    }

    /// Sends all viewers' datagrams to this device from now on. Call it after [`enter`]. There is
    /// no way back from loopback, so `ifb` comes first.
    ///
    /// # Errors
    ///
    /// The message of `ip`.
    pub fn route(self) -> Result<(), String> {
        let viewers = format!("{FIRST_ADDRESS}/15");
        match self {
            Self::Ifb => ip(&["route", "replace", &viewers, "dev", DEVICE]),
            Self::Loopback => ip(&["route", "replace", "local", &viewers, "dev", "lo"]),
        }
    }
}

/// Starts this program again inside a new namespace and ends with its exit code; returns in that
/// process.
///
/// # Errors
///
/// The requirement that is missing.
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

/// Messages that the device took so far. A message of segments counts once, unless the kernel had
/// to split it before.
///
/// # Errors
///
/// The device does not exist.
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
