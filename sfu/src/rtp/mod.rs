//! Wire formats: RTP headers and extensions, sequence arithmetic, RTCP, and payload formats.
//!
//! Everything here turns bytes into numbers or numbers into bytes. It has no clock, allocates
//! nothing per packet, and keeps no state but a counter or a structure that the sender announced.
//! Every length on the wire is a claim that is checked before it is used (quality B1, B4 item 8).
//! Never decides what is forwarded: `forward/` and `repair/` do.
//!
//! A received datagram goes `packet::classify` → `packet::RtpHeader::parse` → (SRTP) →
//! `ext::elements` and, of these, `dependency_descriptor` and `layers_allocation` → `codec::peek`;
//! feedback goes through `rtcp::packets`.

pub mod codec;
pub mod dependency_descriptor;
pub mod ext;
pub mod layer_set;
pub mod layers_allocation;
pub mod packet;
pub mod red;
pub mod rtcp;
pub mod seq;
pub mod ssrc;
pub mod unit_parts;
pub mod window;

mod reader;
