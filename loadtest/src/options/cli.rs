//! The command line as `clap` parses it, and the task that it describes.
//!
//! Called by `command` and by tests. The long help texts are in `help`.

use std::ffi::OsString;

use clap::builder::RangedI64ValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use super::flags::{self, Common, Video};
use super::help;
use super::run_options::{Options, PEERS_MAX, Pattern};
use crate::relay::RelayOptions;

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
    pub(crate) fn parse_from(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let task = Cli::try_parse_from(args)?.into_task();
        if let Self::Load(options) = &task {
            options
                .check()
                .map_err(|problem| Cli::command().error(ErrorKind::ValueValidation, problem))?;
        }
        Ok(task)
    }
}

/// Parses a command line that loads a server. The first argument is the name of the program.
///
/// # Errors
/// What is wrong, or the help text that was requested.
pub fn parse_options(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Options, clap::Error> {
    match Task::parse_from(args)? {
        Task::Load(options) => Ok(*options),
        Task::Relay(_) => {
            Err(Cli::command().error(ErrorKind::InvalidSubcommand, "a relay loads no server"))
        }
    }
}

/// Loads a WHIP/WHEP server with publishers and viewers, and reports what the viewers received.
#[derive(Debug, Parser)]
#[command(name = "weir-loadtest", version, after_help = help::PLAIN, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    scenario: Option<Scenario>,
    #[command(flatten)]
    plain: Plain,
}

#[derive(Debug, Args)]
struct Plain {
    /// Number of publishers (0: another program publishes)
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = peers(0))]
    publishers: u32,
    /// Number of viewers in all
    #[arg(long, value_name = "V", default_value_t = 1, value_parser = peers(0))]
    viewers: u32,
    #[command(flatten)]
    media: Media,
}

/// The flags of every scenario with video.
#[derive(Debug, Args)]
struct Media {
    /// Publish and watch Opus audio as well (50 packets of 80 bytes per second)
    #[arg(long)]
    audio: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    video: Video,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// One publisher, many viewers
    #[command(after_help = help::LIVESTREAM)]
    Livestream {
        /// Number of viewers
        #[arg(long, value_name = "V", default_value_t = 100, value_parser = peers(1))]
        viewers: u32,
        #[command(flatten)]
        media: Media,
    },
    /// Rooms in which every participant publishes and watches all others
    #[command(after_help = help::CONFERENCE)]
    Conference {
        /// Number of rooms
        #[arg(long, value_name = "R", default_value_t = 10, value_parser = peers(1))]
        rooms: u32,
        /// Participants in each room
        #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
        per_room: u32,
        #[command(flatten)]
        media: Media,
    },
    /// Audio only: a few speakers, many listeners
    #[command(after_help = help::AUDIO)]
    Audio {
        /// Number of speakers
        #[arg(long, value_name = "P", default_value_t = 10, value_parser = peers(0))]
        publishers: u32,
        /// Number of listeners in all
        #[arg(long, value_name = "V", default_value_t = 100, value_parser = peers(1))]
        viewers: u32,
        #[command(flatten)]
        common: Common,
    },
    /// An impaired network: relays UDP between clients and a server with loss, delay, a rate and a
    /// seed
    Relay(RelayOptions),
    /// Viewers that join and leave all the time
    #[command(after_help = help::CHURN)]
    Churn {
        /// Number of publishers
        #[arg(long, value_name = "P", default_value_t = 1, value_parser = peers(0))]
        publishers: u32,
        /// Number of viewers at any time
        #[arg(long, value_name = "V", default_value_t = 100, value_parser = peers(1))]
        viewers: u32,
        /// Joins per second, and as many leaves
        #[arg(long, value_name = "RATE", default_value_t = 10.0, value_parser = flags::rate)]
        per_second: f64,
        #[command(flatten)]
        media: Media,
    },
}

impl Cli {
    /// The task that the command line describes.
    fn into_task(self) -> Task {
        let load = |scenario, pattern, publishers, viewers, media: Media| {
            let Media { audio, common, video } = media;
            let options = Options { scenario, pattern, publishers, viewers, audio, video, common };
            Task::Load(Box::new(options))
        };
        let Plain { publishers, viewers, media: plain } = self.plain;
        match self.scenario {
            None => load("", Pattern::RoundRobin, publishers, viewers, plain),
            Some(Scenario::Relay(relay)) => Task::Relay(Box::new(relay)),
            Some(Scenario::Livestream { viewers, media }) => {
                load("livestream", Pattern::RoundRobin, 1, viewers, media)
            }
            Some(Scenario::Conference { rooms, per_room, media }) => {
                let participants = rooms.saturating_mul(per_room);
                let viewers = participants.saturating_mul(per_room - 1);
                load("conference", Pattern::Rooms(per_room), participants, viewers, media)
            }
            Some(Scenario::Audio { publishers, viewers, common }) => {
                let media =
                    Media { audio: true, common, video: Video { none: true, ..plain.video } };
                load("audio", Pattern::RoundRobin, publishers, viewers, media)
            }
            Some(Scenario::Churn { publishers, viewers, per_second, media }) => {
                load("churn", Pattern::Churn(per_second), publishers, viewers, media)
            }
        }
    }
}

fn peers(min: i64) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(min..=i64::from(PEERS_MAX))
}
