//! STUN messages as ICE and plain STUN use them (RFC 8489, RFC 8445 section 16).
//!
//! Owns the bytes: a borrowed view of a received message, and writers into the caller's buffers.
//! Never allocates, holds no state, and never decides who may talk to us: that is `ice/mod.rs`.
//! Called by it, and by `worker` for [`server_ufrag`] and [`plain_binding_reply`].

use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

const HEADER_LEN: usize = 20;
const MAGIC_COOKIE: u32 = 0x2112_a442;
const BINDING: u16 = 0x0001;
const INTEGRITY_LEN: usize = 20;
/// `MESSAGE-INTEGRITY` with its attribute header.
const INTEGRITY_TLV: usize = 4 + INTEGRITY_LEN;
/// `FINGERPRINT` with its attribute header.
const FINGERPRINT_TLV: usize = 8;
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Unknown comprehension-required attributes kept of one message; more are left out of the 420
/// answer.
const MAX_UNKNOWN: usize = 8;

/// Attribute types (RFC 8489 section 18.3, RFC 8445 section 16.1).
mod attribute {
    pub(super) const MAPPED_ADDRESS: u16 = 0x0001;
    pub(super) const USERNAME: u16 = 0x0006;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    pub(super) const REALM: u16 = 0x0014;
    pub(super) const NONCE: u16 = 0x0015;
    pub(super) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const PRIORITY: u16 = 0x0024;
    pub(super) const USE_CANDIDATE: u16 = 0x0025;
    pub(super) const FINGERPRINT: u16 = 0x8028;
    pub(super) const ICE_CONTROLLED: u16 = 0x8029;
    #[cfg(any(test, feature = "internals"))]
    pub(super) const ICE_CONTROLLING: u16 = 0x802a;

    /// Comprehension-required attributes that we know; some of them we ignore.
    pub(super) const KNOWN: [u16; 11] = [
        MAPPED_ADDRESS,
        USERNAME,
        MESSAGE_INTEGRITY,
        ERROR_CODE,
        UNKNOWN_ATTRIBUTES,
        REALM,
        NONCE,
        MESSAGE_INTEGRITY_SHA256,
        XOR_MAPPED_ADDRESS,
        PRIORITY,
        USE_CANDIDATE,
    ];
}

/// Transaction id: 96 bits that relate an answer to its request.
pub type TransactionId = [u8; 12];

/// Message class (RFC 8489 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StunClass {
    /// Request: it is answered.
    Request,
    /// Indication: it is not answered.
    Indication,
    /// Success response.
    Success,
    /// Error response.
    Error,
}

/// Error: the bytes are not a well-formed STUN message (cookie, lengths or `FINGERPRINT` are wrong).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed STUN message")]
pub struct StunError;

/// Received message, checked for its form and its fingerprint, not for authenticity.
#[derive(Debug)]
pub struct StunView<'a> {
    raw: &'a [u8],
    class: StunClass,
    method: u16,
    transaction_id: TransactionId,
    username: Option<&'a [u8]>,
    /// Where the `MESSAGE-INTEGRITY` attribute begins.
    integrity_at: Option<usize>,
    use_candidate: bool,
    /// The sender is controlled (RFC 8445 section 7.1.2).
    controlled: bool,
    fingerprint: bool,
    unknown: [u16; MAX_UNKNOWN],
    unknown_len: usize,
}

