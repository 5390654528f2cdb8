//! Streams that come and go, and session URLs after their session.

use super::*;
use crate::net::detached::Detached;

#[test]
fn url_leads_to_its_session_only_under_its_role_and_stream() {
    let server = Detached::new(1);
    let directory = &server.control.directory;
    let session = directory.session(server.publish("a")).unwrap();
    let secret = session.secret.expose();
    let found = |role, stream, secret| {
        directory.live_session(role, &Detached::name(stream), secret).map(|found| found.id)
    };
    assert_eq!(found(Role::Publisher, "a", secret), Some(session.id));
    assert_eq!(found(Role::Subscriber, "a", secret), None);
    assert_eq!(found(Role::Publisher, "b", secret), None);
    assert_eq!(found(Role::Publisher, "a", "another"), None);
}

// whip-whep A25
#[test]
fn url_of_an_ended_session_is_known_for_the_tombstone_time() {
    let server = Detached::new(1);
    let directory = &server.control.directory;
    let session = directory.session(server.publish("a")).unwrap();
    let (role, stream, secret) = (Role::Publisher, Detached::name("a"), session.secret.expose());
    let (ended, max) = (Instant::now(), Duration::from_secs(30));
    directory.drop_tombstones(ended + max * 2, max);
    assert!(directory.url(role, &stream, secret).is_some(), "it is live");
    assert!(directory.remove_session(session.id, ended, CloseReason::TakenOver).is_some());
    assert!(directory.remove_session(session.id, ended, CloseReason::PeerClosed).is_none());
    assert!(directory.live_session(role, &stream, secret).is_none());
    directory.end_url(&session, ended + max, CloseReason::Kicked);
    let tombstone = directory.url(role, &stream, secret).unwrap();
    assert_eq!(tombstone.ended, Some((ended, CloseReason::TakenOver)), "the first reason counts");
    directory.drop_tombstones(ended + max - Duration::from_millis(1), max);
    assert!(directory.url(role, &stream, secret).is_some());
    directory.drop_tombstones(ended + max, max);
    assert!(directory.url(role, &stream, secret).is_none());
}

#[test]
fn index_of_a_stream_that_ended_is_used_again_under_a_new_generation() {
    let directory = Directory::default();
    let viewer = SessionId(1);
    let begin = |name: &str| {
        directory.with_stream(&Detached::name(name), |stream, state| {
            state.add_viewer(viewer, Instant::now());
            stream.shared.id
        })
    };
    let end = |name: &str| {
        directory.with_stream(&Detached::name(name), |_, state| state.remove_viewer(viewer));
    };
    assert_eq!(begin("a"), StreamId { index: 0, generation: 0 });
    assert_eq!(begin("b"), StreamId { index: 1, generation: 0 });
    assert_eq!(begin("a"), StreamId { index: 0, generation: 0 }, "the same stream");
    end("a");
    assert_eq!(directory.stream_count(), 1);
    assert_eq!(begin("c"), StreamId { index: 0, generation: 1 });
    assert_eq!(begin("a"), StreamId { index: 2, generation: 0 });
}

#[test]
fn stream_that_got_no_session_is_not_kept() {
    let directory = Directory::default();
    let refused: Result<(), ()> = directory.with_stream(&Detached::name("a"), |_, _| Err(()));
    assert_eq!((refused, directory.stream_count()), (Err(()), 0));
}

#[test]
fn threads_that_make_and_end_one_stream_never_lose_a_session_or_an_id() {
    const THREADS: u64 = 4;
    let directory = Directory::default();
    let name = Detached::name("a");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (directory, name) = (&directory, &name);
            scope.spawn(move || {
                for _ in 0..500 {
                    let id = SessionId(thread);
                    directory.with_stream(name, |_, state| state.add_viewer(id, Instant::now()));
                    directory.with_stream(name, |_, state| {
                        assert!(state.viewer_adopted(id, 0), "the viewer is still there");
                        state.remove_viewer(id);
                    });
                }
            });
        }
    });
    assert_eq!(directory.stream_count(), 0);
    let ids = directory.stream_ids.0.lock();
    let mut free: Vec<_> = ids.free.iter().map(|id| id.index).collect();
    free.sort_unstable();
    assert!(free.iter().copied().eq(0..ids.next_index), "each index is free once: {free:?}");
    assert!(u64::from(ids.next_index) <= THREADS);
}
