//! Warnings: what is wrong with a publisher's stream, or with what a viewer asked for, in words for
//! the person who can change it.
//!
//! In `/api/v1` and in viewers' events as `{"code", "message"}`; of a publisher also in the log, each
//! code once. Owns the texts, decides nothing: `layer.rs` and `subscription.rs` do.

use std::fmt;
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::codec::Codec;
use crate::config::{PUBLISHER_WINDOW, PublisherLimits};
use crate::media::packet::PACKET_BYTES_MAX;

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
    /// No keyframe comes, neither by itself nor on request.
    NoKeyframe {
        /// Whether one came before.
        had_one: bool,
    },
    /// Keyframes come, and no parameter sets: neither in packets nor in the offer.
    NoParameterSets {
        /// The codec.
        codec: Codec,
    },
    /// A viewer limits temporal layers, and the stream has no frames that can be left out.
    NothingToLeaveOut,
    /// The publisher sends more than these limits.
    PublisherRate(PublisherLimits),
    /// Packets do not fit the path to a viewer, although optional extensions are left out.
    TooLargeToSend {
        /// Payload bytes of such a packet.
        payload_bytes: usize,
    },
    /// The publisher's datagrams are larger than any that is taken.
    Oversized {
        /// Bytes of such a datagram.
        bytes: usize,
    },
    /// The worker had no packet buffer for the publisher.
    PoolExhausted,
    /// The worker was short of packet buffers, and the publisher's cached packets were evicted.
    CacheShortened,
}

/// Packet size to set at an encoder: it leaves room for headers of every kind on every usual path.
const ADVISED_PACKET_BYTES: usize = 1_200;

impl Warning {
    /// Name that programs compare.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BFrames => "b_frames",
            Self::KeyframeInterval { .. } => "keyframe_interval",
            Self::NoKeyframe { .. } => "no_keyframe",
            Self::NoParameterSets { .. } => "no_parameter_sets",
            Self::NothingToLeaveOut => "nothing_to_leave_out",
            Self::PublisherRate(_) => "publisher_rate",
            Self::TooLargeToSend { .. } => "too_large_to_send",
            Self::Oversized { .. } => "oversized",
            Self::PoolExhausted => "pool_exhausted",
            Self::CacheShortened => "cache_shortened",
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
            Self::NoKeyframe { had_one } => f.write_str(match had_one {
                false => {
                    "publisher sends no keyframe, and none on request, so that viewers have no \
                     picture; set its keyframe interval to 1 or 2 s"
                }
                true => {
                    "publisher sends no further keyframe, and none on request, so that new viewers \
                     have a still picture; set its keyframe interval to 1 or 2 s"
                }
            }),
            Self::NoParameterSets { codec } => {
                let sets = match codec {
                    Codec::H265 => "VPS, SPS and PPS",
                    Codec::Av1 => "sequence header",
                    _ => "SPS and PPS",
                };
                write!(
                    f,
                    "publisher sent keyframes of {} without their parameter sets ({sets}), so that no \
                     viewer can decode them; have the encoder repeat them with each keyframe \
                     (FFmpeg: -bsf:v dump_extra, x264: repeat-headers=1, GStreamer: \
                     config-interval=-1 at the parser)",
                    codec.name()
                )
            }
            Self::NothingToLeaveOut => f.write_str(
                "publisher's stream has no frames that can be left out, so the limit on temporal \
                 layers changes nothing",
            ),
            Self::PublisherRate(PublisherLimits { bitrate, packets_per_second }) => write!(
                f,
                "publisher sends more than {} Mbit/s or {packets_per_second} packets/s over {} s, and \
                 packets above that are dropped; lower its bitrate, or raise --publisher-bitrate or \
                 --publisher-packets",
                bitrate.0 as f64 / 1e6,
                PUBLISHER_WINDOW.as_secs(),
            ),
            Self::TooLargeToSend { payload_bytes } => write!(
                f,
                "publisher sends packets with {payload_bytes} bytes of payload, which are dropped \
                 because they are too large for the path to a viewer: with headers and SRTP tag 1472 \
                 bytes fit over IPv4 and 1452 over IPv6; set its packet size (MTU) to \
                 {ADVISED_PACKET_BYTES} bytes"
            ),
            Self::Oversized { bytes } => write!(
                f,
                "publisher sends datagrams of {bytes} bytes, which are dropped because \
                 {PACKET_BYTES_MAX} are taken at most; set its packet size (MTU) to \
                 {ADVISED_PACKET_BYTES} bytes"
            ),
            Self::PoolExhausted => f.write_str(
                "publisher's packets are dropped because its worker has no packet buffer left: the \
                 publishers of the worker send too much together; lower their bitrates, or start \
                 more --workers",
            ),
            Self::CacheShortened => f.write_str(
                "publisher's packets are kept for less time than usual, because its worker is short of \
                 packet buffers and this publisher or its network holds most of them; viewers may get \
                 no retransmission and wait longer for their first picture; lower the bitrate, or start \
                 more --workers",
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
        let shown = Warning::NoParameterSets { codec: Codec::H265 }.to_string();
        assert!(shown.contains("keyframes of H265 without") && shown.contains("VPS, SPS and PPS"));
    }
}
