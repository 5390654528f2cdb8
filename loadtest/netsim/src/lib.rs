//! A network link as a value: datagrams go in with the time, and come out late, in disorder, twice, or not at all.
//!
//! One [`Link`] is one direction. It owns what is under way and a seeded generator; it never reads a clock, sleeps or
//! opens a socket. What it does to datagrams is its [`Profile`], which can be written as one line of text
//! (`delay=50,loss=2,burst=8,rate=4000`) with a [`Trace`] where the rate changes. The same seed, profile, datagram sizes
//! and times give the same fates, on every machine.
//!
//! Two drivers: the virtual clock of the server's simulator (`sfu/tests/support/world`) and the UDP relay
//! `weir-loadtest relay`. Next: `link.rs`.

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

/// What IPv4 and UDP add to a payload on the wire, in bytes. Rates, queues, policers and the MTU count it.
pub const HEADER_BYTES: u32 = 20 + 8;
