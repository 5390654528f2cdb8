//! One viewer × one track: which layer, and one continuous line of packets out of it.
//!
//! [`selector`] and, for viewers who ask for something, [`wish`] say which layer, [`start`] from which keyframe, [`forwarder`] decides packet by packet,
//! [`thinner`] leaves out upper layers inside one stream, [`catch_up`] brings a viewer from a cached keyframe
//! to the present, [`squeeze`] stamps the frames between, [`line`](mod@line) numbers what goes out, closes over what does not
//! (`numbers`), and writes it, [`sent`] remembers it for repeats. All pure; called by `worker/subscriber.rs`, sealed by
//! `transport/srtp`.

pub mod catch_up;
pub mod decision;
pub mod forwarder;
pub mod line;
mod numbers;
pub mod selector;
pub mod sent;
pub mod squeeze;
pub mod start;
pub mod thinner;
pub mod wish;

pub use decision::{Decision, DecisionLog, Reason};
pub use forwarder::{Forwarder, Verdict};
pub use line::{Line, LineConfig, OutgoingFormat, Plaintext, Splice, Stamp};
pub use sent::SentRecord;
pub use thinner::{Cap, Thinner};
pub use wish::{Choice, LayerWish};
