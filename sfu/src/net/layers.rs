//! A viewer chooses its layer (whip-whep E9): which section is meant, whether the publisher has such a
//! layer, and the preference on its way to the worker.
//!
//! A preference is a value that the newest one replaces (`worker/asked.rs`), so that no viewer can fill a
//! queue with them. What follows from it is decided in `forward/preference.rs`.

use std::sync::Arc;

use super::control::{Control, SessionEntry};
use super::handle::Sfu;
use super::messages::Message;
use crate::codec::MediaKind;
use crate::forward::LayerPreference;
use crate::ids::{Role, SessionId, StreamName};
use crate::sdp::{Offer, SubscribePlan};
use crate::worker::{Command, LayerState, TrackLayers};

/// One track that a viewer receives, as its SDP calls it.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    /// Position of the m-line in its offer, from 0.
    m_line: usize,
    mid: String,
    kind: MediaKind,
    /// It takes the n-th published track of its kind.
    ordinal: usize,
}

/// What a viewer can choose in one video section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaLayers {
    /// Position of the m-line in the viewer's SDP, from 0.
    pub m_line: usize,
    /// Layers that ever sent anything, the largest first.
    pub layers: Vec<LayerState>,
}

/// Why a layer cannot be asked for. The text is for the client and names what there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// No such session: 404.
    #[error("no such session")]
    NotFound,
    /// No video section of that name: 422.
    #[error("mediaId {asked}: there is no video m-line of that index or mid; there are {known}")]
    UnknownMedia {
        /// What was asked for.
        asked: String,
        /// Indices of the video m-lines.
        known: String,
    },
    /// The publisher has no such layer: 422.
    #[error("rid {asked}: the publisher has no such layer; {known}")]
    UnknownRid {
        /// What was asked for.
        asked: String,
        /// The rids there are.
        known: String,
    },
    /// The owning worker could not be told: 503.
    #[error("server is busy")]
    Unavailable,
}

impl Watched {
    /// The tracks of a viewer's plan.
    pub(super) fn of(plan: &SubscribePlan, offer: &Offer) -> Vec<Self> {
        let watched = plan.tracks.iter().enumerate().map(|(index, track)| Self {
            m_line: offer.m_line(&track.mid).unwrap_or(index),
            mid: track.mid.clone(),
            kind: track.kind,
            ordinal: track.ordinal,
        });
        watched.collect()
    }

    fn is_video(&self) -> bool {
        self.kind == MediaKind::Video
    }
}

impl Sfu {
    /// What a viewer preferences from now on for one video section: the m-line of that index or mid, or the
    /// first one. Holds for the session, also while no publisher is there. The switch follows at the
    /// layer's next keyframe; a preference replaces the one before.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub async fn select_layer(
        &self,
        stream: &StreamName,
        secret: &str,
        media: Option<&str>,
        preference: LayerPreference,
    ) -> Result<(), LayerError> {
        let entry = self.live(Role::Subscriber, stream, secret).ok_or(LayerError::NotFound)?;
        let (track, watched) = entry.section(media)?;
        if let Some(rid) = &preference.rid {
            entry.check_rid(watched, rid)?;
        }
        entry.asked.put(track, preference);
        self.control.order_preferences(&entry).await
    }

    /// Back to the automatic choice in every section.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub async fn unselect_layers(
        &self,
        stream: &StreamName,
        secret: &str,
    ) -> Result<(), LayerError> {
        let entry = self.live(Role::Subscriber, stream, secret).ok_or(LayerError::NotFound)?;
        for (track, _) in (0u8..).zip(&entry.watched).filter(|(_, watched)| watched.is_video()) {
            entry.asked.put(track, LayerPreference::default());
        }
        self.control.order_preferences(&entry).await
    }

    /// What a viewer can choose now; empty before it is connected.
    ///
    /// # Errors
    /// [`LayerError::NotFound`] or [`LayerError::Unavailable`].
    pub async fn layers(
        &self,
        stream: &StreamName,
        secret: &str,
    ) -> Result<Vec<MediaLayers>, LayerError> {
        let entry = self.live(Role::Subscriber, stream, secret).ok_or(LayerError::NotFound)?;
        let Some(worker) = entry.lock().worker else { return Ok(Vec::new()) };
        let id = entry.id;
        let layers = self.inspect(worker, move |worker, now| worker.viewer_layers(id, now)).await;
        let layers = layers.ok_or(LayerError::Unavailable)?.unwrap_or_default();
        Ok(entry.by_m_line(layers))
    }
}

impl SessionEntry {
    /// Names tracks by their m-lines.
    pub(super) fn by_m_line(&self, tracks: Vec<TrackLayers>) -> Vec<MediaLayers> {
        let named = tracks.into_iter().filter_map(|track| {
            let watched = self.watched.iter().find(|watched| watched.mid == track.mid)?;
            Some(MediaLayers { m_line: watched.m_line, layers: track.layers })
        });
        named.collect()
    }

