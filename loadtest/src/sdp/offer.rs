//! The offers of publishers and viewers.
//!
//! They look like a browser's with one codec: BUNDLE, rtcp-mux, `actpass`, RTX, NACK, PLI. Called
//! by `session`.

use super::extension_uris;
use crate::dtls::Identity;
use crate::ice::Credentials;
use crate::options::Codec;

/// Header extension id of the mid.
const MID_ID: u8 = 1;
/// Header extension id of the rid.
const RID_ID: u8 = 2;
/// Header extension id of the repaired rid.
const RRID_ID: u8 = 3;
/// Header extension id of the transport-wide sequence number.
const TWCC_ID: u8 = 4;

/// Payload type of Opus.
const AUDIO_PT: u8 = 111;

/// Rids of the simulcast layers, smallest first.
pub(crate) const RIDS: [&str; 3] = ["l", "m", "h"];

/// What an offer contains.
#[derive(Debug, Clone)]
pub(crate) struct OfferConfig {
    /// The video codec; `None` without video.
    pub(crate) codec: Option<Codec>,
    /// Whether there is audio.
    pub(crate) audio: bool,
    /// Whether transport-wide congestion feedback is offered.
    pub(crate) twcc: bool,
    /// The SSRCs of a publisher; `None` for a viewer.
    pub(crate) sends: Option<PublisherSsrcs>,
}

/// The SSRCs of a publisher.
#[derive(Debug, Clone)]
pub(crate) struct PublisherSsrcs {
    /// SSRC of the audio.
    pub(crate) audio: u32,
    /// SSRCs of each layer, smallest first. The offer names them if there is only one layer. With
    /// simulcast it names the rids instead.
    pub(crate) video: Vec<LayerSsrcs>,
}

/// The SSRCs of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerSsrcs {
    /// SSRC of the media.
    pub(crate) media: u32,
    /// SSRC of retransmissions.
    pub(crate) rtx: u32,
}

/// The offer of `config`, as SDP.
pub(crate) fn offer(config: &OfferConfig, local: &Credentials, identity: &Identity) -> String {
    let mut writer = OfferWriter::new(config, local, identity);
    if config.audio {
        writer.m_line("audio", &AUDIO_PT.to_string(), &audio_attributes(config));
    }
    if let Some(codec) = config.codec {
        let (pt, rtx, name) = match codec {
            Codec::H264 => (102, 103, "H264"),
            Codec::Vp8 => (96, 97, "VP8"),
        };
        let attributes = video_attributes(config, codec, pt, rtx, name);
        writer.m_line("video", &format!("{pt} {rtx}"), &attributes);
    }
    writer.sdp
}

/// Writes an offer, one m-line after the other.
struct OfferWriter<'a> {
    config: &'a OfferConfig,
    local: &'a Credentials,
    identity: &'a Identity,
    sdp: String,
    /// Mid of the next m-line.
    mid: u32,
}

impl<'a> OfferWriter<'a> {
    fn new(config: &'a OfferConfig, local: &'a Credentials, identity: &'a Identity) -> Self {
        let id = rand::random::<u64>() >> 2;
        let mids = if config.audio && config.codec.is_some() { "0 1" } else { "0" };
        let sdp = format!(
            "v=0\r\no=- {id} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {mids}\r\n\
             a=extmap-allow-mixed\r\na=msid-semantic: WMS load\r\n"
        );
        Self { config, local, identity, sdp, mid: 0 }
    }

    /// Writes the m-line of `kind` with payload types `formats`: transport attributes, then
    /// `attributes`.
    fn m_line(&mut self, kind: &str, formats: &str, attributes: &[String]) {
        let mid = self.mid;
        let port = if mid == 0 { "9" } else { "0" };
        self.sdp += &format!("m={kind} {port} UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\n");
        if mid > 0 {
            self.sdp += "a=bundle-only\r\n";
        }
        self.sdp += &format!(
            "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=ice-options:trickle ice2\r\n\
             a=fingerprint:sha-256 {}\r\na=setup:actpass\r\na=mid:{mid}\r\na=extmap:{MID_ID} {}\r\n\
             a=rtcp-mux\r\na=rtcp-mux-only\r\na=rtcp-rsize\r\n",
            self.local.ufrag,
            self.local.password,
            self.identity.fingerprint,
            extension_uris::MID,
        );
        if self.config.twcc {
            let pt = formats.split(' ').next().unwrap_or_default();
            let uri = extension_uris::TWCC;
            self.sdp += &format!("a=extmap:{TWCC_ID} {uri}\r\na=rtcp-fb:{pt} transport-cc\r\n");
        }
        for attribute in attributes {
            self.sdp += &format!("a={attribute}\r\n");
        }
        self.mid += 1;
    }
}

