//! Events of a session's event stream (WHEP extension `core:server-sent-events`): which events
//! exist, how they are written, and when one is due.
//!
//! Pure: a viewer's status and the time go in, text comes out. An event stream has no queue:
//! [`SseState`] holds what the client was sent and writes the difference to the newest status.
//! `sse.rs` does the HTTP.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use weir_sfu::error::CloseReason;
use weir_sfu::ids::Role;
use weir_sfu::net::{LayerState, MediaLayers, UnservedMedia, ViewerStatus, Warning};

/// Interval of `layers` events in which only bitrates changed. A layer that starts, stops, changes
/// its size or becomes the forwarded one is sent at once.
const BITRATES_EVERY: Duration = Duration::from_secs(2);
/// Shortest interval of `status` events in which only the times of keyframes changed.
const KEYFRAMES_EVERY: Duration = Duration::from_secs(2);
/// Shortest interval of `viewercount` events.
const VIEWERCOUNT_EVERY: Duration = Duration::from_secs(2);

/// One type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The stream has a publisher.
    Active,
    /// The stream has no publisher any more.
    Inactive,
    /// The layers of the stream, and the one that is forwarded to this viewer.
    Layers,
    /// The number of viewers.
    ViewerCount,
    /// What is wrong with the stream, and when its next keyframe is due. Not in the extension.
    Status,
    /// The m-lines on which nothing is sent although the viewer asked for them, with the reasons. Not
    /// in the extension.
    Unserved,
    /// The session ends, and a new one may succeed.
    Reconnect,
}

impl Kind {
    /// All events, as the `Link` header lists them.
    pub const ALL: [Self; 7] = [
        Self::Active,
        Self::Inactive,
        Self::Layers,
        Self::ViewerCount,
        Self::Status,
        Self::Unserved,
        Self::Reconnect,
    ];

    /// Text of the `event` field.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Layers => "layers",
            Self::ViewerCount => "viewercount",
            Self::Status => "status",
            Self::Unserved => "unserved",
            Self::Reconnect => "reconnect",
        }
    }
}

/// The events that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventFilter([bool; Kind::ALL.len()]);

impl EventFilter {
    /// Every event.
    pub const ALL: Self = Self([true; Kind::ALL.len()]);

    /// Every event of a session. A publisher receives no media, so it has none about that.
    pub fn of(role: Role) -> Self {
        let mut all = Self::ALL;
        for received in [Kind::Layers, Kind::Unserved] {
            all.0[received as usize] = role == Role::Subscriber;
        }
        all
    }

    /// Names of the selected events.
    pub fn names(self) -> Vec<&'static str> {
        Kind::ALL.into_iter().filter(|kind| self.has(*kind)).map(Kind::name).collect()
    }

    /// Reads a JSON array of event names; an empty body selects every event of the session.
    ///
    /// # Errors
    /// A sentence that lists the events (whip-whep E8: nothing is created then).
    pub fn parse(role: Role, body: &[u8]) -> Result<Self, String> {
        let every = Self::of(role);
        let known = || every.names().join(", ");
        if body.trim_ascii().is_empty() {
            return Ok(every);
        }
        let names: Vec<String> = serde_json::from_slice(body).map_err(|error| {
            format!("the body is not a JSON array of event names ({}): {error}", known())
        })?;
        let mut filter = Self([false; Kind::ALL.len()]);
        for name in names {
            let kind = Kind::ALL.into_iter().find(|kind| every.has(*kind) && kind.name() == name);
            let kind =
                kind.ok_or_else(|| format!("there is no event {name:?}; name any of {}", known()))?;
            filter.0[kind as usize] = true;
        }
        Ok(filter)
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
    /// Whether this layer is forwarded to the viewer. Not in the extension.
    active: bool,
    /// Whether this layer should be forwarded to the viewer. Not in the extension.
    target: bool,
}

/// Data of the `layers` event: by m-line, a list of layers with the largest first. This is the
/// shape of the extension (webrtc-http-egress-events, "layers event"). Drafts before it had
/// `{"0":{"layers":[…]}}`, and the player of Broadcast Box reads that; one shape excludes the other.
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

/// What the `status` event tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct StreamState {
    warnings: Vec<Warning>,
    /// Whether this viewer sees nothing move until a keyframe comes.
    awaits_keyframe: bool,
    keyframe_interval: Option<Duration>,
    next_keyframe: Option<Instant>,
}

