//! Repair of packet loss: what is requested from a publisher, and what a viewer may request.
//!
//! For one incoming layer: which packets are NACKed, when a keyframe is requested, and what was
//! learned about its publisher. For one outgoing track: how many retransmissions it may cost.

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
