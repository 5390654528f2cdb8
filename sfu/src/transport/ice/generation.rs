//! The ICE credentials of a session, before and after a restart.
//!
//! Called by `ice/mod.rs`.

use crate::sdp::IceCredentials;

/// One set of credentials, and how far it got.
pub(super) struct Generation {
    pub(super) local: IceCredentials,
    pub(super) remote: IceCredentials,
    pub(super) checked: bool,
    pub(super) nominated: bool,
}

impl Generation {
    pub(super) fn new(local: IceCredentials, remote: IceCredentials) -> Self {
        Self { local, remote, checked: false, nominated: false }
    }
}
