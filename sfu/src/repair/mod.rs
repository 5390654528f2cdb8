//! Repair of one incoming layer: which packets to ask for again, and when to ask for a keyframe.

pub mod keyframe_requests;
pub mod nack_generator;
pub mod rtt;
