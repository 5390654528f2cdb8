//! What a client may ask of its own session, and how often.

use super::*;
use crate::codec::{Codec, MediaKind};
use crate::ids::Epoch;
use crate::net::detached::{Detached, WHEP_OFFER};
use crate::net::session_entry::REQUESTS_PER_SECOND;
use crate::router::SourceInfo;
use crate::router::table::SourceTrackInfo;
use crate::sdp::{CodecFormat, ExtMap, SourceTrack};

/// Publisher of sound and of a picture in these layers, as if it had connected.
fn source(rids: &[&str]) -> SourceInfo {
    let track = |kind, codec, rids: &[&str]| SourceTrackInfo {
        source: SourceTrack { kind, format: CodecFormat { codec, fmtp: String::new() } },
        rids: rids.iter().map(|rid| (*rid).to_owned()).collect(),
        exts: ExtMap::default(),
    };
    let tracks =
        vec![track(MediaKind::Audio, Codec::Opus, &[]), track(MediaKind::Video, Codec::Vp8, rids)];
    SourceInfo { epoch: Epoch(0), publisher: SessionId(7), tracks }
}

// whip-whep E9
#[tokio::test]
async fn rid_is_checked_against_the_publisher_that_is_live() {
    let server = Detached::new(1);
    let signalling = Signalling::new(Arc::clone(&server.control));
    let stream = Detached::name("demo");
    let created =
        signalling.subscribe(stream.clone(), WHEP_OFFER, StartMode::default(), None).await.unwrap();
    let secret = created.secret.expose();
    let select = async |media: Option<&str>, rid: &str| {
        let preference = LayerPreference { rid: Some(rid.into()), ..LayerPreference::default() };
        let selected = signalling.select_layer(&stream, secret, media, preference).await;
        selected.map_err(|error| error.to_string())
    };
    assert_eq!(select(Some("1"), "anything").await, Ok(()), "nobody publishes yet");
    let shared = Arc::clone(&server.control.directory.stream(&stream).unwrap().shared);
    shared.connect(&source(&["h", "l"]));
    for media in [None, Some("1")] {
        assert_eq!(select(media, "h").await, Ok(()));
    }
    let refused = select(Some("1"), "m").await.unwrap_err();
    assert!(refused.contains("rid m") && refused.contains("there are h, l"), "{refused}");
    let refused = select(Some("0"), "h").await.unwrap_err();
    assert!(refused.contains("mediaId 0") && refused.contains("there are 1"), "{refused}");
    shared.connect(&source(&[]));
    let refused = select(None, "h").await.unwrap_err();
    assert!(refused.contains("without rid"), "{refused}");
    assert_eq!(signalling.unselect_layers(&stream, secret).await, Ok(()));
    let gone = signalling.select_layer(&stream, "nobody", None, LayerPreference::default()).await;
    assert_eq!(gone, Err(LayerError::NotFound));
}

// whip-whep B19
#[tokio::test]
async fn patches_and_lookups_have_limits_of_their_own() {
    let server = Detached::new(1);
    let signalling = Signalling::new(Arc::clone(&server.control));
    let (role, stream) = (Role::Subscriber, Detached::name("demo"));
    let session = server.control.directory.session(server.subscribe("demo")).unwrap();
    let secret = session.secret.expose();
    let fragment = b"a=end-of-candidates\r\n";
    let patch = || signalling.patch(role, &stream, secret, fragment, IfMatch::Missing, false);
    for _ in 0..REQUESTS_PER_SECOND {
        assert_eq!(patch().await, Ok(Patched::Trickled));
    }
    assert_eq!(patch().await, Err(PatchError::RateLimited), "one past the limit");
    for _ in 0..REQUESTS_PER_SECOND {
        assert_eq!(signalling.rate_limited_lookup(role, &stream, secret), Ok(session.id));
    }
    let refused = signalling.rate_limited_lookup(role, &stream, secret);
    assert_eq!(refused, Err(LookupError::RateLimited));
    assert!(signalling.exists(role, &stream, secret), "this one has no limit");
}

// whip-whep A25
#[tokio::test]
async fn delete_is_true_again_for_a_session_that_has_just_ended() {
    let server = Detached::new(1);
    let signalling = Signalling::new(Arc::clone(&server.control));
    let (role, stream) = (Role::Publisher, Detached::name("demo"));
    let session = server.control.directory.session(server.publish("demo")).unwrap();
    let secret = session.secret.expose();
    assert!(!signalling.delete(role, &stream, "another").await);
    assert!(signalling.delete(role, &stream, secret).await);
    assert!(!signalling.exists(role, &stream, secret));
    assert!(signalling.delete(role, &stream, secret).await);
    assert!(!signalling.is_live(session.id));
}

#[tokio::test]
async fn listener_of_a_viewer_that_ended_gets_nothing() {
    let server = Detached::new(1);
    let signalling = Signalling::new(Arc::clone(&server.control));
    let stream = Detached::name("demo");
    let session = server.control.directory.session(server.subscribe("demo")).unwrap();
    let secret = session.secret.expose();
    assert!(signalling.session_status(Role::Subscriber, &stream, secret).is_some());
    server.control.close(session.id, CloseReason::Kicked).await;
    assert!(signalling.session_status(Role::Subscriber, &stream, secret).is_none());
    assert!(server.control.status_board.is_empty());
}
