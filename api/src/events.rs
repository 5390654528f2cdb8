//! What a listening viewer is told (WHEP extension `core:server-sent-events`): which events there are,
//! how they are written, and when one is worth sending.
//!
//! Pure: news and the time come in, text goes out. A listener has no queue: [`Told`] holds what it knows
//! and writes the difference to the newest state. `sse.rs` does the HTTP.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use weir_sfu::error::CloseReason;
use weir_sfu::net::{LayerState, MediaLayers, ViewerStatus};

/// Bitrates alone are told this often; a layer that comes, goes, changes its size or begins to flow at
/// once.
const BITRATES_EVERY: Duration = Duration::from_secs(2);
/// A changed number of viewers is told this often.
const VIEWERCOUNT_EVERY: Duration = Duration::from_secs(2);

/// One type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody publishes.
    Active,
    /// Nobody does any more.
    Inactive,
    /// The layers there are and the one that flows.
    Layers,
    /// How many watch.
    ViewerCount,
    /// The session ends and a new one may be better off.
    Reconnect,
}

impl Kind {
    /// All of them, as the `Link` header lists them.
    pub const ALL: [Self; 5] =
        [Self::Active, Self::Inactive, Self::Layers, Self::ViewerCount, Self::Reconnect];

    /// The `event` field.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Layers => "layers",
            Self::ViewerCount => "viewercount",
            Self::Reconnect => "reconnect",
        }
    }
}

/// The events somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted([bool; Kind::ALL.len()]);

impl Wanted {
    /// Every event.
    pub const ALL: Self = Self([true; Kind::ALL.len()]);

    /// Reads a JSON array of names; an empty body wants everything.
    ///
    /// # Errors
    /// A sentence that names what there is (whip-whep E8: nothing is created then).
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let known = || Kind::ALL.map(Kind::name).join(", ");
        if body.trim_ascii().is_empty() {
            return Ok(Self::ALL);
        }
        let names: Vec<String> = serde_json::from_slice(body)
            .map_err(|error| format!("not a JSON array of events ({}): {error}", known()))?;
        let mut wanted = Self([false; Kind::ALL.len()]);
        for name in names {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| format!("no event {name:?}; there are {}", known()))?;
            wanted.0[kind as usize] = true;
        }
        Ok(wanted)
    }

    fn has(self, kind: Kind) -> bool {
        self.0[kind as usize]
    }
}

/// One element of the `layers` event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layer<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    rid: &'a str,
    spatial_layer_id: u8,
    bitrate: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u16>,
    /// Ours: it flows to this viewer.
    active: bool,
    /// Ours: it should.
    target: bool,
}

/// The data of the `layers` event: lists by m-line, the largest layer first.
pub fn layers(sections: &[MediaLayers]) -> Value {
    let list = |layers: &[LayerState]| {
        let layer = |state: &LayerState| {
            json!(Layer {
                rid: &state.rid,
                spatial_layer_id: state.spatial_layer,
                bitrate: state.bitrate_bps,
                width: state.size.map(|(width, _)| width),
                height: state.size.map(|(_, height)| height),
                active: state.flows,
                target: state.target,
            })
        };
        layers.iter().map(layer).collect::<Vec<_>>()
    };
    let by_m_line: BTreeMap<String, _> = sections
        .iter()
        .map(|section| (section.m_line.to_string(), list(&section.layers)))
        .collect();
    json!(by_m_line)
}

/// What one listener knows.
#[derive(Debug)]
pub struct Told {
    wanted: Wanted,
    active: bool,
    layers: Option<(Instant, Vec<MediaLayers>)>,
    viewers: Option<(Instant, usize)>,
}

impl Told {
    /// A listener that knows nothing.
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, active: false, layers: None, viewers: None }
    }

    /// The events that bring a listener up to date, and when to ask again if nothing else happens.
    pub fn tell(&mut self, now: Instant, news: &ViewerStatus) -> (String, Option<Instant>) {
        let mut text = String::new();
        let mut say = |kind: Kind, data: Value| {
            if self.wanted.has(kind) {
                // One `data` line: JSON has no line breaks of its own.
                text.push_str(&format!("event: {}\ndata: {data}\n\n", kind.name()));
            }
        };
        // No initial `inactive` (whip-whep E8).
        if news.active != std::mem::replace(&mut self.active, news.active) {
            say(if news.active { Kind::Active } else { Kind::Inactive }, json!({}));
        }
        let mut again = None;
        let known = self.viewers;
        let due = known.map_or(now, |(at, _)| at + VIEWERCOUNT_EVERY);
        if known.is_none_or(|(_, viewers)| viewers != news.viewers) {
            if due <= now {
                self.viewers = Some((now, news.viewers));
                say(Kind::ViewerCount, json!({"viewercount": news.viewers}));
            } else {
                again = Some(due);
            }
        }
        let known = self.layers.as_ref();
        let due = known.map_or(now, |(at, _)| *at + BITRATES_EVERY);
        let told = known.map_or(&[][..], |(_, layers)| layers);
        if news.layers != told {
            if due <= now || shape(&news.layers) != shape(told) {
                self.layers = Some((now, news.layers.clone()));
                say(Kind::Layers, layers(&news.layers));
            } else {
                again = again.into_iter().chain([due]).min();
            }
        }
        if news.ended.is_some_and(is_worth_coming_back) {
            say(Kind::Reconnect, json!({}));
        }
        (text, again)
    }
}

