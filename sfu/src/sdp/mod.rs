//! SDP: a bounded offer in, a plan for the worker and an answer out.
//!
//! Pure: no clock, no socket, no randomness (ids and SSRCs come in as arguments). The worker reads
//! plans, never SDP. Rules: docs/rules/whip-whep.md, sections C, D and G.
//!
//! A POST passes `grammar.rs` (what is read although RFC 8866 forbids it, with `scan.rs` for the
//! limits before any parser) → `offer.rs` (the content, with
//! `payload.rs`, `exts.rs`, `simulcast.rs`, `transport_lines.rs`) → `publish.rs` or `subscribe.rs`
//! (what is accepted, with `remote.rs` for the transport and `matching.rs` for codecs) →
//! `answer.rs` (the text). `sprop.rs` reads parameter sets from a plan's format. A PATCH body goes through [`fragment`]. Refusals are in `error.rs`.
//! `rtc-sdp` splits and prints lines; every rule is ours.

mod answer;
mod error;
mod exts;
pub mod fragment;
mod grammar;
mod matching;
mod offer;
mod payload;
mod plan;
mod publish;
mod remote;
mod scan;
mod simulcast;
mod sprop;
mod subscribe;
mod transport_lines;

#[cfg(test)]
mod tests;

pub use error::{Location, Malformed, RejectedSection, SdpError, Unacceptable};
pub use grammar::{Grammar, OfferText};
pub use matching::codec_matches;
pub use offer::Offer;
pub use plan::*;
pub use publish::answer_publish;
pub use sprop::stated_sets;
pub use subscribe::{SubscribeOptions, answer_subscribe};
