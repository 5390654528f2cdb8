//! What one run shall do: the command line, and the ranges that are accepted.
//!
//! Never opens anything. Read by `main.rs` and by tests; next: `run.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::RangedI64ValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::relay::RelayOptions;

/// More would need more sockets than there are ports to bind them to.
const PEERS_MAX: u32 = 20_000;

const EXAMPLES: &str = "\
Examples:
  One publisher, one hundred viewers, half a minute:
    weir-loadtest --whip http://127.0.0.1:8080/whip/demo --whep http://127.0.0.1:8080/whep/demo --viewers 100

  Ten rooms of twenty viewers ({#n} is the publisher's index, from 0; viewers are dealt round robin):
    weir-loadtest --whip 'http://127.0.0.1:8080/whip/room{#n}' --whep 'http://127.0.0.1:8080/whep/room{#n}' \\
        --publishers 10 --viewers 200

  CPU per forwarded packet of a server on this machine, generator and server on a core each, figures and plots into files:
    weir-loadtest livestream --whip URL --whep URL --viewers 1000 --verify sample \\
        --server-pid $(pidof weir) --server-cpu 0 --cpu 1 --json result.json --html result.html

  Watch a stream that somebody else publishes:
    weir-loadtest --whep URL --publishers 0 --viewers 50

The scenarios (`weir-loadtest livestream --help`, ...) are the same with fitting defaults; the flags without a scenario do
everything but conference and churn.

How it counts: publishers start, then viewers join at --ramp per second, then one second of warm-up; only then the window of
--duration seconds opens in which packets and frames are counted. A packet is lost when it was still missing one second
after the gap was seen, repair included. A frame is broken when a decoder could not have shown it: incomplete, altered,
never sent on, or referring to such a frame. join_ms runs from the POST to media keys, first_frame_ms to the first whole
keyframe (without video: to the first packet). Latency is the sender's stamp inside each frame against the kernel's receipt
of its last packet.

Whose fault: the generator watches itself (datagrams dropped at its own sockets, waiting times, CPU). If something went wrong
while it could not keep up, it says so and does not blame the server.

Exit code: 0 all well; 1 a viewer or publisher failed or a frame was broken; 2 wrong usage; 3 something went wrong or was
lost, but this generator was the bottleneck. --allow-failures makes 1 and 3 a 0.";

/// Loads a WHIP/WHEP server with publishers and viewers, and reports what the viewers really got.
#[derive(Debug, Parser)]
#[command(name = "weir-loadtest", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    scenario: Option<Scenario>,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Debug, Args)]
struct Plain {
    /// Publishers to run (0: somebody else publishes)
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = peers(0))]
    publishers: u32,
    /// Viewers to run in all
    #[arg(long, value_name = "V", default_value_t = 1, value_parser = peers(0))]
    viewers: u32,
    /// Publish and watch Opus audio as well (50 packets of 80 bytes each second)
    #[arg(long)]
    audio: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    video: Video,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// One publisher, many viewers: a broadcast
    #[command(after_help = "\
  weir-loadtest livestream --whip http://HOST:8080/whip/live --whep http://HOST:8080/whep/live --viewers 1000 --ramp 100

The question it answers: how many viewers of one stream does the server carry without loss, and what does one packet cost?")]
    Livestream {
        /// Viewers
        #[arg(long, value_name = "V", default_value_t = 100, value_parser = peers(1))]
        viewers: u32,
        /// Publish and watch Opus audio as well (50 packets of 80 bytes each second)
        #[arg(long)]
        audio: bool,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        video: Video,
    },
    /// Rooms in which everybody publishes and watches everybody else
    #[command(after_help = "\
  weir-loadtest conference --whip 'http://HOST:8080/whip/p{#n}' --whep 'http://HOST:8080/whep/p{#n}' --rooms 10 --per-room 10

{#n} is the participant's index over all rooms; {#room} may stand in the URLs too. A room of K has K publishing and K x (K - 1)
watching sessions, as WHEP carries one stream in each.")]
    Conference {
        /// Rooms
        #[arg(long, value_name = "R", default_value_t = 10, value_parser = peers(1))]
        rooms: u32,
        /// Participants in each room
        #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
        per_room: u32,
        /// Publish and watch Opus audio as well (50 packets of 80 bytes each second)
        #[arg(long)]
        audio: bool,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        video: Video,
    },
    /// Audio only: a few speakers, many listeners
    #[command(after_help = "\
  weir-loadtest audio --whip 'http://HOST:8080/whip/s{#n}' --whep 'http://HOST:8080/whep/s{#n}' --viewers 3000

Listeners are dealt over the speakers round robin. 50 small packets per second and listener: the cost is all in the packet,
none in the bytes.")]
    Audio {
        /// Speakers
        #[arg(long, value_name = "P", default_value_t = 10, value_parser = peers(0))]
        publishers: u32,
        /// Listeners in all
        #[arg(long, value_name = "V", default_value_t = 100, value_parser = peers(1))]
        viewers: u32,
        #[command(flatten)]
        common: Common,
    },
    /// A bad network: passes UDP on between clients and a server, with loss, delay, a rate and a seed
    Relay(RelayOptions),
    /// Viewers that come and go all the time
    #[command(after_help = "\
  weir-loadtest churn --whip URL --whep URL --viewers 200 --per-second 20 --duration 60 --server-pid $(pidof weir)

First --viewers join. Then, for --duration seconds, the oldest viewer leaves and a new one joins, --per-second times a second.
What it shows: join times under load, whether joins disturb those who stay, and whether memory comes back.")]
    Churn {
        /// Publishers
        #[arg(long, value_name = "P", default_value_t = 1, value_parser = peers(0))]
        publishers: u32,
        /// Viewers at any one time
        #[arg(long, value_name = "V", default_value_t = 100, value_parser = peers(1))]
        viewers: u32,
        /// Joins per second, and as many leaves
        #[arg(long, value_name = "RATE", default_value_t = 10.0, value_parser = ramp)]
        per_second: f64,
        /// Publish and watch Opus audio as well (50 packets of 80 bytes each second)
        #[arg(long)]
        audio: bool,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        video: Video,
    },
}

/// The pictures that are published.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Video")]
pub struct Video {
    /// Bitrate of each publisher in kbit/s (of the largest layer with --simulcast; each lower one has a third)
    #[arg(long = "video-kbps", value_name = "KBPS", default_value_t = 1400, value_parser = clap::value_parser!(u32).range(50..=14_000))]
    pub kbps: u32,
    /// Frames per second
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub fps: u32,
    /// Codec to publish and to ask for
    #[arg(long, value_enum, default_value_t = Codec::H264)]
    pub codec: Codec,
    /// Layers with rids l, m, h, of 320x180, 640x360, 1280x720 (1: none, 640x360)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
    pub simulcast: u32,
    /// Seconds between keyframes that nobody asked for (VP8: at most 60 frames). A keyframe is nine times a mean frame, sizes vary
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub keyframe_s: u32,
    /// Publish and watch no video at all
    #[arg(long = "no-video", requires = "audio")]
    pub none: bool,
}

/// What every scenario has.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// WHIP endpoint for the publishers; `{#n}` becomes the publisher's index, from 0
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    pub whip: String,
    /// WHEP endpoint for the viewers; `{#n}` becomes the index of the publisher they watch
    #[arg(long, value_name = "URL", default_value = "", hide_default_value = true)]
    pub whep: String,
    /// Bearer token for every request
    #[arg(long, env = "WEIR_LOADTEST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Length of the counted window in seconds
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub duration: u32,
    /// Viewers that join per second
    #[arg(long, value_name = "V/s", default_value_t = 50.0, value_parser = ramp)]
    pub ramp: f64,
    /// Exit with 0 even if viewers failed or frames were broken
    #[arg(long)]
    pub allow_failures: bool,

    /// `all`: every packet authenticated, every frame judged. `sample`: that for one viewer in --verify-viewers; the others
    /// authenticate one packet in 16 and follow order, loss and whole frames by headers. `none`: order and loss by headers
    #[arg(long, value_enum, default_value_t = Verify::All, help_heading = "Clients")]
    pub verify: Verify,
    /// With --verify sample: one viewer in so many is checked fully, the first is (0: none)
    #[arg(long, value_name = "N", default_value_t = 50, help_heading = "Clients")]
    pub verify_viewers: u32,
    /// How much WebRTC each client is: `light` for many, `full` for a few through a complete independent stack
    #[arg(long, value_enum, default_value_t = Client::Light, help_heading = "Clients")]
    pub client: Client,
    /// Do not offer transport-wide congestion feedback (light clients send it every 100 ms, as browsers do)
    #[arg(long, help_heading = "Clients")]
    pub no_twcc: bool,
    /// Threads that carry viewers (default: one for each CPU we may use)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Clients")]
    pub threads: Option<u32>,
    /// Run on these CPUs only, like 1 or 2,4-7
    #[arg(long, value_name = "LIST", value_parser = cpus, help_heading = "Clients")]
    pub cpu: Option<CpuList>,
    /// Send media through this address, e.g. a relay, instead of the server's candidates (light client)
    #[arg(long, value_name = "ADDR", hide_short_help = true, help_heading = "Clients")]
    pub media_via: Option<SocketAddr>,

    /// Measure CPU time and memory of this process (the server, on this machine)
    #[arg(long, value_name = "PID", help_heading = "Server process")]
    pub server_pid: Option<u32>,
    /// Move all threads of that process to these CPUs first, so that both sides do not share any
    #[arg(long, value_name = "LIST", value_parser = cpus, requires = "server_pid", help_heading = "Server process")]
    pub server_cpu: Option<CpuList>,

    /// Write the figures as JSON to this file (`-`: stdout instead of the summary)
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub json: Option<PathBuf>,
    /// Write a report with plots to this file: one HTML page that needs nothing else
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub html: Option<PathBuf>,
    /// Write the video that the first viewer got (H264: Annex B, VP8: IVF); any decoder can judge it. Light client,
    /// --verify all or sample
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub record: Option<PathBuf>,
}