impl StreamState {
    fn of(status: &ViewerStatus) -> Self {
        let ViewerStatus { publisher, layers, .. } = status;
        let in_vain = layers.iter().any(|section| section.filters_in_vain);
        let own = in_vain.then_some(Warning::NothingToLeaveOut);
        Self {
            warnings: publisher.warnings.iter().copied().chain(own).collect(),
            awaits_keyframe: layers.iter().any(|section| section.awaits_keyframe),
            keyframe_interval: publisher.keyframe_interval,
            next_keyframe: publisher.next_keyframe,
        }
    }

    /// All but the times of keyframes.
    fn urgent(&self) -> (&[Warning], bool) {
        (&self.warnings, self.awaits_keyframe)
    }

    fn data(&self, now: Instant) -> Value {
        let ms = |time: Duration| time.as_millis() as u64;
        let until = |at: Instant| at.checked_duration_since(now).map(ms);
        json!({
            "warnings": self.warnings,
            "awaitsKeyframe": self.awaits_keyframe,
            "keyframeIntervalMs": self.keyframe_interval.map(ms),
            "nextKeyframeMs": self.next_keyframe.and_then(until),
        })
    }
}

/// Data of the `unserved` event: by m-line, its kind and the reason as a code and in words.
fn unserved(media: &[UnservedMedia]) -> Value {
    let one = |media: &UnservedMedia| {
        let UnservedMedia { m_line, kind, reason, text } = media;
        (m_line.to_string(), json!({"kind": kind, "reason": reason, "text": text}))
    };
    json!(media.iter().map(one).collect::<BTreeMap<_, _>>())
}

/// State of one event stream: what its client was sent last.
#[derive(Debug)]
pub struct SseState {
    filter: EventFilter,
    active: bool,
    layers: Option<(Instant, Vec<MediaLayers>)>,
    viewers: Option<(Instant, usize)>,
    stream: Option<(Instant, StreamState)>,
    unserved: Vec<UnservedMedia>,
}

impl SseState {
    /// State of a client that was sent nothing yet.
    pub fn new(filter: EventFilter) -> Self {
        Self {
            filter,
            active: false,
            layers: None,
            viewers: None,
            stream: None,
            unserved: Vec::new(),
        }
    }

    /// Events that bring the client up to date with `status`, and when to ask again if the status
    /// does not change before.
    pub fn update(&mut self, now: Instant, status: &ViewerStatus) -> (String, Option<Instant>) {
        let mut text = String::new();
        let mut write = |kind: Kind, data: Value| {
            if self.filter.has(kind) {
                // One `data` line: JSON has no line breaks of its own.
                text.push_str(&format!("event: {}\ndata: {data}\n\n", kind.name()));
            }
        };
        // No initial `inactive` (whip-whep E8).
        if status.active != std::mem::replace(&mut self.active, status.active) {
            write(if status.active { Kind::Active } else { Kind::Inactive }, json!({}));
        }
        // Once per change: a publisher comes or goes.
        if status.unserved != self.unserved {
            self.unserved.clone_from(&status.unserved);
            write(Kind::Unserved, unserved(&status.unserved));
        }
        let mut again = None;
        let known = self.viewers;
        let due = known.map_or(now, |(at, _)| at + VIEWERCOUNT_EVERY);
        if known.is_none_or(|(_, viewers)| viewers != status.viewers) {
            if due <= now {
                self.viewers = Some((now, status.viewers));
                write(Kind::ViewerCount, json!({"viewercount": status.viewers}));
            } else {
                again = Some(due);
            }
        }
        let known = self.layers.as_ref();
        let due = known.map_or(now, |(at, _)| *at + BITRATES_EVERY);
        let sent = known.map_or(&[][..], |(_, layers)| layers);
        if status.layers != sent {
            if due <= now || shape(&status.layers) != shape(sent) {
                self.layers = Some((now, status.layers.clone()));
                write(Kind::Layers, layers(&status.layers));
            } else {
                again = again.into_iter().chain([due]).min();
            }
        }
        let newest = StreamState::of(status);
        let empty = StreamState::default();
        let sent = self.stream.as_ref().map_or(&empty, |(_, sent)| sent);
        if newest != *sent {
            let due = self.stream.as_ref().map_or(now, |(at, _)| *at + KEYFRAMES_EVERY);
            if due <= now || newest.urgent() != sent.urgent() {
                write(Kind::Status, newest.data(now));
                self.stream = Some((now, newest));
            } else {
                again = again.into_iter().chain([due]).min();
            }
        }
        if status.ended.is_some_and(may_reconnect) {
            write(Kind::Reconnect, json!({}));
        }
        (text, again)
    }
}