fn direction(config: &OfferConfig) -> String {
    if config.sends.is_some() { "sendonly".to_owned() } else { "recvonly".to_owned() }
}

fn audio_attributes(config: &OfferConfig) -> Vec<String> {
    let mut attributes = vec![
        direction(config),
        format!("rtpmap:{AUDIO_PT} opus/48000/2"),
        format!("fmtp:{AUDIO_PT} minptime=10;useinbandfec=1"),
    ];
    if let Some(ssrcs) = &config.sends {
        attributes.push("msid:load audio".to_owned());
        attributes.push(format!("ssrc:{} cname:weir-loadtest", ssrcs.audio));
    }
    attributes
}

fn video_attributes(
    config: &OfferConfig,
    codec: Codec,
    pt: u8,
    rtx: u8,
    name: &str,
) -> Vec<String> {
    let mut attributes = vec![direction(config), format!("rtpmap:{pt} {name}/90000")];
    for feedback in ["nack", "nack pli", "ccm fir"] {
        attributes.push(format!("rtcp-fb:{pt} {feedback}"));
    }
    if codec == Codec::H264 {
        attributes.push(format!(
            "fmtp:{pt} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
        ));
    }
    attributes.push(format!("rtpmap:{rtx} rtx/90000"));
    attributes.push(format!("fmtp:{rtx} apt={pt}"));
    match config.sends.as_ref().map(|ssrcs| ssrcs.video.as_slice()) {
        None | Some([]) => {}
        Some([LayerSsrcs { media, rtx }]) => {
            attributes.push("msid:load video".to_owned());
            attributes.push(format!("ssrc-group:FID {media} {rtx}"));
            for ssrc in [media, rtx] {
                attributes.push(format!("ssrc:{ssrc} cname:weir-loadtest"));
            }
        }
        Some(layers) => {
            attributes.push("msid:load video".to_owned());
            attributes.push(format!("extmap:{RID_ID} {}", extension_uris::RID));
            attributes.push(format!("extmap:{RRID_ID} {}", extension_uris::RRID));
            let rids = &RIDS[..layers.len().min(RIDS.len())];
            attributes.extend(rids.iter().map(|rid| format!("rid:{rid} send")));
            attributes.push(format!("simulcast:send {}", rids.join(";")));
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtc_sdp::description::session::SessionDescription;
    use std::io::Cursor;

    fn config(layers: u32) -> OfferConfig {
        let video = (0..layers).map(|n| LayerSsrcs { media: 10 + n, rtx: 20 + n }).collect();
        let sends = Some(PublisherSsrcs { audio: 5, video });
        OfferConfig { codec: Some(Codec::H264), audio: true, twcc: true, sends }
    }

    #[test]
    fn offers_are_valid_sdp_with_ssrcs_or_rids() {
        let identity = Identity::new().expect("generates");
        let credentials = Credentials::random();
        let one = offer(&config(1), &credentials, &identity);
        let parsed =
            SessionDescription::unmarshal(&mut Cursor::new(one.as_bytes())).expect("parses");
        assert_eq!(parsed.media_descriptions.len(), 2);
        assert!(one.contains("a=ssrc-group:FID 10 20\r\n") && !one.contains("simulcast"));
        let three = offer(&config(3), &credentials, &identity);
        assert!(three.contains("a=simulcast:send l;m;h\r\n") && !three.contains("a=ssrc:10"));
        let viewer = OfferConfig { sends: None, ..config(1) };
        let viewer = offer(&viewer, &credentials, &identity);
        assert!(viewer.contains("a=recvonly") && !viewer.contains("a=ssrc"));
        assert_eq!(viewer.matches("transport-cc\r\n").count(), 2, "in both m-lines");
        let listener = OfferConfig { codec: None, twcc: false, ..config(1) };
        let listener = offer(&listener, &credentials, &identity);
        assert!(!listener.contains("m=video") && !listener.contains("transport"));
    }
}
