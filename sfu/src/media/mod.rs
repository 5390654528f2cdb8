//! Packets as the house shares them, the pool they live in, the cache that repeats them, and the
//! numbers kept about them.
//!
//! A packet is opened and parsed once, becomes immutable, and is then read by every viewer.

pub mod frame_interval;
pub mod keyframe;
pub mod packet;
pub mod packet_cache;
pub mod pool;
pub mod source_clock;
pub mod stats;
pub mod timeline;

pub use frame_interval::FrameInterval;
pub use keyframe::{Keyframe, KeyframeCache};
pub use packet::{ForwardedExt, Packet, PacketMeta};
pub use packet_cache::PacketCache;
pub use pool::PacketPool;
