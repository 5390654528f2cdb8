//! Task that follows the workers' notices and ends what waited too long.
//!
//! Decides nothing: `control.rs` says which sessions to close. Started by `handle.rs`, ends with the server.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::control::Control;
use super::messages::Notice;
use crate::error::CloseReason;

/// Maximum notices waiting for the control plane. When the queue is full, the worker keeps them and tries
/// again in its next turn.
pub(super) const NOTICES_MAX: usize = 4_096;

/// Interval at which waiting sessions are checked.
const REAP_INTERVAL: Duration = Duration::from_millis(500);

/// Notice with the index of its worker.
pub(super) type WorkerNotice = (usize, Notice);

/// Follows notices until the last handle of the server is dropped.
pub(super) async fn run(control: Weak<Control>, mut notices: mpsc::Receiver<WorkerNotice>) {
    let mut reap = tokio::time::interval(REAP_INTERVAL);
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => match notice {
                Some(notice) => Some(notice),
                None => return,
            },
            _ = reap.tick() => None,
        };
        let Some(control) = control.upgrade() else { return };
        match notice {
            Some((worker, notice)) => {
                for replaced in control.on_notice(worker, notice) {
                    control.close(replaced, CloseReason::TakenOver).await;
                }
            }
            None => {
                for viewer in control.reap(Instant::now()) {
                    control.close(viewer, CloseReason::StreamEnded).await;
                }
            }
        }
    }
}
