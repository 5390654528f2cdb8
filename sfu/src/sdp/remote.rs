//! The peer's side of the transport: BUNDLE, ICE credentials, fingerprints, DTLS role.
//!
//! Owns the rules of whip-whep C2 to C5, C21 and C22. Everything travels over one transport: the
//! one of the first accepted m-section of the BUNDLE group. Called by `publish.rs` and
//! `subscribe.rs`; `fragment.rs` shares the credential grammar.

use rtc_sdp::description::common::Attribute;

use super::SdpError;
use super::offer::{Offer, Section, values};
use super::plan::{DtlsRole, Fingerprint, FingerprintAlgorithm, IceCredentials, RemoteTransport};

/// Length of an ICE user fragment in bytes (RFC 8839 section 5.4); outside it the offer is refused.
const UFRAG_BYTES: std::ops::RangeInclusive<usize> = 4..=256;
/// Length of an ICE password in bytes (RFC 8839 section 5.4); outside it the offer is refused.
const PWD_BYTES: std::ops::RangeInclusive<usize> = 22..=256;

/// `a=setup` of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setup {
    ActPass,
    Active,
    Passive,
    HoldConn,
}

/// The transport attributes at one level, session or section (whip-whep C3). Has no `Debug`: it
/// holds a password.
#[derive(Default)]
pub(super) struct TransportLines {
    ufrag: Option<String>,
    pwd: Option<String>,
    setup: Option<Setup>,
    fingerprints: Vec<Fingerprint>,
}

impl TransportLines {
    /// Reads them; fingerprints of hash functions that we do not take are left out.
    ///
    /// # Errors
    /// A text for the client, without the value, when one breaks its grammar.
    pub(super) fn read(attributes: &[Attribute]) -> Result<Self, String> {
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
            Some(_) => return Err("a=setup is none of actpass, active, passive".into()),
        };
        let fingerprints = values(attributes, "fingerprint")
            .map(fingerprint)
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        Ok(Self { ufrag: ufrag.map(Into::into), pwd: pwd.map(Into::into), setup, fingerprints })
    }

    /// Both credentials, if both are here.
    pub(super) fn ice(&self) -> Option<IceCredentials> {
        Some(IceCredentials { ufrag: self.ufrag.clone()?, pwd: self.pwd.clone()? })
    }
}

fn check_ice(
    name: &str,
    value: Option<&str>,
    length: &std::ops::RangeInclusive<usize>,
) -> Result<(), String> {
    // RFC 8839 allows letters, digits, `+` and `/`. Other printable characters do no harm, except
    // the colon that joins two fragments in USERNAME.
    let allowed = |b: u8| b.is_ascii_graphic() && b != b':';
    match value {
        Some(value) if !length.contains(&value.len()) || !value.bytes().all(allowed) => {
            let (min, max) = (length.start(), length.end());
            Err(format!("{name} must be {min} to {max} letters, digits, `+` or `/`"))
        }
        _ => Ok(()),
    }
}

/// `sha-256 AB:CD:…`; Ok(None) for a hash function that we do not take.
fn fingerprint(value: &str) -> Result<Option<Fingerprint>, String> {
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
        None => Err(format!("a=fingerprint: {name} needs {length} bytes of hex with colons")),
    }
}

/// The sections that travel together, in the order of the BUNDLE group: the first of them owns
/// the transport (RFC 9143 section 7.3).
///
/// # Errors
/// [`SdpError::Unacceptable`] when two or more sections are not in one group (whip-whep C21), or
/// one does not multiplex RTCP (whip-whep C22).
pub(super) fn bundle<'o>(
    offer: &'o Offer,
    accepted: &[&'o Section],
) -> Result<Vec<&'o Section>, SdpError> {
    let ordered: Vec<&Section> = if let [only] = accepted {
        vec![only]
    } else {
        let in_group = |group: &[String], section: &Section| {
            section.mid.as_ref().is_some_and(|mid| group.contains(mid))
        };
        let group = offer
            .bundles
            .iter()
            .find(|group| accepted.iter().all(|section| in_group(group, section)))
            .ok_or_else(|| {
                SdpError::Unacceptable(
                    "put every m-section into one a=group:BUNDLE; one transport is served".into(),
                )
            })?;
        let by_mid = |mid: &String| accepted.iter().find(|s| s.mid.as_ref() == Some(mid)).copied();
        let mut ordered: Vec<&Section> = Vec::with_capacity(accepted.len());
        for section in group.iter().filter_map(by_mid) {
            if !ordered.iter().any(|seen| std::ptr::eq(*seen, section)) {
                ordered.push(section);
            }
        }
        ordered
    };
    // A bundle-only section may leave its transport lines to the first one.
    let multiplexed = ordered.first().is_some_and(|first| first.rtcp_mux);
    match ordered.iter().find(|s| !(s.rtcp_mux || s.bundle_only && multiplexed)) {
        Some(section) => Err(section.unacceptable("add a=rtcp-mux; RTCP has no port of its own")),
        None => Ok(ordered),
    }
}

/// The peer's transport, from the first bundled section that says it, or session-wide.
///
/// # Errors
/// [`SdpError::Unacceptable`] naming what is missing (whip-whep C22), or a `holdconn` (whip-whep C2).
pub(super) fn transport(offer: &Offer, bundled: &[&Section]) -> Result<RemoteTransport, SdpError> {
    let missing = |what: &str| SdpError::Unacceptable(format!("the offer has no {what}"));
    // A section's own line wins over the session's; a later section only helps out.
    let levels = || bundled.iter().flat_map(|section| [&section.transport, &offer.transport]);
    let ufrag = levels().find_map(|lines| lines.ufrag.clone());
    let pwd = levels().find_map(|lines| lines.pwd.clone());
    let fingerprints =
        levels().map(|lines| &lines.fingerprints).find(|found| !found.is_empty()).cloned();
    let dtls_role = match levels().find_map(|lines| lines.setup) {
        None | Some(Setup::ActPass | Setup::Active) => DtlsRole::Server,
        Some(Setup::Passive) => DtlsRole::Client,
        Some(Setup::HoldConn) => {
            return Err(SdpError::Unacceptable("a=setup:holdconn: offer actpass".into()));
        }
    };
    Ok(RemoteTransport {
        ice: IceCredentials {
            ufrag: ufrag.ok_or_else(|| missing("a=ice-ufrag"))?,
            pwd: pwd.ok_or_else(|| missing("a=ice-pwd"))?,
        },
        fingerprints: fingerprints.ok_or_else(|| {
            missing("a=fingerprint with sha-256, sha-384 or sha-512; only DTLS-SRTP is served")
        })?,
        dtls_role,
    })
}
