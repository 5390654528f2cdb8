//! Shared parts of the benches: a stopwatch, a publisher, viewers, and the worker between them.
//!
//! Each file beside `src/` measures one thing; measurements of the report too are in [`cases`] and
//! [`egress`]. [`stopwatch`] measures time, [`session`] connects peers under preset keys,
//! [`encoder`] makes packets. [`world`] drives a whole worker, and [`floor`] is the least that any
//! forwarder must do. [`netns`] and [`wire`] bring the kernel in, and [`egress`] is the worker with
//! it. [`plot`] draws. [`shipped`] makes the programs measure under the profile of the shipped
//! binary.

pub mod cases;
pub mod egress;
pub mod encoder;
pub mod floor;
pub mod netns;
pub mod plot;
pub mod session;
pub mod shipped;
pub mod stopwatch;
pub mod viewer;
pub mod wire;
pub mod world;