/// The layers with everything but their bitrates.
fn shape(sections: &[MediaLayers]) -> Vec<MediaLayers> {
    let mut sections = sections.to_vec();
    for layer in sections.iter_mut().flat_map(|section| &mut section.layers) {
        // A bitrate of 0 is a layer that stopped.
        layer.bitrate_bps = layer.bitrate_bps.min(1);
    }
    sections
}

/// Whether a new session of the viewer may succeed after this one was closed.
fn may_reconnect(reason: CloseReason) -> bool {
    use CloseReason as R;
    match reason {
        R::CodecNotNegotiated | R::Panic | R::WorkerLost | R::Shutdown | R::ConsentExpired => true,
        R::Deleted
        | R::PeerClosed
        | R::NoIce
        | R::DtlsTimeout
        | R::DtlsFailed
        | R::FingerprintMismatch
        | R::TakenOver
        | R::StreamEnded
        | R::Kicked
        | R::Evicted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_sfu::codec::MediaKind;

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
        vec![MediaLayers { m_line: 1, layers, awaits_keyframe: false, filters_in_vain: false }]
    }

    fn status(viewers: usize, layers: Vec<MediaLayers>) -> ViewerStatus {
        ViewerStatus { active: true, viewers, layers, ..ViewerStatus::default() }
    }

    fn names(text: &str) -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
    }

    // whip-whep E8
    #[test]
    fn a_client_is_sent_the_present_state_first_and_then_changes() {
        let now = Instant::now();
        let mut state = SseState::new(EventFilter::ALL);
        let no_publisher = ViewerStatus { active: false, viewers: 1, ..ViewerStatus::default() };
        let (text, _) = state.update(now, &no_publisher);
        assert_eq!(
            text, "event: viewercount\ndata: {\"viewercount\":1}\n\n",
            "no inactive at first"
        );
        let (text, again) = state.update(now, &status(1, two(900_000)));
        assert_eq!((names(&text), again), (vec!["active", "layers"], None));
        let data = text.lines().find_map(|line| line.strip_prefix("data: {\"1\"")).unwrap();
        for part in [
            r#":[{"active":true,"bitrate":900000,"height":720,"rid":"h","spatialLayerId":1,"#,
            r#""target":true,"width":1280}"#,
            r#"{"active":false,"bitrate":300000,"height":360,"rid":"l","spatialLayerId":0,"#,
        ] {
            assert!(data.contains(part), "{part} in {data}");
        }
        assert_eq!(state.update(now, &status(1, two(900_000))), (String::new(), None));
        // The large layer stops and the small one is forwarded.
        let (text, _) = state.update(now, &status(1, two(0)));
        assert_eq!(names(&text), ["layers"]);
        let gone = ViewerStatus { active: false, viewers: 1, ..ViewerStatus::default() };
        let (text, _) = state.update(now, &gone);
        assert_eq!(names(&text), ["inactive", "layers"]);
        assert!(text.ends_with("data: {}\n\n"), "the stream has no layers now");
    }

    #[test]
    fn bitrates_and_viewer_counts_are_sent_every_two_seconds() {
        let start = Instant::now();
        let mut state = SseState::new(EventFilter::ALL);
        state.update(start, &status(1, two(900_000)));
        let mut sent = Vec::new();
        for n in 1..=80 {
            let now = start + Duration::from_millis(n * 50);
            let (text, again) = state.update(now, &status(1 + n as usize, two(900_000 + n)));
            sent.extend(names(&text).into_iter().map(|name| (n, name.to_owned())));
            assert_eq!(again.is_some(), text.is_empty(), "a delayed event keeps its deadline");
        }
        let both = |n| [(n, "viewercount".to_owned()), (n, "layers".to_owned())];
        assert_eq!(sent, [both(40), both(80)].concat());
    }

    #[test]
    fn warnings_are_sent_at_once_and_times_of_keyframes_every_two_seconds() {
        let start = Instant::now();
        let mut state =
            SseState::new(EventFilter::parse(Role::Subscriber, br#"["status"]"#).unwrap());
        let with = |warnings: &[Warning], next_ms| {
            let mut status = status(1, two(900_000));
            status.publisher.warnings = warnings.to_vec();
            status.publisher.keyframe_interval = Some(Duration::from_millis(8_300));
            status.publisher.next_keyframe = Some(start + Duration::from_millis(next_ms));
            status
        };
        assert_eq!(state.update(start, &status(1, two(900_000))).0, "", "all is well");
        let (text, _) = state.update(start, &with(&[], 4_000));
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (&data["keyframeIntervalMs"], &data["nextKeyframeMs"]),
            (&json!(8300), &json!(4000))
        );
        assert_eq!((&data["warnings"], &data["awaitsKeyframe"]), (&json!([]), &json!(false)));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(state.update(at(1_000), &with(&[], 9_000)), (String::new(), Some(at(2_000))));
        let (text, again) = state.update(at(1_100), &with(&[Warning::BFrames], 9_000));
        assert!(text.contains(r#""code":"b_frames""#) && again.is_none(), "{text}");
        let mut waits = with(&[Warning::BFrames], 9_000);
        waits.layers[0].awaits_keyframe = true;
        waits.layers[0].filters_in_vain = true;
        let (text, _) = state.update(at(1_200), &waits);
        assert!(text.contains(r#""awaitsKeyframe":true"#), "{text}");
        assert!(text.contains(r#""code":"nothing_to_leave_out""#), "{text}");
    }

    #[test]
    fn only_selected_events_are_sent() {
        let mut state =
            SseState::new(EventFilter::parse(Role::Subscriber, br#"["layers"]"#).unwrap());
        let (text, _) = state.update(Instant::now(), &status(3, two(1)));
        assert_eq!(names(&text), ["layers"]);
        assert_eq!(EventFilter::parse(Role::Subscriber, b" "), Ok(EventFilter::ALL));
        let all = serde_json::to_vec(&Kind::ALL.map(Kind::name)).unwrap();
        assert_eq!(EventFilter::parse(Role::Subscriber, &all), Ok(EventFilter::ALL));
        for bad in [&br#"["layers","scte35"]"#[..], br#""layers""#, b"{}", b"[1]"] {
            let refused = EventFilter::parse(Role::Subscriber, bad).unwrap_err();
            assert!(refused.contains("viewercount"), "{refused}");
        }
    }

    #[test]
    fn an_m_line_without_media_is_told_with_its_reason_and_when_it_is_served_again() {
        let now = Instant::now();
        let mut state = SseState::new(EventFilter::ALL);
        let served = status(1, Vec::new());
        let missing = UnservedMedia {
            m_line: 1,
            kind: MediaKind::Video,
            reason: "codec_not_negotiated",
            text: "the publisher sends VP9".into(),
        };
        let without = ViewerStatus { unserved: vec![missing], ..served.clone() };
        state.update(now, &served);
        let (text, _) = state.update(now, &without);
        assert_eq!(
            text,
            "event: unserved\ndata: {\"1\":{\"kind\":\"video\",\
             \"reason\":\"codec_not_negotiated\",\"text\":\"the publisher sends VP9\"}}\n\n"
        );
        assert_eq!(state.update(now, &without), (String::new(), None));
        let (text, _) = state.update(now, &served);
        assert_eq!(text, "event: unserved\ndata: {}\n\n");
    }

    #[test]
    fn a_reconnect_event_is_sent_where_a_new_session_may_succeed() {
        for (reason, reconnects) in [
            (CloseReason::CodecNotNegotiated, true),
            (CloseReason::Shutdown, true),
            (CloseReason::Deleted, false),
            (CloseReason::Kicked, false),
        ] {
            let end = ViewerStatus { ended: Some(reason), ..ViewerStatus::default() };
            let (text, _) = SseState::new(EventFilter::ALL).update(Instant::now(), &end);
            assert_eq!(text.contains("event: reconnect\ndata: {}\n\n"), reconnects, "{reason:?}");
        }
    }
}
