//! Header of an outgoing packet: the fixed header (RFC 3550 section 5.1) and the extensions that the
//! viewer negotiated (RFC 8285).
//!
//! The same packet gets the same bytes each time it is written. Knows no sequence numbers of its own:
//! those are of `rtp_sender.rs`, which writes the payload behind the header.

use super::rtp_sender::RtpSenderConfig;
use crate::media::{Packet, PacketMeta};
use crate::rtp::dependency_descriptor::shift_frame_number;
use crate::rtp::ext::{ExtKind, ExtWriter};
use crate::rtp::packet::RTP_HEADER_LEN;
use crate::warm::warm;

/// Bytes on the wire above which a packet leaves out the extensions that decoding does not need: what
/// IPv6 carries on Ethernet (1500 - 40 - 8). The bound is one for all paths, because a repeated packet
/// must be the same bytes even if its viewer has moved to another address.
const FULL_HEADER_BYTES_MAX: usize = 1452;

/// Longest SRTP tag (RFC 7714: 16 bytes).
const SRTP_TAG_BYTES_MAX: usize = 16;

/// Header as it was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) len: usize,
    /// Whether it has all extensions.
    pub(super) is_full: bool,
}

/// Fields of the fixed header that differ between packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub(super) marker: bool,
    pub(super) pt: u8,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) ssrc: u32,
}

/// Bytes of the fixed header and the extensions of every packet. A mid of 16 bytes and a
/// transport-wide number in two-byte form are 12 + 4 + 18 + 4 and two of padding.
const TEMPLATE_BYTES: usize = 48;

/// Header of packets that carry no extension of the publisher's, written once.
#[derive(Debug)]
pub(super) struct Template {
    bytes: [u8; TEMPLATE_BYTES],
    len: usize,
    /// Offset of the transport-wide number.
    twcc_at: Option<usize>,
}

impl Template {
    pub(super) fn new(config: &RtpSenderConfig) -> Self {
        // Two headers whose numbers have no byte in common show the offset of the number.
        let [ours, other] = [0x0102, 0x0304].map(|twcc: u16| {
            let mut bytes = [0; TEMPLATE_BYTES];
            let len = write_extensions(config, Some(twcc), None, |_| true, &mut bytes);
            (bytes, len.unwrap_or(RTP_HEADER_LEN))
        });
        let ((bytes, len), (changed, _)) = (ours, other);
        let twcc_at = bytes.iter().zip(changed).position(|(a, b)| *a != b);
        Self { bytes, len, twcc_at }
    }

    /// Reads what the next packet needs, so that it is in the CPU caches by then.
    pub(super) fn warm(&self) {
        warm!(self.bytes.first().copied(), self.len);
    }

