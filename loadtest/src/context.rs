//! What all sessions of a run share.
//!
//! Made by `run`, read by every session.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::dtls::Identity;
use crate::event_loop::LoopPool;
use crate::live::LiveCounters;
use crate::options::Options;
use crate::whip::Http;

/// What all sessions of a run share.
pub(crate) struct RunContext {
    /// The options of the run.
    pub(crate) options: Options,
    /// The certificate of all clients.
    pub(crate) identity: Arc<Identity>,
    /// The HTTP client.
    pub(crate) http: Http,
    /// Counters that are shown while the run goes on.
    pub(crate) live: Arc<LiveCounters>,
    /// The random number of this run, in every stamp.
    pub(crate) run: u64,
    /// Event loops of the publishers. Viewers have others, so that receiving does not delay
    /// sending.
    pub(crate) publisher_loops: LoopPool,
    /// Event loops of the viewers.
    pub(crate) viewer_loops: LoopPool,
}

/// A guard that a session holds until its startup is over: its first frame has come, or it has
/// failed. The ramp waits until all guards are dropped.
pub(crate) type StartupGuard = mpsc::Sender<()>;
