//! Join storms: joining viewers are served after established ones, some at a time, and get the same
//! packets.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use weir_netsim::Trace;
use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::error::DropReason;
use weir_sfu::forward::LayerPreference;

use crate::ms;
use crate::world::spec::{PublisherSpec, ViewerSpec};
use crate::world::wire::{Class, class};
use crate::world::{ClientId, World};

fn viewers(world: &mut World, viewers: usize) -> Vec<ClientId> {
    (0..viewers).map(|_| world.watch("live", ViewerSpec::browser())).collect()
}

/// A keyframe takes 24 ms up the publisher's link, longer than a round of all viewers. So most
/// viewers begin with it when more of it has arrived.
#[test]
fn join_storm_gets_its_first_keyframe_once_and_in_order() {
    let mut world = World::new(1);
    let viewers = viewers(&mut world, 150);
    let overtaken = Rc::new(Cell::new(0));
    for viewer in &viewers {
        let (mut highest, overtaken) = (HashMap::new(), Rc::clone(&overtaken));
        world.lose_down(*viewer, move |bytes| {
            if class(bytes) == Class::Rtp {
                let seq = u16::from_be_bytes([bytes[2], bytes[3]]);
                let highest = highest.entry(bytes[8..12].to_vec()).or_insert(seq);
                overtaken.set(overtaken.get() + u32::from(seq < *highest));
                *highest = seq.max(*highest);
            }
            false
        });
    }
    world.run_s(1);
    let mut spec = PublisherSpec::browser().with(Video, |track| {
        track.layers[0].packets = 12;
        track.encode_delay = ms(45);
    });
    spec.up.rate = Some(Trace::constant(8_000_000));
    world.publish("live", spec);
    world.run_s(2);
    for viewer in viewers {
        let watched = world.viewer(viewer);
        assert!(watched.video_frames() > 45, "{}", watched.video_frames());
        assert_eq!(watched.guard.resent, 0);
    }
    assert_eq!(overtaken.get(), 0, "packets that left after a later one");
    assert_eq!(world.dropped(DropReason::Duplicate), 0, "no viewer was sent a packet twice");
}

/// A keyframe that waits for joining viewers only is cached all the same for established viewers.
// quality A2.3
#[test]
fn layer_switch_needs_no_new_keyframe_while_joining_viewers_wait_for_the_last() {
    let mut world = World::new(1);
    let spec = PublisherSpec::simulcast(Codec::Vp8)
        .with(Video, |track| track.key_every = Some(30))
        .with(Audio, |track| track.frame_every = Duration::from_millis(5));
    let publisher = world.publish("live", spec);
    world.run_ms(300);
    let viewer = world.watch("live", ViewerSpec::browser());
    world.run_s(6);
    viewers(&mut world, 300);
    world.run_ms(1_500);
    let lowest = world.publisher(publisher).video().layers[0].source;
    let came = |world: &World| world.delivered.get(&lowest).map_or(0, |serials| serials.len());
    let key_came = |world: &mut World| {
        let before = came(world);
        let frame = world.publisher(publisher).video().layers[0].frame;
        world.run_ms(1);
        // One packet a frame, two of a keyframe.
        came(world) == before + 2 && frame % 30 < 3
    };
    assert!((0..2_000).any(|_| key_came(&mut world)), "a keyframe comes each second");
    let asked = world.publisher(publisher).feedback.keyframe_requests.len();
    world.set_preference(
        viewer,
        LayerPreference { rid: Some("q".into()), ..LayerPreference::default() },
    );
    world.run(ms(100));
    let asked = world.publisher(publisher).feedback.keyframe_requests.len() - asked;
    let shown = world.viewer(viewer).video_sources().last().copied();
    assert_eq!((asked, shown), (0, Some(lowest)), "it begins at the cached keyframe");
}

/// After a restart of the server all viewers of all streams join at once.
#[test]
fn joining_viewers_of_many_small_streams_wait_no_longer_than_those_of_a_large_one() {
    let mut world = World::new(1);
    let streams: Vec<_> = (0..48).map(|name| format!("room{name}")).collect();
    let spec = PublisherSpec::video_only();
    streams.iter().for_each(|name| _ = world.publish(name, spec.clone()));
    world.run_ms(500);
    let viewers: Vec<_> =
        streams.iter().map(|name| world.watch(name, ViewerSpec::browser())).collect();
    world.run_s(2);
    let newest = |world: &mut World, viewer: &ClientId| {
        let frame = *world.viewer(*viewer).frames.last().expect("a picture");
        (frame.number, frame.at)
    };
    let seen: Vec<_> = viewers.iter().map(|viewer| newest(&mut world, viewer)).collect();
    let (first, last) = (seen.iter().min().copied(), seen.iter().max().copied());
    let ((number, at), (same, later)) = first.zip(last).expect("viewers");
    assert_eq!(number, same, "all publish at the same time");
    assert!(later - at <= ms(3), "{:?} from the first stream to the last", later - at);
}
