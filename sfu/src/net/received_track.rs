//! Tracks that one viewer receives, under the names of its SDP, and what a layer preference may name of them.
//!
//! Immutable after the answer. Decides nothing about layers: `forward/layer_preference.rs` does. Held by
//! `session_entry.rs`, asked by `signalling.rs` and `status_writer.rs`.

use super::outcome::LayerError;
use crate::codec::MediaKind;
use crate::router::SourceInfo;
use crate::sdp::{IdleSection, Offer, RejectedSection, SubscribePlan};
use crate::worker::{LayerState, TrackLayers, UnservedTrack};

/// One track that a viewer receives.
#[derive(Debug, Clone)]
pub(super) struct ReceivedTrack {
    /// Position of the m-line in the viewer's offer, from 0.
    m_line: usize,
    mid: String,
    kind: MediaKind,
    /// It takes the n-th published track of its kind.
    ordinal: usize,
}

/// All tracks that a viewer receives, by their index in its plan; none for a publisher.
#[derive(Debug, Clone, Default)]
pub(super) struct ReceivedTracks(Vec<ReceivedTrack>);

/// Layers that a viewer can choose from in one video m-line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaLayers {
    /// Position of the m-line in the viewer's SDP, from 0.
    pub m_line: usize,
    /// Layers that ever sent anything, the largest first.
    pub layers: Vec<LayerState>,
    /// Whether nothing moves until a keyframe comes.
    pub awaits_keyframe: bool,
    /// Whether temporal layers are limited, and the stream has none that can be left out.
    pub filters_in_vain: bool,
}

/// M-line of a viewer on which nothing is sent although the viewer asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnservedMedia {
    /// Position of the m-line in the viewer's SDP, from 0.
    pub m_line: usize,
    /// Audio or video.
    pub kind: MediaKind,
    /// Reason code.
    pub reason: &'static str,
    /// The reason in words.
    pub text: String,
}

impl UnservedMedia {
    /// An m-line of a session that was answered while its track was not published, if it is now: no
    /// session can be given more tracks than its answer has.
    pub(super) fn missed(section: &IdleSection, source: &SourceInfo) -> Option<Self> {
        let IdleSection { m_line, kind, ordinal } = *section;
        let tracks = source.tracks.iter().filter(|track| track.source.kind == kind);
        let codec = tracks.map(|track| track.source.format.codec).nth(ordinal)?;
        let what = match kind {
            MediaKind::Audio => "sound",
            MediaKind::Video => "a picture",
        };
        let text = format!(
            "the publisher sends {what} ({}), which it did not when this session began; connect \
             again to get it",
            codec.name()
        );
        Some(Self { m_line, kind, reason: "track_came_later", text })
    }
}

impl From<&RejectedSection> for UnservedMedia {
    fn from(section: &RejectedSection) -> Self {
        Self {
            m_line: section.m_line,
            kind: section.kind,
            reason: section.cause.label(),
            text: section.cause.to_string(),
        }
    }
}

impl ReceivedTracks {
    /// Tracks of a viewer's plan.
    pub(super) fn of(plan: &SubscribePlan, offer: &Offer) -> Self {
        let tracks = plan.tracks.iter().enumerate().map(|(index, track)| ReceivedTrack {
            m_line: offer.m_line(&track.mid).unwrap_or(index),
            mid: track.mid.clone(),
            kind: track.kind,
            ordinal: track.ordinal,
        });
        Self(tracks.collect())
    }

    /// Video tracks with their index in the plan.
    pub(super) fn video(&self) -> impl Iterator<Item = (u8, &ReceivedTrack)> {
        (0u8..).zip(&self.0).filter(|(_, track)| track.kind == MediaKind::Video)
    }

    /// Video track of the m-line with this index or mid; without a name the first one.
    pub(super) fn find_video(
        &self,
        media: Option<&str>,
    ) -> Result<(u8, &ReceivedTrack), LayerError> {
        let found = match media {
            None => self.video().next(),
            // The extension uses m-line indices. Browsers' mids are the same, those of others may not be.
            Some(name) => self
                .video()
                .find(|(_, track)| name.parse() == Ok(track.m_line))
                .or_else(|| self.video().find(|(_, track)| track.mid == name)),
        };
        found.ok_or_else(|| LayerError::UnknownMedia {
            requested: media.unwrap_or_default().to_owned(),
            known: listed(self.video().map(|(_, track)| track.m_line.to_string())),
        })
    }

    /// Gives layers that the worker told by mid the index of their m-line.
    pub(super) fn by_m_line(&self, tracks: Vec<TrackLayers>) -> Vec<MediaLayers> {
        let named = tracks.into_iter().filter_map(|layers| {
            let track = self.0.iter().find(|track| track.mid == layers.mid)?;
            Some(MediaLayers {
                m_line: track.m_line,
                layers: layers.layers,
                awaits_keyframe: layers.awaits_keyframe,
                filters_in_vain: layers.filters_in_vain,
            })
        });
        named.collect()
    }

    /// The same for tracks on which nothing is sent.
    pub(super) fn unserved(&self, tracks: Vec<UnservedTrack>) -> Vec<UnservedMedia> {
        let named = tracks.into_iter().filter_map(|UnservedTrack { mid, kind, reason, text }| {
            let track = self.0.iter().find(|track| track.mid == mid)?;
            Some(UnservedMedia { m_line: track.m_line, kind, reason, text })
        });
        named.collect()
    }
}

