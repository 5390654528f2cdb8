//! Why a session ended before the end of the run, and whether another try may succeed.
//!
//! Made where something fails, read by `reconnect` (another try or none) and by the report (the text).

use std::time::Duration;

/// Why a session ended before the end of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionError {
    /// The server is gone, or does not take the session now. Another try may succeed.
    Lost {
        /// Text for the report.
        reason: String,
        /// Time that the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The session was refused for good, or this tool failed.
    Final(String),
}

impl SessionError {
    /// The server is gone.
    pub(crate) fn lost(reason: impl Into<String>) -> Self {
        Self::Lost { reason: reason.into(), retry_after: None }
    }

    /// Text for the report.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Lost { reason, .. } | Self::Final(reason) => reason,
        }
    }
}

impl<E: std::fmt::Display> From<E> for SessionError {
    fn from(error: E) -> Self {
        Self::Final(error.to_string())
    }
}
