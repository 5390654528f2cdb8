//! Repair of one incoming layer: which packets to ask for again, when to ask for a keyframe, and what its
//! publisher taught us about asking. And of one outgoing line: how much may be repeats.

pub mod keyframe_cost;
pub mod keyframe_planner;
pub mod keyframe_schedule;
pub mod nack_generator;
pub mod nack_list;
pub mod nack_response;
pub mod red_recovery;
mod reordering;
pub mod responses;
pub mod rtt;
pub mod rtx_budget;
