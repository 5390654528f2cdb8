//! What clients need of the answer to their offer.
//!
//! Called by `session`.

use std::io::Cursor;
use std::net::SocketAddr;

use rtc_sdp::description::media::MediaDescription;
use rtc_sdp::description::session::SessionDescription;

use super::extension_uris;
use crate::ice::Credentials;

/// Maximum candidates that are checked.
const CANDIDATES_MAX: usize = 8;

/// What the answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The server's ICE credentials.
    pub(crate) credentials: Credentials,
    /// The server's `sha-256` fingerprints, upper case.
    pub(crate) fingerprints: Vec<String>,
    /// Whether the server is the DTLS server and waits for a ClientHello.
    pub(crate) server_is_passive: bool,
    /// UDP candidates: host candidates first, then the others, both in the server's order.
    pub(crate) candidates: Vec<SocketAddr>,
    /// Video, if the server accepted it.
    pub(crate) video: Option<NegotiatedMedia>,
    /// Audio, if the server accepted it.
    pub(crate) audio: Option<NegotiatedMedia>,
}

/// An m-line that the server accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NegotiatedMedia {
    /// `a=mid`.
    pub(crate) mid: String,
    /// Payload type of the codec.
    pub(crate) payload_type: u8,
    /// Payload type of retransmissions, if negotiated.
    pub(crate) rtx: Option<u8>,
    /// Whether NACK was negotiated.
    pub(crate) nack: bool,
    /// Header extension id of the mid, if negotiated.
    pub(crate) mid_id: Option<u8>,
    /// Header extension id of the rid, if negotiated.
    pub(crate) rid_id: Option<u8>,
    /// Header extension id of the repaired rid, if negotiated.
    pub(crate) rrid_id: Option<u8>,
    /// Header extension id of the transport-wide sequence number, if negotiated.
    pub(crate) twcc_id: Option<u8>,
    /// The SSRC that the server announced, if it did.
    pub(crate) ssrc: Option<u32>,
    /// Rids of the layers that the server accepted; empty without simulcast.
    pub(crate) rids: Vec<String>,
}

/// Parses the answer.
///
/// # Errors
/// If the text is not SDP, or what is missing in it.
pub(crate) fn parse_answer(text: &str) -> anyhow::Result<Answer> {
    let session = SessionDescription::unmarshal(&mut Cursor::new(text.as_bytes()))
        .map_err(|error| anyhow::anyhow!("the answer is not SDP: {error}"))?;
    let sections = &session.media_descriptions;
    // The first accepted m-line carries the transport. Attributes of the session apply where the
    // m-line has none.
    let transport = sections
        .iter()
        .find(|m| accepted(m))
        .ok_or_else(|| anyhow::anyhow!("the answer rejects all media"))?;
    let find = |key: &str| {
        transport.attribute(key).flatten().or_else(|| session.attribute(key).map(String::as_str))
    };
    let need = |key: &str| find(key).ok_or_else(|| anyhow::anyhow!("the answer has no a={key}"));

    let all_values = |key: &str| -> Vec<&str> {
        let of_session = session.attributes.iter();
        let of_media = sections.iter().flat_map(|m| m.attributes.iter());
        of_session
            .chain(of_media)
            .filter(|a| a.key == key)
            .filter_map(|a| a.value.as_deref())
            .collect()
    };
    let fingerprints: Vec<String> = all_values("fingerprint")
        .iter()
        .filter_map(|value| value.split_once(' '))
        .filter(|(hash, _)| hash.eq_ignore_ascii_case("sha-256"))
        .map(|(_, print)| print.trim().to_ascii_uppercase())
        .collect();
    anyhow::ensure!(!fingerprints.is_empty(), "the answer has no sha-256 fingerprint");

    let mut candidates: Vec<(bool, SocketAddr)> = Vec::new();
    for (is_host, addr) in all_values("candidate").into_iter().filter_map(candidate) {
        if candidates.len() < CANDIDATES_MAX && !candidates.iter().any(|(_, known)| *known == addr)
        {
            candidates.push((is_host, addr));
        }
    }
    candidates.sort_by_key(|(is_host, _)| !is_host);

    let of_kind =
        |kind: &str| sections.iter().find(|m| m.media_name.media == kind && accepted(m)).map(media);
    Ok(Answer {
        credentials: Credentials {
            ufrag: need("ice-ufrag")?.to_owned(),
            password: need("ice-pwd")?.to_owned(),
        },
        fingerprints,
        server_is_passive: match need("setup")? {
            "passive" => true,
            "active" => false,
            other => anyhow::bail!("the answer has a=setup:{other}"),
        },
        candidates: candidates.into_iter().map(|(_, addr)| addr).collect(),
        video: of_kind("video"),
        audio: of_kind("audio"),
    })
}

/// Whether the server accepted an m-line. Port 0 rejects it, except with `bundle-only`, which uses
/// the transport of another m-line.
fn accepted(section: &MediaDescription) -> bool {
    let rejected = section.media_name.port.value == 0 && !section.has_attribute("bundle-only");
    !rejected && !section.has_attribute("inactive")
}

