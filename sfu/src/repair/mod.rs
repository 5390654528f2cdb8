//! Room: asking publishers for what is missing, and answering viewers who miss something.

pub mod keyframe_requests;
pub mod nack_generator;