    fn section(&self, media: Option<&str>) -> Result<(u8, &Watched), LayerError> {
        let video = || (0u8..).zip(&self.watched).filter(|(_, watched)| watched.is_video());
        let found = match media {
            None => video().next(),
            // The extension speaks of m-line indices, browsers' mids are the same, others' may not be.
            Some(name) => video()
                .find(|(_, watched)| name.parse() == Ok(watched.m_line))
                .or_else(|| video().find(|(_, watched)| watched.mid == name)),
        };
        found.ok_or_else(|| LayerError::UnknownMedia {
            asked: media.unwrap_or_default().to_owned(),
            known: listed(video().map(|(_, watched)| watched.m_line.to_string())),
        })
    }

    /// While nobody publishes every name may come true.
    fn check_rid(&self, watched: &Watched, rid: &str) -> Result<(), LayerError> {
        let Some(source) = self.stream.shared.source.load_full() else { return Ok(()) };
        let mut tracks = source.tracks.iter().filter(|track| track.source.kind == watched.kind);
        let rids = tracks.nth(watched.ordinal).map_or(&[][..], |track| track.rids.as_slice());
        if rids.iter().any(|known| known == rid) {
            return Ok(());
        }
        let known = match rids {
            [] => "it sends a single one, without rid".to_owned(),
            rids => format!("there are {}", listed(rids.iter().cloned())),
        };
        Err(LayerError::UnknownRid { asked: rid.to_owned(), known })
    }
}

impl Control {
    /// Has the owner of a session read its preferences, unless it is about to. A session that waits for its
    /// first check is told when it is adopted.
    async fn order_preferences(&self, entry: &SessionEntry) -> Result<(), LayerError> {
        let worker = entry.lock().worker;
        let Some(worker) = worker.filter(|_| entry.asked.order()) else { return Ok(()) };
        if !self.order(worker, || ask(entry.id, entry)).await {
            entry.asked.recall();
            return Err(LayerError::Unavailable);
        }
        Ok(())
    }

    /// The same without waiting: the next preference tries again.
    pub(super) fn count_requests(&self, entry: &SessionEntry, worker: usize) {
        let Some(handle) = self.workers.get(worker) else { return };
        if entry.asked.order() && handle.send(Message::Command(ask(entry.id, entry))).is_err() {
            entry.asked.recall();
        }
    }
}

fn ask(id: SessionId, entry: &SessionEntry) -> Command {
    Command::ApplyPreferences { id, asked: Arc::clone(&entry.asked) }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;
    use crate::config::Config;
    use crate::forward::start::StartMode;
    use crate::router::SourceInfo;
    use crate::router::table::SourceTrackInfo;
    use crate::sdp::{CodecFormat, ExtMap, SourceTrack};

    const OFFER: &[u8] = include_bytes!("../../tests/data/offers/chromium-156-whep.sdp");

    /// A publisher of sound and of a picture in these layers, as if it had connected.
    fn source(rids: &[&str]) -> SourceInfo {
        let track = |kind, codec, rids: &[&str]| SourceTrackInfo {
            source: SourceTrack { kind, format: CodecFormat { codec, fmtp: String::new() } },
            rids: rids.iter().map(|rid| (*rid).to_owned()).collect(),
            exts: ExtMap::default(),
        };
        let tracks = vec![
            track(MediaKind::Audio, Codec::Opus, &[]),
            track(MediaKind::Video, Codec::Vp8, rids),
        ];
        SourceInfo { epoch: crate::ids::Epoch(0), publisher: SessionId(7), tracks }
    }

    // whip-whep E9
    #[tokio::test]
    async fn a_rid_is_checked_against_the_publisher_that_is_there() {
        let media_addr = "127.0.0.1:0".parse().unwrap();
        let sfu = Sfu::start(Config { media_addr, workers: 1, ..Config::default() }).unwrap();
        let stream = StreamName::new("demo").unwrap();
        let created =
            sfu.subscribe(stream.clone(), OFFER, StartMode::default(), None).await.unwrap();
        let secret = created.secret.expose();
        let select = async |media: Option<&str>, rid: &str| {
            let preference =
                LayerPreference { rid: Some(rid.into()), ..LayerPreference::default() };
            sfu.select_layer(&stream, secret, media, preference)
                .await
                .map_err(|error| error.to_string())
        };
        assert_eq!(select(Some("1"), "anything").await, Ok(()), "nobody publishes yet");
        let shared = Arc::clone(&sfu.control.streams.get(&stream).unwrap().shared);
        shared.connect(&source(&["h", "l"]));
        for media in [None, Some("1")] {
            assert_eq!(select(media, "h").await, Ok(()));
        }
        let refused = select(Some("1"), "m").await.unwrap_err();
        assert!(refused.contains("rid m") && refused.contains("there are h, l"), "{refused}");
        let refused = select(Some("0"), "h").await.unwrap_err();
        assert!(refused.contains("mediaId 0") && refused.contains("there are 1"), "{refused}");
        shared.connect(&source(&[]));
        let refused = select(None, "h").await.unwrap_err();
        assert!(refused.contains("without rid"), "{refused}");
        assert_eq!(sfu.unselect_layers(&stream, secret).await, Ok(()));
        let gone = sfu.select_layer(&stream, "nobody", None, LayerPreference::default()).await;
        assert_eq!(gone, Err(LayerError::NotFound));
    }
}