impl ReceivedTrack {
    /// Whether the publisher has a layer of this rid. While nobody publishes, every rid is taken.
    pub(super) fn check_rid(
        &self,
        source: Option<&SourceInfo>,
        rid: &str,
    ) -> Result<(), LayerError> {
        let Some(source) = source else { return Ok(()) };
        let mut tracks = source.tracks.iter().filter(|track| track.source.kind == self.kind);
        let rids = tracks.nth(self.ordinal).map_or(&[][..], |track| track.rids.as_slice());
        if rids.iter().any(|known| known == rid) {
            return Ok(());
        }
        let known = match rids {
            [] => "it sends a single one, without rid".to_owned(),
            rids => format!("there are {}", listed(rids.iter().cloned())),
        };
        Err(LayerError::UnknownRid { requested: rid.to_owned(), known })
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use crate::ids::SessionId;
    use crate::router::table::SourceTrackInfo;
    use crate::sdp::{CodecFormat, ExtMap, SourceTrack};

    fn track(m_line: usize, mid: &str, kind: MediaKind, ordinal: usize) -> ReceivedTrack {
        ReceivedTrack { m_line, mid: mid.to_owned(), kind, ordinal }
    }

    /// Sound in m-line 0 and pictures in m-lines 1 and 3, whose mids are names.
    fn tracks() -> ReceivedTracks {
        ReceivedTracks(vec![
            track(0, "voice", MediaKind::Audio, 0),
            track(1, "camera", MediaKind::Video, 0),
            track(3, "screen", MediaKind::Video, 1),
        ])
    }

    /// Publisher with a camera in these layers and no screen.
    fn source(rids: &[&str]) -> SourceInfo {
        let format = CodecFormat { codec: Codec::Vp8, fmtp: String::new() };
        let camera = SourceTrackInfo {
            source: SourceTrack { kind: MediaKind::Video, format },
            rids: rids.iter().map(|rid| (*rid).to_owned()).collect(),
            exts: ExtMap::default(),
        };
        SourceInfo { epoch: crate::ids::Epoch(0), publisher: SessionId(7), tracks: vec![camera] }
    }

    #[test]
    fn track_that_came_after_the_answer_is_told() {
        let section = |kind, ordinal| IdleSection { m_line: 2, kind, ordinal };
        let missed = |kind, ordinal| UnservedMedia::missed(&section(kind, ordinal), &source(&[]));
        let camera = missed(MediaKind::Video, 0).expect("it is published now");
        assert_eq!((camera.m_line, camera.reason), (2, "track_came_later"));
        assert!(camera.text.contains("a picture (VP8)"), "{}", camera.text);
        assert_eq!(missed(MediaKind::Video, 1), None, "there is no second camera");
        assert_eq!(missed(MediaKind::Audio, 0), None);
    }

    // whip-whep E9
    #[test]
    fn video_is_found_by_m_line_index_by_mid_or_as_the_first() {
        let tracks = tracks();
        let found = |media| tracks.find_video(media).map(|(index, track)| (index, track.m_line));
        assert_eq!(found(None), Ok((1, 1)));
        for name in ["3", "screen"] {
            assert_eq!(found(Some(name)), Ok((2, 3)), "{name}");
        }
        for name in ["0", "voice", "2", "4", ""] {
            let refused = found(Some(name)).unwrap_err().to_string();
            assert!(refused.contains("there are 1, 3"), "{refused}");
        }
        let none = ReceivedTracks::default().find_video(None).unwrap_err().to_string();
        assert!(none.contains("there are none"), "{none}");
    }

    // whip-whep E9
    #[test]
    fn rid_is_checked_against_the_track_of_the_same_ordinal() {
        let tracks = tracks();
        let check = |media, source: Option<&SourceInfo>, rid| {
            let (_, track) = tracks.find_video(Some(media)).unwrap();
            track.check_rid(source, rid).map_err(|error| error.to_string())
        };
        assert_eq!(check("camera", None, "anything"), Ok(()), "nobody publishes");
        assert_eq!(check("camera", Some(&source(&["h", "l"])), "l"), Ok(()));
        let refused = check("camera", Some(&source(&["h", "l"])), "m").unwrap_err();
        assert!(refused.contains("rid m") && refused.contains("there are h, l"), "{refused}");
        let refused = check("camera", Some(&source(&[])), "h").unwrap_err();
        assert!(refused.contains("without rid"), "{refused}");
        assert!(check("screen", Some(&source(&["h"])), "h").is_err(), "no second video track");
    }

    #[test]
    fn layers_of_a_mid_get_the_index_of_its_m_line() {
        let layers = |mid: &str| TrackLayers {
            mid: mid.to_owned(),
            layers: Vec::new(),
            awaits_keyframe: false,
            filters_in_vain: false,
        };
        let named = tracks().by_m_line(vec![layers("screen"), layers("gone"), layers("camera")]);
        let m_lines: Vec<_> = named.iter().map(|layers| layers.m_line).collect();
        assert_eq!(m_lines, [3, 1]);
    }
}
