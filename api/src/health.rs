//! Probes: whether the process runs, and whether it accepts new sessions.
//!
//! Served to every host and network, because they show nothing but a status. Routed by `app.rs`.

use axum::extract::State;
use axum::http::StatusCode;

use crate::error::Problem;
use crate::state::AppState;

/// Seconds after which a probe or client should ask again while the server is full or draining.
const RETRY_AFTER_S: u32 = 5;

/// `GET /livez`: 200 from the ready line until the process ends.
pub async fn livez() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: 200 while new sessions are accepted, else 503.
///
/// # Errors
/// 503 as a [`Problem`].
pub async fn readyz(State(state): State<AppState>) -> Result<&'static str, Problem> {
    if state.sfu.inspection().ready() {
        return Ok("ready\n");
    }
    let detail = "the server is full or stopping and accepts no new sessions; try again later";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY_AFTER_S))
}
