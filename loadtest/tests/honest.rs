//! The generator tells the truth: well is reported as well, and every kind of harm is seen.
//!
//! Against a server of other people's parts (`support/double.rs`), directly and through a relay that does harm on purpose.
#![expect(clippy::disallowed_methods, reason = "a test root may read clocks")]

mod support {
    pub(crate) mod double;
    pub(crate) mod ffmpeg;
    pub(crate) mod relay;
}

use support::double::{Double, Fault};
use support::relay::{self, Harm};
use weir_loadtest::options::Options;
use weir_loadtest::report::Report;
use weir_loadtest::run::run;

async fn load(args: &[&str]) -> Report {
    let options =
        Options::parse_from([&["weir-loadtest"], args].concat()).expect("arguments parse");
    run(&options).await.expect("the run begins")
}

async fn load_double(server: &Double, args: &[&str]) -> Report {
    let (whip, whep) = (server.url("whip", "s{n}"), server.url("whep", "s{n}"));
    load(&[&["--whip", &whip, "--whep", &whep], args].concat()).await
}

/// A publisher straight to the server, and one viewer through a relay.
async fn load_through(harm: Harm, args: &[&str]) -> Report {
    load_of(&[], harm, args).await
}

/// Keyframes of a few packets, so that one gets through whole although one packet in ten is harmed.
const SMALL: &[&str] = &["--video-kbps", "100"];

