//! One viewer and one track: which layer is sent, and one continuous RTP stream out of it.
//!
//! [`selector`] and, for viewers that set preferences, [`layer_preference`] say which layer,
//! [`start`] from which keyframe. [`forwarder`] decides packet by packet. [`layer_filter`] leaves
//! out upper layers inside one stream. [`catch_up`] brings a viewer from a cached keyframe to the
//! present, [`catch_up_timestamps`] sets the timestamps of the frames between. [`rtp_sender`]
//! numbers sent packets, closes the numbers over dropped ones (`sequence`), and writes them behind
//! their `header`; [`sent`] remembers it for retransmission. All pure; called by
//! `worker/subscription.rs`, sealed by `transport/srtp`.

pub mod catch_up;
pub mod catch_up_timestamps;
pub mod decision;
pub mod forwarder;
mod header;
pub mod layer_cache;
pub mod layer_filter;
pub mod layer_preference;
pub mod rtp_sender;
pub mod selector;
pub mod sent;
mod sequence;
pub mod start;

pub use decision::{Decision, DecisionLog, Reason};
pub use forwarder::{ForwardDecision, Forwarder, Step};
pub use layer_cache::{Cached, LayerCache, LayerContext};
pub use layer_filter::{LayerCap, LayerFilter};
pub use layer_preference::{Choice, LayerPreference};
pub use rtp_sender::{OutgoingFormat, Plaintext, RtpSender, RtpSenderConfig, SourceSwitch};
pub use sent::{Numbered, SendTime, SentRecord};
