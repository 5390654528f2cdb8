//! Publishers that encrypt their payload end to end, and describe it for the server in header
//! extensions: the dependency descriptor and the layers allocation, written from their
//! specifications.

use weir_sfu::codec::Codec;
use weir_sfu::rtp::ext::ExtKind;

use super::media::{Picture, Stamp, vp8_layer};
use super::spec::PublishTrackSpec;

/// The elements that describe one packet, where they were negotiated: id and bytes.
pub(crate) fn elements(spec: &PublishTrackSpec, layer: usize, stamp: &Stamp) -> Vec<(u8, Vec<u8>)> {
    let id = |kind| spec.exts.iter().find(|(k, _)| *k == kind).map(|(_, id)| *id);
    let mut elements = Vec::new();
    let allocation = id(ExtKind::VideoLayersAllocation);
    if let Some(id) = id(ExtKind::DependencyDescriptor) {
        // Sizes are sent once; beside a large structure there is no space in one-byte elements.
        let tells = allocation.is_none() && spec.temporal_layers == 1;
        let size = spec.layers[layer].size;
        elements.push((id, descriptor(stamp, spec.temporal_layers, tells.then_some(size))));
    }
    if let Some(id) = allocation.filter(|_| stamp.key && stamp.index == 0) {
        elements.push((id, layers_allocation(spec, layer)));
    }
    elements
}

/// One spatial layer, no chains. Without temporal layers there are one decode target and two
/// templates: a keyframe, and a frame that refers to the last one. With three temporal layers it is
/// L1T3, as in the specification's example.
fn descriptor(stamp: &Stamp, temporal_layers: u8, size: Option<(u16, u16)>) -> Vec<u8> {
    let first = stamp.index == 0;
    let layered = temporal_layers > 1;
    let template =
        match (stamp.key, stamp.layer_position.temporal, stamp.layer_position.is_switch_point()) {
            (true, ..) => 0,
            (false, 0, _) => 1,
            (false, 1, _) => 2,
            (false, _, true) => 3,
            (false, _, false) => 4,
        };
    let mut bits = format!("{}{}", u8::from(first), u8::from(stamp.index + 1 == stamp.count));
    bits += &format!("{template:06b}{:016b}", stamp.frame as u16);
    if stamp.key && first && layered {
        assert_eq!(temporal_layers, 3, "this structure is written for three");
        bits += "10000"; // a structure is attached
        bits += "000000 00010"; // its first template is 0; three decode targets
        bits += "00 01 01 00 11"; // templates of layer 0, 0, 1, 2, 2
        bits += "101010 101010 001010 000010 000001"; // SSS, SSS, -SS, --S, --D
        bits += "0 100110 100010 100000 10000100100"; // built on none; 4; 2; 1; 1 and 3 frames back
        bits += "00"; // no chains
    } else if stamp.key && first {
        bits += "10000"; // a structure is attached
        bits += "000000 00000"; // its first template is 0; one decode target
        bits += "00 11"; // two templates of the same layer
        bits += "10 10"; // switch, both
        bits += "0 100000"; // built on nothing; built on the frame before
        bits += "0"; // no chains
    }
    if stamp.key && first {
        bits += &match size {
            Some((width, height)) => format!("1{:016b}{:016b}", width - 1, height - 1),
            None => "0".to_owned(),
        };
    }
    let bits: Vec<u8> = bits.bytes().filter(|bit| *bit != b' ').collect();
    let byte = |bits: &[u8]| (0..8).fold(0, |all, n| all << 1 | (bits.get(n) == Some(&b'1')) as u8);
    bits.chunks(8).map(byte).collect()
}

/// Every layer with its size; less than 128 kbit/s each, so that a rate is one byte.
fn layers_allocation(spec: &PublishTrackSpec, layer: usize) -> Vec<u8> {
    let streams = spec.layers.len();
    let mut data = vec![(layer << 6 | (streams - 1) << 4 | 1) as u8, 0];
    data.extend((1..=streams).map(|n| n as u8 * 30));
    for layer in &spec.layers {
        data.extend((layer.size.0 - 1).to_be_bytes());
        data.extend((layer.size.1 - 1).to_be_bytes());
        data.push(30);
    }
    data
}

/// Payload of an encrypted frame. The bytes in the position of the codec's first bytes are
/// misleading: a keyframe looks like none, and every other frame like one.
pub(crate) fn payload(codec: Codec, stamp: &Stamp, picture: Picture, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 32);
    if codec == Codec::Vp8 {
        // Payload descriptors are the packetizer's, and in the clear.
        let start = if stamp.index == 0 { 0x10 } else { 0 };
        out.extend([0x80 | start, 0xe0]);
        out.extend((picture.id | 0x8000).to_be_bytes());
        out.extend([picture.tl0, vp8_layer(&stamp.layer_position)]);
    }
    let lie: &[u8] = match (codec, stamp.key) {
        (Codec::Vp8, true) => &[0x11, 0, 0],
        (Codec::Vp8, false) => &[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f],
        (Codec::H264, true) => &[0x41, 0x9a],
        (Codec::H264, false) => &[0x67, 0x42, 0xe0, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xe9],
        (_, true) => &[0x10, 0x30],
        (_, false) => &[0x18, 0x0a, 0x0b, 0, 0, 0, 4, 0x3c, 0xfe, 0xcc, 0xda, 0xf9, 0x80, 0x40],
    };
    out.extend(lie);
    stamp.finish(&mut out, bytes);
    out
}