/// What one run shall do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario's name; empty for the plain form.
    pub scenario: &'static str,
    /// Who watches whom, and for how long.
    pub pattern: Pattern,
    /// Publishers to run.
    pub publishers: u32,
    /// Viewers to run, at any one time.
    pub viewers: u32,
    /// Whether there is audio.
    pub audio: bool,
    /// The pictures.
    pub video: Video,
    /// What every scenario has.
    pub common: Common,
}

/// Who watches whom, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Viewers are dealt over the publishers round robin and stay.
    Dealt,
    /// Everybody watches the others in the same room of so many, and stays.
    Rooms(u32),
    /// As dealt, but in the window the oldest viewer is replaced so many times a second.
    Churn(f64),
}

/// CPU numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl std::fmt::Display for CpuList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&numbers.join(","))
    }
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
    /// A few viewers as `all`, the others spot checks.
    Sample,
    /// Order and loss only.
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

/// What the program is asked to do.
#[derive(Debug, Clone)]
pub enum Task {
    /// Load a server.
    Load(Box<Options>),
    /// Be a bad network.
    Relay(Box<RelayOptions>),
}

impl Task {
    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// What is wrong, or the help that was asked for.
    pub fn parse_from<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let task = Self::from_cli(Cli::try_parse_from(args)?);
        if let Self::Load(options) = &task {
            options
                .check()
                .map_err(|problem| Cli::command().error(ErrorKind::ValueValidation, problem))?;
        }
        Ok(task)
    }

    fn from_cli(cli: Cli) -> Self {
        let Some(scenario) = cli.scenario else {
            let Plain { publishers, viewers, audio, video, common } = cli.plain;
            let pattern = Pattern::Dealt;
            let options =
                Options { scenario: "", pattern, publishers, viewers, audio, video, common };
            return Self::Load(Box::new(options));
        };
        let options = match scenario {
            Scenario::Relay(relay) => return Self::Relay(Box::new(relay)),
            Scenario::Livestream { viewers, audio, video, common } => Options {
                scenario: "livestream",
                pattern: Pattern::Dealt,
                publishers: 1,
                viewers,
                audio,
                video,
                common,
            },
            Scenario::Conference { rooms, per_room, audio, video, common } => Options {
                scenario: "conference",
                pattern: Pattern::Rooms(per_room),
                publishers: rooms.saturating_mul(per_room),
                viewers: rooms.saturating_mul(per_room).saturating_mul(per_room - 1),
                audio,
                video,
                common,
            },
            Scenario::Audio { publishers, viewers, common } => Options {
                scenario: "audio",
                pattern: Pattern::Dealt,
                publishers,
                viewers,
                audio: true,
                video: Video { none: true, ..cli.plain.video },
                common,
            },
            Scenario::Churn { publishers, viewers, per_second, audio, video, common } => Options {
                scenario: "churn",
                pattern: Pattern::Churn(per_second),
                publishers,
                viewers,
                audio,
                video,
                common,
            },
        };
        Self::Load(Box::new(options))
    }
}

