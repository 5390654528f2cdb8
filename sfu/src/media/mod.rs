//! Packets as the house shares them, the pool they live in, and the cache that repeats them.
//!
//! A packet is opened and parsed once, becomes immutable, and is then read by every viewer.

pub mod packet;
pub mod pool;
pub mod replay;

pub use packet::{ForwardedExt, Packet, PacketMeta};
pub use pool::PacketPool;
pub use replay::ReplayRing;