impl<'a> StunView<'a> {
    /// Reads a datagram that holds exactly one message.
    ///
    /// # Errors
    /// [`StunError`] for any other datagram, and when `FINGERPRINT` is wrong or not last.
    pub fn parse(raw: &'a [u8]) -> Result<Self, StunError> {
        let header = Header::read(raw).ok_or(StunError)?;
        let mut view = Self {
            raw,
            class: header.class,
            method: header.method,
            transaction_id: header.transaction_id,
            username: None,
            integrity_at: None,
            use_candidate: false,
            controlled: false,
            fingerprint: false,
            unknown: [0; MAX_UNKNOWN],
            unknown_len: 0,
        };
        for attribute in Attributes::new(raw) {
            let Attribute { at, kind, value } = attribute?;
            if view.fingerprint {
                return Err(StunError);
            }
            match kind {
                attribute::FINGERPRINT => {
                    let expected = fingerprint(raw.get(..at).ok_or(StunError)?);
                    if *value != expected.to_be_bytes() {
                        return Err(StunError);
                    }
                    view.fingerprint = true;
                }
                // Not covered by the integrity check: as if absent (RFC 8489 section 14.5).
                _ if view.integrity_at.is_some() => {}
                attribute::MESSAGE_INTEGRITY if value.len() == INTEGRITY_LEN => {
                    view.integrity_at = Some(at);
                }
                attribute::MESSAGE_INTEGRITY => return Err(StunError),
                attribute::USERNAME if view.username.is_none() => view.username = Some(value),
                attribute::USE_CANDIDATE => view.use_candidate = true,
                attribute::ICE_CONTROLLED => view.controlled = true,
                _ if kind < 0x8000 && !attribute::KNOWN.contains(&kind) => {
                    if let Some(slot) = view.unknown.get_mut(view.unknown_len) {
                        *slot = kind;
                        view.unknown_len += 1;
                    }
                }
                _ => {}
            }
        }
        Ok(view)
    }

    /// Class of the message.
    pub fn class(&self) -> StunClass {
        self.class
    }

    /// Whether the method is Binding, the only one that ICE uses.
    pub fn is_binding(&self) -> bool {
        self.method == BINDING
    }

    /// Transaction id of the message.
    pub fn transaction_id(&self) -> TransactionId {
        self.transaction_id
    }

    /// `USERNAME` of an ICE check: the receiver's ufrag, then the sender's.
    pub fn username(&self) -> Option<(&'a str, &'a str)> {
        std::str::from_utf8(self.username?).ok()?.split_once(':')
    }

    /// Whether the peer nominates this pair.
    pub fn has_use_candidate(&self) -> bool {
        self.use_candidate
    }

    /// Comprehension-required attributes that we do not know, at most 8 of them.
    pub fn unknown_attributes(&self) -> &[u16] {
        self.unknown.get(..self.unknown_len).unwrap_or_default()
    }

    /// Why the request is refused although it is authentic, if it is.
    pub fn refusal(&self) -> Option<Refusal<'_>> {
        match self.unknown_attributes() {
            [] => self.controlled.then_some(Refusal::RoleConflict),
            unknown => Some(Refusal::UnknownAttributes(unknown)),
        }
    }

    /// Whether `MESSAGE-INTEGRITY` is there and matches `key` (RFC 8489 section 14.5). Compares in
    /// constant time.
    pub fn verify_integrity(&self, key: &[u8]) -> bool {
        let tag = self.integrity_at.and_then(|at| self.raw.get(at..)?.get(4..INTEGRITY_TLV));
        match (tag, self.integrity_mac(key)) {
            (Some(tag), Some(mac)) => mac.verify_slice(tag).is_ok(),
            _ => false,
        }
    }

    fn integrity_mac(&self, key: &[u8]) -> Option<Hmac<Sha1>> {
        integrity_mac(self.raw.get(..self.integrity_at?)?, key)
    }
}

/// Local ufrag of an ICE check, to find its session. Reads only the header and the attributes up to
/// `USERNAME`. `None` for anything else, plain STUN included.
pub fn server_ufrag(datagram: &[u8]) -> Option<&str> {
    let header = Header::read(datagram)?;
    if header.class != StunClass::Request || header.method != BINDING {
        return None;
    }
    let username = Attributes::new(datagram)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind == attribute::USERNAME)?
        .value;
    Some(std::str::from_utf8(username).ok()?.split_once(':')?.0)
}

/// Transaction id of a STUN message.
pub fn transaction_id(datagram: &[u8]) -> Option<TransactionId> {
    Header::read(datagram).map(|header| header.transaction_id)
}

/// Bytes of the longest answer to a plain Binding request of 20 bytes.
const PLAIN_REPLY_MAX: usize = 44;

