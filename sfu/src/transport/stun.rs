//! STUN messages as ICE uses them (RFC 8489).

use std::net::SocketAddr;

/// A parsed view.
pub struct StunView<'a>(&'a [u8]);
/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunError;
impl<'a> StunView<'a> {
    /// Parses.
    ///
    /// # Errors
    /// [`StunError`]
    pub fn parse(_datagram: &'a [u8]) -> Result<Self, StunError> {
        unimplemented!()
    }
    /// (local ufrag, remote ufrag).
    pub fn username(&self) -> Option<(&'a str, &'a str)> {
        unimplemented!()
    }
}
/// The local ufrag of a Binding request.
pub fn server_ufrag(_datagram: &[u8]) -> Option<&str> {
    unimplemented!()
}
/// Plain STUN.
pub fn plain_binding_reply(_request: &[u8], _source: SocketAddr, _out: &mut [u8]) -> Option<usize> {
    unimplemented!()
}
