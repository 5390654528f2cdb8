//! Control plane over workers without threads, for tests: it counts the questions and answers none.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::control::Control;
use super::messages::{Message, Notice};
use super::thread::WorkerHandle;
use super::workers::Workers;
use crate::codec::{Codec, MediaKind};
use crate::config::Config;
use crate::forward::start::StartMode;
use crate::ids::{Role, SessionId, StreamName};
use crate::router::SourceInfo;
use crate::router::table::SourceTrackInfo;
use crate::sdp::{CodecFormat, ExtMap, OfferText, SourceTrack};
use crate::worker::{Event, Lobby};

pub(super) const WHIP_OFFER: OfferText<'static> =
    OfferText::lenient(include_bytes!("../../tests/data/offers/chromium-156-whip.sdp"));
pub(super) const WHEP_OFFER: OfferText<'static> =
    OfferText::lenient(include_bytes!("../../tests/data/offers/chromium-156-whep.sdp"));

/// Control plane whose workers the test plays.
pub(super) struct Detached {
    pub control: Arc<Control>,
    loads: Vec<Arc<AtomicU32>>,
    questions: Vec<JoinHandle<usize>>,
}

impl Detached {
    pub(super) fn new(workers: usize) -> Self {
        Self::with(Config { workers, ..Config::default() })
    }

    pub(super) fn with(config: Config) -> Self {
        let (mut workers, mut loads, mut questions) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..config.workers {
            let (worker, messages, load) = WorkerHandle::detached();
            workers.push(worker);
            loads.push(load);
            questions.push(std::thread::spawn(move || {
                let is_question =
                    |message: &Message| matches!(message, Message::Inspect(_) | Message::Report(_));
                messages.into_iter().filter(is_question).count()
            }));
        }
        let addr = config.media_addr;
        let lobby = Arc::new(Lobby::default());
        let control = Control::new(config, addr, vec![addr], Workers::new(workers), lobby, [0; 32]);
        Self { control: Arc::new(control), loads, questions }
    }

    pub(super) fn name(name: &str) -> StreamName {
        StreamName::new(name).unwrap()
    }

    /// Publisher by loopback that waits for its first check.
    pub(super) fn publish(&self, stream: &str) -> SessionId {
        self.control.publish(&Self::name(stream), WHIP_OFFER, None).unwrap().created.id
    }

    /// Viewer by loopback that waits for its first check.
    pub(super) fn subscribe(&self, stream: &str) -> SessionId {
        let start = StartMode::default();
        self.control.subscribe(&Self::name(stream), WHEP_OFFER, start, None).unwrap().created.id
    }

    /// A worker adopts a session.
    pub(super) fn adopt(&self, id: SessionId, worker: usize) {
        let adopted = Event::Adopted { id, from: Ipv4Addr::LOCALHOST.into() };
        assert_eq!(self.control.on_notice(worker, Notice::Event(adopted)), []);
    }

    /// A session connects, and that is told. Returns the publishers that must be closed.
    pub(super) fn connect(&self, id: SessionId) -> Vec<SessionId> {
        self.connect_untold(id);
        self.tell_connected(id)
    }

    /// A session connects at its worker, and the event is on its way.
    pub(super) fn connect_untold(&self, id: SessionId) {
        let session = self.control.directory.session(id).unwrap();
        if session.role == Role::Publisher {
            let format = CodecFormat { codec: Codec::Vp8, fmtp: String::new() };
            let source = SourceTrack { kind: MediaKind::Video, format };
            let track = SourceTrackInfo { source, rids: Vec::new(), exts: ExtMap::default() };
            let offered =
                SourceInfo { epoch: crate::ids::Epoch(0), publisher: id, tracks: vec![track] };
            session.stream.shared.connect(&offered);
        }
    }

    /// The event of a connected session arrives. Returns the publishers that must be closed.
    pub(super) fn tell_connected(&self, id: SessionId) -> Vec<SessionId> {
        self.control.on_notice(0, Notice::Event(Event::Connected(id)))
    }

    pub(super) fn set_load(&self, worker: usize, permille: u32) {
        self.loads[worker].store(permille, Ordering::Relaxed);
    }

    /// Ends the server. Returns the number of questions that each worker was asked.
    pub(super) fn stop(self) -> Vec<usize> {
        let Self { control, questions, .. } = self;
        drop(control);
        questions.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}
