//! Congestion feedback: what we tell publishers about our reception. Estimation towards viewers
//! comes here too.

pub mod twcc_receiver;