/// Answers a plain Binding request, one without `USERNAME` (whip-whep H1 to H3): success with
/// `XOR-MAPPED-ADDRESS`, or 420 for unknown attributes, and `FINGERPRINT` if the request has one.
/// The answer has at most 44 bytes, or as many as the request, so that an attacker gains little by
/// it; `FINGERPRINT` is left out where it does not fit. `None` for any other message or when `out`
/// is too short.
pub fn plain_binding_reply(request: &[u8], source: SocketAddr, out: &mut [u8]) -> Option<usize> {
    let view = StunView::parse(request).ok()?;
    if view.class != StunClass::Request || !view.is_binding() || view.username.is_some() {
        return None;
    }
    let mut writer = if view.unknown_attributes().is_empty() {
        let mut writer = Writer::new(out, StunClass::Success, &view.transaction_id)?;
        writer.xor_mapped_address(source)?;
        writer
    } else {
        let mut writer = Writer::new(out, StunClass::Error, &view.transaction_id)?;
        writer.unknown_attributes_error(view.unknown_attributes())?;
        writer
    };
    let limit = PLAIN_REPLY_MAX.max(request.len());
    if view.fingerprint && writer.len + FINGERPRINT_TLV <= limit {
        writer.fingerprint()?;
    }
    Some(writer.len).filter(|len| *len <= limit)
}

/// Writes the answer to an authenticated check: `XOR-MAPPED-ADDRESS`, `MESSAGE-INTEGRITY` with our
/// password as `key`, `FINGERPRINT`. Returns its length, or `None` when `out` is too short (76 bytes
/// suffice).
pub fn write_success(
    out: &mut [u8],
    transaction_id: &TransactionId,
    source: SocketAddr,
    key: &[u8],
) -> Option<usize> {
    let mut writer = Writer::new(out, StunClass::Success, transaction_id)?;
    writer.xor_mapped_address(source)?;
    writer.integrity(key)?;
    writer.fingerprint()
}

/// Why an authenticated check is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// 420: comprehension-required attributes that we do not know (RFC 8489 section 6.3.1).
    UnknownAttributes(&'a [u16]),
    /// 487: its sender is controlled, and a lite agent always is (RFC 8445 section 7.3.1.1). A client becomes
    /// controlling then. Another server like this one does not, so that no two can be made to talk to each other.
    RoleConflict,
}

/// Writes the refusal of an authenticated check.
pub fn write_refusal(
    out: &mut [u8],
    transaction_id: &TransactionId,
    refusal: Refusal<'_>,
    key: &[u8],
) -> Option<usize> {
    let mut writer = Writer::new(out, StunClass::Error, transaction_id)?;
    match refusal {
        Refusal::UnknownAttributes(unknown) => writer.unknown_attributes_error(unknown)?,
        Refusal::RoleConflict => writer.attribute(attribute::ERROR_CODE, &[&[0, 0, 4, 87]])?,
    }
    writer.integrity(key)?;
    writer.fingerprint()
}

/// Role of an ICE agent (RFC 8445 section 7.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IceRole {
    /// `ICE-CONTROLLED`.
    Controlled,
    /// `ICE-CONTROLLING`: a client's.
    #[cfg(any(test, feature = "internals"))]
    Controlling,
}

/// Check as an agent sends it.
#[derive(Debug, Clone, Copy)]
pub struct CheckRequest<'a> {
    /// Transaction id, new for each request.
    pub transaction_id: TransactionId,
    /// Ufrag of the peer; it stands first in `USERNAME`.
    pub remote_ufrag: &'a str,
    /// Ufrag of ours.
    pub local_ufrag: &'a str,
    /// `PRIORITY` (RFC 8445 section 7.1.1).
    pub priority: u32,
    /// Role of the sender; a lite agent is always controlled.
    pub role: IceRole,
    /// Tie breaker of the role.
    pub tie_breaker: u64,
    /// Password of the peer.
    pub key: &'a [u8],
}

