//! Model of a network link: datagrams go in with the time, and come out late, out of order, twice,
//! or not at all.
//!
//! One [`Link`] is one direction. It owns the datagrams in flight and a seeded random number
//! generator. It never reads a clock, sleeps or opens a socket. Its [`Profile`] says what it does
//! to datagrams, and has a text form (`delay=50,loss=2,burst=8,rate=4000`). A [`Trace`] is a rate
//! that changes over time. With the same seed, profile, datagram sizes and times, the same
//! datagrams are lost and delayed, on every machine.
//!
//! Two callers drive it: the virtual clock of the server's simulator (`sfu/tests/support/world`),
//! and the UDP relay `weir-loadtest relay`. Next: `link`.

mod link;
mod loss;
mod profile;
mod rng;
mod trace;

pub use link::{Counts, IN_FLIGHT_MAX, Link};
pub use loss::Loss;
pub use profile::{Policer, Profile};
pub use rng::Rng;
pub use trace::Trace;

/// Bytes that IPv4 and UDP add to a payload. Rates, queues, policers and the MTU count them.
pub const HEADER_BYTES: u32 = 20 + 8;
