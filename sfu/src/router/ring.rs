//! Bounded single-producer single-consumer rings between each pair of workers.
//!
//! There are two per direction. One carries media (packets and clock values, by handle). The other
//! carries strays (datagrams that arrived at the wrong worker, by copy). A full ring drops and
//! counts; no worker waits and nothing grows. The ring itself is `rtrb`'s. Wake-ups are decided
//! here and tested under loom (`tests/loom.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use rtrb::{Consumer, Producer, RingBuffer};

use super::table::StreamId;
use super::wake::WakeFlag;
use crate::ids::{Epoch, LayerKey};
use crate::media::Packet;
use crate::media::source_clock::ClockAnchor;
use crate::transport::FiveTuple;

/// Items per media ring. If it is full the packet is dropped (`DropReason::RingFull`), and the
/// reader sees the gap by number.
pub const MEDIA_RING_ITEMS: usize = 1024;

/// Bytes per stray ring. If it is full the datagram is dropped (`DropReason::StrayLimited`).
pub const STRAY_RING_BYTES: usize = 64 * 1024;

/// What one worker wants of another with a datagram. Who owns an address decides whether another
/// session may have it (`worker::claims`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrayKind {
    /// It belongs to a session of yours.
    Yours,
    /// It is a valid check of another session from an address of yours: may that have the address?
    Claim,
    /// Answer to a claim: it may, and the session here has forgotten the address.
    Granted,
    /// Answer to a claim: the session here is connected and keeps the address.
    Kept,
    /// The address is of a session here, as that has just proved. One of yours has lost it.
    Taken,
}

impl StrayKind {
    const ALL: [Self; 5] = [Self::Yours, Self::Claim, Self::Granted, Self::Kept, Self::Taken];
}

/// Where a received stray is from, and what it is for. Its bytes are in the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrayItem {
    /// Worker that sent it.
    pub from: usize,
    /// What that wants.
    pub kind: StrayKind,
    /// Address pair of the datagram.
    pub path: FiveTuple,
    /// Length of the datagram in bytes.
    pub len: usize,
}

/// Message from one worker to another about a stream.
#[derive(Debug)]
pub enum MediaItem {
    /// A packet for this worker's viewers.
    Packet {
        /// The packet's stream.
        stream: StreamId,
        /// The packet's layer.
        layer: LayerKey,
        /// The packet, shared.
        packet: Arc<Packet>,
    },
    /// A packet from before this worker had viewers, for its packet cache only.
    Prefill {
        /// The packet's stream.
        stream: StreamId,
        /// The packet's layer.
        layer: LayerKey,
        /// The packet, shared.
        packet: Arc<Packet>,
    },
    /// A parameter set that was received before this worker had viewers.
    ParameterSet {
        /// The layer's stream.
        stream: StreamId,
        /// The layer.
        layer: LayerKey,
        /// Number of a received packet that is not older than the set.
        ext_seq: u64,
        /// A packet with the set alone.
        packet: Arc<Packet>,
    },
    /// Cached packets that are to be evicted, because the publisher's worker is short of buffers.
    Evict {
        /// The packets' stream.
        stream: StreamId,
        /// The publisher that sent them.
        epoch: Epoch,
        /// Arrival up to which they came; without it, the kept keyframes are meant.
        until: Option<Instant>,
    },
    /// Layer information beyond the packets; the latest replaces those before.
    Layer {
        /// The layer's stream.
        stream: StreamId,
        /// The layer.
        layer: LayerKey,
        /// The information.
        update: LayerInfoUpdate,
    },
}

/// Layer information that only the publisher's worker has. Other workers may have missed the
/// keyframe that carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInfoUpdate {
    /// Server time of the layer's timestamps.
    pub anchor: Option<ClockAnchor>,
    /// Width and height of the last keyframe that carried them, or as announced before it.
    pub resolution: Option<(u16, u16)>,
}

/// One worker's ends of all its rings.
#[derive(Debug)]
pub struct RingPort {
    /// This worker's index.
    pub index: usize,
    outgoing: Vec<Option<Outgoing>>,
    incoming: Vec<Incoming>,
    /// Ring that is read first for the next media item, and for the next stray. Each moves on with
    /// every item, so that one worker's full ring does not starve the others.
    next_media: usize,
    next_stray: usize,
}

#[derive(Debug)]
struct Outgoing {
    media: Producer<MediaItem>,
    strays: Producer<u8>,
    wake: WakeFlag,
    written: bool,
}

#[derive(Debug)]
struct Incoming {
    from: usize,
    media: Consumer<MediaItem>,
    strays: Consumer<u8>,
}

/// Connects workers pairwise; `wakes` holds one flag per worker.
pub fn mesh(wakes: &[WakeFlag]) -> Vec<RingPort> {
    let count = wakes.len();
    let mut ports: Vec<RingPort> = (0..count)
        .map(|index| RingPort {
            index,
            outgoing: (0..count).map(|_| None).collect(),
            incoming: Vec::new(),
            next_media: 0,
            next_stray: 0,
        })
        .collect();
    for from in 0..count {
        for (to, wake) in wakes.iter().enumerate().filter(|(to, _)| *to != from) {
            let (media, media_in) = RingBuffer::new(MEDIA_RING_ITEMS);
            let (strays, strays_in) = RingBuffer::new(STRAY_RING_BYTES);
            let wake = wake.clone();
            if let Some(slot) = ports.get_mut(from).and_then(|port| port.outgoing.get_mut(to)) {
                *slot = Some(Outgoing { media, strays, wake, written: false });
            }
            if let Some(port) = ports.get_mut(to) {
                port.incoming.push(Incoming { from, media: media_in, strays: strays_in });
            }
        }
    }
    ports
}

