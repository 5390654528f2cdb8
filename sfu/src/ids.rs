//! Identifiers: stream names, session ids, and the secret that is the session URL.
//!
//! A [`SessionId`] may be shown anywhere. A [`SessionSecret`] is a capability (whip-whep A26) and
//! never reaches a log: its `Debug` prints `***`.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Longest stream name in bytes; a longer one is refused.
pub const STREAM_NAME_MAX: usize = 128;

/// Name of a stream: `[A-Za-z0-9._~-]{1,128}`, but neither `.` nor `..` (architecture section 4). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Checks and wraps a name that was already percent-decoded once.
    ///
    /// # Errors
    /// [`InvalidStreamName`] when it is empty, longer than [`STREAM_NAME_MAX`] bytes, or holds a
    /// byte outside `[A-Za-z0-9._~-]`; and for `.` and `..`, which are no names in a path: clients
    /// and proxies remove them with the segment before.
    pub fn new(name: &str) -> Result<Self, InvalidStreamName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-');
        let of_path = matches!(name, "." | "..");
        let length = 1..=STREAM_NAME_MAX;
        if of_path || !length.contains(&name.len()) || !name.bytes().all(allowed) {
            return Err(InvalidStreamName);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A stream name that breaks the rule of [`StreamName::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ -, and neither `.` nor `..`")]
pub struct InvalidStreamName;

/// Position of a track among a publisher's tracks, in the order of its m-lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TrackIdx(pub u8);

/// Layers (rids) of one track (quality B2).
pub const LAYERS_MAX: usize = 8;

/// Position of a layer (rid) among a track's layers, in the order of the offer; 0 without simulcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct LayerIdx(pub u8);

/// Number of a stream's publisher: grows with each one that connects; 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

/// One layer of one publisher of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerKey {
    /// Publisher of the stream.
    pub epoch: Epoch,
    /// Track of that publisher.
    pub track: TrackIdx,
    /// Layer of that track.
    pub layer: LayerIdx,
}

impl TrackIdx {
    /// All positions from 0 on.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

impl LayerIdx {
    /// All positions from 0 on.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

impl From<TrackIdx> for usize {
    fn from(track: TrackIdx) -> Self {
        track.0.into()
    }
}

impl From<LayerIdx> for usize {
    fn from(layer: LayerIdx) -> Self {
        layer.0.into()
    }
}

impl LayerKey {
    /// The same track's other layer.
    pub fn with_layer(self, layer: LayerIdx) -> Self {
        Self { layer, ..self }
    }
}

/// Identifies a session inside this process and in lists, metrics and logs. Never the secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:016x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = text.strip_prefix('s').filter(|hex| hex.len() == 16).ok_or(())?;
        u64::from_str_radix(hex, 16).map(Self).map_err(|_| ())
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The unguessable part of a session URL: 192 random bits in base64url (whip-whep A26).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionSecret(Arc<str>);

impl SessionSecret {
    /// Encodes 24 bytes from a cryptographic generator.
    pub fn from_random(bytes: [u8; 24]) -> Self {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::with_capacity(32);
        for chunk in bytes.chunks_exact(3) {
            let word = chunk.iter().fold(0u32, |word, &b| (word << 8) | u32::from(b));
            for shift in [18, 12, 6, 0] {
                let symbol = ALPHABET.get((word >> shift) as usize & 63).copied().unwrap_or(b'A');
                text.push(char::from(symbol));
            }
        }
        Self(text.into())
    }

    /// Secret as it stands in the URL. Keep it out of logs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Direction of a session's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sends media to us (WHIP).
    Publisher,
    /// Receives media from us (WHEP).
    Subscriber,
}

/// The word of texts and logs, as in `docs/glossary.md`.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publisher => "publisher",
            Self::Subscriber => "viewer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_names_at_and_past_the_limit() {
        assert!(StreamName::new(&"a".repeat(STREAM_NAME_MAX)).is_ok());
        assert!(StreamName::new(&"a".repeat(STREAM_NAME_MAX + 1)).is_err());
        assert!(StreamName::new("").is_err());
        assert!(StreamName::new("Az09._~-").is_ok());
        for bad in ["a b", "a/b", "ä", "a\0", "a%20"] {
            assert!(StreamName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn segments_that_a_path_resolves_are_no_stream_names() {
        for bad in [".", ".."] {
            assert!(StreamName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["...", ".a", "a.", "..a", "~"] {
            assert!(StreamName::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn session_ids_round_trip_and_secrets_stay_out_of_debug() {
        let id = SessionId(0xdead_beef);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("s12".parse::<SessionId>(), Err(()));
        let secret = SessionSecret::from_random([0xff; 24]);
        assert_eq!(secret.expose(), "_".repeat(32));
        assert_eq!(format!("{secret:?}"), "***");
    }
}
