//! A publisher's packets at the receiver of one viewer: what is counted, requested and judged.

use super::*;
use crate::reorder_buffer::LOSS_TIMEOUT;
use crate::stamp::Stamp;
use crate::video::{LayerSpec, Source, test_options};

const LAYER: LayerSpec = LayerSpec { size: (640, 360), kbps: 1400 };

const FRAME: Duration = Duration::from_millis(33);

/// A publisher, a viewer's receiver, and the time.
struct Scenario {
    source: Source,
    receiver: Receiver,
    now: Instant,
    frame: u32,
    sequence: u16,
}

impl Scenario {
    fn new(level: CheckLevel) -> Self {
        let now = Instant::now();
        Self {
            source: Source::new(&test_options(Codec::H264), LAYER),
            receiver: Receiver::new(now, level, Some(Codec::H264), true, 1),
            now,
            frame: 0,
            sequence: 100,
        }
    }

    /// Sends the next frame; packets for which `lost` says so do not arrive but stay numbered.
    fn frame(&mut self, lost: impl Fn(usize) -> bool) -> &mut Self {
        let sent_us = crate::clock::since_start_us(self.now);
        let key = self.frame.is_multiple_of(60);
        let packets = self.source.next(Stamp { run: 1, frame: self.frame, sent_us, layer: 0, key });
        self.frame += 1;
        self.now += Duration::from_millis(2);
        for (n, payload) in packets.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            if lost(n) {
                continue;
            }
            let view = self.view(n + 1 == packets.len());
            let payload = self.receiver.needs_payload().then(|| payload.clone());
            self.receiver.on_video(self.now, &view, payload, 1000);
        }
        self.now += FRAME - Duration::from_millis(2);
        self
    }

    fn view(&self, marker: bool) -> HeaderView {
        let mut packet = vec![0x80, if marker { 0x80 | 102 } else { 102 }];
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&(self.frame * 3000).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 9]);
        HeaderView::parse(&packet).expect("is a header")
    }

    fn frames(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            self.frame(|_| false);
        }
        self
    }

    /// Frames that the server does not forward, without a gap in the numbers of the packets.
    fn skip_frames(&mut self, count: usize) {
        for _ in 0..count {
            let key = self.frame.is_multiple_of(60);
            self.source.next(Stamp { run: 1, frame: self.frame, sent_us: 0, layer: 0, key });
            self.frame += 1;
        }
    }

    fn window(&mut self, open: bool) -> &mut Self {
        self.receiver.set_counting(self.now, open);
        self
    }
}

#[test]
fn only_media_within_the_window_is_counted() {
    let mut scenario = Scenario::new(CheckLevel::Full);
    scenario.frames(10).window(true).frames(20).window(false).frames(5);
    let measured = scenario.receiver.finish();
    assert_eq!((measured.decodable, measured.broken, measured.freezes), (20, 0, 0));
    assert!(!measured.silent_at_end);
    assert_eq!(measured.bytes, measured.packets_received * 1000);
    let latency = measured.latency_us.value_at_quantile(0.5);
    assert!(latency.abs_diff(2000) < 50, "packets take 2 ms, measured {latency} us");
}

#[test]
fn retransmission_in_time_breaks_no_frame() {
    let mut scenario = Scenario::new(CheckLevel::Full);
    scenario.frames(3).window(true);
    let source = Source::new(&test_options(Codec::H264), LAYER);
    let mut twin = std::mem::replace(&mut scenario.source, source);
    let stamp = Stamp { run: 1, frame: scenario.frame, sent_us: 0, layer: 0, key: false };
    let packets = twin.next(stamp);
    scenario.source = twin;
    scenario.frame += 1;
    for (n, payload) in packets.iter().enumerate() {
        scenario.sequence += 1;
        if n != 1 {
            let view = scenario.view(n + 1 == packets.len());
            scenario.receiver.on_video(scenario.now, &view, Some(payload.clone()), 1000);
        }
    }
    let lost = scenario.sequence - packets.len() as u16 + 2;
    scenario.now += Duration::from_millis(20);
    assert_eq!(scenario.receiver.handle_timeout(scenario.now).nacks, [lost]);
    let mut again = lost.to_be_bytes().to_vec();
    again.extend_from_slice(&packets[1]);
    scenario.receiver.on_retransmission(scenario.now, &scenario.view(false), &again.into());
    scenario.frames(2).window(false);
    let measured = scenario.receiver.finish();
    assert_eq!((measured.decodable, measured.broken, measured.packets_lost), (3, 0, 0));
    assert_eq!((measured.repair.filled, measured.repair.nacked), (1, 1));
}

