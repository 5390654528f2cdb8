//! Probes: whether the process runs, and whether it accepts new sessions.
//!
//! Served to every host and network, because they show nothing but a status. Routed by `app.rs`.

use axum::extract::State;

use crate::error::Problem;
use crate::state::AppState;

/// `GET /livez`: 200 from the ready line until the process ends.
pub async fn livez() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: 200 while new sessions are accepted, else 503 with the reason.
///
/// # Errors
/// 503 as a [`Problem`].
pub async fn readyz(State(state): State<AppState>) -> Result<&'static str, Problem> {
    state.refresh_addresses();
    state.sfu.inspection().ready()?;
    Ok("ready\n")
}