impl RingPort {
    /// Sends a media item to another worker. False if its ring is full (or if `to` is this worker).
    pub fn send_media(&mut self, to: usize, item: MediaItem) -> bool {
        let Some(Some(ring)) = self.outgoing.get_mut(to) else { return false };
        ring.written = true;
        ring.media.push(item).is_ok()
    }

    /// Free items in the media ring to another worker.
    pub fn media_room(&self, to: usize) -> usize {
        self.outgoing.get(to).and_then(Option::as_ref).map_or(0, |ring| ring.media.slots())
    }

    /// Sends a datagram to another worker. False if the ring is full.
    pub fn send_stray(
        &mut self,
        to: usize,
        kind: StrayKind,
        path: FiveTuple,
        datagram: &[u8],
    ) -> bool {
        let Some(Some(ring)) = self.outgoing.get_mut(to) else { return false };
        ring.written = true;
        let header = StrayHeader::encode(kind, path, datagram.len());
        let Ok(mut chunk) = ring.strays.write_chunk(header.len() + datagram.len()) else {
            return false;
        };
        let (first, second) = chunk.as_mut_slices();
        let bytes = header.iter().chain(datagram);
        for (slot, byte) in first.iter_mut().chain(second).zip(bytes) {
            *slot = *byte;
        }
        chunk.commit_all();
        true
    }

    /// Wakes every worker that was written to since the last call, once per batch.
    pub fn notify(&mut self) {
        for ring in self.outgoing.iter_mut().flatten() {
            if std::mem::take(&mut ring.written) {
                ring.wake.notify();
            }
        }
    }

    /// Whether a ring has an item to receive.
    pub fn has_incoming(&self) -> bool {
        self.incoming.iter().any(|ring| !ring.media.is_empty() || !ring.strays.is_empty())
    }

    /// Takes the next media item, from one worker's ring after the other.
    pub fn receive_media(&mut self) -> Option<MediaItem> {
        round_robin(&mut self.incoming, &mut self.next_media, |ring| ring.media.pop().ok())
    }

    /// Takes the next stray datagram into `buffer`, from one worker's ring after the other.
    pub fn receive_stray(&mut self, buffer: &mut [u8]) -> Option<StrayItem> {
        round_robin(&mut self.incoming, &mut self.next_stray, |ring| {
            read_stray(ring.from, &mut ring.strays, buffer)
        })
    }
}

/// Takes the first item of any ring, beginning at `next`; `next` then moves behind that ring.
fn round_robin<T>(
    rings: &mut [Incoming],
    next: &mut usize,
    mut take: impl FnMut(&mut Incoming) -> Option<T>,
) -> Option<T> {
    for _ in 0..rings.len() {
        let at = *next % rings.len();
        *next = at + 1;
        if let Some(item) = rings.get_mut(at).and_then(&mut take) {
            return Some(item);
        }
    }
    None
}

/// Fixed header of a stray: kind, remote IP and port, local IP, flags, length.
struct StrayHeader;

/// Length of a stray's header in bytes.
pub(super) const STRAY_HEADER_BYTES: usize = 1 + 16 + 2 + 16 + 1 + 2;

impl StrayHeader {
    const LOCAL: u8 = 1;

    fn encode(kind: StrayKind, path: FiveTuple, len: usize) -> [u8; STRAY_HEADER_BYTES] {
        let mut header = [0; STRAY_HEADER_BYTES];
        let local = path.local.map_or([0; 16], |ip| to_v6(ip).octets());
        let flags = if path.local.is_some() { Self::LOCAL } else { 0 };
        let fields = [kind as u8]
            .into_iter()
            .chain(to_v6(path.remote.ip()).octets())
            .chain(path.remote.port().to_be_bytes())
            .chain(local)
            .chain([flags])
            .chain((len as u16).to_be_bytes());
        for (slot, byte) in header.iter_mut().zip(fields) {
            *slot = byte;
        }
        header
    }

    fn decode(from: usize, header: &[u8; STRAY_HEADER_BYTES]) -> Option<StrayItem> {
        let (kind, rest) = header.split_first()?;
        let kind = *StrayKind::ALL.get(usize::from(*kind))?;
        let (remote_ip, rest) = rest.split_first_chunk::<16>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let (local, rest) = rest.split_first_chunk::<16>()?;
        let (flags, rest) = rest.split_first()?;
        let remote = SocketAddr::new(from_v6(*remote_ip), u16::from_be_bytes(*port));
        let local = (flags & Self::LOCAL != 0).then(|| from_v6(*local));
        let len = usize::from(u16::from_be_bytes(*rest.first_chunk::<2>()?));
        Some(StrayItem { from, kind, path: FiveTuple::udp(local, remote), len })
    }
}

fn to_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn from_v6(octets: [u8; 16]) -> IpAddr {
    let ip = Ipv6Addr::from(octets);
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), |v4: Ipv4Addr| IpAddr::V4(v4))
}

fn read_stray(from: usize, ring: &mut Consumer<u8>, buffer: &mut [u8]) -> Option<StrayItem> {
    let mut header = [0; STRAY_HEADER_BYTES];
    copy_out(ring, &mut header)?;
    let stray = StrayHeader::decode(from, &header)?;
    // The writer bounds datagrams by what it received, so they fit the receiver's buffer too.
    copy_out(ring, buffer.get_mut(..stray.len)?)?;
    Some(stray)
}

fn copy_out(ring: &mut Consumer<u8>, out: &mut [u8]) -> Option<()> {
    let chunk = ring.read_chunk(out.len()).ok()?;
    let (first, second) = chunk.as_slices();
    for (slot, byte) in out.iter_mut().zip(first.iter().chain(second)) {
        *slot = *byte;
    }
    chunk.commit_all();
    Some(())
}