impl Options {
    /// Reads a command line; the first word is the program's name.
    ///
    /// # Errors
    /// What is wrong, or the help that was asked for.
    pub fn parse_from<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        match Task::parse_from(args)? {
            Task::Load(options) => Ok(*options),
            Task::Relay(_) => {
                Err(Cli::command().error(ErrorKind::InvalidSubcommand, "a relay loads nothing"))
            }
        }
    }

    /// The WHIP URL of publisher `n`.
    #[must_use]
    pub fn whip_url(&self, n: u32) -> String {
        self.url(&self.common.whip, n)
    }

    /// The WHEP URL of viewer `viewer`.
    #[must_use]
    pub fn whep_url(&self, viewer: u32) -> String {
        self.url(&self.common.whep, self.watched_by(viewer))
    }

    /// The index of the publisher that `viewer` watches.
    #[must_use]
    pub fn watched_by(&self, viewer: u32) -> u32 {
        let Pattern::Rooms(per_room) = self.pattern else {
            return viewer % self.publishers.max(1);
        };
        let others = per_room - 1;
        let (participant, other) = (viewer / others, viewer % others);
        let (room, me) = (participant / per_room, participant % per_room);
        room * per_room + if other < me { other } else { other + 1 }
    }

    fn url(&self, template: &str, publisher: u32) -> String {
        let room = match self.pattern {
            Pattern::Rooms(per_room) => publisher / per_room,
            _ => publisher,
        };
        template.replace("{n}", &publisher.to_string()).replace("{room}", &room.to_string())
    }

    /// What no single option can know.
    ///
    /// # Errors
    /// A sentence that names the options which do not fit together.
    fn check(&self) -> Result<(), String> {
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
        let common = &self.common;
        need(self.publishers, &common.whip, "whip")?;
        need(self.viewers, &common.whep, "whep")?;
        if self.publishers > 1 && !common.whip.contains("{n}") {
            return Err(
                "--publishers above 1 needs {n} in --whip, or they would fight over one stream"
                    .to_owned(),
            );
        }
        if self.publishers == 0 && self.viewers == 0 {
            return Err("nothing to do: --publishers 0 and --viewers 0".to_owned());
        }
        if self.publishers > PEERS_MAX || self.viewers > PEERS_MAX {
            return Err(format!(
                "{} publishers and {} viewers: at most {PEERS_MAX} of each fit one process",
                self.publishers, self.viewers
            ));
        }
        let full = common.client == Client::Full;
        if full && (common.media_via.is_some() || common.record.is_some()) {
            return Err("--media-via and --record are for --client light".to_owned());
        }
        if full && (self.video.simulcast > 1 || self.video.none) {
            return Err("--simulcast and audio alone are for --client light".to_owned());
        }
        if common.record.is_some() && (common.verify == Verify::None || self.video.none) {
            return Err("--record needs video and --verify all or sample".to_owned());
        }
        Ok(())
    }
}

