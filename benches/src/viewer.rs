//! One viewer's forwarder without a worker: attached to the encoder's only layer, ready for its
//! first keyframe. Used by `rewrite.rs` and `srtp.rs`.

use std::time::Instant;

use weir_sfu::codec::Codec;
use weir_sfu::forward::start::StartMode;
use weir_sfu::forward::{Forwarder, LayerContext, OutgoingFormat, Reason, RtpSenderConfig};
use weir_sfu::ids::{Epoch, LayerIdx, LayerKey, TrackIdx};

use crate::encoder::{Encoder, MID, PT};

/// Layer of the encoder's packets.
pub const LAYER: LayerContext = LayerContext { key: KEY, anchor: None, start: None };

const KEY: LayerKey = LayerKey { epoch: Epoch(1), track: TrackIdx(0), layer: LayerIdx(0) };

/// A forwarder as for a browser: mid and transport-cc, NACKs are answered.
pub fn forwarder(number: u32, codec: Codec, now: Instant) -> Forwarder {
    let config = RtpSenderConfig {
        ssrc: 2 * number,
        rtx_ssrc: 2 * number + 1,
        mid: MID.as_bytes().into(),
        exts: Encoder::exts().iter().collect(),
        two_byte_exts: false,
        remember: 1024,
        first_sequence: 100,
        first_timestamp: 1_000,
    };
    let mut forwarder = Forwarder::new(config, StartMode::Wait);
    forwarder.attach(now, OutgoingFormat { codec, pt: PT, rtx_pt: Some(PT + 1), red_pt: None });
    forwarder.set_target(KEY, Reason::LargestLiveLayer);
    forwarder
}
