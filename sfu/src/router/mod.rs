//! The only state that workers share: the routes of streams, and the rings between workers.
//!
//! [`table`] holds one stream's route as an immutable snapshot, [`ring`] the bounded SPSC queues of
//! a worker pair, [`wake`] the flag that decides whether a sleeping worker must be woken,
//! [`keyframe_requests`] the layers that need a keyframe. No lock, no allocation, no waiting on the
//! packet path. Knows packets and ids, not why a viewer wants a layer.

pub mod keyframe_requests;
pub mod ring;
mod sync;
pub mod table;
pub mod wake;

pub use keyframe_requests::{KeyframeRequestBits, KeyframeRequests};
pub use ring::{LayerInfoUpdate, MediaItem, RingPort, StrayItem, StrayKind, mesh};
pub use table::{Route, SourceInfo, StreamId, StreamShared};
pub use wake::{WakeFlag, Waker};

#[cfg(test)]
mod tests;
