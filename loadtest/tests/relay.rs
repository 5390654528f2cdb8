//! The relay as a process: its summary agrees with what the server and the clients received.
#![expect(clippy::disallowed_methods, reason = "a test root may start a runtime")]

mod support {
    #[expect(dead_code, reason = "its faults are used by another test")]
    pub(crate) mod test_server;
}

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::test_server::{Fault, TestServer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UdpSocket;
use tokio::process::{Child, Command};
use weir_loadtest::parse_options;

struct Relay {
    child: Child,
    address: SocketAddr,
}

impl Relay {
    async fn start(to: SocketAddr, args: &[&str]) -> Self {
        let to = to.to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir-loadtest"))
            .args(["relay", "--listen", "127.0.0.1:0", "--to", &to])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the relay starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("is piped")).lines();
        let line = stderr.next_line().await.expect("stderr is readable").expect("it is ready");
        let (_, address) = line.split_once("listen=").unwrap_or_else(|| panic!("{line}"));
        Self { child, address: address.parse().expect("an address") }
    }

    /// The summary, once the relay has ended.
    async fn summary(mut self) -> serde_json::Value {
        let mut text = String::new();
        let mut out = self.child.stdout.take().expect("is piped");
        out.read_to_string(&mut text).await.expect("stdout is readable");
        assert!(self.child.wait().await.expect("it ends").success());
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Numbers that a socket received, by sender.
type Received = Arc<Mutex<BTreeMap<SocketAddr, Vec<u32>>>>;

/// Records received numbers, and sends them back if it `echoes`.
fn listen(socket: Arc<UdpSocket>, echoes: bool) -> Received {
    let received = Received::default();
    let record = Arc::clone(&received);
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let number = buffer[..length].try_into().map(u32::from_be_bytes).expect("a number");
            record.lock().expect("not poisoned").entry(from).or_default().push(number);
            if echoes {
                let _ = socket.send_to(&buffer[..length], from).await;
            }
        }
    });
    received
}

/// Few enough to fit into the kernel's buffers, even on a busy machine.
const DATAGRAMS: u32 = 100;

/// Two clients and an echo server with a relay between them: the summary, what the server received,
/// what the clients received.
async fn echo_through(args: &[&str]) -> (serde_json::Value, Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let server = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
    let seen = listen(Arc::clone(&server), true);
    let relay = Relay::start(server.local_addr().expect("is bound"), args).await;
    let mut clients = Vec::new();
    let mut back = Vec::new();
    for _ in 0..2 {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
        back.push(listen(Arc::clone(&socket), false));
        clients.push(socket);
    }
    for number in 0..DATAGRAMS {
        for (client, socket) in (0..).zip(&clients) {
            let number = client << 16 | number;
            socket.send_to(&number.to_be_bytes(), relay.address).await.expect("is sent");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let summary = relay.summary().await;
    let numbers = |received: &Received| {
        received.lock().expect("not poisoned").values().cloned().collect::<Vec<_>>()
    };
    let mut seen = numbers(&seen);
    seen.sort_by_key(|numbers| numbers.first().map(|number| number >> 16));
    (summary, seen, back.iter().flat_map(numbers).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn summary_agrees_with_server_and_clients() {
    let args = ["--up", "loss=20,delay=5", "--down", "duplicate=30,jitter=20", "--duration", "2"];
    let (summary, seen, back) = echo_through(&args).await;
    let figure = |direction: &str, name: &str| summary[direction][name].as_u64().expect("a number");
    assert_eq!(
        (summary["clients"].as_u64(), seen.len()),
        (Some(2), 2),
        "one address for each client"
    );
    let arrived: usize = seen.iter().map(Vec::len).sum();
    assert_eq!(figure("up", "offered"), u64::from(2 * DATAGRAMS));
    assert_eq!(figure("up", "delivered"), arrived as u64);
    assert_eq!(figure("up", "delivered") + figure("up", "lost"), figure("up", "offered"));
    assert!((20..=60).contains(&figure("up", "lost")), "{summary}");
    assert_eq!(figure("down", "offered"), arrived as u64);
    let got: usize = back.iter().map(Vec::len).sum();
    assert_eq!(figure("down", "delivered"), got as u64);
    assert_eq!(got as u64, arrived as u64 + figure("down", "duplicated"));
    assert!(figure("down", "duplicated") > 20, "{summary}");
    for (client, numbers) in (0..).zip(&back) {
        assert!(
            numbers.iter().all(|number| number >> 16 == client),
            "each client gets its own datagrams"
        );
        assert!(numbers.is_sorted(), "jitter keeps the order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn same_seed_loses_the_same_datagrams() {
    let lost = async |seed: &str| {
        let args = ["--seed", seed, "--up", "loss=25,burst=3", "--duration", "1"];
        echo_through(&args).await.1
    };
    let first = lost("5").await;
    assert_eq!(first, lost("5").await);
    assert_ne!(first, lost("6").await);
    let all: Vec<HashSet<u32>> =
        first.iter().map(|n| n.iter().map(|n| n & 0xffff).collect()).collect();
    assert_ne!(all[0], all[1], "each client has its own random numbers");
}

#[tokio::test(flavor = "multi_thread")]
async fn viewer_watches_through_the_relay() {
    let port = std::net::UdpSocket::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("is bound")
        .port();
    let server = TestServer::start(Fault::None, port).await;
    let args = ["--up", "delay=10", "--down", "loss=2,delay=10", "--duration", "8"];
    let relay = Relay::start(([127, 0, 0, 1], port).into(), &args).await;
    let whip = server.url("whip", "s");
    let publisher = tokio::spawn(load(vec![
        "--whip".into(),
        whip,
        "--viewers".into(),
        "0".into(),
        "--duration".into(),
        "60".into(),
    ]));
    tokio::time::sleep(Duration::from_millis(800)).await;
    let whep = server.url("whep", "s");
    let via = relay.address.to_string();
    let args = ["--whep", &whep, "--publishers", "0", "--media-via", &via, "--duration", "3"];
    let report = load(args.into_iter().map(str::to_owned).collect()).await;
    publisher.abort();
    let summary = relay.summary().await;
    assert!(summary["down"]["lost"].as_u64() > Some(2), "{summary}");
    assert!(report.figures.frames_decodable > 60, "{report}");
    assert!(report.repair.nacked > 0, "lost packets were requested: {report}");
}

async fn load(args: Vec<String>) -> weir_loadtest::Report {
    let args = std::iter::once("weir-loadtest".to_owned()).chain(args);
    let options = parse_options(args).expect("arguments parse");
    weir_loadtest::run(&options).await.expect("the run begins")
}
