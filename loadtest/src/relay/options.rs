//! The command line of `weir-loadtest relay`.
//!
//! Reads the trace files that it names; opens nothing else. Read by `relay/mod.rs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use weir_netsim::{Profile, Trace};

const HELP: &str = "\
PROFILE is a list KEY=VALUE,KEY=VALUE of:
  delay=MS              propagation
  jitter=MS             up to so much more, normal around the half; order is kept
  jitter-reorder=MS     the same, and datagrams may overtake
  loss=PERCENT          each datagram for itself
  burst=PACKETS         with loss: in bursts of this mean length (Gilbert-Elliott)
  reorder=PERCENT       come reorder-by (20) ms later than their turn
  reorder-by=MS
  duplicate=PERCENT     come twice
  rate=KBPS             with a queue of queue (150000) bytes; its tail is dropped
  queue=BYTES
  police=KBPS           dropped without a queue above this rate and police-burst (16000) bytes
  police-burst=BYTES
  mtu=BYTES             of the IP packet (1500); larger ones vanish
Rates, queues and the MTU count 28 bytes of headers for each datagram.

A trace file changes the rate over time. Two numbers on each line: from which ms on, how many kbit/s (0: an outage in which
datagrams wait). The first time is 0; a last line `MS repeat` begins anew. `#` begins a comment. A file with one number on
each line is read as a Mahimahi trace: ms at which 1,500 bytes may pass. The trace begins with the relay (with --shared) or
with the client's first datagram.

Examples:
  5 % loss and 50 ms of round trip for everybody who publishes through port 9001:
    weir --media-port 9000 --advertise 127.0.0.1:9001
    weir-loadtest relay --listen 127.0.0.1:9001 --to 127.0.0.1:9000 --up loss=5,delay=25 --down delay=25

  Twenty viewers behind one line of 10 Mbit/s that falls to 2 and recovers:
    printf '0 10000\\n20000 2000\\n40000 10000\\n' > line.trace
    weir-loadtest relay --listen ADDR --to ADDR --shared --down-trace line.trace --down queue=300000

At the end (--duration, or an interrupt) it prints what it did to datagrams as JSON.";

/// Passes UDP on between clients and a server, as badly as a real network: what goes wrong is told by two profiles and a seed.
#[derive(Debug, Clone, Args)]
#[command(after_help = HELP)]
pub struct RelayOptions {
    /// Where clients send to; put it into the server's answers with its --advertise
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The server's media address
    #[arg(long, value_name = "ADDR")]
    pub to: SocketAddr,
    /// What happens to datagrams on their way to the server
    #[arg(long, value_name = "PROFILE", default_value = "", hide_default_value = true)]
    pub up: Profile,
    /// What happens to datagrams on their way to clients
    #[arg(long, value_name = "PROFILE", default_value = "", hide_default_value = true)]
    pub down: Profile,
    /// The rate of the way up over time
    #[arg(long, value_name = "FILE")]
    pub up_trace: Option<PathBuf>,
    /// The rate of the way down over time
    #[arg(long, value_name = "FILE")]
    pub down_trace: Option<PathBuf>,
    /// All clients share one line; else each has its own
    #[arg(long)]
    pub shared: bool,
    /// Seed of all chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Ends after so many seconds; else on an interrupt
    #[arg(long, value_name = "S")]
    pub duration: Option<u64>,
}

impl RelayOptions {
    /// The profiles with their traces.
    pub(crate) fn profiles(&self) -> anyhow::Result<(Profile, Profile)> {
        let with = |profile: &Profile, trace: &Option<PathBuf>, flag: &str| {
            let mut profile = profile.clone();
            if let Some(path) = trace {
                anyhow::ensure!(profile.rate.is_none(), "--{flag}: either rate= or --{flag}-trace");
                profile.rate = Some(read(path)?);
            }
            Ok::<_, anyhow::Error>(profile)
        };
        Ok((with(&self.up, &self.up_trace, "up")?, with(&self.down, &self.down_trace, "down")?))
    }
}

fn read(path: &Path) -> anyhow::Result<Trace> {
    let problem = |error: &dyn std::fmt::Display| anyhow::anyhow!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| problem(&error))?;
    Trace::parse(&text).map_err(|error| problem(&error))
}