/// Writes a Binding request; returns its length, or `None` when `out` is too short.
pub fn write_check(out: &mut [u8], check: &CheckRequest<'_>) -> Option<usize> {
    let mut writer = Writer::new(out, StunClass::Request, &check.transaction_id)?;
    let (remote, local) = (check.remote_ufrag.as_bytes(), check.local_ufrag.as_bytes());
    writer.attribute(attribute::USERNAME, &[remote, b":", local])?;
    writer.attribute(attribute::PRIORITY, &[&check.priority.to_be_bytes()])?;
    let role = match check.role {
        IceRole::Controlled => attribute::ICE_CONTROLLED,
        #[cfg(any(test, feature = "internals"))]
        IceRole::Controlling => attribute::ICE_CONTROLLING,
    };
    writer.attribute(role, &[&check.tie_breaker.to_be_bytes()])?;
    writer.integrity(check.key)?;
    writer.fingerprint()
}

/// Header of a message: 20 bytes.
struct Header {
    class: StunClass,
    method: u16,
    transaction_id: TransactionId,
}

impl Header {
    /// `None` unless the length field covers exactly the rest of `raw`.
    fn read(raw: &[u8]) -> Option<Self> {
        let message_type = u16::from_be_bytes(*raw.first_chunk()?);
        let length = usize::from(u16::from_be_bytes(*raw.get(2..)?.first_chunk()?));
        let cookie = u32::from_be_bytes(*raw.get(4..)?.first_chunk()?);
        let transaction_id = *raw.get(8..)?.first_chunk()?;
        let body = raw.len().checked_sub(HEADER_LEN)?;
        if message_type >> 14 != 0 || cookie != MAGIC_COOKIE || length != body || body % 4 != 0 {
            return None;
        }
        let class = match (message_type >> 7 & 2) | (message_type >> 4 & 1) {
            0 => StunClass::Request,
            1 => StunClass::Indication,
            2 => StunClass::Success,
            _ => StunClass::Error,
        };
        let method =
            (message_type & 0x000f) | (message_type >> 1 & 0x0070) | (message_type >> 2 & 0x0f80);
        Some(Self { class, method, transaction_id })
    }
}

/// Attribute of a message.
struct Attribute<'a> {
    /// Offset of the attribute's header in the message.
    at: usize,
    kind: u16,
    value: &'a [u8],
}

/// Iterator over the attributes; ends after the first malformed one.
struct Attributes<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    fn new(raw: &'a [u8]) -> Self {
        Self { raw, at: HEADER_LEN }
    }

    fn read(&self) -> Option<(Attribute<'a>, usize)> {
        let rest = self.raw.get(self.at..)?;
        let kind = u16::from_be_bytes(*rest.first_chunk()?);
        let len = usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?));
        let value = rest.get(4..)?.get(..len)?;
        let next = self.at.checked_add(4)?.checked_add(len.next_multiple_of(4))?;
        Some((Attribute { at: self.at, kind, value }, next))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, StunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.raw.len() {
            return None;
        }
        let Some((attribute, next)) = self.read() else {
            self.at = self.raw.len();
            return Some(Err(StunError));
        };
        self.at = next;
        Some(Ok(attribute))
    }
}

