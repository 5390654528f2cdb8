//! The options of a run, and the command line they come from.
//!
//! Next: `cli` (parsing), `run_options` (the result), `flags` (what all scenarios share), `help`.

mod cli;
mod flags;
mod help;
mod run_options;

pub(crate) use cli::Task;
pub use cli::parse_options;
pub(crate) use flags::{Client, Codec, CpuList, Verify, Video};
pub use run_options::Options;
pub(crate) use run_options::Pattern;

#[cfg(test)]
mod tests;
