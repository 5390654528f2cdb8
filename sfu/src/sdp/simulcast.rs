//! `a=rid` and `a=simulcast` of one m-section: what the publisher can send, and our `recv` lines.
//!
//! Owns RFC 8853 and RFC 8851 as far as an offer of `send` streams needs them (whip-whep D1 to D4).
//! Never ranks layers: their bitrates are measured later. Called by `offer.rs` and `publish.rs`.

use rtc_sdp::description::common::Attribute;

use super::Malformed;

/// Longest rid in bytes: the value of a one-byte header element (quality B2). A longer one
/// refuses the offer.
pub(super) const RID_BYTES_MAX: usize = 16;

/// One way of sending one simulcast stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfferedLayer {
    /// `a=rid`
    pub(super) rid: String,
    /// `~` before it: starts paused.
    paused: bool,
    /// The parameters after `send` on the rid line (`pt=…;max-width=…`), possibly empty.
    restrictions: String,
}

impl OfferedLayer {
    /// Whether the rid line lets this layer use `pt`.
    fn allows(&self, pt: u8) -> bool {
        let list = self.restrictions.split(';').find_map(|p| p.trim().strip_prefix("pt="));
        list.is_none_or(|list| list.split(',').any(|word| word.trim().parse() == Ok(pt)))
    }
}

/// The offered simulcast streams in order, each with its alternatives (the comma list).
pub(super) fn parse(attributes: &[Attribute]) -> Result<Vec<Vec<OfferedLayer>>, Malformed> {
    let values = |key: &'static str| {
        attributes.iter().filter(move |a| a.key == key).filter_map(|a| a.value.as_deref())
    };
    let mut rids: Vec<(&str, &str)> = Vec::new();
    for line in values("rid") {
        let (rid, rest) = line.split_once(' ').unwrap_or((line, ""));
        check_rid(rid)?;
        if rids.iter().any(|(seen, _)| *seen == rid) {
            return Err(Malformed::RepeatedRid(rid.to_owned()));
        }
        // A rid that we would have to send is left out and joins no stream.
        let (direction, restrictions) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        if direction == "send" {
            rids.push((rid, restrictions.trim()));
        }
    }
    let Some(streams) = values("simulcast").find_map(send_streams) else {
        return Ok(Vec::new());
    };
    let mut used: Vec<&str> = Vec::new();
    let mut layers = Vec::new();
    for stream in streams.split(';') {
        let mut alternatives = Vec::new();
        for word in stream.split(',').map(str::trim) {
            let (paused, rid) = match word.strip_prefix('~') {
                Some(rid) => (true, rid),
                None => (false, word),
            };
            let Some((rid, restrictions)) = rids.iter().find(|(known, _)| *known == rid) else {
                continue; // RFC 8853 5.2: a stream without its rid line is discarded.
            };
            if !used.contains(rid) {
                used.push(rid);
                alternatives.push(OfferedLayer {
                    rid: (*rid).to_owned(),
                    paused,
                    restrictions: (*restrictions).to_owned(),
                });
            }
        }
        if !alternatives.is_empty() {
            layers.push(alternatives);
        }
    }
    Ok(layers)
}

/// The list after `send` in `send <list> [recv <list>]`, either order.
fn send_streams(value: &str) -> Option<&str> {
    let mut words = value.split_whitespace();
    while let Some(direction) = words.next() {
        let list = words.next()?;
        if direction == "send" {
            return Some(list);
        }
    }
    None
}

fn check_rid(rid: &str) -> Result<(), Malformed> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if rid.is_empty() || rid.len() > RID_BYTES_MAX || !rid.bytes().all(allowed) {
        return Err(Malformed::BadRid(RID_BYTES_MAX));
    }
    Ok(())
}

