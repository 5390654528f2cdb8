//! The generator reports a correct server as passed, and detects every kind of fault.
//!
//! It runs against a server of independent parts (`support/test_server.rs`), directly and through a
//! relay that impairs media.
#![expect(clippy::disallowed_methods, reason = "a test root may read clocks")]

mod support {
    pub(crate) mod ffmpeg;
    pub(crate) mod impairing_relay;
    pub(crate) mod test_server;
}

use support::impairing_relay::{self, Impairment};
use support::test_server::{Fault, TestServer};
use weir_loadtest::{Report, parse_options, run};

async fn load(args: &[&str]) -> Report {
    let options = parse_options([&["weir-loadtest"], args].concat()).expect("arguments parse");
    run(&options).await.expect("the run begins")
}

async fn load_server(server: &TestServer, args: &[&str]) -> Report {
    let (whip, whep) = (server.url("whip", "s{n}"), server.url("whep", "s{n}"));
    load(&[&["--whip", &whip, "--whep", &whep], args].concat()).await
}

/// The report of one viewer through an impairing relay. The publisher is connected directly.
async fn load_through(impairment: Impairment, args: &[&str]) -> Report {
    load_with(&[], impairment, args).await
}

/// Publisher options for keyframes of a few packets, so that one arrives complete although one
/// packet in ten is impaired.
const SMALL: &[&str] = &["--video-kbps", "100"];