/// Everything but the bitrates.
fn shape(sections: &[MediaLayers]) -> Vec<MediaLayers> {
    let mut sections = sections.to_vec();
    for layer in sections.iter_mut().flat_map(|section| &mut section.layers) {
        // 0 is a layer that stopped.
        layer.bitrate_bps = layer.bitrate_bps.min(1);
    }
    sections
}

/// The session ended, the stream may go on.
fn is_worth_coming_back(reason: CloseReason) -> bool {
    use CloseReason as R;
    match reason {
        R::CodecNotNegotiated | R::Panic | R::WorkerLost | R::Shutdown | R::ConsentExpired => true,
        R::Deleted
        | R::PeerClosed
        | R::NoIce
        | R::DtlsTimeout
        | R::DtlsFailed
        | R::FingerprintMismatch
        | R::NoMedia
        | R::TakenOver
        | R::StreamEnded
        | R::Kicked
        | R::Evicted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(rid: &str, height: u16, bitrate_bps: u64, flows: bool) -> LayerState {
        LayerState {
            rid: rid.to_owned(),
            spatial_layer: u8::from(height > 400),
            size: Some((height * 16 / 9, height)),
            bitrate_bps,
            flows,
            target: flows,
        }
    }

    fn two(high: u64) -> Vec<MediaLayers> {
        let layers = vec![layer("h", 720, high, high > 0), layer("l", 360, 300_000, high == 0)];
        vec![MediaLayers { m_line: 1, layers }]
    }

    fn news(viewers: usize, layers: Vec<MediaLayers>) -> ViewerStatus {
        ViewerStatus { active: true, viewers, layers, ended: None }
    }

    fn names(text: &str) -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
    }

    // whip-whep E8
    #[test]
    fn a_listener_hears_first_what_is_and_then_what_changes() {
        let now = Instant::now();
        let mut told = Told::new(Wanted::ALL);
        let nobody = ViewerStatus { active: false, viewers: 1, ..ViewerStatus::default() };
        let (text, _) = told.tell(now, &nobody);
        assert_eq!(
            text, "event: viewercount\ndata: {\"viewercount\":1}\n\n",
            "no inactive at first"
        );
        let (text, again) = told.tell(now, &news(1, two(900_000)));
        assert_eq!((names(&text), again), (vec!["active", "layers"], None));
        let data = text.lines().find_map(|line| line.strip_prefix("data: {\"1\"")).unwrap();
        for part in [
            r#":[{"active":true,"bitrate":900000,"height":720,"rid":"h","spatialLayerId":1,"#,
            r#""target":true,"width":1280}"#,
            r#"{"active":false,"bitrate":300000,"height":360,"rid":"l","spatialLayerId":0,"#,
        ] {
            assert!(data.contains(part), "{part} in {data}");
        }
        assert_eq!(told.tell(now, &news(1, two(900_000))), (String::new(), None));
        // The large layer stops and the small one flows.
        let (text, _) = told.tell(now, &news(1, two(0)));
        assert_eq!(names(&text), ["layers"]);
        let gone = ViewerStatus { active: false, viewers: 1, ..ViewerStatus::default() };
        let (text, _) = told.tell(now, &gone);
        assert_eq!(names(&text), ["inactive", "layers"]);
        assert!(text.ends_with("data: {}\n\n"), "no layers are left");
    }

    #[test]
    fn figures_that_only_wander_are_told_every_two_seconds() {
        let start = Instant::now();
        let mut told = Told::new(Wanted::ALL);
        told.tell(start, &news(1, two(900_000)));
        let mut heard = Vec::new();
        for n in 1..=80 {
            let now = start + Duration::from_millis(n * 50);
            let (text, again) = told.tell(now, &news(1 + n as usize, two(900_000 + n)));
            heard.extend(names(&text).into_iter().map(|name| (n, name.to_owned())));
            assert_eq!(again.is_some(), text.is_empty(), "what waits is not forgotten");
        }
        let both = |n| [(n, "viewercount".to_owned()), (n, "layers".to_owned())];
        assert_eq!(heard, [both(40), both(80)].concat());
    }

    #[test]
    fn only_what_was_asked_for_is_told() {
        let mut told = Told::new(Wanted::parse(br#"["layers"]"#).unwrap());
        let (text, _) = told.tell(Instant::now(), &news(3, two(1)));
        assert_eq!(names(&text), ["layers"]);
        assert_eq!(Wanted::parse(b" "), Ok(Wanted::ALL));
        let all = serde_json::to_vec(&Kind::ALL.map(Kind::name)).unwrap();
        assert_eq!(Wanted::parse(&all), Ok(Wanted::ALL));
        for bad in [&br#"["layers","scte35"]"#[..], br#""layers""#, b"{}", b"[1]"] {
            let refused = Wanted::parse(bad).unwrap_err();
            assert!(refused.contains("viewercount"), "{refused}");
        }
    }

    #[test]
    fn a_session_that_ends_says_whether_to_come_back() {
        for (reason, comes_back) in [
            (CloseReason::CodecNotNegotiated, true),
            (CloseReason::Shutdown, true),
            (CloseReason::Deleted, false),
            (CloseReason::Kicked, false),
        ] {
            let end = ViewerStatus { ended: Some(reason), ..ViewerStatus::default() };
            let (text, _) = Told::new(Wanted::ALL).tell(Instant::now(), &end);
            assert_eq!(text.contains("event: reconnect\ndata: {}\n\n"), comes_back, "{reason:?}");
        }
    }
}
