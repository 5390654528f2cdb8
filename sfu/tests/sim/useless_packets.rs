//! Authentic packets of no use among the media: no number is missing for anybody.

use weir_sfu::codec::Codec;
use weir_sfu::codec::MediaKind::{Audio, Video};
use weir_sfu::error::DropReason;

use crate::watched;
use crate::world::spec::{PublisherSpec, ViewerSpec, opus, video};

/// Between two frames come packets whose padding cannot be right, and some of a payload type that
/// was not negotiated. The publisher is sent no NACK and no keyframe request, and the viewer's
/// line has no hole, so that its picture does not stop.
#[test]
fn useless_packet_leaves_no_hole() {
    for codec in [Codec::H264, Codec::Vp8] {
        for workers in [1, 2] {
            let spec = PublisherSpec::of(vec![opus(), video(codec)]);
            let (mut world, publisher, viewer) =
                watched(workers, spec, ViewerSpec::on_worker(workers - 1));
            world.run_ms(500);
            let requests = world.publisher(publisher).feedback.keyframe_requests.len();
            let pt = world.publisher(publisher).video().spec.pt;
            let odd: [(_, u8, bool, &[u8]); 6] = [
                (Video, pt, true, &[0; 20]),
                (Video, pt, true, &[1, 2, 200]),
                (Video, pt, true, &[]),
                (Video, 77, false, &[1; 50]),
                (Audio, 111, true, &[0; 20]),
                (Audio, 13, false, &[9]),
            ];
            for (kind, pt, padding, body) in odd {
                let now = world.now;
                world.with_publisher(publisher, |publisher, link| {
                    publisher.send_by_hand(kind, pt, padding, body, now, link);
                });
                world.send_from(publisher.0);
                world.run_ms(170);
            }
            world.run_ms(500);
            let feedback = &world.publisher(publisher).feedback;
            assert!(feedback.nacked.is_empty(), "{:?}", feedback.nacked);
            assert_eq!(feedback.keyframe_requests.len(), requests);
            let counts = [DropReason::RtpMalformed, DropReason::UnknownPayloadType]
                .map(|reason| world.dropped(reason));
            assert_eq!(counts, [4, 2]);
            let watched = world.viewer(viewer);
            assert_eq!((watched.broken_frames(), watched.missing()), (0, 0));
            for (kind, blanks) in [(Video, 4), (Audio, 2)] {
                let sender = watched.guard.sender(kind);
                assert_eq!((sender.holes().len(), sender.blanks()), (0, blanks), "{kind:?}");
            }
            let freeze = watched.longest_freeze();
            assert!(freeze.as_millis() < 50, "the picture stood for {freeze:?}");
        }
    }
}

/// Useless packets with a timestamp from nowhere come in order, and one behind later packets. The
/// picture and the sound keep their times: sender reports to the viewer, and the jitter that the
/// publisher is told.
#[test]
fn useless_packet_tells_nothing_of_the_clock() {
    for reports in [true, false] {
        let mut spec = PublisherSpec::of(vec![opus(), video(Codec::Vp8)]);
        (spec.sends_reports, spec.answers_nack) = (reports, false);
        let (mut world, publisher, viewer) = watched(1, spec, ViewerSpec::browser());
        world.run_s(2);
        for late in [false, true, true, false, true] {
            for kind in [Video, Audio] {
                let now = world.now;
                let number = world.with_publisher(publisher, |publisher, link| {
                    let layer = &mut publisher.track(kind).layers[0];
                    let number = layer.next_seq;
                    match late {
                        true => layer.next_seq += 1,
                        false => publisher.send_by_hand(kind, 77, false, &[1; 50], now, link),
                    }
                    number
                });
                world.send_from(publisher.0);
                if !late {
                    continue;
                }
                world.run_ms(50);
                let now = world.now;
                world.with_publisher(publisher, |publisher, link| {
                    let next = publisher.track(kind).layers[0].next_seq;
                    publisher.track(kind).layers[0].next_seq = number;
                    publisher.send_by_hand(kind, 77, false, &[1; 50], now, link);
                    publisher.track(kind).layers[0].next_seq = next;
                });
                world.send_from(publisher.0);
            }
            world.run_ms(1_300);
        }
        let spread = world.viewer(viewer).guard.report_spread_ms();
        assert!(spread < 20.0, "sender reports differ by {spread} ms (own reports: {reports})");
        let told = &world.publisher(publisher).feedback.reports;
        let jitter = told.iter().map(|report| report.jitter).max();
        assert!(jitter.is_some_and(|jitter| jitter < 90), "jitter of {jitter:?} ticks");
    }
}
