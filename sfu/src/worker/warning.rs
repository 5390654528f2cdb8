//! Warnings: what is wrong with a publisher's stream, or with what a viewer asked for, in words for
//! the person who can change it.
//!
//! In `/api/v1` and in viewers' events as `{"code", "message"}`; of a publisher also in the log, each
//! code once. Owns the texts, decides nothing: `layer.rs` and `subscription.rs` do.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// One warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// A layer has B-frames. Browsers show each picture as it comes, so they drop those that come
    /// late, and ask for keyframes all the time.
    BFrames,
    /// Keyframes are far apart, and the publisher is not known to send one on request.
    KeyframeInterval {
        /// Time between two keyframes, to a tenth of a second.
        interval: Duration,
    },
    /// A viewer limits temporal layers, and the stream has no frames that can be left out.
    NothingToLeaveOut,
}

impl Warning {
    /// Name that programs compare.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BFrames => "b_frames",
            Self::KeyframeInterval { .. } => "keyframe_interval",
            Self::NothingToLeaveOut => "nothing_to_leave_out",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BFrames => f.write_str(
                "publisher sends B-frames, which browsers cannot show; set B-frames to 0",
            ),
            Self::KeyframeInterval { interval } => write!(
                f,
                "publisher sends a keyframe every {:.1} s only, and a new viewer waits for one; \
                 set the keyframe interval to 1 or 2 s",
                interval.as_secs_f64()
            ),
            Self::NothingToLeaveOut => f.write_str(
                "publisher's stream has no frames that can be left out, so the limit on temporal \
                 layers changes nothing",
            ),
        }
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Warning", 2)?;
        object.serialize_field("code", self.code())?;
        object.serialize_field("message", &self.to_string())?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_in_json_has_a_code_and_a_sentence() {
        let interval = Duration::from_millis(8_300);
        let shown = serde_json::to_value(Warning::KeyframeInterval { interval }).unwrap();
        assert_eq!(shown["code"], "keyframe_interval");
        assert!(shown["message"].as_str().unwrap().contains("every 8.3 s only"), "{shown}");
        assert_eq!(shown.as_object().unwrap().len(), 2);
    }
}
