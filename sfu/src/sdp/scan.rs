//! Limits that hold before any parser runs: size, characters, and counts.
//!
//! Owns every number of quality B2's SDP row that can be checked in one pass over the lines. Knows
//! no meaning. Called by `grammar.rs`. The text it returns is safe to hand to `rtc-sdp`: each
//! non-empty line is `x=…`, printable, and nothing is more numerous than allowed.

use super::{Location, Malformed, SdpError};

/// Longest offer or fragment in bytes; a longer one is refused unread.
pub(super) const BYTES_MAX: usize = 64 * 1024;
/// Maximum lines in one body; the body is refused at the first line past it.
pub(super) const LINES_MAX: usize = 2_000;
/// Longest line in bytes without its line end; a longer one refuses the body.
pub(super) const LINE_BYTES_MAX: usize = 4 * 1024;
/// Maximum `m=` lines; one more refuses the body.
pub(super) const MEDIA_LINES_MAX: usize = 64;
/// Maximum `a=candidate` lines in the whole body; one more refuses it.
pub(super) const CANDIDATES_MAX: usize = 128;
/// Maximum payload types on one `m=` line; one more refuses the body.
pub(super) const PAYLOAD_TYPES_MAX: usize = 64;
/// Maximum `a=extmap` lines in one m-section (or before the first); one more refuses the body.
pub(super) const EXTENSIONS_MAX: usize = 32;
/// Maximum different SSRCs in one m-section; one more refuses the body.
pub(super) const SSRCS_MAX: usize = 32;
/// Maximum `a=rid` lines in one m-section; one more refuses the body.
pub(super) const RIDS_MAX: usize = 8;

/// The body as text.
///
/// # Errors
/// [`SdpError::Malformed`] when it is too large or not UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, SdpError> {
    if bytes.len() > BYTES_MAX {
        return Err(Malformed::TooLarge(BYTES_MAX).at(Location::Body));
    }
    std::str::from_utf8(bytes)
        .map_err(|error| Malformed::NotUtf8(error.valid_up_to()).at(Location::Body))
}

/// Checks a text once, line by line.
///
/// # Errors
/// The first line that breaks a rule, from 0, and its fault; no line if the text has none.
pub(super) fn check(text: &str) -> Result<(), (Option<usize>, Malformed)> {
    let mut counts = Counts::default();
    for (index, line) in text.lines().enumerate() {
        let number = index.saturating_add(1);
        counts.line(number, line).map_err(|cause| (Some(index), cause))?;
    }
    if counts.any_line { Ok(()) } else { Err((None, Malformed::Empty)) }
}

/// Counts so far: in the whole body, and in the current m-section.
#[derive(Default)]
struct Counts<'a> {
    any_line: bool,
    media_lines: usize,
    candidates: usize,
    extensions: usize,
    rids: usize,
    ssrcs: Vec<&'a str>,
}

impl<'a> Counts<'a> {
    fn line(&mut self, number: usize, line: &'a str) -> Result<(), Malformed> {
        limit(number, LINES_MAX, "lines")?;
        limit(line.len(), LINE_BYTES_MAX, "bytes in one line")?;
        if let Some(bad) = line.chars().find(|&c| c.is_control() && c != '\t') {
            return Err(Malformed::ControlCharacter(bad));
        }
        if line.is_empty() {
            return Ok(());
        }
        let Some((b'a'..=b'z', rest)) = line.as_bytes().split_first() else {
            return Err(Malformed::NotALine);
        };
        if rest.first() != Some(&b'=') {
            return Err(Malformed::NotALine);
        }
        self.any_line = true;
        if let Some(media) = line.strip_prefix("m=") {
            self.media_line(media)
        } else if let Some(attribute) = line.strip_prefix("a=") {
            self.attribute(attribute)
        } else {
            Ok(())
        }
    }

    fn media_line(&mut self, media: &str) -> Result<(), Malformed> {
        self.media_lines = self.media_lines.saturating_add(1);
        limit(self.media_lines, MEDIA_LINES_MAX, "m= lines")?;
        self.extensions = 0;
        self.rids = 0;
        self.ssrcs.clear();
        // Kind, port and protocol come before the payload types.
        limit(media.split_whitespace().skip(3).count(), PAYLOAD_TYPES_MAX, "payload types")
    }

    fn attribute(&mut self, attribute: &'a str) -> Result<(), Malformed> {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        match name {
            "candidate" => count(&mut self.candidates, CANDIDATES_MAX, "candidates"),
            "extmap" => count(&mut self.extensions, EXTENSIONS_MAX, "a=extmap in one m-section"),
            "rid" => count(&mut self.rids, RIDS_MAX, "a=rid in one m-section"),
            "ssrc" => self.ssrc(value.split_whitespace().next()),
            "ssrc-group" => {
                value.split_whitespace().skip(1).try_for_each(|ssrc| self.ssrc(Some(ssrc)))
            }
            _ => Ok(()),
        }
    }

    fn ssrc(&mut self, ssrc: Option<&'a str>) -> Result<(), Malformed> {
        if let Some(ssrc) = ssrc.filter(|ssrc| !self.ssrcs.contains(ssrc)) {
            self.ssrcs.push(ssrc);
        }
        limit(self.ssrcs.len(), SSRCS_MAX, "SSRCs in one m-section")
    }
}