/// Whether a candidate is a host candidate, and its address. An example of `value`:
/// `1 1 udp 2130706431 127.0.0.1 8189 typ host`.
fn candidate(value: &str) -> Option<(bool, SocketAddr)> {
    let fields: Vec<&str> = value.split_ascii_whitespace().collect();
    let [_, "1", transport, _, ip, port, "typ", kind, ..] = *fields.as_slice() else { return None };
    let udp = transport.eq_ignore_ascii_case("udp");
    let addr = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
    (udp && kind != "relay").then_some((kind == "host", addr))
}

fn media(section: &MediaDescription) -> NegotiatedMedia {
    let values = |key: &str| {
        let of_key = section.attributes.iter().filter(move |a| a.key == *key);
        of_key.filter_map(|a| a.value.clone()).collect::<Vec<_>>()
    };
    let payload_type =
        section.media_name.formats.first().and_then(|pt| pt.parse().ok()).unwrap_or(0);
    let id_of = |uri: &str| {
        values("extmap").iter().find_map(|line| {
            let (id, rest) = line.split_once(' ')?;
            let id = id.split('/').next()?;
            rest.split(' ').next().filter(|found| *found == uri)?;
            id.parse::<u8>().ok().filter(|id| (1..=14).contains(id))
        })
    };
    let apt = format!("apt={payload_type}");
    let rtx = values("fmtp").iter().find_map(|line| {
        let (pt, parameters) = line.split_once(' ')?;
        parameters.split(';').any(|p| p.trim() == apt).then(|| pt.parse().ok())?
    });
    let nack = values("rtcp-fb").iter().any(|line| {
        matches!(line.split_once(' '), Some((pt, "nack")) if pt == "*" || pt.parse() == Ok(payload_type))
    });
    let simulcast = values("simulcast").first().map_or_else(Vec::new, |line| {
        let list = line.strip_prefix("recv ").unwrap_or_default();
        list.split([';', ',']).map(|rid| rid.trim_start_matches('~').to_owned()).collect()
    });
    NegotiatedMedia {
        mid: section.attribute("mid").flatten().unwrap_or_default().to_owned(),
        payload_type,
        rtx,
        nack,
        mid_id: id_of(extension_uris::MID),
        rid_id: id_of(extension_uris::RID),
        rrid_id: id_of(extension_uris::RRID),
        twcc_id: id_of(extension_uris::TWCC),
        ssrc: values("ssrc").first().and_then(|line| line.split(' ').next()?.parse().ok()),
        rids: simulcast,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE 0 1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 aa:bb\r\na=setup:passive\r\na=rtcp-mux\r\na=recvonly\r\n\
        a=rtpmap:111 opus/48000/2\r\n\
        a=candidate:1 1 udp 99 2.2.2.2 9 typ srflx raddr 0.0.0.0 rport 0\r\n\
        a=candidate:2 1 tcp 99 127.0.0.1 9 typ host tcptype passive\r\n\
        a=candidate:3 1 UDP 99 127.0.0.1 8189 typ host\r\na=end-of-candidates\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 102 103\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=ice-ufrag:abcd\r\n\
        a=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 aa:bb\r\na=setup:passive\r\na=rtcp-mux\r\na=recvonly\r\n\
        a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=extmap:2/sendonly urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n\
        a=rtpmap:102 H264/90000\r\na=rtcp-fb:102 nack\r\na=rtcp-fb:102 nack pli\r\na=rtpmap:103 rtx/90000\r\n\
        a=fmtp:103 apt=102\r\na=rid:l recv\r\na=rid:m recv\r\na=simulcast:recv l;~m\r\n";

    #[test]
    fn answer_has_transport_payload_types_and_extension_ids() {
        let answer = parse_answer(ANSWER).expect("parses");
        assert!(answer.server_is_passive);
        assert_eq!(answer.credentials.ufrag, "abcd");
        assert_eq!(answer.fingerprints.first().map(String::as_str), Some("AA:BB"));
        let addrs: Vec<_> = answer.candidates.iter().map(SocketAddr::to_string).collect();
        assert_eq!(addrs, ["127.0.0.1:8189", "2.2.2.2:9"], "host first, TCP never");
        let video = answer.video.expect("was accepted");
        assert_eq!((video.payload_type, video.rtx, video.nack), (102, Some(103), true));
        assert_eq!((video.mid_id, video.rid_id, video.rrid_id), (Some(1), Some(2), None));
        assert_eq!(video.rids, ["l", "m"]);
        assert_eq!(answer.audio.expect("was accepted").payload_type, 111);
    }

    #[test]
    fn rejected_media_is_absent_and_incomplete_answers_are_errors() {
        let rejected = ANSWER.replace("m=video 9", "m=video 0");
        assert_eq!(parse_answer(&rejected).expect("parses").video, None);
        for (line, word) in
            [("a=setup:passive\r\n", "setup"), ("a=ice-pwd:0123456789012345678901\r\n", "ice-pwd")]
        {
            let error = parse_answer(&ANSWER.replace(line, "")).expect_err("is incomplete");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(parse_answer("hello").is_err());
    }
}
