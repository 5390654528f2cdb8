//! Header extensions of a publisher's packets: mid, rid, and the transport-wide sequence number.
//!
//! Called by `publisher` and `layer` for each packet.

use bytes::Bytes;

/// Counter of the transport-wide sequence numbers of one connection.
pub(super) struct TwccNumbering(u16);

impl TwccNumbering {
    /// A counter with a random start.
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// The extensions of the next packet: each of `names` whose id was negotiated, and the
    /// transport-wide sequence number if `twcc_id` was negotiated.
    pub(super) fn next_extensions(
        &mut self,
        names: &[(Option<u8>, &str)],
        twcc_id: Option<u8>,
    ) -> Vec<(u8, Bytes)> {
        let number = twcc_id.map(|id| {
            self.0 = self.0.wrapping_add(1);
            (id, Bytes::copy_from_slice(&self.0.to_be_bytes()))
        });
        names
            .iter()
            .filter_map(|(id, value)| Some(((*id)?, Bytes::copy_from_slice(value.as_bytes()))))
            .chain(number)
            .collect()
    }
}
