//! Operations: what an operator may do to a running server.
//!
//! A view of the control plane. Keeps no state. Called by `/api/v1` and at the end of the process; next:
//! `control.rs`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::control::Control;
use crate::error::CloseReason;
use crate::ids::SessionId;
use crate::worker::Command;

/// View of the server for operators that end sessions or the server. Cheap to clone.
#[derive(Clone)]
pub struct Operations {
    control: Arc<Control>,
}

impl Operations {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control }
    }

    /// Ends a session by its public id; false if there is none.
    pub async fn kick(&self, id: SessionId) -> bool {
        self.control.close(id, CloseReason::Kicked).await
    }

    /// Sets the candidates that answers offer from now on, the best first; port 0 stands for the bound port.
    /// Sessions that were answered before keep theirs. Without candidates new sessions are refused.
    pub fn set_candidates(&self, candidates: &[SocketAddr]) {
        self.control.set_candidates(candidates);
    }

    /// Refuses new sessions from now on; live ones go on.
    pub fn drain(&self) {
        self.control.admission.drain();
    }

    /// Ends every session with close_notify and stops the workers.
    pub async fn shutdown(&self) {
        self.drain();
        for worker in 0..self.control.workers.len() {
            self.control.workers.command(worker, || Command::CloseAll(CloseReason::Shutdown)).await;
        }
        let control = Arc::clone(&self.control);
        let joined = tokio::task::spawn_blocking(move || control.workers.stop()).await;
        if let Err(error) = joined {
            tracing::error!(%error, "stopping the workers failed");
        }
    }
}
