//! One run per codec with real pictures: three layers that come and go on bad lines, and FFmpeg decodes what the viewer got,
//! without one complaint.
//!
//! The clips are made by FFmpeg, cut into packets and put together again by `rtc-rtp`; the server's own parsers have no part
//! in the judgement. Without FFmpeg the test fails.

#[path = "../../../loadtest/tests/support/ffmpeg.rs"]
mod ffmpeg;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use rtc_rtp::codec::h264::{H264Packet, H264Payloader};
use rtc_rtp::codec::vp8::{Vp8Packet, Vp8Payloader};
use rtc_rtp::packetizer::{Depacketizer, Payloader};
use weir_netsim::Profile;
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::Video;

use crate::world::media::{Clip, ClipFrame};
use crate::world::spec::{LayerSpec, PublisherSpec, ViewerSpec};
use crate::world::{World, WorldConfig};

/// Of one payload, so that all headers and the RTX number fit.
const PAYLOAD_MAX: usize = 1_100;

const SIZES: [(u16, u16); 3] = [(320, 176), (640, 352), (960, 528)];

#[test]
fn a_run_with_real_vp8_decodes_without_an_error() {
    let frames = watched_frames(Codec::Vp8);
    assert_all_layers_were_seen(
        frames.iter().filter(|frame| is_key(Codec::Vp8, frame)).map(|f| &f[6..10]),
    );
    // IVF: a header of 32 bytes, then each frame behind its length and time.
    let mut file = b"DKIF\0\0\x20\0VP80".to_vec();
    file.extend([SIZES[2].0.to_le_bytes(), SIZES[2].1.to_le_bytes()].concat());
    file.extend([30u32.to_le_bytes(), 1u32.to_le_bytes()].concat());
    file.extend([(frames.len() as u32).to_le_bytes(), [0; 4]].concat());
    for (time, frame) in (0u64..).zip(&frames) {
        file.extend((frame.len() as u32).to_le_bytes());
        file.extend(time.to_le_bytes());
        file.extend(frame);
    }
    ffmpeg::assert_decodes(&file, "ivf", frames.len());
}

#[test]
fn a_run_with_real_h264_decodes_without_an_error() {
    let frames = watched_frames(Codec::H264);
    let sets: Vec<_> =
        frames.iter().flat_map(|frame| nals(frame)).filter(|n| n[0] & 31 == 7).collect();
    assert_all_layers_were_seen(sets.into_iter());
    ffmpeg::assert_decodes(&frames.concat(), "h264", frames.len());
}

/// By what tells the size in a keyframe: down twice, and up again.
fn assert_all_layers_were_seen<'a>(sizes: impl Iterator<Item = &'a [u8]>) {
    let mut seen: Vec<_> = sizes.collect();
    seen.dedup();
    let changes = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), SIZES.len(), "sizes seen");
    assert!(changes >= 4, "{changes} runs of one size");
}

