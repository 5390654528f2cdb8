//! One viewer × one track: which layer, and one continuous line of packets out of it.
//!
//! [`selector`] and, for viewers who ask for something, [`wish`] say which layer, [`forwarder`] decides packet by packet, [`line`](mod@line) numbers
//! what goes out and writes it, [`sent`] remembers it for repeats. All pure; called by
//! `worker/subscriber.rs`, sealed by `transport/srtp`.

pub mod decision;
pub mod forwarder;
pub mod line;
pub mod selector;
pub mod sent;
pub mod wish;

pub use decision::{Decision, DecisionLog, Reason};
pub use forwarder::Forwarder;
pub use line::{Line, LineConfig, OutgoingFormat, Plaintext, Splice, Stamp};
pub use sent::SentRecord;
pub use wish::{Choice, LayerWish};
