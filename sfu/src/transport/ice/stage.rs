//! How far the connection is that the agent finds a path for.
//!
//! Owns the allowance of the handshake, and where its flights went. Never sends. Called by
//! `ice/mod.rs`.

use crate::transport::FiveTuple;

/// Stage of the connection.
pub(super) enum Stage {
    /// No keys yet.
    Handshake(Handshake),
    /// Keys are known.
    Connected,
}

/// What the handshake has used up.
pub(super) struct Handshake {
    /// Bytes of DTLS that may still leave beyond those that a pair paid for. It is one number for
    /// all pairs, and nothing refills it.
    allowance: u64,
    way: Way,
}

/// Where our DTLS datagrams went.
#[derive(Clone, Copy)]
enum Way {
    Nowhere,
    /// All of them to this pair.
    One(FiveTuple),
    Several,
}

impl Handshake {
    pub(super) fn new(allowance: u64) -> Self {
        Self { allowance, way: Way::Nowhere }
    }

    /// Takes bytes from the allowance, if so many are left.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let left = self.allowance.checked_sub(bytes as u64);
        self.allowance = left.unwrap_or(self.allowance);
        left.is_some()
    }

    /// Ends the allowance: the peer has answered.
    pub(super) fn end_allowance(&mut self) {
        self.allowance = 0;
    }

    /// Notes that a DTLS datagram of ours goes to `path`.
    pub(super) fn on_sent(&mut self, path: FiveTuple) {
        self.way = match self.way {
            Way::Nowhere => Way::One(path),
            Way::One(same) if same == path => self.way,
            Way::One(_) | Way::Several => Way::Several,
        };
    }

    /// Pair that all DTLS datagrams went to. Who finished this handshake has received them there:
    /// our random and our Finished are in them, and in nothing else.
    pub(super) fn only_path(&self) -> Option<FiveTuple> {
        match self.way {
            Way::One(path) => Some(path),
            Way::Nowhere | Way::Several => None,
        }
    }
}