/// Plays the story and gives every whole frame that the viewer got.
fn watched_frames(codec: Codec) -> Vec<Vec<u8>> {
    let mut spec = PublisherSpec::simulcast(codec);
    // Keyframes come each second, and not on request: a file cannot be asked.
    spec.answers_pli = false;
    spec = spec.with(Video, |track| {
        for (layer, size) in track.layers.iter_mut().zip(SIZES) {
            *layer = LayerSpec {
                clip: Some(Arc::new(clip(codec, size))),
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
    // What is missing is repaired, then the last frame ends the recording.
    world.run_s(1);
    world.publisher(publisher).sends = false;
    world.run_s(1);
    let watched = world.viewer(viewer);
    let recorded = std::mem::take(&mut watched.recorded);
    whole_frames(codec, &recorded)
}

/// Puts frames together as a browser does: what is not whole is left out, and what builds on it.
fn whole_frames(codec: Codec, recorded: &BTreeMap<u64, (u32, bool, Vec<u8>)>) -> Vec<Vec<u8>> {
    let (mut frames, mut left_out) = (Vec::new(), 0);
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut last: Option<(u64, u32)> = None;
    let mut waits_for_key = false;
    for (seq, (timestamp, marker, payload)) in recorded {
        let follows = last.is_some_and(|(before, time)| before + 1 == *seq && time == *timestamp);
        if !follows {
            // A frame that a switch cut off, or one whose beginning never came.
            waits_for_key |= !parts.is_empty() || !begins_frame(codec, payload);
            waits_for_key |= last.is_some_and(|(before, _)| before + 1 != *seq);
            parts.clear();
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

fn is_key(codec: Codec, frame: &[u8]) -> bool {
    match codec {
        Codec::Vp8 => frame[0] & 1 == 0,
        _ => nals(frame).iter().any(|nal| nal[0] & 31 == 5),
    }
}

/// RFC 7741 4.2: the S bit; RFC 6184 5.8: the start bit of a fragment.
fn begins_frame(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Vp8 => payload[0] & 0x10 != 0,
        _ => payload[0] & 31 != 28 || payload[1] & 0x80 != 0,
    }
}

fn joined(codec: Codec, payloads: &[&[u8]]) -> Vec<u8> {
    let (mut vp8, mut h264) = (Vp8Packet::default(), H264Packet::default());
    let mut frame = Vec::new();
    for payload in payloads {
        let payload = Bytes::copy_from_slice(payload);
        let part = match codec {
            Codec::Vp8 => vp8.depacketize(&payload),
            _ => h264.depacketize(&payload),
        };
        frame.extend(part.expect("the payload is sound"));
    }
    frame
}

/// Four seconds of FFmpeg's test picture as RTP payloads, encoded so that each run gives the same bytes.
fn clip(codec: Codec, (width, height): (u16, u16)) -> Clip {
    let common = ["-g", "30", "-b:v", "500k", "-f"];
    let (encoder, container): (&[&str], _) = match codec {
        Codec::Vp8 => (
            &[
                "-c:v",
                "libvpx",
                "-deadline",
                "good",
                "-cpu-used",
                "5",
                "-threads",
                "1",
                "-lag-in-frames",
                "0",
            ],
            "ivf",
        ),
        _ => (
            &[
                "-c:v",
                "libx264",
                "-profile:v",
                "baseline",
                "-preset",
                "ultrafast",
                "-tune",
                "zerolatency",
                "-x264-params",
                "aud=1:repeat-headers=1:slices=1:threads=1",
            ],
            "h264",
        ),
    };
    let source = format!("testsrc=size={width}x{height}:rate=30");
    let output = Command::new(ffmpeg::find().expect("an ffmpeg, see loadtest/tests/support"))
        .args([
            "-nostdin", "-v", "error", "-f", "lavfi", "-i", &source, "-t", "4", "-pix_fmt",
            "yuv420p",
        ])
        .args(encoder)
        .args(common)
        .args([container, "-"])
        .stdin(Stdio::null())
        .output()
        .expect("ffmpeg runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pictures = match codec {
        Codec::Vp8 => ivf_frames(&output.stdout),
        _ => access_units(&output.stdout),
    };
    assert_eq!(pictures.len(), 4 * 30);
    let mut vp8 = Vp8Payloader::default();
    vp8.enable_picture_id = true;
    let mut h264 = H264Payloader::default();
    let frames = pictures.into_iter().map(|picture| {
        let picture = Bytes::from(picture);
        let payloads = match codec {
            Codec::Vp8 => vp8.payload(PAYLOAD_MAX, &picture),
            _ => h264.payload(PAYLOAD_MAX, &picture),
        };
        let key = is_key(codec, &picture);
        let payloads = payloads.expect("a sound frame").iter().map(|p| p.to_vec()).collect();
        ClipFrame { key, payloads }
    });
    Clip { frames: frames.collect() }
}

fn ivf_frames(mut file: &[u8]) -> Vec<Vec<u8>> {
    file = &file[32..];
    let mut frames = Vec::new();
    while let Some((len, rest)) = file.split_first_chunk::<4>() {
        let (frame, next) = rest[8..].split_at(u32::from_le_bytes(*len) as usize);
        frames.push(frame.to_vec());
        file = next;
    }
    frames
}

/// Annex B cut at its access unit delimiters, which are left out.
fn access_units(file: &[u8]) -> Vec<Vec<u8>> {
    let mut units: Vec<Vec<u8>> = Vec::new();
    for nal in nals(file) {
        if nal[0] & 31 == 9 {
            units.push(Vec::new());
            continue;
        }
        let unit = units.last_mut().expect("a delimiter comes first");
        unit.extend([0, 0, 0, 1]);
        unit.extend(nal);
    }
    units
}

/// The NAL units of Annex B.
fn nals(bytes: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<_> =
        bytes.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at).collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let cut = starts.iter().zip(ends).map(|(start, end)| {
        let nal = &bytes[start + 3..end];
        // The zero of a four-byte start code belongs to nobody.
        let len = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &nal[..len]
    });
    cut.filter(|nal| !nal.is_empty()).collect()
}