fn peers(least: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=i64::from(PEERS_MAX))
}

fn cpus(text: &str) -> Result<CpuList, String> {
    let problem = || "CPU numbers like 1 or 2,4-7".to_owned();
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

fn ramp(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number of viewers per second, 0.1 to 10000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::parse_from([&["weir-loadtest"], args].concat()).map_err(|e| e.to_string())
    }

    const BOTH: [&str; 4] = ["--whip", "http://h/whip/p{n}", "--whep", "http://h/whep/p{n}"];

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
        ])
        .expect("is accepted");
        assert_eq!(options.whip_url(2), "http://h/whip/a2");
        assert_eq!(
            (0..7).map(|v| options.whep_url(v)).filter(|u| u == "http://h/whep/a0").count(),
            3
        );
        assert_eq!(options.common.ramp, 12.5);
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
            let error = parse(args).expect_err("must be refused");
            assert!(error.contains(word), "{error}");
        }
        for bad in [["--ramp", "0"], ["--simulcast", "4"], ["--cpu", "3-1"], ["--cpu", "x"]] {
            assert!(parse(&[&BOTH[..], &bad].concat()).is_err(), "{bad:?}");
        }
        let crowd = [&["conference"], &BOTH[..], &["--rooms", "100", "--per-room", "100"]].concat();
        assert!(parse(&crowd).is_err_and(|e| e.contains("20000")));
    }

    #[test]
    fn in_a_conference_everybody_watches_everybody_else_in_the_room_once() {
        let args = [&["conference"], &BOTH[..], &["--rooms", "3", "--per-room", "4"]].concat();
        let options = parse(&args).expect("is accepted");
        assert_eq!((options.publishers, options.viewers), (12, 36));
        let mut watched = std::collections::BTreeSet::new();
        for viewer in 0..36 {
            let (who, whom) = (viewer / 3, options.watched_by(viewer));
            assert_ne!(who, whom, "nobody watches himself");
            assert_eq!(who / 4, whom / 4, "the same room");
            assert!(watched.insert((who, whom)), "once");
        }
        let url =
            Options { common: Common { whip: "r{room}-{n}".into(), ..options.common }, ..options }
                .whip_url(7);
        assert_eq!(url, "r1-7");
    }

    #[test]
    fn scenarios_have_fitting_defaults_and_take_the_same_flags() {
        let audio = parse(&[&["audio"], &BOTH[..], &["--viewers", "30"]].concat()).expect("parses");
        assert_eq!((audio.publishers, audio.viewers, audio.audio), (10, 30, true));
        assert!(audio.video.none);
        let churn =
            parse(&[&["churn"], &BOTH[..], &["--per-second", "5"]].concat()).expect("parses");
        assert_eq!((churn.pattern, churn.scenario), (Pattern::Churn(5.0), "churn"));
        let live =
            parse(&[&["livestream"], &BOTH[..], &["--cpu", "1,3-4"]].concat()).expect("parses");
        assert_eq!((live.publishers, live.viewers), (1, 100));
        assert_eq!(live.common.cpu, Some(CpuList(vec![1, 3, 4])));
        assert!(
            parse(&[&BOTH[..], &["livestream"]].concat()).is_err(),
            "flags go behind the scenario"
        );
    }
}
