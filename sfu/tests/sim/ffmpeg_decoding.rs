//! One run per codec with real pictures: a viewer joins late, three layers stop and return on bad
//! networks. FFmpeg decodes the viewer's frames without one complaint.
//!
//! FFmpeg makes the clips; they are packetised and reassembled outside the server
//! (`tests/support/pictures.rs`), so its own parsers have no part in the verdict. Without FFmpeg
//! the test fails.

#[path = "../support/pictures.rs"]
mod pictures;

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_netsim::Profile;
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;

use crate::world::spec::{LayerSpec, PublisherSpec, ViewerSpec};
use crate::world::{World, WorldConfig};
use pictures::{begins_frame, is_key, joined, picture_numbers, told_size};

const SIZES: [(u16, u16); 3] = [(320, 176), (640, 352), (960, 528)];

#[test]
fn real_vp8_decodes_without_an_error() {
    decodes_without_an_error(Codec::Vp8);
}

#[test]
fn real_vp9_decodes_without_an_error() {
    decodes_without_an_error(Codec::Vp9);
}

#[test]
fn real_h264_decodes_without_an_error() {
    decodes_without_an_error(Codec::H264);
}

#[test]
fn real_h265_decodes_without_an_error() {
    decodes_without_an_error(Codec::H265);
}

#[test]
fn real_av1_decodes_without_an_error() {
    decodes_without_an_error(Codec::Av1);
}

fn decodes_without_an_error(codec: Codec) {
    let frames = watched_frames(codec);
    assert_all_layers_were_seen(frames.iter().filter_map(|frame| told_size(codec, frame)));
    pictures::assert_decodes(codec, SIZES[2], &frames);
}

/// Checks by the sizes in keyframes that all layers were sent: down twice, and up again.
fn assert_all_layers_were_seen<'a>(sizes: impl Iterator<Item = &'a [u8]>) {
    let mut seen: Vec<_> = sizes.collect();
    seen.dedup();
    let changes = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), SIZES.len(), "sizes seen");
    assert!(changes >= 4, "{changes} runs of one size");
}

/// Plays the scenario and returns every whole frame that the viewer got.
fn watched_frames(codec: Codec) -> Vec<Vec<u8>> {
    let mut spec = PublisherSpec::simulcast(codec);
    // Keyframes come each second, and not on request: a file cannot answer requests.
    spec.answers_pli = false;
    spec = spec.with(Video, |track| {
        for (layer, size) in track.layers.iter_mut().zip(SIZES) {
            *layer = LayerSpec {
                clip: Some(Arc::new(pictures::clip(codec, size))),
                ..LayerSpec::new(layer.rid, size, 1)
            };
        }
    });
    let bad: Profile = "delay=20,loss=2,reorder=2,duplicate=1".parse().expect("a profile");
    (spec.up, spec.down) = (bad.clone(), bad.clone());
    let mut world = World::with(WorldConfig { seed: 1, workers: 2, ..WorldConfig::default() });
    let publisher = world.publish("live", spec);
    world.run_ms(700);
    let viewer =
        world.watch("live", ViewerSpec { up: bad.clone(), down: bad, ..ViewerSpec::browser() });
    world.viewer(viewer).guard.keeps_payloads = true;
    world.run_s(4);
    for stops in [2, 1] {
        world.publisher(publisher).video().layers[stops].active = false;
        world.run_ms(3_300);
    }
    for returns in [1, 2] {
        world.publisher(publisher).video().layers[returns].active = true;
        world.run_ms(3_300);
    }
    let clean = Profile::delay(std::time::Duration::from_millis(20));
    for client in [publisher, viewer] {
        world.change_network(client, clean.clone(), clean.clone());
    }
    // Missing packets are repaired, then the last frame ends the recording.
    world.run_s(1);
    world.publisher(publisher).sends = false;
    world.run_s(1);
    let watched = world.viewer(viewer);
    let recorded = std::mem::take(&mut watched.recorded);
    whole_frames(codec, &recorded)
}

/// Checks the numbers of two consecutive frames; a clip that begins again takes its numbers back.
fn assert_numbers_go_on(before: (u16, Option<u8>), now: (u16, Option<u8>)) {
    let again = 1 - pictures::CLIP_FRAMES as i16;
    // `rtc-rtp` writes VP8 ids as short as they are, and no TL0PICIDX.
    let bits = if now.1.is_some() { 0x7fff } else { 0x7f };
    let goes_on = [1, again].into_iter().any(|step| {
        let tl0 = before.1.map(|tl0| tl0.wrapping_add_signed(step as i8));
        now.0 & bits == before.0.wrapping_add_signed(step) & bits && now.1 == tl0
    });
    assert!(goes_on, "{now:?} follows {before:?}");
}

/// Assembles frames as a browser does: incomplete frames and frames that refer to them are left
/// out.
fn whole_frames(codec: Codec, recorded: &BTreeMap<u64, (u32, bool, Vec<u8>)>) -> Vec<Vec<u8>> {
    let (mut frames, mut left_out) = (Vec::new(), 0);
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut last: Option<(u64, u32)> = None;
    let mut numbers = None;
    let mut waits_for_key = false;
    for (seq, (timestamp, marker, payload)) in recorded {
        let next = last.is_some_and(|(before, _)| before + 1 == *seq);
        let follows = next && last.is_some_and(|(_, time)| time == *timestamp);
        if !follows {
            // A frame that a switch cut off, or one whose beginning never came.
            waits_for_key |= !parts.is_empty() || !begins_frame(codec, payload);
            waits_for_key |= last.is_some() && !next;
            parts.clear();
            // FFmpeg does not look at these numbers, browsers do.
            let now = picture_numbers(codec, payload);
            if next && let Some((before, now)) = numbers.zip(now) {
                assert_numbers_go_on(before, now);
            }
            numbers = now;
        }
        parts.push(payload);
        last = Some((*seq, *timestamp));
        if !*marker {
            continue;
        }
        let frame = joined(codec, &parts);
        waits_for_key &= !(begins_frame(codec, parts[0]) && is_key(codec, &frame));
        match waits_for_key {
            true => left_out += 1,
            false => frames.push(frame),
        }
        parts.clear();
    }
    assert!(left_out <= 12, "{left_out} frames could not be shown, in four switches");
    assert!(frames.len() > 30 * 15, "{} frames", frames.len());
    frames
}