fn count(counter: &mut usize, max: usize, what: &'static str) -> Result<(), Malformed> {
    *counter = counter.saturating_add(1);
    limit(*counter, max, what)
}

fn limit(value: usize, max: usize, what: &'static str) -> Result<(), Malformed> {
    if value > max { Err(Malformed::TooMany { what, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::grammar::Grammar;
    use super::*;

    /// Reads a body to the letter, as it is written.
    fn scan(bytes: &[u8]) -> Result<String, SdpError> {
        Grammar::Strict.read(bytes).map(|read| read.to_string())
    }

    const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n";
    const MEDIA: &str = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n";

    /// Checks one named limit: `build(n)` makes a body with n of the thing.
    fn at_and_past(max: usize, word: &str, build: impl Fn(usize) -> String) {
        let at = build(max);
        assert_eq!(scan(at.as_bytes()), Ok(at.clone()), "{word}: at the limit");
        match scan(build(max + 1).as_bytes()) {
            Err(error @ SdpError::Malformed { .. }) => {
                assert!(error.to_string().contains(word), "{error}");
            }
            other => panic!("{word}: {other:?}"),
        }
    }

    fn repeated(prefix: &str, n: usize, line: impl Fn(usize) -> String) -> String {
        let mut body = prefix.to_owned();
        (0..n).for_each(|i| body.push_str(&line(i)));
        body
    }

    /// quality B2, the SDP row.
    #[test]
    fn every_limit_holds_at_the_number_and_one_past_it() {
        at_and_past(LINES_MAX, "lines", |n| repeated("", n, |_| "a=x\r\n".into()));
        at_and_past(LINE_BYTES_MAX, "bytes in one line", |n| {
            format!("a={}\r\n", "x".repeat(n - 2))
        });
        at_and_past(MEDIA_LINES_MAX, "m= lines", |n| repeated(HEAD, n, |_| MEDIA.into()));
        at_and_past(CANDIDATES_MAX, "candidates", |n| {
            repeated(HEAD, n, |i| format!("a=candidate:{i} 1 udp 1 192.0.2.1 9 typ host\r\n"))
        });
        at_and_past(PAYLOAD_TYPES_MAX, "payload types", |n| {
            format!("{HEAD}m=video 9 UDP/TLS/RTP/SAVPF{}\r\n", repeated("", n, |i| format!(" {i}")))
        });
        let media = format!("{HEAD}{MEDIA}");
        at_and_past(EXTENSIONS_MAX, "extmap", |n| {
            repeated(&media, n, |i| format!("a=extmap:{i} urn:x\r\n"))
        });
        at_and_past(SSRCS_MAX, "SSRCs", |n| {
            repeated(&media, n, |i| format!("a=ssrc:{i} cname:x\r\na=ssrc:{i} msid:x\r\n"))
        });
        at_and_past(SSRCS_MAX, "SSRCs", |n| {
            format!("{media}a=ssrc-group:FID{}\r\n", repeated("", n, |i| format!(" {i}")))
        });
        at_and_past(RIDS_MAX, "rid", |n| repeated(&media, n, |i| format!("a=rid:{i} send\r\n")));
    }

    #[test]
    fn a_body_of_the_largest_size_passes_and_one_byte_more_does_not() {
        let line = format!("a={}\r\n", "x".repeat(LINE_BYTES_MAX - 4));
        let body = line.repeat(BYTES_MAX / LINE_BYTES_MAX);
        assert_eq!(body.len(), BYTES_MAX);
        assert!(scan(body.as_bytes()).is_ok());
        assert!(scan(format!("{body}\n").as_bytes()).is_err());
    }

    /// The per-section counters begin anew with each m-section.
    #[test]
    fn counts_of_one_section_do_not_burden_the_next() {
        let section = repeated(MEDIA, EXTENSIONS_MAX, |i| format!("a=extmap:{i} urn:x\r\n"));
        assert!(scan(format!("{HEAD}{section}{section}").as_bytes()).is_ok());
    }

    /// whip-whep C25, quality B4 item 18.
    #[test]
    fn what_is_not_lines_of_printable_text_is_refused() {
        for (bad, word) in [
            (&b""[..], "empty"),
            (b"\r\n\r\n", "empty"),
            (b"v=0\r\na=x\0y\r\n", "line 2: control character U+0000"),
            (b"v=0\r\na=x\ry\r\n", "U+000D"),
            (b"v=0\r\na=\xff\r\n", "not UTF-8 at byte 7"),
            (b"{\"candidate\":\"x\"}", "line 1: not of the form"),
            (b"hello", "form"),
            (b"=", "form"),
            (b"\xef\xbb\xbfv=0\r\n", "form"),
        ] {
            let error = scan(bad).expect_err("malformed").to_string();
            assert!(error.contains(word), "{error:?} for {bad:?}");
        }
        assert!(scan(b"v=0\na=x").is_ok(), "LF and no final line end");
        assert!(scan(b"v=0\r\n\r\na=x\ty\r\n").is_ok(), "blank line and tab");
    }
}
