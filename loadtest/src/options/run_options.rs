//! The options of one run, and the rules between them.
//!
//! Opens nothing. Filled by `cli`, read by `run` and every session.

use super::flags::{Client, Codec, Common, Verify, Video};

/// Maximum publishers and maximum viewers. More would need more sockets than there are ports to
/// bind them to.
pub(super) const PEERS_MAX: u32 = 20_000;

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

impl Options {
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
    pub(super) fn publisher_of_viewer(&self, viewer: u32) -> u32 {
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
    pub(super) fn check(&self) -> Result<(), String> {
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
