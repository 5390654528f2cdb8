//! Room: what a path can carry, and telling the sender about it.

pub mod twcc_receiver;
