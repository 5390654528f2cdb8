//! What one run shall do: the command line, and the ranges that are accepted.
//!
//! Never opens anything. Read by `main.rs` and by tests; next: `run.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::relay::RelayOptions;

/// More peers than this would need more sockets than a process usually may open.
const PEERS_MAX: u32 = 20_000;

const EXAMPLES: &str = "\
Examples:
  One publisher, one hundred viewers, half a minute:
    weir-loadtest --whip http://127.0.0.1:8080/whip/demo --whep http://127.0.0.1:8080/whep/demo --viewers 100

  Ten rooms of twenty viewers ({#n} is the publisher's index, from 0; viewers are dealt round robin):
    weir-loadtest --whip 'http://127.0.0.1:8080/whip/room{#n}' --whep 'http://127.0.0.1:8080/whep/room{#n}' \\
        --publishers 10 --viewers 200

  CPU per forwarded packet of a server on this machine, figures into a file:
    weir-loadtest --whip URL --whep URL --viewers 200 --server-pid $(pidof weir) --json result.json

  Watch a stream that somebody else publishes:
    weir-loadtest --whep URL --publishers 0 --viewers 50

How it counts: publishers start, then viewers join at --ramp per second, then one second of warm-up; only then the window of
--duration seconds opens in which packets and frames are counted. A packet is lost when it was still missing one second
after the gap was seen, repair included. A frame is broken when a decoder could not have shown it: incomplete, altered,
never sent on, or referring to such a frame. join_ms runs from the POST to media keys, first_frame_ms to the first whole
keyframe. Latency is the sender's stamp inside each frame against the arrival of its last packet.

Exit code: 0 all well; 1 a viewer or publisher failed or a frame was broken (not with --allow-failures); 2 wrong usage.";

/// Loads a WHIP/WHEP server with publishers and viewers, and reports what the viewers really got.
#[derive(Debug, Clone, Parser)]
#[command(name = "weir-loadtest", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Another thing to do than to load a server
    #[command(subcommand)]
    pub command: Option<Command>,
    /// WHIP endpoint for the publishers; `{#n}` becomes the publisher's index, from 0
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    pub whip: String,
    /// WHEP endpoint for the viewers; `{#n}` becomes the index of the publisher they watch
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    pub whep: String,
    /// Publishers to run (0: somebody else publishes)
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=i64::from(PEERS_MAX)))]
    pub publishers: u32,
    /// Viewers to run in all
    #[arg(long, value_name = "V", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=i64::from(PEERS_MAX)))]
    pub viewers: u32,
    /// Video bitrate of each publisher in kbit/s (of the largest layer with --simulcast; each lower one has a third)
    #[arg(long, default_value_t = 1400, value_parser = clap::value_parser!(u32).range(50..=14_000))]
    pub video_kbps: u32,
    /// Frames per second
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub fps: u32,
    /// Video codec to publish and to ask for
    #[arg(long, value_enum, default_value_t = Codec::H264)]
    pub codec: Codec,
    /// Simulcast layers with rids l, m, h, of 320x180, 640x360, 1280x720 (1: none, 640x360)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
    pub simulcast: u32,
    /// Publish and watch Opus audio as well (50 packets of 80 bytes each second)
    #[arg(long)]
    pub audio: bool,
    /// Length of the counted window in seconds
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub duration: u32,
    /// Viewers that join per second
    #[arg(long, value_name = "V/s", default_value_t = 50.0, value_parser = ramp)]
    pub ramp: f64,
    /// What each viewer checks: every frame's bytes; every tenth viewer so and the others only order and loss; or counts only
    #[arg(long, value_enum, default_value_t = Verify::All)]
    pub verify: Verify,
    /// How much WebRTC each client is: `light` for many, `full` for a few through a complete independent stack
    #[arg(long, value_enum, default_value_t = Client::Light)]
    pub client: Client,
    /// Bearer token for every request
    #[arg(long, env = "WEIR_LOADTEST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Measure CPU time and memory of this process (the server, on this machine)
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Write the figures as JSON to this file (`-`: stdout instead of the summary)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the video that the first viewer got (H264: Annex B, VP8: IVF); any decoder can judge it. Light client,
    /// --verify all or sample
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Exit with 0 even if viewers failed or frames were broken
    #[arg(long)]
    pub allow_failures: bool,
    /// Send media through this address, e.g. a relay, instead of the server's candidates (light client)
    #[arg(long, value_name = "ADDR", hide_short_help = true)]
    pub media_via: Option<SocketAddr>,
}

/// What else the program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// A bad network: passes UDP on between clients and a server, with loss, delay, a rate and a seed
    Relay(RelayOptions),
}