/// The same with `more` options for the publisher.
async fn load_of(more: &'static [&str], harm: Harm, args: &[&str]) -> Report {
    let port = std::net::UdpSocket::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("is bound")
        .port();
    let server = Double::start(Fault::None, port).await;
    let relay = relay::start(([127, 0, 0, 1], port).into(), harm, 4711).await.to_string();
    let whip = server.url("whip", "s");
    let publisher = tokio::spawn(async move {
        let args = ["--whip", &whip, "--viewers", "0", "--duration", "60"];
        load(&[&args, more].concat()).await
    });
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    let whep = server.url("whep", "s");
    let via = ["--whep", &whep, "--publishers", "0", "--media-via", &relay, "--duration", "4"];
    let report = load(&[&via, args].concat()).await;
    publisher.abort();
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_server_is_all_well_and_the_picture_decodes() {
    let dir = tempfile::tempdir().expect("a directory");
    for (codec, extension) in [("h264", "h264"), ("vp8", "ivf")] {
        let server = Double::start(Fault::None, 0).await;
        let path = dir.path().join(format!("got.{extension}"));
        let record = path.to_str().expect("is text");
        let args =
            ["--viewers", "2", "--audio", "--duration", "3", "--codec", codec, "--record", record];
        let report = load_double(&server, &args).await;
        let figures = &report.figures;
        assert!(report.passed(), "{codec}: {report}");
        assert_eq!(
            (figures.viewers_connected, figures.packets_lost, figures.freezes),
            (2, 0, 0),
            "{report}"
        );
        assert!((170..=190).contains(&figures.frames_decodable), "{report}");
        // At the window's edges the two sides may differ by a keyframe.
        assert!(figures.packets_received + 2 * 40 >= figures.packets_sent * 2, "{report}");
        assert!(figures.latency_us.is_some_and(|l| l.p50 > 0 && l.p50 < 100_000), "{report}");
        let (join, first) =
            (figures.join_ms.expect("joined"), figures.first_frame_ms.expect("saw"));
        assert!(first.p50 >= join.p50, "{report}");
        assert!(first.p99 < 1500.0, "the publisher answers keyframe requests: {report}");
        assert_eq!(server.sessions(), 0, "every session was deleted");

        let recording = std::fs::read(&path).expect("was recorded");
        let frames = if codec == "h264" {
            recording
                .windows(5)
                .filter(|w| w[..4] == [0, 0, 0, 1] && matches!(w[4] & 0x1f, 1 | 5))
                .count()
        } else {
            u32::from_le_bytes(recording[24..28].try_into().expect("four bytes")) as usize
        };
        assert!(frames >= 120, "{codec}: {frames} frames recorded");
        support::ffmpeg::assert_decodes(&recording, extension, frames);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_clients_measure_the_same() {
    let server = Double::start(Fault::None, 0).await;
    let report = load_double(&server, &["--client", "full", "--audio", "--duration", "3"]).await;
    assert!(report.passed(), "{report}");
    assert!((85..=95).contains(&report.figures.frames_decodable), "{report}");
    assert!(report.figures.latency_us.is_some());
    assert_eq!(server.sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_alters_bytes_is_caught_although_every_packet_is_authentic() {
    let server = Double::start(Fault::AltersBytes, 0).await;
    let report = load_double(&server, &["--duration", "4"]).await;
    assert!(report.figures.frames_broken > 0 && !report.passed(), "{report}");
    assert_eq!((report.figures.packets_lost, report.repair.unauthentic), (0, 0), "{report}");
    assert!(report.flaws.keys().any(|flaw| flaw.starts_with("altered")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_swallows_frames_is_caught_although_no_packet_is_missing() {
    let server = Double::start(Fault::SwallowsFrames, 0).await;
    let report = load_double(&server, &["--duration", "4"]).await;
    assert_eq!(report.figures.packets_lost, 0, "{report}");
    assert!(report.flaws.keys().any(|flaw| flaw.starts_with("missing")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_beyond_repair_is_counted_and_breaks_frames() {
    let drop = Harm { drop: 100, ..Harm::default() };
    let report = load_of(SMALL, drop, &[]).await;
    assert!(report.figures.packets_lost > 0 && report.figures.frames_broken > 0, "{report}");
    assert!(report.repair.nacked > report.figures.packets_lost, "asked more than once: {report}");
    let report = load_of(SMALL, drop, &["--verify", "none"]).await;
    assert!(report.figures.packets_lost > 0, "counts see it too: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_corrupted_on_the_way_fail_authentication_and_are_lost() {
    let report = load_of(SMALL, Harm { corrupt: 100, ..Harm::default() }, &[]).await;
    assert!(report.repair.unauthentic > 0, "{report}");
    assert!(report.figures.packets_lost > 0 && report.figures.frames_broken > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_see_corruption_whether_a_viewer_is_checked_fully_or_by_spots() {
    let one_in_a_hundred = Harm { corrupt: 10, ..Harm::default() };
    let report = load_through(one_in_a_hundred, &["--verify", "sample"]).await;
    assert!(report.repair.unauthentic > 0 && !report.passed(), "{report}");

    let args = ["--verify", "sample", "--verify-viewers", "0"];
    // Small keyframes, so that one gets through, and many packets, so that spots find the harm.
    let small = &["--fps", "120", "--video-kbps", "50"];
    let report = load_of(small, Harm { corrupt: 200, ..Harm::default() }, &args).await;
    let repair = report.repair;
    assert!(repair.spots_failed > 0 && !report.passed(), "{report}");
    let received = report.figures.packets_received;
    let spots = repair.opened - repair.unauthentic;
    assert!(spots * 2 < received, "spots and repairs only: {spots} of {received}");

    let report = load_through(Harm::default(), &args).await;
    assert!(report.passed() && report.repair.opened > 10, "and harmless is harmless: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conference_audio_and_churn_are_all_well_and_leave_nothing_behind() {
    let server = Double::start(Fault::None, 0).await;
    let (whip, whep) = (server.url("whip", "r{room}-{n}"), server.url("whep", "r{room}-{n}"));
    let scenario = |name, more: &[&str]| {
        let urls = [name, "--whip", &whip, "--whep", &whep, "--duration", "3"];
        [&urls, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run =
        async |args: Vec<String>| load(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let args = ["--rooms", "2", "--per-room", "2", "--video-kbps", "300"];
    let report = run(scenario("conference", &args)).await;
    assert!(report.passed() && report.figures.viewers_connected == 4, "{report}");
    assert!((340..=380).contains(&report.figures.frames_decodable), "{report}");

    let report = run(scenario("audio", &["--publishers", "2", "--viewers", "4"])).await;
    let figures = report.figures.clone();
    assert!(report.passed() && figures.frames_decodable == 0, "{report}");
    assert!((580..=620).contains(&figures.packets_received), "50 a second for each: {report}");
    assert!(figures.latency_us.is_some() && figures.first_frame_ms.is_some(), "{report}");

    let args = ["--viewers", "3", "--per-second", "2", "--video-kbps", "300"];
    let report = run(scenario("churn", &args)).await;
    assert!(report.passed(), "{report}");
    assert!((8..=10).contains(&report.figures.viewers_connected), "3, and 6 more: {report}");
    assert_eq!(server.sessions(), 0, "every session was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn reordering_breaks_nothing() {
    let report = load_through(Harm { reorder: 100, ..Harm::default() }, &[]).await;
    assert!(report.passed(), "{report}");
    assert!(report.repair.filled > 0, "there was reordering: {report}");
    assert_eq!(report.figures.packets_lost, 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_server_fails_every_session_and_ends_soon() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("is bound");
    let url = format!("http://{free}/x");
    let began = std::time::Instant::now();
    let report = load(&["--whip", &url, "--whep", &url, "--viewers", "3"]).await;
    assert!(!report.passed());
    assert_eq!((report.figures.viewers_failed, report.publishers_failed), (3, 1));
    assert!(began.elapsed().as_secs() < 5, "there was nothing to wait for");
}
