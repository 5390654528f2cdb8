//! The server is killed and started again under load: every publisher and viewer of `weir-loadtest` comes back.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test root")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use weir_loadtest::{parse_options, run};

/// A server process; it is killed when dropped.
struct Server(Child);

impl Server {
    /// Starts the server and waits until it is ready.
    fn start(http: u16, media: u16) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["--http", &format!("127.0.0.1:{http}"), "--media-port", &media.to_string()])
            .args(["--workers", "1", "--log", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self(child);
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("weir ready"), "{line}");
        server
    }

    /// SIGTERM: sessions are closed with an alert.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    /// SIGKILL: nobody is told.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_ports() -> [u16; 2] {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    [tcp, udp]
}

/// A publisher and six viewers for some seconds, while the server is taken away for two.
async fn load_over_a_restart(duration_s: u32, take_away: fn(Server)) {
    let [http, media] = free_ports();
    let server = Server::start(http, media);
    let [whip, whep] =
        ["whip", "whep"].map(|endpoint| format!("http://127.0.0.1:{http}/{endpoint}/demo"));
    let duration = duration_s.to_string();
    let options = parse_options([
        "weir-loadtest",
        "--whip",
        &whip,
        "--whep",
        &whep,
        "--viewers",
        "6",
        "--duration",
        &duration,
        "--video-kbps",
        "200",
        "--threads",
        "1",
    ])
    .unwrap();
    let load = tokio::spawn(async move { run(&options).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(4)).await;
    tokio::task::block_in_place(|| take_away(server));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _server = tokio::task::block_in_place(|| Server::start(http, media));
    let report = load.await.unwrap();
    let figures = &report.figures;
    assert_eq!(figures.reconnects, 7, "{report}");
    assert_eq!((figures.viewers_connected, figures.viewers_failed), (6, 0), "{report}");
    assert_eq!((report.publishers_failed, figures.frames_broken), (0, 0), "{report}");
    assert!(
        !report.passed() && report.to_string().contains("lost and came back 7 times"),
        "{report}"
    );
    // Two seconds before, and the last seconds after; a viewer that is silent at the end has failed.
    assert!(figures.frames_decodable >= 6 * 4 * 30, "{report}");
}

/// Nobody is told: eight seconds of silence, then 0.5 to 4 s between tries.
#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_come_back_within_sixteen_seconds_after_the_server_was_killed() {
    load_over_a_restart(22, drop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_come_back_within_eight_seconds_after_the_server_was_stopped() {
    load_over_a_restart(12, Server::stop).await;
}
