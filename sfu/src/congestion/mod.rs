//! Congestion control. Today: feedback to publishers about what arrived. The estimators for viewers
//! belong here too.

pub mod twcc_receiver;
