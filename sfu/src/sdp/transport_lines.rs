//! The transport attributes of one SDP level: ICE credentials, `a=setup`, `a=fingerprint`.
//!
//! Owns their grammar (whip-whep C3, C4). Never decides which level counts: that is `remote.rs`.
//! Called by `offer.rs` for the session and for each m-section, and by `fragment.rs`.

use rtc_sdp::description::common::Attribute;

use super::Malformed;
use super::offer::values;
use super::plan::{Fingerprint, FingerprintAlgorithm, IceCredentials};

/// Length of an ICE user fragment in bytes (RFC 8839 section 5.4); outside it the offer is refused.
const UFRAG_BYTES: std::ops::RangeInclusive<usize> = 4..=256;
/// Length of an ICE password in bytes (RFC 8839 section 5.4); outside it the offer is refused.
const PWD_BYTES: std::ops::RangeInclusive<usize> = 22..=256;

/// `a=setup` of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    ActPass,
    Active,
    Passive,
    HoldConn,
}

/// Transport attributes at one level, session or section (whip-whep C3). Has no `Debug`: it holds a
/// password.
#[derive(Default)]
pub(super) struct TransportLines {
    pub(super) ufrag: Option<String>,
    pub(super) pwd: Option<String>,
    pub(super) setup: Option<Setup>,
    pub(super) fingerprints: Vec<Fingerprint>,
}

impl TransportLines {
    /// Reads the attributes; fingerprints of other hash functions than ours are left out.
    ///
    /// # Errors
    /// [`Malformed`], without the value, when one breaks its grammar.
    pub(super) fn read(attributes: &[Attribute]) -> Result<Self, Malformed> {
        let ufrag = values(attributes, "ice-ufrag").next();
        let pwd = values(attributes, "ice-pwd").next();
        check_ice("a=ice-ufrag", ufrag, &UFRAG_BYTES)?;
        check_ice("a=ice-pwd", pwd, &PWD_BYTES)?;
        let setup = match values(attributes, "setup").next() {
            None => None,
            Some("actpass") => Some(Setup::ActPass),
            Some("active") => Some(Setup::Active),
            Some("passive") => Some(Setup::Passive),
            Some("holdconn") => Some(Setup::HoldConn),
            Some(_) => return Err(Malformed::BadSetup),
        };
        let fingerprints = values(attributes, "fingerprint")
            .map(fingerprint)
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        Ok(Self { ufrag: ufrag.map(Into::into), pwd: pwd.map(Into::into), setup, fingerprints })
    }

    /// ICE credentials, if both are present.
    pub(super) fn ice(&self) -> Option<IceCredentials> {
        Some(IceCredentials { ufrag: self.ufrag.clone()?, pwd: self.pwd.clone()? })
    }
}

fn check_ice(
    attribute: &'static str,
    value: Option<&str>,
    length: &std::ops::RangeInclusive<usize>,
) -> Result<(), Malformed> {
    // RFC 8839 allows letters, digits, `+` and `/`. Other printable characters do no harm, except
    // the colon that joins two fragments in USERNAME.
    let allowed = |b: u8| b.is_ascii_graphic() && b != b':';
    match value {
        Some(value) if !length.contains(&value.len()) || !value.bytes().all(allowed) => {
            let (min, max) = (*length.start(), *length.end());
            Err(Malformed::BadIceCredential { attribute, min, max })
        }
        _ => Ok(()),
    }
}

/// `sha-256 AB:CD:…`; Ok(None) for a hash function that we do not take.
fn fingerprint(value: &str) -> Result<Option<Fingerprint>, Malformed> {
    let (name, hex) = value.split_once(' ').unwrap_or((value, ""));
    let (algorithm, length) = match name.to_ascii_lowercase().as_str() {
        "sha-256" => (FingerprintAlgorithm::Sha256, 32),
        "sha-384" => (FingerprintAlgorithm::Sha384, 48),
        "sha-512" => (FingerprintAlgorithm::Sha512, 64),
        _ => return Ok(None),
    };
    let byte = |pair: &str| match pair.bytes().all(|b| b.is_ascii_hexdigit()) {
        true if pair.len() == 2 => u8::from_str_radix(pair, 16).ok(),
        _ => None,
    };
    let digest: Option<Vec<u8>> = hex.trim().split(':').map(byte).collect();
    match digest.filter(|digest| digest.len() == length) {
        Some(digest) => Ok(Some(Fingerprint { algorithm, digest })),
        None => Err(Malformed::BadFingerprint { hash: name.to_owned(), bytes: length }),
    }
}
