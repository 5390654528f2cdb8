//! The command line of `weir-loadtest relay`.
//!
//! Reads the trace files that it names; opens nothing else. Called by `relay/mod.rs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use weir_netsim::{Profile, Trace};

const HELP: &str = "\
PROFILE is a list KEY=VALUE,KEY=VALUE of:
  delay=MS              propagation delay
  jitter=MS             additional delay of 0 to MS, normally distributed; the order is kept
  jitter-reorder=MS     the same, but datagrams may overtake each other
  loss=PERCENT          loss, independent for each datagram
  burst=PACKETS         with loss: loss in bursts of this mean length (Gilbert-Elliott)
  reorder=PERCENT       share of datagrams that arrive reorder-by milliseconds late
  reorder-by=MS         (default 20)
  duplicate=PERCENT     share of datagrams that arrive twice
  rate=KBPS             rate of a link with a queue; a full queue drops at its tail
  queue=BYTES           size of that queue (default 150000)
  police=KBPS           rate above which datagrams are dropped without a queue
  police-burst=BYTES    burst that the policer allows (default 16000)
  mtu=BYTES             maximum IP packet (default 1500); larger ones are dropped
Rates, queues and the MTU count 28 bytes of IP and UDP headers for each datagram.

A trace file changes the rate over time. Each line has two numbers: a time in milliseconds, and the
rate in kbit/s from then on (0: an outage, in which datagrams wait). The first time is 0. A last line
`MS repeat` starts the trace again at that time. `#` begins a comment. A file with one number per line
is read as a Mahimahi trace: times in milliseconds at which 1,500 bytes may pass. A trace starts with
the first datagram of its client; with --shared, with the first datagram of any client.

Examples:
  5 % loss and 50 ms round trip for everyone who publishes through port 9001:
    weir --media-port 9000 --advertise 127.0.0.1:9001
    weir-loadtest relay --listen 127.0.0.1:9001 --to 127.0.0.1:9000 \\
        --up loss=5,delay=25 --down delay=25

  Twenty viewers that share a link of 10 Mbit/s. After 20 seconds it falls to 2 Mbit/s, and after 40
  seconds it recovers:
    printf '0 10000\\n20000 2000\\n40000 10000\\n' > link.trace
    weir-loadtest relay --listen ADDR --to ADDR --shared \\
        --down-trace link.trace --down queue=300000

At its end (after --duration, or on an interrupt) it prints as JSON what happened to the datagrams.";

/// Relays UDP between clients and a server like an impaired network: two profiles say how, and a
/// seed makes it repeatable.
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub(crate) struct RelayOptions {
    /// Address for the clients; the server must advertise it (weir: --advertise)
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: SocketAddr,
    /// Media address of the server
    #[arg(long, value_name = "ADDR")]
    pub(super) to: SocketAddr,
    /// Impairments from the clients to the server
    #[arg(long, value_name = "PROFILE", default_value = "", hide_default_value = true)]
    up: Profile,
    /// Impairments from the server to the clients
    #[arg(long, value_name = "PROFILE", default_value = "", hide_default_value = true)]
    down: Profile,
    /// Rate over time from the clients to the server
    #[arg(long, value_name = "FILE")]
    up_trace: Option<PathBuf>,
    /// Rate over time from the server to the clients
    #[arg(long, value_name = "FILE")]
    down_trace: Option<PathBuf>,
    /// All clients share one link; without it each client has its own
    #[arg(long)]
    pub(super) shared: bool,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Seconds after which the relay ends (default: it runs until an interrupt)
    #[arg(long, value_name = "S")]
    pub(super) duration: Option<u64>,
}

impl RelayOptions {
    /// The profiles up and down, each with its trace.
    ///
    /// # Errors
    /// If a trace cannot be read, or if a direction has both a trace and a rate.
    pub(super) fn profiles(&self) -> anyhow::Result<(Profile, Profile)> {
        let with_trace = |profile: &Profile, trace: &Option<PathBuf>, flag: &str| {
            let mut profile = profile.clone();
            if let Some(path) = trace {
                anyhow::ensure!(
                    profile.rate.is_none(),
                    "--{flag}: give either rate= or --{flag}-trace, not both"
                );
                profile.rate = Some(read_trace(path)?);
            }
            Ok::<_, anyhow::Error>(profile)
        };
        let up = with_trace(&self.up, &self.up_trace, "up")?;
        let down = with_trace(&self.down, &self.down_trace, "down")?;
        Ok((up, down))
    }
}

fn read_trace(path: &Path) -> anyhow::Result<Trace> {
    let problem = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| problem(&error))?;
    Trace::parse(&text).map_err(|error| problem(&error))
}
