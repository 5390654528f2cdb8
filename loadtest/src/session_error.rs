//! Why a session ended before the end of the run.
//!
//! It is only a text for the report: no caller distinguishes reasons.

/// Why a session ended before the end of the run, as text for the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionError(pub(crate) String);

impl<E: std::fmt::Display> From<E> for SessionError {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}