    /// Writes the header of a packet with `behind` bytes behind it, and the extensions of `carrier`
    /// if the packet has any. Of a large packet only the extensions are kept that decoding needs.
    #[inline]
    pub(super) fn write(
        &self,
        config: &RtpSenderConfig,
        fields: Fields,
        twcc: u16,
        (carrier, behind): (Option<Carrier<'_>>, usize),
        out: &mut [u8],
    ) -> Option<Header> {
        let is_full = |len: usize| len + behind + SRTP_TAG_BYTES_MAX <= FULL_HEADER_BYTES_MAX;
        let header = match carrier {
            // Most video packets: their header is always the same.
            None if is_full(self.len) => Header { len: self.copy(twcc, out)?, is_full: true },
            None => Header { len: RTP_HEADER_LEN, is_full: false },
            Some(_) => {
                let len = write_extensions(config, Some(twcc), carrier, |_| true, out)?;
                match is_full(len) {
                    true => Header { len, is_full: true },
                    false => {
                        // A decoder that was promised descriptors cannot do without.
                        let needed = |kind| kind == ExtKind::DependencyDescriptor;
                        let len = write_extensions(config, None, carrier, needed, out)?;
                        Header { len, is_full: false }
                    }
                }
            }
        };
        let fixed = out.first_chunk_mut::<RTP_HEADER_LEN>()?;
        fixed[0] = 0x80 | if header.len > RTP_HEADER_LEN { 0x10 } else { 0 };
        fixed[1] = fields.pt & 0x7f | if fields.marker { 0x80 } else { 0 };
        fixed[2..4].copy_from_slice(&fields.sequence.to_be_bytes());
        fixed[4..8].copy_from_slice(&fields.timestamp.to_be_bytes());
        fixed[8..12].copy_from_slice(&fields.ssrc.to_be_bytes());
        Some(header)
    }

    fn copy(&self, twcc: u16, out: &mut [u8]) -> Option<usize> {
        // The whole array is copied: a copy of constant length is cheaper than one of variable
        // length.
        out.get_mut(..TEMPLATE_BYTES)?.copy_from_slice(&self.bytes);
        if let Some(at) = self.twcc_at {
            out.get_mut(at..at + 2)?.copy_from_slice(&twcc.to_be_bytes());
        }
        Some(self.len)
    }
}

/// Longest data of an extension element (RFC 8285 section 4.3).
const EXT_BYTES_MAX: usize = 255;

/// A packet whose own extensions are forwarded.
#[derive(Clone, Copy)]
pub(super) struct Carrier<'a> {
    pub(super) packet: &'a Packet,
    pub(super) meta: &'a PacketMeta,
    /// Offset of the frame number of its descriptor.
    pub(super) frame_delta: u16,
}

/// Writes the extensions after the fixed header, with those that this packet carries; returns the
/// header's length. Extensions that the form cannot express, or that do not fit, are left out, as are
/// those that `keep` refuses.
fn write_extensions(
    config: &RtpSenderConfig,
    twcc: Option<u16>,
    carrier: Option<Carrier<'_>>,
    keep: impl Fn(ExtKind) -> bool,
    out: &mut [u8],
) -> Option<usize> {
    let two_byte = needs_two_byte(config, carrier.map(|carrier| carrier.meta));
    let mut writer = ExtWriter::new(out.get_mut(RTP_HEADER_LEN..)?, two_byte);
    for &(kind, id) in config.exts.iter().filter(|(kind, _)| keep(*kind)) {
        match kind {
            ExtKind::Mid => _ = writer.push(id, &config.mid),
            ExtKind::TransportCc => {
                _ = twcc.map(|twcc| writer.push(id, &twcc.to_be_bytes()));
            }
            _ => {
                let Some(Carrier { packet, meta, frame_delta }) = carrier else { continue };
                let carried = meta.exts.iter().flatten().find(|ext| ext.kind == kind);
                let Some(data) = carried.map(|ext| packet.ext(*ext)) else { continue };
                let mut copy = [0; EXT_BYTES_MAX];
                match copy.get_mut(..data.len()) {
                    // A receiver drops frames whose numbers precede those it has seen: they
                    // continue.
                    Some(copy) if kind == ExtKind::DependencyDescriptor => {
                        copy.copy_from_slice(data);
                        shift_frame_number(copy, frame_delta);
                        writer.push(id, copy);
                    }
                    _ => _ = writer.push(id, data),
                }
            }
        }
    }
    Some(RTP_HEADER_LEN + writer.finish())
}

/// One-byte headers carry 16 bytes and ids up to 14 (RFC 8285 section 4.2).
fn needs_two_byte(config: &RtpSenderConfig, meta: Option<&PacketMeta>) -> bool {
    let carried = |kind| {
        let mut exts = meta.into_iter().flat_map(|meta| meta.exts.iter().flatten());
        exts.find(|ext| ext.kind == kind).map_or(0, |ext| usize::from(ext.len))
    };
    config.two_byte_exts
        && config.exts.iter().any(|&(kind, id)| {
            let len = match kind {
                ExtKind::Mid => config.mid.len(),
                ExtKind::TransportCc => 2,
                _ => carried(kind),
            };
            len > 16 || (id > 14 && len > 0)
        })
}
