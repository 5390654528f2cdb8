//! Whole servers over real sockets: two workers, and clients that only send ICE checks.

use std::net::UdpSocket;
use std::time::Duration;

use super::*;
use crate::codec::MediaKind;
use crate::config::Config;
use crate::forward::start::StartMode;
use crate::ids::{Role, SessionId, StreamName};
use crate::transport::stun::{CheckRequest, IceRole, StunClass, StunView, write_check};

const OFFER: OfferText<'static> =
    OfferText::lenient(include_bytes!("../../tests/data/offers/chromium-156-whip.sdp"));
const WATCH: OfferText<'static> =
    OfferText::lenient(include_bytes!("../../tests/data/offers/chromium-156-whep.sdp"));

/// Client that gets as far as its first answered check; then a worker owns its session.
struct Client {
    id: SessionId,
    stream: StreamName,
    secret: String,
    ufrag: String,
    pwd: String,
    socket: UdpSocket,
}

impl Client {
    async fn publish(sfu: &Sfu, name: &str) -> Self {
        let stream = StreamName::new(name).unwrap();
        let created = sfu.signalling().publish(stream.clone(), OFFER, None).await.unwrap();
        Self::with(sfu, stream, &created)
    }

    async fn watch(sfu: &Sfu, name: &str) -> Self {
        let stream = StreamName::new(name).unwrap();
        let created = sfu
            .signalling()
            .subscribe(stream.clone(), WATCH, StartMode::default(), None)
            .await
            .unwrap();
        Self::with(sfu, stream, &created)
    }

    fn with(sfu: &Sfu, stream: StreamName, created: &Created) -> Self {
        let field = |key: &str| {
            let line = created.answer.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap().to_owned()
        };
        let (ufrag, pwd) = (field("a=ice-ufrag:"), field("a=ice-pwd:"));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(sfu.media_addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let secret = created.secret.expose().to_owned();
        Self { id: created.id, stream, secret, ufrag, pwd, socket }
    }

    /// Whether the server answers a check within five tries.
    fn is_answered(&self) -> bool {
        let mut buffer = [0; 200];
        let check = CheckRequest {
            transaction_id: [7; 12],
            remote_ufrag: &self.ufrag,
            local_ufrag: "client",
            priority: 1,
            role: IceRole::Controlling,
            tie_breaker: 1,
            key: self.pwd.as_bytes(),
        };
        let len = write_check(&mut buffer, &check).unwrap();
        (0..5).any(|_| {
            self.socket.send(&buffer[..len]).unwrap();
            let mut reply = [0; 1500];
            // Checks of the server itself arrive in between.
            std::iter::from_fn(|| {
                self.socket.recv(&mut reply).ok().map(|len| reply[..len].to_vec())
            })
            .take(10)
            .any(|reply| {
                StunView::parse(&reply).is_ok_and(|view| view.class() == StunClass::Success)
            })
        })
    }

    /// Worker that adopted the session.
    async fn worker(&self, sfu: &Sfu) -> usize {
        for _ in 0..1_000 {
            match sfu.inspection().session(self.id).await {
                Some(info) if info.state != "waiting_ice" => return info.worker,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("nobody adopted it");
    }
}

/// One client at each worker: the kernel spreads client addresses over the sockets of one port.
async fn one_at_each(sfu: &Sfu, names: &str) -> [Client; 2] {
    let mut found = [None, None];
    for n in 0..64 {
        let client = Client::publish(sfu, &format!("{names}-{n}")).await;
        assert!(client.is_answered());
        let worker = client.worker(sfu).await;
        found[worker].get_or_insert(client);
        if let [Some(_), Some(_)] = &found {
            return found.map(Option::unwrap);
        }
    }
    panic!("all of 64 addresses came to one worker");
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..2_000 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

// whip-whep E9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preference_reaches_the_worker_whether_it_came_before_the_first_check_or_after() {
    let media_addr = "127.0.0.1:0".parse().unwrap();
    let sfu = Sfu::start(Config { media_addr, workers: 1, ..Config::default() }).unwrap();
    let viewer = Client::watch(&sfu, "demo").await;
    let preference = |max| LayerPreference { max_height: Some(max), ..LayerPreference::default() };
    let select = async |max| {
        let asked = sfu
            .signalling()
            .select_layer(&viewer.stream, &viewer.secret, None, preference(max))
            .await;
        assert_eq!(asked, Ok(()));
    };
    let in_force = async |wanted: Option<LayerPreference>| {
        until("the preference is there", async || {
            let session = sfu.inspection().session(viewer.id).await.unwrap();
            let video = session.tracks.into_iter().find(|track| track.kind == MediaKind::Video)?;
            (video.preference == wanted).then_some(())
        })
        .await;
    };
    select(180).await;
    select(360).await;
    assert!(viewer.is_answered());
    in_force(Some(preference(360))).await;
    for max in 1..=1_000 {
        select(max).await;
    }
    in_force(Some(preference(1_000))).await;
    sfu.signalling().unselect_layers(&viewer.stream, &viewer.secret).await.unwrap();
    in_force(None).await;
    assert_eq!(
        sfu.signalling().layers(&viewer.stream, &viewer.secret).await.unwrap()[0].layers,
        []
    );
}

/// Quality B4 item 30.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_of_a_worker_ends_its_own_sessions_and_it_takes_new_ones() {
    let media_addr = "127.0.0.1:0".parse().unwrap();
    let sfu = Sfu::start(Config { media_addr, workers: 2, ..Config::default() }).unwrap();
    let [victim, other] = one_at_each(&sfu, "before").await;
    let before = sfu.inspection().stats().await;

    for round in 1..=2 {
        assert_eq!(sfu.control.workers.inspect::<(), _>(0, |_, _| panic!("injected")).await, None);
        let stats = until("the worker is back", async || {
            let stats = sfu.inspection().stats().await;
            (stats.per_worker.len() == 2).then_some(stats)
        })
        .await;
        let rebuilds: Vec<_> = stats.per_worker.iter().map(|worker| worker.rebuilds).collect();
        assert_eq!((rebuilds, stats.panics), (vec![round, 0], round));
    }

    until("its session is gone", async || {
        sfu.inspection().session(victim.id).await.is_none().then_some(())
    })
    .await;
    // Its sessions are ended one after the other.
    until("all that worker 0 had is counted as lost, and nothing else", async || {
        let stats = sfu.inspection().stats().await;
        let lost = stats.closed_total["worker_lost"];
        (stats.publishers == before.publishers - lost).then_some(())
    })
    .await;
    assert!(
        sfu.signalling().delete(Role::Publisher, &victim.stream, &victim.secret).await,
        "its URL is known"
    );
    assert!(!victim.is_answered());

    assert!(other.is_answered(), "clients of the other worker are not affected");
    assert_eq!(sfu.inspection().session(other.id).await.unwrap().worker, 1);

    let after = one_at_each(&sfu, "after").await;
    for (worker, client) in after.iter().enumerate() {
        assert_eq!(sfu.inspection().session(client.id).await.unwrap().worker, worker);
    }
    let listed = sfu.inspection().streams().await;
    for (worker, client) in after.iter().enumerate() {
        let info = listed.iter().find(|info| info.name == client.stream).unwrap();
        let publisher = info.publisher.as_ref().map(|session| (session.id, session.worker));
        assert_eq!(publisher, Some((client.id, worker)), "each worker tells of its own");
    }
    sfu.operations().shutdown().await;
}
