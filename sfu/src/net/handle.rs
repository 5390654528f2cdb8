//! `Sfu`: the running server, and its start.
//!
//! Binds the sockets, starts the workers and the tasks of the control plane, and hands out three views of it:
//! `signalling.rs` for clients, `inspection.rs` and `operations.rs` for operators. They are types of their own,
//! so that code which was given one of them cannot do what belongs to another. Called by `api`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;

use super::affinity::usable_cpus;
use super::control::{Control, with_port};
use super::inspection::Inspection;
use super::operations::Operations;
use super::signalling::Signalling;
use super::socket::MediaSocket;
use super::thread::PreparedThread;
use super::workers::Workers;
use super::{status_writer, supervisor};
use crate::config::{Config, ConfigError};
use crate::router::mesh;
use crate::transport::OsEntropy;
use crate::transport::dtls::DtlsCertificate;
use crate::units::ClockBase;
use crate::worker::{Lobby, WorkerConfig};

/// Running media plane. Cheap to clone; every clone is the same server.
#[derive(Clone)]
pub struct Sfu {
    pub(super) control: Arc<Control>,
    signalling: Signalling,
    inspection: Inspection,
    operations: Operations,
}

/// Reason why the media plane could not start. The text names the setting to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A CPU in `worker_cpus` is not available to this process.
    #[error("worker_cpus: this process may not use CPU {cpu}; it may use {}", CpuList(usable))]
    UnusableCpu {
        /// CPU that was configured.
        cpu: usize,
        /// CPUs that this process may use, ascending.
        usable: Vec<usize>,
    },
    /// The media port could not be bound.
    #[error(
        "media-port: cannot bind {addr} (UDP): {error}; if another program has this port, perhaps another weir, \
         stop it or choose another port"
    )]
    MediaPort {
        /// Address that was configured.
        addr: SocketAddr,
        /// Error of the kernel.
        error: io::Error,
    },
    /// No DTLS certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// A worker's thread could not be prepared or started.
    #[error(
        "cannot start a worker thread: {0}; allow more threads and files, or set fewer workers"
    )]
    WorkerThread(io::Error),
}

impl Sfu {
    /// Binds the media port and starts the workers. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] naming the setting or the address that failed.
    pub fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        check_cpus(&config.worker_cpus)?;
        let media_port = |error| StartError::MediaPort { addr: config.media_addr, error };
        let sockets =
            MediaSocket::bind_group(config.media_addr, config.workers).map_err(media_port)?;
        let media_addr = bound_addr(&sockets).map_err(media_port)?;
        let certificate = DtlsCertificate::generate().map_err(StartError::Certificate)?;
        let lobby = Arc::new(Lobby::default());
        let (events, notices) = mpsc::channel(supervisor::NOTICES_MAX);
        let workers = start_workers(&config, sockets, &certificate, &lobby, &events)
            .map_err(StartError::WorkerThread)?;
        let candidates = candidates(&config.advertise, media_addr);
        let fingerprint = certificate.fingerprint_sha256();
        let control = Control::new(config, media_addr, candidates, workers, lobby, fingerprint);
        let control = Arc::new(control);
        tokio::spawn(supervisor::run(Arc::downgrade(&control), notices));
        let changed = control.status_board.changed();
        tokio::spawn(status_writer::run(Arc::downgrade(&control), changed));
        Ok(Self {
            signalling: Signalling::new(Arc::clone(&control)),
            inspection: Inspection::new(Arc::clone(&control)),
            operations: Operations::new(Arc::clone(&control)),
            control,
        })
    }

    /// View for clients: offers and session URLs.
    pub fn signalling(&self) -> &Signalling {
        &self.signalling
    }

    /// View for operators: streams, sessions and totals.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// View for operators that end sessions or the server.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Address at which media arrives, with the bound port if port 0 was configured.
    pub fn media_addr(&self) -> SocketAddr {
        self.control.media_addr
    }

    /// UDP candidates that answers offer, the best first.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        self.control.candidates().to_vec()
    }
}

/// CPU numbers as a text for people.
struct CpuList<'a>(&'a [usize]);

impl fmt::Display for CpuList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, cpu) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{cpu}")?;
        }
        Ok(())
    }
}

fn check_cpus(cpus: &[usize]) -> Result<(), StartError> {
    let usable = usable_cpus();
    match cpus.iter().find(|cpu| !usable.contains(cpu)) {
        Some(&cpu) => Err(StartError::UnusableCpu { cpu, usable }),
        None => Ok(()),
    }
}

