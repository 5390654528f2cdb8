//! The flags that all scenarios share, and the types of their values.
//!
//! Part of `cli` and `run_options`. The texts of the flags are their help texts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::help;

/// The video that is published.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Video")]
pub(crate) struct Video {
    /// Bitrate of each publisher in kbit/s (with --simulcast: of the largest layer; each smaller
    /// layer has a third of the next)
    #[arg(long = "video-kbps", value_name = "KBPS", default_value_t = 1400, value_parser = clap::value_parser!(u32).range(50..=14_000))]
    pub(crate) kbps: u32,
    /// Frames per second
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub(crate) fps: u32,
    /// Codec to publish and to watch
    #[arg(long, value_enum, default_value_t = Codec::H264)]
    pub(crate) codec: Codec,
    /// Simulcast layers, with rids l, m, h and sizes 320x180, 640x360, 1280x720 (1: no simulcast,
    /// 640x360)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
    pub(crate) simulcast: u32,
    /// Seconds from one keyframe to the next without a request (VP8: at most 60 frames). A keyframe
    /// has nine times the mean size of the other frames, whose sizes vary
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) keyframe_s: u32,
    /// Publish and watch no video, only audio
    #[arg(long = "no-video", requires = "audio")]
    pub(crate) none: bool,
}

/// The options of every scenario.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true,
        help = concat!("WHIP endpoint of the publishers; ", help::n!(), " is replaced by the publisher's index, from 0")
    )]
    pub(crate) whip: String,
    #[arg(
        long,
        value_name = "URL",
        default_value = "",
        hide_default_value = true,
        help = concat!("WHEP endpoint of the viewers; ", help::n!(), " is replaced by the index of the publisher that the viewer watches")
    )]
    pub(crate) whep: String,
    /// Bearer token of every request
    #[arg(long, env = "WEIR_LOADTEST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Length of the window in seconds: packets and frames within it are counted
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub(crate) duration: u32,
    /// Viewers that join per second
    #[arg(long, value_name = "V/s", default_value_t = 50.0, value_parser = rate)]
    pub(crate) ramp: f64,
    /// Exit with 0 even if sessions failed or frames were broken
    #[arg(long)]
    pub(crate) allow_failures: bool,

    /// `all`: every viewer authenticates every packet and judges every frame. `sample`: one viewer
    /// in --verify-viewers does so; the others authenticate one packet in 16, and follow order,
    /// loss and complete frames by headers. `none`: order and loss by headers
    #[arg(long, value_enum, default_value_t = Verify::All, help_heading = "Clients")]
    pub(crate) verify: Verify,
    /// With --verify sample: one viewer in N checks everything, beginning with the first (0: none
    /// does)
    #[arg(long, value_name = "N", default_value_t = 50, help_heading = "Clients")]
    pub(crate) verify_viewers: u32,
    /// `light`: a small client of this program, for thousands of sessions. `full`: a complete
    /// independent WebRTC stack, for a few
    #[arg(long, value_enum, default_value_t = Client::Light, help_heading = "Clients")]
    pub(crate) client: Client,
    /// Do not offer transport-wide congestion feedback (light clients send it every 100 ms, as
    /// browsers do)
    #[arg(long, help_heading = "Clients")]
    pub(crate) no_twcc: bool,
    /// Threads for viewers, and as many for publishers (default: one for each available CPU)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Clients")]
    pub(crate) threads: Option<u32>,
    /// Run this generator on these CPUs only, for example 1 or 2,4-7
    #[arg(long, value_name = "LIST", value_parser = cpus, help_heading = "Clients")]
    pub(crate) cpu: Option<CpuList>,
    /// Send media through this address, for example a relay, instead of the server's candidates
    /// (light client)
    #[arg(long, value_name = "ADDR", hide_short_help = true, help_heading = "Clients")]
    pub(crate) media_via: Option<SocketAddr>,

    /// Measure CPU time and memory of this process: the server, on this machine
    #[arg(long, value_name = "PID", help_heading = "Server process")]
    pub(crate) server_pid: Option<u32>,
    /// Move all threads of that process to these CPUs first, so that server and generator do not
    /// share CPUs
    #[arg(long, value_name = "LIST", value_parser = cpus, requires = "server_pid", help_heading = "Server process")]
    pub(crate) server_cpu: Option<CpuList>,

    /// Write the report as JSON to this file (`-`: to stdout, instead of the summary)
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report with plots to this file: one HTML page without external resources
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) html: Option<PathBuf>,
    /// Write the video that the first viewer received to this file (H264: Annex B, VP8: IVF), for
    /// any decoder. Light client only, with --verify all or sample
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(crate) record: Option<PathBuf>,
}

/// CPU numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CpuList(pub(crate) Vec<usize>);

impl std::fmt::Display for CpuList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

/// A video codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    /// H.264 constrained baseline, encoded by this program.
    H264,
    /// VP8: clips of 60 frames in a loop, padded to the bitrate.
    Vp8,
}

/// How thoroughly viewers check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verify {
    /// Every viewer authenticates every packet and judges every frame.
    All,
    /// A few viewers check everything, the others a sample of their packets.
    Sample,
    /// Order and loss only.
    None,
}

/// The WebRTC implementation of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Client {
    /// A small client of this program: thousands of sessions per machine.
    Light,
    /// A `webrtc` PeerConnection per session: an independent complete stack, for a few sessions.
    Full,
}

/// Parses CPU numbers.
pub(super) fn cpus(text: &str) -> Result<CpuList, String> {
    let problem = || "expected CPU numbers like 1 or 2,4-7".to_owned();
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < 1024);
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first).ok_or_else(problem)?, number(last).ok_or_else(problem)?);
        if first > last {
            return Err(problem());
        }
        list.extend(first..=last);
    }
    Ok(CpuList(list))
}

/// Parses a number of viewers per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number of viewers per second from 0.1 to 10000".to_owned()),
    }
}
