//! Packets as all modules share them, their pool, the packet cache, and statistics about them.
//!
//! A packet is decrypted and parsed once, becomes immutable, and is then read for every viewer.

pub mod encoding;
pub mod frame_interval;
pub mod keyframe;
pub mod packet;
pub mod packet_cache;
pub mod parameter_sets;
pub mod pool;
pub mod source_clock;
pub mod stats;
pub mod timeline;

pub use encoding::Encoding;
pub use frame_interval::FrameInterval;
pub use keyframe::{DecoderStart, Keyframe, KeyframeCache};
pub use packet::{ForwardedExt, Packet, PacketMeta};
pub use packet_cache::PacketCache;
pub use pool::{BufferSize, HolderId, PacketPool, PoolBytes};
