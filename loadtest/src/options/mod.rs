//! The options of a run, and the rules between them.
//!
//! Opens nothing. Called by `command` and by tests, read by `run` and every session. Next: `cli`.

mod cli;
mod help;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, ValueEnum};

use crate::relay::RelayOptions;
use cli::{Cli, PEERS_MAX};

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
    #[arg(long, value_name = "V/s", default_value_t = 50.0, value_parser = cli::rate)]
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
    #[arg(long, value_name = "LIST", value_parser = cli::cpus, help_heading = "Clients")]
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
    #[arg(long, value_name = "LIST", value_parser = cli::cpus, requires = "server_pid", help_heading = "Server process")]
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

/// The options of one run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name of the scenario; empty without a scenario.
    pub(crate) scenario: &'static str,
    /// Which viewer watches which publisher, and for how long.
    pub(crate) pattern: Pattern,
    /// Number of publishers.
    pub(crate) publishers: u32,
    /// Number of viewers at any time.
    pub(crate) viewers: u32,
    /// Whether there is audio.
    pub(crate) audio: bool,
    /// The video.
    pub(crate) video: Video,
    /// The options of every scenario.
    pub(crate) common: Common,
}

/// Which viewer watches which publisher, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pattern {
    /// Viewers are assigned to publishers round robin, and stay.
    RoundRobin,
    /// Every participant watches the others in the same room of this size, and stays.
    Rooms(u32),
    /// As round robin, but within the window the oldest viewer is replaced this many times per
    /// second.
    Churn(f64),
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

/// What the program is asked to do.
#[derive(Debug, Clone)]
pub(crate) enum Task {
    /// Load a server.
    Load(Box<Options>),
    /// Relay datagrams like an impaired network.
    Relay(Box<RelayOptions>),
}

impl Task {
    /// Parses a command line. The first argument is the name of the program.
    ///
    /// # Errors
    /// What is wrong, or the help text that was requested.
    pub(crate) fn parse_from<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let task = Cli::try_parse_from(args)?.into_task();
        if let Self::Load(options) = &task {
            options
                .check()
                .map_err(|problem| Cli::command().error(ErrorKind::ValueValidation, problem))?;
        }
        Ok(task)
    }
}

impl Options {
    /// Parses a command line that loads a server. The first argument is the name of the program.
    ///
    /// # Errors
    /// What is wrong, or the help text that was requested.
    pub fn parse_from<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        match Task::parse_from(args)? {
            Task::Load(options) => Ok(*options),
            Task::Relay(_) => {
                Err(Cli::command().error(ErrorKind::InvalidSubcommand, "a relay loads no server"))
            }
        }
    }

    /// The codec of the video, if there is video.
    pub(crate) fn video_codec(&self) -> Option<Codec> {
        (!self.video.none).then_some(self.video.codec)
    }

    /// The WHIP URL of publisher `n`.
    pub(crate) fn whip_url(&self, n: u32) -> String {
        self.url(&self.common.whip, n)
    }

    /// The WHEP URL of viewer `viewer`.
    pub(crate) fn whep_url(&self, viewer: u32) -> String {
        self.url(&self.common.whep, self.publisher_of_viewer(viewer))
    }

    /// The index of the publisher that `viewer` watches.
    fn publisher_of_viewer(&self, viewer: u32) -> u32 {
        let Pattern::Rooms(per_room) = self.pattern else {
            return viewer % self.publishers.max(1);
        };
        let others = per_room - 1;
        let (participant, other) = (viewer / others, viewer % others);
        let (room, own) = (participant / per_room, participant % per_room);
        room * per_room + if other < own { other } else { other + 1 }
    }

    fn url(&self, template: &str, publisher: u32) -> String {
        let room = match self.pattern {
            Pattern::Rooms(per_room) => publisher / per_room,
            _ => publisher,
        };
        template.replace("{n}", &publisher.to_string()).replace("{room}", &room.to_string())
    }

    /// Checks the rules between options.
    ///
    /// # Errors
    /// A sentence that names the options that contradict each other.
    fn check(&self) -> Result<(), String> {
        let check_url = |count: u32, url: &str, flag: &str, count_flag: &str| match (count, url) {
            (0, _) => Ok(()),
            (_, "") => Err(format!("--{flag} URL is missing (or use --{count_flag} 0)")),
            (_, url) if url.starts_with("http://") => Ok(()),
            (_, url) => Err(format!(
                "--{flag} {url}: only http:// URLs are supported (send the load past the TLS proxy)"
            )),
        };
        let common = &self.common;
        check_url(self.publishers, &common.whip, "whip", "publishers")?;
        check_url(self.viewers, &common.whep, "whep", "viewers")?;
        if self.publishers > 1 && !common.whip.contains("{n}") {
            return Err(
                "--publishers above 1 needs {n} in --whip, because each publisher needs its own stream"
                    .to_owned(),
            );
        }
        if self.publishers == 0 && self.viewers == 0 {
            return Err("nothing to do: --publishers 0 and --viewers 0".to_owned());
        }
        if self.publishers > PEERS_MAX || self.viewers > PEERS_MAX {
            return Err(format!(
                "{} publishers and {} viewers: the maximum of each is {PEERS_MAX}",
                self.publishers, self.viewers
            ));
        }
        let full = common.client == Client::Full;
        if full && (common.media_via.is_some() || common.record.is_some()) {
            return Err("--media-via and --record need --client light".to_owned());
        }
        if full && (self.video.simulcast > 1 || self.video.none) {
            return Err("--simulcast and audio without video need --client light".to_owned());
        }
        if common.record.is_some() && (common.verify == Verify::None || self.video.none) {
            return Err("--record needs video, and --verify all or sample".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
