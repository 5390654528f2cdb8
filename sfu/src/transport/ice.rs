//! The ICE-lite agent of one session.
#![allow(unused_variables, dead_code, reason = "signatures first")]
use std::time::{Duration, Instant};

use super::{Entropy, Path};
use crate::error::DropReason;
use crate::ids::Role;
use crate::sdp::IceCredentials;

/// Settings.
#[derive(Debug, Clone)]
pub struct IceConfig {
    /// Ours.
    pub local: IceCredentials,
    /// Theirs.
    pub remote: IceCredentials,
    /// Publisher or subscriber.
    pub kind: Role,
}
/// What one STUN datagram did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IceEvent {
    /// Bytes of the reply, 0 for none.
    pub reply_len: usize,
    /// The very first valid check of the session.
    pub first_check: bool,
    /// The selected path changed or was confirmed.
    pub nominated: Option<Path>,
}
/// Agent.
pub struct IceAgent(());
#[allow(missing_docs, reason = "signatures first")]
impl IceAgent {
    pub fn new(config: IceConfig, now: Instant) -> Self {
        unimplemented!()
    }
    pub fn handle_stun(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &[u8],
        reply: &mut [u8],
    ) -> Result<IceEvent, DropReason> {
        unimplemented!()
    }
    pub fn is_validated(&self, path: Path) -> bool {
        unimplemented!()
    }
    pub fn selected(&self) -> Option<Path> {
        unimplemented!()
    }
    pub fn may_send(&mut self, bytes: usize) -> bool {
        unimplemented!()
    }
    pub fn on_datagram(&mut self, path: Path, bytes: usize) {
        unimplemented!()
    }
    pub fn on_authenticated(&mut self, now: Instant, path: Path) {
        unimplemented!()
    }
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        entropy: &mut dyn Entropy,
        out: &mut [u8],
    ) -> Option<(Path, usize)> {
        unimplemented!()
    }
    pub fn next_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }
    pub fn handle_timeout(&mut self, now: Instant) {
        unimplemented!()
    }
    pub fn is_expired(&self, now: Instant) -> bool {
        unimplemented!()
    }
    pub fn restart(&mut self, local: IceCredentials, remote: IceCredentials, now: Instant) {
        unimplemented!()
    }
    pub fn local_ufrag(&self) -> &str {
        unimplemented!()
    }
    pub fn remote(&self) -> &IceCredentials {
        unimplemented!()
    }
    pub fn rtt(&self) -> Option<Duration> {
        unimplemented!()
    }
}
