//! `weir-loadtest`: publishers and viewers for any WHIP/WHEP server, and a report of what the
//! viewers received.
//!
//! It shares no code with the server: its ICE, SRTP, packetizers and checks are its own, so that a
//! mistake in the server is not repeated here. It reads clocks and opens sockets freely, because it
//! is a client.
//!
//! Call order of a run:
//! 1. `command` parses the command line with `options`, and calls `run` or `relay`.
//! 2. `run` starts publishers and viewers in two groups (`session_group`), and opens and closes the
//!    window.
//! 3. `publisher` and `viewer` are one session each: `session` (POST, DELETE), then `media_session`
//!    in an `event_loop`, which carries thousands of sockets.
//!    A lost session is started again (`reconnect`).
//! 4. `peer` is the connection of a session: `ice`, `dtls`, SRTP.
//! 5. `receiver` is the media of a viewer: `reorder_buffer` (order, loss), `frame_checker`
//!    (frames), `twcc` (feedback).
//! 6. `report` adds up `measures`, and writes JSON and summary; `html` and `plot` draw the page.
//!
//! `full` replaces steps 3 and 4 with a complete WebRTC stack. `generator` measures whether this
//! process keeps up. `relay` is independent of all this: an impaired network between any clients
//! and any server.
//!
//! Public items are what the binary and the tests of this package use.
#![expect(
    clippy::disallowed_methods,
    reason = "a load generator is a client: it owns its clocks and sockets, and forwards no media"
)]

mod clock;
mod command;
mod context;
mod dtls;
mod event_loop;
mod flaw;
mod frame_checker;
mod full;
mod generator;
mod html;
mod ice;
mod keyframe_schedule;
mod live;
mod loop_stats;
mod machine;
mod measures;
mod media_session;
mod options;
mod opus;
mod peer;
mod phase;
mod plot;
mod procfs;
mod progress_line;
mod publisher;
mod receiver;
mod reconnect;
mod recording;
mod relay;
mod reorder_buffer;
mod report;
mod role;
mod rtp;
mod run;
mod sdp;
mod session;
mod session_error;
mod session_group;
mod stamp;
mod ticker;
mod timeline;
mod twcc;
mod video;
mod viewer;
mod whip;

#[cfg(test)]
#[path = "../tests/support/ffmpeg.rs"]
mod ffmpeg;

pub use command::execute;
pub use options::{Options, parse_options};
pub use report::Report;
pub use run::run;