/// Layers that are accepted when the codec is `pt`: of each stream the first alternative that may
/// use it, in offered order.
pub(super) fn choose(streams: &[Vec<OfferedLayer>], pt: u8) -> Vec<&OfferedLayer> {
    streams.iter().filter_map(|layers| layers.iter().find(|layer| layer.allows(pt))).collect()
}

/// The answer lines for chosen layers: one `a=rid:X recv` each, then the `a=simulcast:recv` list
/// with the same entries in the same order. OBS counts its `;` (whip-whep D3), and without it
/// browsers send one layer only (whip-whep D2).
pub(super) fn answer_lines(chosen: &[&OfferedLayer]) -> Vec<(&'static str, String)> {
    let mut lines: Vec<_> = chosen
        .iter()
        .map(|layer| {
            let space = if layer.restrictions.is_empty() { "" } else { " " };
            ("rid", format!("{} recv{space}{}", layer.rid, layer.restrictions))
        })
        .collect();
    let names: Vec<_> = chosen
        .iter()
        .map(|layer| format!("{}{}", if layer.paused { "~" } else { "" }, layer.rid))
        .collect();
    if !names.is_empty() {
        lines.push(("simulcast", format!("recv {}", names.join(";"))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(lines: &[&str]) -> Vec<Attribute> {
        lines
            .iter()
            .map(|line| {
                let (key, value) = line.split_once(':').unwrap();
                Attribute::new(key.into(), Some(value.into()))
            })
            .collect()
    }

    fn answer(lines: &[&str], pt: u8) -> Vec<String> {
        let streams = parse(&attributes(lines)).unwrap();
        answer_lines(&choose(&streams, pt)).into_iter().map(|(k, v)| format!("{k}:{v}")).collect()
    }

    /// whip-whep D1
    #[test]
    fn all_offered_layers_are_answered_in_offered_order() {
        assert_eq!(
            answer(&["rid:h send", "rid:m send", "rid:l send", "simulcast:send l;m;h"], 96),
            ["rid:l recv", "rid:m recv", "rid:h recv", "simulcast:recv l;m;h"]
        );
    }

    /// whip-whep D4
    #[test]
    fn a_paused_layer_stays_paused() {
        assert_eq!(
            answer(&["rid:0 send", "rid:1 send", "simulcast:recv 9 send ~0;1"], 96),
            ["rid:0 recv", "rid:1 recv", "simulcast:recv ~0;1"]
        );
    }

    #[test]
    fn of_alternatives_the_first_that_may_use_the_codec_is_taken() {
        let lines = ["rid:a send pt=97", "rid:b send pt=96,98;max-width=640", "simulcast:send a,b"];
        assert_eq!(answer(&lines, 96), ["rid:b recv pt=96,98;max-width=640", "simulcast:recv b"]);
        assert_eq!(answer(&lines, 97), ["rid:a recv pt=97", "simulcast:recv a"]);
        assert_eq!(answer(&lines, 99), [""; 0]);
    }

    #[test]
    fn streams_without_a_send_rid_are_discarded() {
        assert_eq!(
            answer(&["rid:a send", "rid:b recv", "simulcast:send a;b;c;a"], 96),
            ["rid:a recv", "simulcast:recv a"]
        );
        assert_eq!(answer(&["rid:a send"], 96), [""; 0], "rids without simulcast are no layers");
        assert_eq!(answer(&["rid:a send", "simulcast:recv a"], 96), [""; 0]);
    }

    /// quality B2: rid at most 16 bytes.
    #[test]
    fn rids_at_and_past_their_length_and_grammar() {
        let rid = |rid: &str| parse(&attributes(&[&format!("rid:{rid} send")]));
        assert!(rid(&"x".repeat(RID_BYTES_MAX)).is_ok());
        assert!(rid(&"x".repeat(RID_BYTES_MAX + 1)).is_err());
        assert!(rid("").is_err());
        assert!(rid("a;b").is_err());
        assert!(parse(&attributes(&["rid:a send", "rid:a send"])).is_err());
    }
}