#[test]
fn loss_without_retransmission_breaks_frames_and_requests_a_keyframe() {
    for level in [CheckLevel::Full, CheckLevel::Headers] {
        let mut scenario = Scenario::new(level);
        scenario.frames(3).window(true).frame(|n| n == 1).frames(2);
        scenario.now += LOSS_TIMEOUT;
        let requests = scenario.receiver.handle_timeout(scenario.now);
        assert!(requests.keyframe, "a browser would request one as well");
        scenario.window(false);
        let measured = scenario.receiver.finish();
        assert_eq!(measured.packets_lost, 1, "{level:?}");
        assert_eq!(measured.broken, if level == CheckLevel::Full { 3 } else { 1 }, "{level:?}");
    }
}

#[test]
fn progress_shows_no_loss_and_no_broken_frame_that_the_result_does_not_count() {
    let mut scenario = Scenario::new(CheckLevel::Full);
    scenario.frames(3).frame(|n| n == 1).frames(2);
    scenario.now += LOSS_TIMEOUT;
    scenario.receiver.handle_timeout(scenario.now);
    let before = scenario.receiver.take_progress();
    assert_eq!((before.lost, before.counted_lost, before.broken), (1, 0, 0));
    scenario.window(true).frame(|n| n == 1).frames(2);
    scenario.now += LOSS_TIMEOUT;
    scenario.receiver.handle_timeout(scenario.now);
    let within = scenario.receiver.take_progress();
    let measured = scenario.window(false).receiver.take_progress();
    assert_eq!((within.lost, within.counted_lost), (1, 1));
    assert_eq!((measured.counted_lost, measured.broken), (0, 0));
    assert_eq!(within.broken, scenario.receiver.finish().broken);
    assert!(within.broken > 0);
}

#[test]
fn loss_at_the_end_of_the_window_breaks_its_frame() {
    let mut scenario = Scenario::new(CheckLevel::Full);
    scenario.frames(3).window(true).frames(3).frame(|n| n == 1).window(false).frames(3);
    scenario.now += LOSS_TIMEOUT;
    scenario.receiver.handle_timeout(scenario.now);
    let measured = scenario.receiver.finish();
    assert_eq!((measured.decodable, measured.broken, measured.packets_lost), (3, 1, 1));
}

#[test]
fn long_gap_is_a_freeze_also_at_the_end_of_the_window() {
    let mut scenario = Scenario::new(CheckLevel::Full);
    scenario.frames(30).window(true).frames(10);
    scenario.now += Duration::from_millis(120);
    scenario.frames(10);
    scenario.now += Duration::from_millis(200);
    scenario.frames(10);
    scenario.now += Duration::from_secs(2);
    scenario.window(false);
    let measured = scenario.receiver.finish();
    assert_eq!(
        measured.freezes, 2,
        "120 ms is no freeze, 200 ms is one, the end of the window is one"
    );
    assert!(measured.silent_at_end, "two seconds of silence are more than a freeze");
}

#[test]
fn viewer_without_a_frame_requests_a_keyframe_after_a_second() {
    let mut scenario = Scenario::new(CheckLevel::Counts);
    assert_eq!(scenario.receiver.handle_timeout(scenario.now), FeedbackRequests::default());
    scenario.now += PLI_INTERVAL;
    assert!(scenario.receiver.handle_timeout(scenario.now).keyframe);
    assert!(!scenario.receiver.handle_timeout(scenario.now).keyframe);
    scenario.frame(|_| false);
    assert!(scenario.receiver.first_frame().is_some() && !scenario.receiver.needs_payload());
    scenario.window(true).frames(3).window(false);
    let measured = scenario.receiver.finish();
    assert_eq!((measured.decodable, measured.broken), (0, 0), "frames are not judged");
    assert!(measured.packets_received > 9);
}

