//! `weir-loadtest`: publishers and viewers for any WHIP/WHEP server, and an honest count of what arrived.
//!
//! It shares no code with the server it was written beside: its ICE, SRTP use, packetizers and checks are its own,
//! so a mistake made there is not repeated here. It opens clocks and sockets freely; it is a client.
//!
//! The way through: [`options`] (what to do) → [`run`] (publishers, ramp, window, drain; `crowd`) → `publisher` and `viewer`
//! (one session each) → `session` (POST, DELETE) → `pool` and `seat` (loops that carry thousands of sockets) → `peer` (`ice`,
//! `dtls`, SRTP) → `receiver` (`reorder_buffer`: order and loss; `frame_checker`: what a decoder would say; `twcc`) → [`report`] (sum, JSON,
//! summary), [`html`] (`plot`). `full` is the same with a complete WebRTC stack instead of `session` and what is below it. [`generator`] watches
//! whether we keep up ourselves.
//! [`relay`] is a road of its own: a bad network between any clients and any server.
#![expect(
    clippy::disallowed_methods,
    reason = "a load generator is all shell: it owns clocks and sockets, and carries nobody's media but its own"
)]

pub mod generator;
pub mod html;
pub mod machine;
pub mod options;
pub mod relay;
pub mod report;
pub mod run;
pub mod timeline;

mod crowd;
mod dtls;
mod flaw;
mod frame_checker;
mod full;
mod ice;
mod live;
mod measures;
mod peer;
mod plot;
mod pool;
mod procfs;
mod publisher;
mod receiver;
mod recording;
mod reorder_buffer;
mod rtp;
mod sdp;
mod seat;
mod session;
mod stamp;
mod twcc;
mod video;
mod viewer;
mod vitals;
mod whip;

#[cfg(test)]
#[path = "../tests/support/ffmpeg.rs"]
mod ffmpeg;

/// The shape of every clock in this crate: microseconds since the process began, one epoch for sender and receiver.
pub(crate) fn since_start_us(now: std::time::Instant) -> u64 {
    static EPOCH: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let epoch = *EPOCH.get_or_init(std::time::Instant::now);
    u64::try_from(now.saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX)
}
