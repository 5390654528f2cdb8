//! One received RTP packet in plaintext: decrypted once, parsed once, read for all viewers.
//!
//! Filled by `worker/publisher.rs`, read by `forward/`. Never changes after it was shared.

use std::time::Instant;

use super::pool::HolderId;
use crate::rtp::codec::FrameInfo;
use crate::rtp::ext::ExtKind;
use crate::warm::warm;

/// Largest datagram taken from a publisher (quality B2), and the size of a packet buffer.
pub const PACKET_BYTES_MAX: usize = 1500;

/// Maximum header-extension elements of one packet that are forwarded; the rest is left out.
pub const FORWARDED_EXTS_MAX: usize = 4;

/// Position of a header-extension element that may be forwarded.
#[derive(Debug, Clone, Copy)]
pub struct ForwardedExt {
    /// Which extension.
    pub kind: ExtKind,
    /// Offset of its data in the packet.
    pub start: u16,
    /// Length of its data in bytes.
    pub len: u8,
}

/// Everything that forwarding needs to know about a packet, found once on arrival.
#[derive(Debug, Clone, Copy)]
pub struct PacketMeta {
    /// Sequence number of the publisher's layer, extended to 64 bits.
    pub ext_seq: u64,
    /// RTP timestamp of the publisher, continued over jumps of its clock.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// Whether the payload is RED (RFC 2198), which carries inner payload types.
    pub red: bool,
    /// Where the payload begins in the buffer.
    pub payload_start: u16,
    /// Payload bytes, RTP padding removed; zero for padding-only packets.
    pub payload_len: u16,
    /// Leading payload bytes that are rewritten per viewer (picture ids, RED headers).
    pub prefix_len: u8,
    /// Frame information from the payload or its descriptor.
    pub frame: FrameInfo,
    /// Header extensions that may be forwarded.
    pub exts: [Option<ForwardedExt>; FORWARDED_EXTS_MAX],
    /// Arrival of the datagram.
    pub arrival: Instant,
}

/// Packet buffer: fixed storage and the description of its content.
#[derive(Debug)]
pub struct Packet {
    meta: Option<PacketMeta>,
    bytes: Box<[u8]>,
    /// Publisher for which the pool counts the buffer.
    holder: HolderId,
}

impl Packet {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let bytes = vec![0; bytes].into_boxed_slice();
        Self { meta: None, bytes, holder: HolderId::default() }
    }

    /// Publisher for which the pool counts the buffer.
    pub(super) fn holder(&self) -> HolderId {
        self.holder
    }

    pub(super) fn set_holder(&mut self, holder: HolderId) {
        self.holder = holder;
    }

    /// Reads the beginning of the description, so that it is in the CPU caches by then.
    pub(crate) fn warm(&self) {
        warm!(self.meta.is_some(), self.bytes.len());
    }

    /// The whole buffer, to decrypt into before [`Self::describe`].
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        self.meta = None;
        &mut self.bytes
    }

    /// The buffer as it was last written.
    pub fn buffer(&self) -> &[u8] {
        &self.bytes
    }

    /// Attaches the description; the packet may be shared from now on.
    pub fn describe(&mut self, meta: PacketMeta) {
        self.meta = Some(meta);
    }

    /// The description; `None` only for a buffer that was never filled.
    pub fn meta(&self) -> Option<&PacketMeta> {
        self.meta.as_ref()
    }

    /// The payload without header and padding.
    pub fn payload(&self) -> &[u8] {
        let Some(meta) = &self.meta else { return &[] };
        let start = usize::from(meta.payload_start);
        self.bytes.get(start..start + usize::from(meta.payload_len)).unwrap_or(&[])
    }

    /// The data of one header-extension element.
    pub fn ext(&self, ext: ForwardedExt) -> &[u8] {
        let start = usize::from(ext.start);
        self.bytes.get(start..start + usize::from(ext.len)).unwrap_or(&[])
    }
}
