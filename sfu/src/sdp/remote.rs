//! The peer's side of the transport: BUNDLE, ICE credentials, fingerprints, DTLS role.
//!
//! Owns the rules of whip-whep C2 to C5, C21 and C22. Everything travels over one transport: the
//! one of the first accepted m-section of the BUNDLE group. Called by
//! `answer.rs`. Next: `transport_lines.rs` for the grammar of one level.

use super::offer::{Offer, Section};
use super::plan::{DtlsRole, IceCredentials, RemoteTransport};
use super::transport_lines::Setup;
use super::{SdpError, Unacceptable};

/// Sections of one transport, in the order of the BUNDLE group: the first of them owns the
/// transport (RFC 9143 section 7.3).
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
            .ok_or_else(|| Unacceptable::NotBundled.whole())?;
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
        Some(section) => Err(section.unacceptable(Unacceptable::NoRtcpMux)),
        None => Ok(ordered),
    }
}

/// The peer's transport, from the first bundled section that has each attribute, or from the
/// session.
///
/// # Errors
/// [`SdpError::Unacceptable`] naming what is missing (whip-whep C22), or a `holdconn`
/// (whip-whep C2).
pub(super) fn transport(offer: &Offer, bundled: &[&Section]) -> Result<RemoteTransport, SdpError> {
    let missing = |what| Unacceptable::Missing(what).whole();
    // A section's own line takes precedence over the session's; a later section only fills gaps.
    let levels = || bundled.iter().flat_map(|section| [&section.transport, &offer.transport]);
    let ufrag = levels().find_map(|lines| lines.ufrag.clone());
    let pwd = levels().find_map(|lines| lines.pwd.clone());
    let fingerprints =
        levels().map(|lines| &lines.fingerprints).find(|found| !found.is_empty()).cloned();
    let dtls_role = match levels().find_map(|lines| lines.setup) {
        None | Some(Setup::ActPass | Setup::Active) => DtlsRole::Server,
        Some(Setup::Passive) => DtlsRole::Client,
        Some(Setup::HoldConn) => {
            return Err(Unacceptable::HoldConn.whole());
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