/// Writer of one message: appends attributes and keeps the header's length field right.
struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8], class: StunClass, id: &TransactionId) -> Option<Self> {
        let class_bits: u16 = match class {
            StunClass::Request => 0x0000,
            StunClass::Indication => 0x0010,
            StunClass::Success => 0x0100,
            StunClass::Error => 0x0110,
        };
        let mut writer = Self { out, len: 0 };
        writer.put(&(BINDING | class_bits).to_be_bytes())?;
        writer.put(&[0, 0])?;
        writer.put(&MAGIC_COOKIE.to_be_bytes())?;
        writer.put(id)?;
        Some(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    fn attribute(&mut self, kind: u16, parts: &[&[u8]]) -> Option<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        self.put(&kind.to_be_bytes())?;
        self.put(&u16::try_from(len).ok()?.to_be_bytes())?;
        for part in parts {
            self.put(part)?;
        }
        self.put([0; 3].get(..len.next_multiple_of(4) - len)?)?;
        self.set_length(self.len)
    }

    /// Writes the length field for a message that ends at `end`.
    fn set_length(&mut self, end: usize) -> Option<()> {
        let length = u16::try_from(end.checked_sub(HEADER_LEN)?).ok()?;
        self.out.get_mut(2..4)?.copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    /// Appends `XOR-MAPPED-ADDRESS` (RFC 8489 section 14.2). A mapped IPv4 address is written as IPv4.
    fn xor_mapped_address(&mut self, source: SocketAddr) -> Option<()> {
        let id: TransactionId = *self.out.get(8..)?.first_chunk()?;
        let port = (source.port() ^ (MAGIC_COOKIE >> 16) as u16).to_be_bytes();
        match source.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let ip = (u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes();
                self.attribute(attribute::XOR_MAPPED_ADDRESS, &[&[0, 1], &port, &ip])
            }
            IpAddr::V6(ip) => {
                let id = id.iter().fold(0u128, |word, &byte| word << 8 | u128::from(byte));
                let ip = (u128::from(ip) ^ (u128::from(MAGIC_COOKIE) << 96 | id)).to_be_bytes();
                self.attribute(attribute::XOR_MAPPED_ADDRESS, &[&[0, 2], &port, &ip])
            }
        }
    }

    /// Appends `ERROR-CODE` 420 without a reason phrase, and the list of attributes.
    fn unknown_attributes_error(&mut self, unknown: &[u16]) -> Option<()> {
        self.attribute(attribute::ERROR_CODE, &[&[0, 0, 4, 20]])?;
        let mut list = [0u8; 2 * MAX_UNKNOWN];
        for (slot, kind) in list.chunks_exact_mut(2).zip(unknown) {
            slot.copy_from_slice(&kind.to_be_bytes());
        }
        let list = list.get(..2 * unknown.len().min(MAX_UNKNOWN))?;
        self.attribute(attribute::UNKNOWN_ATTRIBUTES, &[list])
    }

    fn integrity(&mut self, key: &[u8]) -> Option<()> {
        let mac = integrity_mac(self.out.get(..self.len)?, key)?;
        self.attribute(attribute::MESSAGE_INTEGRITY, &[&mac.finalize().into_bytes()])
    }

    /// Appends the last attribute; returns the length of the finished message.
    fn fingerprint(&mut self) -> Option<usize> {
        self.set_length(self.len.checked_add(FINGERPRINT_TLV)?)?;
        let crc = fingerprint(self.out.get(..self.len)?);
        self.attribute(attribute::FINGERPRINT, &[&crc.to_be_bytes()])?;
        Some(self.len)
    }
}

/// HMAC-SHA1 over the message before `MESSAGE-INTEGRITY`. The length field counts as if the message
/// ended with that attribute.
fn integrity_mac(before: &[u8], key: &[u8]) -> Option<Hmac<Sha1>> {
    let (head, rest) = before.split_at_checked(4)?;
    let length = before.len().checked_sub(HEADER_LEN)?.checked_add(INTEGRITY_TLV)?;
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(head.get(..2)?);
    mac.update(&u16::try_from(length).ok()?.to_be_bytes());
    mac.update(rest);
    Some(mac)
}

/// Value of `FINGERPRINT` for the message before it (RFC 8489 section 14.7).
fn fingerprint(before: &[u8]) -> u32 {
    crc32fast::hash(before) ^ FINGERPRINT_XOR
}

/// Check as a client sends it, for the tests of `ice`. Without PRIORITY and ICE-CONTROLLING, as FFmpeg
/// does it (whip-whep C50).
#[cfg(test)]
pub(crate) fn client_check(check: &CheckRequest<'_>, extra: &[u16]) -> Vec<u8> {
    let mut out = [0u8; 200];
    let mut writer = Writer::new(&mut out, StunClass::Request, &check.transaction_id).unwrap();
    let (server, client) = (check.remote_ufrag.as_bytes(), check.local_ufrag.as_bytes());
    writer.attribute(attribute::USERNAME, &[server, b":", client]).unwrap();
    for kind in extra {
        writer.attribute(*kind, &[]).unwrap();
    }
    writer.integrity(check.key).unwrap();
    let len = writer.fingerprint().unwrap();
    out[..len].to_vec()
}

#[cfg(test)]
mod tests;
