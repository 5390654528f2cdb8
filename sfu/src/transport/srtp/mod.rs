//! SRTP and SRTCP.
#![allow(unused_variables, dead_code, reason = "signatures first")]
use crate::error::DropReason;

/// Profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// RFC 7714, 0x0007.
    AeadAes128Gcm,
    /// RFC 7714, 0x0008.
    AeadAes256Gcm,
    /// RFC 5764, 0x0001.
    Aes128CmHmacSha1_80,
}
/// Master key and salt of one direction.
pub struct MasterKey(());
/// Both directions.
pub struct SrtpKeys {
    /// We seal with it.
    pub local: MasterKey,
    /// We open with it.
    pub remote: MasterKey,
}
impl std::fmt::Debug for SrtpKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
/// Opened packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Plaintext packet length.
    pub len: usize,
    /// ROC << 16 | seq.
    pub index: u64,
}
/// Opens.
pub struct SrtpReceiver(());
#[allow(missing_docs, reason = "signatures first")]
impl SrtpReceiver {
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> Self {
        unimplemented!()
    }
    pub fn open_rtp(
        &mut self,
        packet: &[u8],
        header_len: usize,
        ssrc: u32,
        sequence: u16,
        out: &mut [u8],
    ) -> Result<Opened, DropReason> {
        unimplemented!()
    }
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        unimplemented!()
    }
}
/// Seals.
pub struct SrtpSender(());
#[allow(missing_docs, reason = "signatures first")]
impl SrtpSender {
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> Self {
        unimplemented!()
    }
    pub(crate) fn seal_rtp(
        &mut self,
        out: &mut [u8],
        header_len: usize,
        prefix_len: usize,
        rest: &[u8],
        ssrc: u32,
        index: u64,
    ) -> Option<usize> {
        unimplemented!()
    }
    pub fn seal_rtcp(&mut self, buf: &mut [u8], len: usize, ssrc: u32) -> Option<usize> {
        unimplemented!()
    }
}
