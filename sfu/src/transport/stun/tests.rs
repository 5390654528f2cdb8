//! Tests of the STUN messages, with the vectors of RFC 5769 and `rtc-stun` as a second opinion.

use super::*;
use rtc_stun::attributes::{ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Getter, Message, Setter};
use rtc_stun::xoraddr::XorMappedAddress;

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// RFC 5769 section 2.1.
const REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\
    \xfa\x87\xdf\xae\x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\
    \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\x00\x06\x00\x09evtj:h6vY\x20\x20\x20\
    \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\
    \xc1\xb5\x71\xa2\x80\x28\x00\x04\xe5\x7a\x3b\xcf";

#[test]
fn request_of_rfc_5769_is_read_and_authenticated() {
    let view = StunView::parse(REQUEST).unwrap();
    assert_eq!((view.class(), view.is_binding()), (StunClass::Request, true));
    assert_eq!(view.username(), Some(("evtj", "h6vY")));
    assert_eq!(server_ufrag(REQUEST), Some("evtj"));
    assert!(view.verify_integrity(PASSWORD));
    assert!(!view.verify_integrity(b"VOkJxbRl1RmTxUk/WvJxBu"));
    assert!(view.fingerprint && !view.has_use_candidate());
}

#[test]
fn request_with_any_flipped_bit_is_refused() {
    // A damaged type of FINGERPRINT itself makes it an attribute that is not read.
    for bit in 0..(REQUEST.len() - FINGERPRINT_TLV) * 8 {
        let mut bad = REQUEST.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let passed = StunView::parse(&bad).is_ok_and(|view| view.verify_integrity(PASSWORD));
        assert!(!passed, "bit {bit}");
    }
}

#[test]
fn rtc_stun_accepts_our_answers() {
    let id = *b"0123456789ab";
    for source in ["192.0.2.1:32853", "[2001:db8::7]:443", "[::ffff:10.0.0.9]:5000"] {
        let source: SocketAddr = source.parse().unwrap();
        let mut out = [0u8; 76];
        let len = write_success(&mut out, &id, source, PASSWORD).unwrap();
        let mut message = Message::new();
        message.unmarshal_binary(&out[..len]).unwrap();
        assert_eq!(message.typ, BINDING_SUCCESS);
        assert_eq!(message.transaction_id.0, id);
        let mut mapped = XorMappedAddress::default();
        mapped.get_from(&message).unwrap();
        assert_eq!((mapped.ip, mapped.port), (source.ip().to_canonical(), source.port()));
        let provider = rtc_crypto::default_provider().unwrap();
        MessageIntegrity::check(&mut message, PASSWORD, provider.crypto()).unwrap();
        FINGERPRINT.check(&message).unwrap();
    }
}

#[test]
fn rtc_stun_and_we_accept_each_others_requests() {
    let provider = rtc_crypto::default_provider().unwrap();
    let integrity = MessageIntegrity::new_short_term_integrity_with_provider(
        "a-password-of-22-chars".into(),
        provider.crypto(),
    );
    let mut theirs = Message::new();
    theirs.set_type(BINDING_REQUEST);
    theirs.new_transaction_id().unwrap();
    theirs.write_header();
    theirs.add(ATTR_USERNAME, b"ours:theirs");
    theirs.add(ATTR_USE_CANDIDATE, &[]);
    integrity.add_to(&mut theirs).unwrap();
    FINGERPRINT.add_to(&mut theirs).unwrap();
    let view = StunView::parse(&theirs.raw).unwrap();
    assert_eq!(view.username(), Some(("ours", "theirs")));
    assert!(view.has_use_candidate());
    assert!(view.verify_integrity(b"a-password-of-22-chars"));
    assert_eq!(view.transaction_id(), theirs.transaction_id.0);

    let check = CheckRequest {
        transaction_id: *b"abcdefghijkl",
        remote_ufrag: "theirs",
        local_ufrag: "ours",
        priority: 0x6e7f_ffff,
        role: IceRole::Controlled,
        tie_breaker: 7,
        key: b"a-password-of-22-chars",
    };
    let mut out = [0u8; 200];
    let len = write_check(&mut out, &check).unwrap();
    let mut ours = Message::new();
    ours.unmarshal_binary(&out[..len]).unwrap();
    assert_eq!(ours.get(ATTR_USERNAME).unwrap(), b"theirs:ours");
    assert_eq!(ours.get(ATTR_PRIORITY).unwrap(), 0x6e7f_ffffu32.to_be_bytes());
    MessageIntegrity::check(&mut ours, check.key, provider.crypto()).unwrap();
    FINGERPRINT.check(&ours).unwrap();
}

fn bare_request() -> Vec<u8> {
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.extend_from_slice(b"0123456789ab");
    request
}

// whip-whep H1, H2
#[test]
fn plain_stun_is_answered_with_the_source_address_only() {
    let mut out = [0u8; 100];
    let v4 = plain_binding_reply(&bare_request(), "192.0.2.1:1".parse().unwrap(), &mut out);
    assert_eq!(v4, Some(32));
    let v6 = plain_binding_reply(&bare_request(), "[2001:db8::1]:1".parse().unwrap(), &mut out);
    assert_eq!(v6, Some(44));
    // An ICE check is not plain STUN (whip-whep H3), and an answer is not either.
    let source = "192.0.2.1:1".parse().unwrap();
    assert_eq!(plain_binding_reply(REQUEST, source, &mut out), None);
    let mut answer = bare_request();
    answer[0] = 1;
    assert_eq!(plain_binding_reply(&answer, source, &mut out), None);
    assert_eq!(plain_binding_reply(&bare_request(), source, &mut [0; 31]), None);
}

// whip-whep H2
#[test]
fn unknown_required_attributes_are_listed_in_a_420() {
    let mut request = bare_request();
    for kind in 0..10u8 {
        request.extend_from_slice(&[0x7f, kind, 0, 0]);
    }
    request.extend_from_slice(&[0xff, 0, 0, 0]); // comprehension-optional
    request[3] = (request.len() - HEADER_LEN) as u8;
    let mut out = [0u8; 100];
    let source = "192.0.2.1:1".parse().unwrap();
    let len = plain_binding_reply(&request, source, &mut out).unwrap();
    assert_eq!(out[..2], [0x01, 0x11]);
    assert_eq!(out[20..28], [0, 9, 0, 4, 0, 0, 4, 20]);
    assert_eq!(out[28..34], [0, 10, 0, 16, 0x7f, 0]);
    assert_eq!(len, 48);
}

// quality B4 item 8
#[test]
fn message_of_any_short_length_is_refused_without_a_panic() {
    for len in 0..=64usize {
        for fill in [0x00, 0xff] {
            let junk = vec![fill; len];
            assert_eq!(StunView::parse(&junk).err(), Some(StunError));
            assert_eq!(server_ufrag(&junk), None);
        }
        let mut cut = REQUEST[..len].to_vec();
        assert!(StunView::parse(&cut).is_err());
        if let (Some(field), Some(body)) = (cut.get_mut(3), len.checked_sub(HEADER_LEN)) {
            *field = body as u8;
            // Cut at an attribute's end it is a message without integrity.
            assert!(
                StunView::parse(&cut).is_ok_and(|v| !v.verify_integrity(PASSWORD))
                    == [0, 20, 28, 40].contains(&body),
                "{len}"
            );
        }
    }
}
