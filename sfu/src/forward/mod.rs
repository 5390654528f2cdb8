//! One viewer × one track: which layer, and one continuous line of packets out of it.
//!
//! [`selector`] and, for viewers who ask for something, [`preference`] say which layer, [`start`] from which keyframe, [`forwarder`] decides packet by packet,
//! [`layer_filter`] leaves out upper layers inside one stream, [`catch_up`] brings a viewer from a cached keyframe
//! to the present, [`squeeze`] stamps the frames between, [`line`](mod@line) numbers what goes out, closes over what does not
//! (`numbers`), and writes it, [`sent`] remembers it for repeats. All pure; called by `worker/subscriber.rs`, sealed by
//! `transport/srtp`.

pub mod catch_up;
pub mod catch_up_timestamps;
pub mod decision;
pub mod forwarder;
pub mod layer_filter;
pub mod layer_preference;
pub mod rtp_sender;
pub mod selector;
pub mod sent;
mod sequence;
pub mod start;

pub use decision::{Decision, DecisionLog, Reason};
pub use forwarder::{ForwardDecision, Forwarder};
pub use layer_filter::{LayerCap, LayerFilter};
pub use layer_preference::{Choice, LayerPreference};
pub use rtp_sender::{OutgoingFormat, Plaintext, RtpSender, RtpSenderConfig, SourceSwitch, Stamp};
pub use sent::SentRecord;