/// A video codec of the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Codec {
    /// H.264 constrained baseline, written bit by bit.
    H264,
    /// VP8, looped clips of 60 frames, padded to the bitrate.
    Vp8,
}

/// How thoroughly viewers check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// Every viewer authenticates every packet and checks every frame.
    All,
    /// Every tenth viewer as `all`, the others by packet headers.
    Sample,
    /// Packets and bytes only.
    None,
}

/// How much WebRTC a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// Our own small client: thousands per machine.
    Light,
    /// A `webrtc` PeerConnection each: an independent full stack, for a few.
    Full,
}

impl Options {
    /// The WHIP URL of publisher `n`.
    #[must_use]
    pub fn whip_url(&self, n: u32) -> String {
        self.whip.replace("{n}", &n.to_string())
    }

    /// The WHEP URL of viewer `viewer`: viewers are dealt over the publishers round robin.
    #[must_use]
    pub fn whep_url(&self, viewer: u32) -> String {
        self.whep.replace("{n}", &(viewer % self.publishers.max(1)).to_string())
    }

    /// What no single option can know.
    ///
    /// # Errors
    /// A sentence that names the options which do not fit together.
    pub fn check(&self) -> Result<(), String> {
        let need = |count: u32, url: &str, role: &str| match (count, url) {
            (0, _) => Ok(()),
            (_, "") => Err(format!(
                "--{role} URL is needed (or --{} 0)",
                if role == "whip" { "publishers" } else { "viewers" }
            )),
            (_, url) if url.starts_with("http://") => Ok(()),
            (_, url) => Err(format!(
                "--{role} {url}: only http:// URLs are served (put the load beside the TLS proxy)"
            )),
        };
        need(self.publishers, &self.whip, "whip")?;
        need(self.viewers, &self.whep, "whep")?;
        if self.publishers > 1 && !self.whip.contains("{n}") {
            return Err(
                "--publishers above 1 needs {n} in --whip, or they would fight over one stream"
                    .to_owned(),
            );
        }
        if self.publishers == 0 && self.viewers == 0 {
            return Err("nothing to do: --publishers 0 and --viewers 0".to_owned());
        }
        if self.client == Client::Full && (self.media_via.is_some() || self.record.is_some()) {
            return Err("--media-via and --record are for --client light".to_owned());
        }
        if self.client == Client::Full && self.simulcast > 1 {
            return Err("--simulcast is for --client light".to_owned());
        }
        if self.record.is_some() && self.verify == Verify::None {
            return Err("--record needs --verify all or sample".to_owned());
        }
        Ok(())
    }
}

fn ramp(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number of viewers per second, 0.1 to 10000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Options {
        Options::try_parse_from([&["weir-loadtest"], args].concat()).expect("these arguments parse")
    }

    #[test]
    fn plain_flags_form_of_the_contract_is_accepted() {
        let options = parse(&[
            "--whip",
            "http://h/whip/a{n}",
            "--whep",
            "http://h/whep/a{n}",
            "--publishers",
            "3",
            "--viewers",
            "7",
            "--video-kbps",
            "900",
            "--fps",
            "25",
            "--codec",
            "vp8",
            "--simulcast",
            "3",
            "--audio",
            "--duration",
            "9",
            "--ramp",
            "12.5",
            "--verify",
            "sample",
            "--client",
            "light",
            "--token",
            "t",
            "--server-pid",
            "1",
            "--json",
            "x.json",
            "--allow-failures",
        ]);
        assert_eq!(options.check(), Ok(()));
        assert_eq!(options.whip_url(2), "http://h/whip/a2");
        assert_eq!(
            (0..7).map(|v| options.whep_url(v)).filter(|u| u == "http://h/whep/a0").count(),
            3
        );
        assert_eq!(options.ramp, 12.5);
    }

    #[test]
    fn impossible_wishes_are_refused_with_the_option_named() {
        for (args, word) in [
            (&["--viewers", "1"][..], "--whip"),
            (&["--whip", "http://h/a"], "--whep"),
            (&["--whip", "https://h/a", "--viewers", "0"], "http://"),
            (&["--whip", "http://h/a", "--viewers", "0", "--publishers", "2"], "{n}"),
            (&["--publishers", "0", "--viewers", "0"], "nothing"),
            (
                &[
                    "--whip",
                    "http://h/a",
                    "--whep",
                    "http://h/b",
                    "--verify",
                    "none",
                    "--record",
                    "x",
                ],
                "--record",
            ),
        ] {
            let error = parse(args).check().expect_err("must be refused");
            assert!(error.contains(word), "{error}");
        }
        assert!(Options::try_parse_from(["weir-loadtest", "--ramp", "0"]).is_err());
        assert!(Options::try_parse_from(["weir-loadtest", "--simulcast", "4"]).is_err());
    }
}
