//! SDP of the light clients: the offers of publishers and viewers, and what they need of the
//! answer.
//!
//! Called by `session`. Next: `offer`, `answer`.

mod answer;
mod extension_uris;
mod offer;

pub(crate) use answer::{Answer, NegotiatedMedia, parse_answer};
pub(crate) use offer::{LayerSsrcs, OfferConfig, PublisherSsrcs, RIDS, offer};