fn bound_addr(sockets: &[MediaSocket]) -> io::Result<SocketAddr> {
    sockets.first().ok_or_else(|| io::Error::other("no socket was bound"))?.local_addr()
}

fn start_workers(
    config: &Config,
    sockets: Vec<MediaSocket>,
    certificate: &DtlsCertificate,
    lobby: &Arc<Lobby>,
    events: &mpsc::Sender<supervisor::WorkerNotice>,
) -> io::Result<Workers> {
    let prepared: Vec<PreparedThread> =
        (0..config.workers).map(|_| PreparedThread::new()).collect::<Result<_, _>>()?;
    let wakes: Vec<_> = prepared.iter().map(PreparedThread::wake).collect();
    let clock = clock_base();
    let mut workers = Vec::with_capacity(config.workers);
    let mut cpus = config.worker_cpus.iter().copied().cycle();
    for ((thread, socket), port) in prepared.into_iter().zip(sockets).zip(mesh(&wakes)) {
        let index = port.index;
        let worker = WorkerConfig {
            clock,
            entropy: Box::new(OsEntropy),
            dtls: Arc::new(certificate.clone()),
            lobby: Arc::clone(lobby),
            port,
            pool_packets: config.pool_packets,
            publisher_limits: config.publisher_limits,
        };
        let events = events.clone();
        let emit = Box::new(move |notice| events.try_send((index, notice)).is_ok());
        workers.push(thread.start(worker, socket, cpus.next(), emit)?);
    }
    Ok(Workers::new(workers))
}

fn clock_base() -> ClockBase {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ClockBase::new(Instant::now(), unix)
}

/// Candidates of answers: the advertised addresses with the bound port for port 0, or the bound address unless it
/// is a wildcard.
fn candidates(advertise: &[SocketAddr], bound: SocketAddr) -> Vec<SocketAddr> {
    match advertise {
        [] if bound.ip().is_unspecified() => Vec::new(),
        [] => vec![bound],
        advertise => advertise.iter().map(|addr| with_port(*addr, bound.port())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { media_addr: "127.0.0.1:0".parse().unwrap(), ..Config::default() }
    }

    #[test]
    fn candidate_without_port_gets_the_bound_port() {
        let bound = "127.0.0.1:8189".parse().unwrap();
        assert_eq!(candidates(&[], bound), [bound]);
        let advertise = ["192.0.2.1:0", "[2001:db8::1]:99"].map(|addr| addr.parse().unwrap());
        let wanted: Vec<SocketAddr> =
            ["192.0.2.1:8189", "[2001:db8::1]:99"].map(|addr| addr.parse().unwrap()).into();
        assert_eq!(candidates(&advertise, bound), wanted);
        assert!(candidates(&[], "[::]:8189".parse().unwrap()).is_empty(), "nobody can reach it");
    }

    #[tokio::test]
    async fn setting_that_cannot_work_is_refused_by_name() {
        let refused = Sfu::start(Config { workers: 0, ..config() }).err().unwrap();
        assert!(matches!(&refused, StartError::Config(error) if error.setting == "workers"));
        assert!(refused.to_string().contains("workers"), "{refused}");
    }

    #[tokio::test]
    async fn missing_cpu_is_refused_by_number() {
        let worker_cpus = vec![usable_cpus()[0], 1_000_000];
        let refused = Sfu::start(Config { worker_cpus, ..config() }).err().unwrap();
        assert!(matches!(refused, StartError::UnusableCpu { cpu: 1_000_000, .. }));
        let text = refused.to_string();
        let first = usable_cpus()[0].to_string();
        assert!(text.contains("CPU 1000000; it may use") && text.contains(&first), "{text}");
    }

    #[tokio::test]
    async fn media_port_that_is_taken_is_refused_by_address() {
        let refused = |media_addr| {
            let refused = Sfu::start(Config { media_addr, ..config() }).err().unwrap();
            assert!(matches!(refused, StartError::MediaPort { addr, .. } if addr == media_addr));
            let text = refused.to_string();
            assert!(
                text.contains("media-port") && text.contains(&media_addr.to_string()),
                "{text}"
            );
        };
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        refused(taken.local_addr().unwrap());
        let other = Sfu::start(Config { workers: 2, ..config() }).unwrap();
        refused(other.media_addr());
    }
}