#[test]
fn padding_packets_break_no_frame() {
    let mut scenario = Scenario::new(CheckLevel::Full);
    scenario.frames(2).window(true);
    scenario.sequence += 1;
    let view = scenario.view(false);
    scenario.receiver.on_video(scenario.now, &view, Some(Bytes::new()), 300);
    scenario.frames(2).window(false);
    let measured = scenario.receiver.finish();
    assert_eq!((measured.decodable, measured.broken), (2, 0));
}

#[test]
fn sample_checks_some_viewers_fully_and_some_packets_of_the_others() {
    let options = |more: &[&str]| {
        let args = ["weir-loadtest", "--publishers", "0", "--whep", "http://h", "--verify"];
        crate::options::parse_options([&args[..], more].concat()).expect("parses")
    };
    let full = |options: &Options| {
        (0..100).filter(|n| CheckLevel::of_viewer(options, *n) == CheckLevel::Full).count()
    };
    assert_eq!(full(&options(&["sample"])), 2);
    assert_eq!(full(&options(&["sample", "--verify-viewers", "0"])), 0);
    assert_eq!(full(&options(&["all"])), 100);

    let mut scenario = Scenario::new(CheckLevel::Headers);
    let samples = (0..16_000).filter(|n| {
        scenario.sequence = *n;
        scenario.receiver.samples(&scenario.view(false))
    });
    let samples = samples.count();
    assert!((900..1100).contains(&samples), "about one in sixteen, not {samples}");
}

#[test]
fn audio_latency_is_measured_and_altered_audio_is_detected() {
    // The clock of stamps begins with its first use, which must not be after `now`.
    crate::clock::since_start_us(Instant::now());
    let now = Instant::now();
    let mut receiver = Receiver::new(now, CheckLevel::Full, None, true, 5);
    assert!(!receiver.handle_timeout(now + PLI_INTERVAL).keyframe, "there is no video");
    receiver.set_counting(now, true);
    let stamp =
        Stamp { run: 5, frame: 1, sent_us: crate::clock::since_start_us(now), layer: 0, key: true };
    let good = crate::opus::silence(stamp);
    let mut bad = good.to_vec();
    bad[30] ^= 1;
    let header =
        |n: u8| HeaderView::parse(&[0x80, 111, 0, n, 0, 0, 0, n, 0, 0, 0, 9]).expect("is one");
    let later = now + Duration::from_millis(3);
    receiver.on_audio(later, &header(1), Some(&good), 92);
    receiver.on_audio(later, &header(2), Some(&bad.into()), 92);
    assert_eq!(receiver.first_frame(), Some(later));
    let progress = receiver.take_progress();
    assert_eq!((progress.packets, progress.bytes, progress.broken), (2, 184, 1));
    let measured = receiver.finish();
    assert_eq!((measured.packets_received, measured.broken), (2, 1));
    assert!(measured.latency_us.value_at_quantile(0.5).abs_diff(3000) < 50);
}

/// After many joins a server shows each newcomer a cached keyframe for up to two seconds. Such viewers of the
/// last second of a window were reported as "no media in the window", and the frames between as broken.
#[test]
fn viewer_at_its_poster_is_not_live_and_misses_nothing() {
    for level in [CheckLevel::Full, CheckLevel::Headers, CheckLevel::Counts] {
        let mut scenario = Scenario::new(level);
        scenario.frames(1).window(true);
        let first = scenario.now;
        scenario.now += Duration::from_millis(1900);
        assert!(!scenario.receiver.is_live(scenario.now), "{level:?}");
        assert!(scenario.receiver.is_live(first + POSTER_MAX), "{level:?}: nothing more will come");
        // The frames of two seconds are not sent; the next keyframe is.
        scenario.skip_frames(59);
        scenario.frames(3);
        assert!(scenario.receiver.is_live(scenario.now));
        scenario.window(false);
        let measured = scenario.receiver.finish();
        assert_eq!((measured.broken, measured.silent_at_end), (0, false), "{level:?}");
        assert_eq!(measured.posters, u64::from(level == CheckLevel::Full), "{level:?}");
    }
}

#[test]
fn viewer_that_stays_at_its_poster_is_cut_off() {
    for (wait, silent) in [(Duration::from_secs(3), false), (POSTER_MAX, true)] {
        let mut scenario = Scenario::new(CheckLevel::Full);
        scenario.frames(1).window(true);
        scenario.now += wait;
        scenario.window(false);
        assert_eq!(scenario.receiver.finish().silent_at_end, silent, "{wait:?}");
    }
}