/// The same with the options `more` for the publisher.
async fn load_with(more: &'static [&str], impairment: Impairment, args: &[&str]) -> Report {
    let port = std::net::UdpSocket::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("is bound")
        .port();
    let server = TestServer::start(Fault::None, port).await;
    let relay = impairing_relay::start(([127, 0, 0, 1], port).into(), impairment, 4711).await;
    let relay = relay.to_string();
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
async fn correct_server_passes_and_the_video_decodes() {
    let dir = tempfile::tempdir().expect("a directory");
    for (codec, extension) in [("h264", "h264"), ("vp8", "ivf")] {
        let server = TestServer::start(Fault::None, 0).await;
        let path = dir.path().join(format!("got.{extension}"));
        let record = path.to_str().expect("is text");
        let args =
            ["--viewers", "2", "--audio", "--duration", "3", "--codec", codec, "--record", record];
        let report = load_server(&server, &args).await;
        let figures = &report.figures;
        assert!(report.passed(), "{codec}: {report}");
        assert_eq!(
            (figures.viewers_connected, figures.packets_lost, figures.freezes),
            (2, 0, 0),
            "{report}"
        );
        assert!((170..=190).contains(&figures.frames_decodable), "{report}");
        // Publisher and viewers see each edge of the window at moments of their own: a keyframe (up
        // to 40 packets) and a packet of sound may be on the way at both edges.
        let on_the_way = u64::from(figures.viewers_connected) * 2 * (40 + 1);
        assert!(figures.packets_received + on_the_way >= figures.packets_sent * 2, "{report}");
        assert!(figures.packets_received <= figures.packets_sent * 2 + on_the_way, "{report}");
        assert!(figures.latency_us.is_some_and(|l| l.p50 > 0 && l.p50 < 100_000), "{report}");
        let (join, first) =
            (figures.join_ms.expect("joined"), figures.first_frame_ms.expect("got a frame"));
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
async fn full_clients_measure_the_same_as_light_ones() {
    let server = TestServer::start(Fault::None, 0).await;
    let report = load_server(&server, &["--client", "full", "--audio", "--duration", "3"]).await;
    assert!(report.passed(), "{report}");
    assert!((85..=95).contains(&report.figures.frames_decodable), "{report}");
    assert!(report.figures.latency_us.is_some());
    assert_eq!(server.sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_bytes_are_detected_although_every_packet_is_authentic() {
    let server = TestServer::start(Fault::AltersBytes, 0).await;
    let report = load_server(&server, &["--duration", "4"]).await;
    assert!(report.figures.frames_broken > 0 && !report.passed(), "{report}");
    assert_eq!((report.figures.packets_lost, report.repair.unauthentic), (0, 0), "{report}");
    assert!(report.flaws.keys().any(|flaw| flaw.starts_with("altered")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn left_out_frames_are_detected_although_no_packet_is_missing() {
    let server = TestServer::start(Fault::LeavesOutFrames, 0).await;
    let report = load_server(&server, &["--duration", "4"]).await;
    assert_eq!(report.figures.packets_lost, 0, "{report}");
    assert!(report.flaws.keys().any(|flaw| flaw.starts_with("missing")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_loss_is_counted_and_breaks_frames() {
    let drop = Impairment { drop: 100, ..Impairment::default() };
    let report = load_with(SMALL, drop, &[]).await;
    assert!(report.figures.packets_lost > 0 && report.figures.frames_broken > 0, "{report}");
    assert!(
        report.repair.nacked > report.figures.packets_lost,
        "requested more than once: {report}"
    );
    let report = load_with(SMALL, drop, &["--verify", "none"]).await;
    assert!(report.figures.packets_lost > 0, "also without checks: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupted_packets_fail_authentication_and_are_lost() {
    let report = load_with(SMALL, Impairment { corrupt: 100, ..Impairment::default() }, &[]).await;
    assert!(report.repair.unauthentic > 0, "{report}");
    assert!(report.figures.packets_lost > 0 && report.figures.frames_broken > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corruption_is_detected_by_full_checks_and_by_samples() {
    let one_in_a_hundred = Impairment { corrupt: 10, ..Impairment::default() };
    let report = load_through(one_in_a_hundred, &["--verify", "sample"]).await;
    assert!(report.repair.unauthentic > 0 && !report.passed(), "{report}");

    let args = ["--verify", "sample", "--verify-viewers", "0"];
    // Small keyframes, so that one arrives complete, and many packets, so that the sample contains
    // corrupted ones.
    let small = &["--fps", "120", "--video-kbps", "50"];
    let report =
        load_with(small, Impairment { corrupt: 200, ..Impairment::default() }, &args).await;
    let repair = report.repair;
    assert!(repair.spots_failed > 0 && !report.passed(), "{report}");
    let received = report.figures.packets_received;
    let authentic = repair.opened - repair.unauthentic;
    assert!(authentic * 2 < received, "only a sample is decrypted: {authentic} of {received}");

    let report = load_through(Impairment::default(), &args).await;
    assert!(
        report.passed() && report.repair.opened > 10,
        "without impairments it passes: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn conference_audio_and_churn_pass_and_delete_their_sessions() {
    let server = TestServer::start(Fault::None, 0).await;
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
    assert!((580..=620).contains(&figures.packets_received), "50 per second and viewer: {report}");
    assert!(figures.latency_us.is_some() && figures.first_frame_ms.is_some(), "{report}");

    let args = ["--viewers", "3", "--per-second", "2", "--video-kbps", "300"];
    let report = run(scenario("churn", &args)).await;
    assert!(report.passed(), "{report}");
    assert!(
        (8..=10).contains(&report.figures.viewers_connected),
        "3 viewers and 6 that replace others: {report}"
    );
    assert_eq!(server.sessions(), 0, "every session was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn reordering_breaks_no_frame() {
    let report = load_through(Impairment { reorder: 100, ..Impairment::default() }, &[]).await;
    assert!(report.passed(), "{report}");
    assert!(report.repair.filled > 0, "there was reordering: {report}");
    assert_eq!(report.figures.packets_lost, 0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_fails_soon_without_a_server() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("is bound");
    let url = format!("http://{free}/x");
    let began = std::time::Instant::now();
    let report = load(&["--whip", &url, "--whep", &url, "--viewers", "3"]).await;
    assert!(!report.passed());
    assert_eq!((report.figures.viewers_failed, report.publishers_failed), (3, 1));
    assert!(began.elapsed().as_secs() < 5, "no session has anything to wait for");
}
