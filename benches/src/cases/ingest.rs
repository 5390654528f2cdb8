//! Cost of one incoming datagram without viewers: lookup, opening, parsing, caching, routing.

use weir_sfu::codec::{Codec, MediaKind};
use weir_sfu::transport::srtp::SrtpProfile;

use crate::encoder::Frames;
use crate::stopwatch::Case;
use crate::world::{Scene, World};

/// All video codecs and Opus under AES-128-GCM, and H264 under the other profiles, without viewers.
pub fn cases() -> Vec<Case> {
    let codecs = [Codec::H264, Codec::H265, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::Opus];
    let preferred = codecs.map(|codec| (codec, SrtpProfile::AeadAes128Gcm));
    let others = [SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmHmacSha1_80];
    preferred.into_iter().chain(others.map(|profile| (Codec::H264, profile))).map(case).collect()
}

fn case((codec, profile): (Codec, SrtpProfile)) -> Case {
    let frames = match codec.kind() {
        MediaKind::Video => Frames::Equal { packets: 4, payload_len: 1_200 },
        MediaKind::Audio => Frames::Equal { packets: 1, payload_len: 160 },
    };
    let scene = Scene { viewers: 0, codec, frames, profile, ..Scene::default() };
    let mut world = None;
    Case::new(
        "ingest",
        format!("{codec:?}, {}, {}", frames.label(), profile.label()),
        move |watch| {
            let world = world.get_or_insert_with(|| World::new(scene));
            let mut block = world.prepare();
            let received = watch.time(|| world.forward(&mut block));
            world.finish_turn();
            world.check();
            received
        },
    )
}
