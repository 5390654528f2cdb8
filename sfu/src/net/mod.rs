//! The shell: threads, clock, sockets, and the `Sfu` handle.
//!
//! The only room below `api` that reads a clock or touches a socket.

mod handle;

pub use handle::*;
