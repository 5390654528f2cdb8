//! Grammar of a body: to the letter of RFC 8866, or with the liberties that clients take.
//!
//! Owns what is read although the grammar forbids it: nothing that two readers could take for two
//! different things. It respells such lines for `rtc-sdp`, which knows one spelling only; `scan.rs`
//! checks the limits on what comes out. Called by `offer.rs` and `fragment.rs`.

use std::borrow::Cow;
use std::ops::Deref;

use super::{Location, Malformed, SdpError, scan};

/// Which spellings are read (whip-whep C12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// What has one meaning only: blanks around a value, upper case in words that have lower case,
    /// a broken `b=` line, which nobody reads, a missing `o=`, `s=` or `t=` line, and NUL, byte
    /// order marks and blanks around the whole.
    Lenient,
    /// RFC 8866 section 9.
    Strict,
}

/// Body of a POST, and how it is to be read.
#[derive(Debug, Clone, Copy)]
pub struct OfferText<'a> {
    /// The body.
    pub bytes: &'a [u8],
    /// The grammar.
    pub grammar: Grammar,
}

impl<'a> OfferText<'a> {
    /// A body that is read with the liberties that clients take.
    pub const fn lenient(bytes: &'a [u8]) -> Self {
        Self { bytes, grammar: Grammar::Lenient }
    }
}

/// Text that passed the limits, in the spelling of `rtc-sdp`.
pub(super) struct Respelled<'a> {
    text: Cow<'a, str>,
    /// Line of the body, from 0, for each line of the text; `None` if they are the same.
    origins: Option<Vec<usize>>,
}

impl Deref for Respelled<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Grammar {
    /// Reads a body.
    ///
    /// # Errors
    /// [`SdpError::Malformed`] at the first line that breaks the grammar or a limit.
    pub(super) fn read(self, bytes: &[u8]) -> Result<Respelled<'_>, SdpError> {
        let text = scan::text(bytes)?;
        let read = match self {
            Self::Strict => Respelled { text: respelled_origin(text), origins: None },
            Self::Lenient => respell(text),
        };
        match scan::check(&read) {
            Ok(()) => Ok(read),
            Err((None, cause)) => Err(cause.at(Location::Body)),
            Err((Some(line), cause)) => Err(cause.at(read.location(line))),
        }
    }
}

impl Respelled<'_> {
    /// Error for the line at which `rtc-sdp` stopped reading, after so many bytes. Its own error
    /// text is not shown: it may quote the line.
    pub(super) fn malformed_line(&self, position: u64) -> SdpError {
        // The reader stops inside the bad line, or right behind its line end.
        let read = usize::try_from(position).unwrap_or(usize::MAX).saturating_sub(1);
        let before = self.text.bytes().take(read).filter(|byte| *byte == b'\n').count();
        let line = self.text.lines().nth(before);
        let kind: String = line.into_iter().flat_map(|line| line.chars().take(2)).collect();
        Malformed::BadLine(kind).at(self.location(before))
    }

    /// Place of a line in the body.
    fn location(&self, line: usize) -> Location {
        let origin = match &self.origins {
            None => line,
            Some(origins) => origins.get(line).or(origins.last()).copied().unwrap_or(line),
        };
        Location::Line(origin.saturating_add(1))
    }
}

/// The text with an `o=` line that fits 64 bits: RFC 8866 section 5.2 sets no bound to its numbers,
/// and nobody reads them.
fn respelled_origin(text: &str) -> Cow<'_, str> {
    let Some(line) = text.lines().find(|line| line.starts_with("o=")) else {
        return Cow::Borrowed(text);
    };
    let digits = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    match origin(line, digits) {
        Cow::Owned(short) => Cow::Owned(text.replacen(line, &short, 1)),
        Cow::Borrowed(_) => Cow::Borrowed(text),
    }
}

/// An `o=` line with 0 for each number that is past 64 bits, where `allowed` takes it for a number.
fn origin(line: &str, allowed: impl Fn(&str) -> bool) -> Cow<'_, str> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let mut changed = false;
    for word in words.iter_mut().skip(1).take(2) {
        if word.parse::<u64>().is_err() && allowed(word) {
            (*word, changed) = ("0", true);
        }
    }
    if changed { Cow::Owned(words.join(" ")) } else { Cow::Borrowed(line) }
}

/// Lines that each description begins with, in order, and what stands for one that is missing.
/// Nothing of them is read.
const HEAD: [(u8, &str); 3] = [(b'o', "o=- 0 0 IN IP4 0.0.0.0"), (b's', "s=-"), (b't', "t=0 0")];

fn respell(text: &str) -> Respelled<'_> {
    let around = |c: char| c == '\0' || c == '\u{feff}';
    // Line numbers stay those of the body.
    let text = text.trim_start_matches(around);
    let text = text.trim_end_matches(|c: char| around(c) || c.is_whitespace());
    let mut out = String::with_capacity(text.len().saturating_add(64));
    let mut origins = Vec::new();
    // The lines of `HEAD` that are still to come. A body without `v=` is no description, such as a
    // fragment of a PATCH.
    let mut head: &[(u8, &str)] = &[];
    let mut put = |line: &str, number: usize| {
        out.push_str(line);
        out.push_str("\r\n");
        origins.push(number);
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let (Some(kind), Some(b'=')) = (line.bytes().next(), line.as_bytes().get(1)) else {
            // What is no line is refused by `scan.rs`.
            if !line.is_empty() {
                put(line, number);
            }
            continue;
        };
        if kind == b'v' {
            head = &HEAD;
        }
        while let [(next, missing), rest @ ..] = head {
            // `t=` comes behind lines that may be missing, and before these.
            let due = kind != b'v' && (*next != b't' || b"zkam".contains(&kind));
            if kind != *next && !due {
                break;
            }
            head = rest;
            if kind == *next {
                break;
            }
            put(missing, number);
        }
        if let Some(line) = respelled(kind, line) {
            put(&line, number);
        }
    }
    Respelled { text: Cow::Owned(out), origins: Some(origins) }
}

/// One line without blanks around its value; `None` for a bandwidth that is no number.
fn respelled(kind: u8, line: &str) -> Option<Cow<'_, str>> {
    let value = line.get(2..).unwrap_or_default();
    Some(match kind {
        b'a' => attribute(value),
        b'b' => {
            let number = value.split_once(':').map(|(_, number)| number.trim());
            number?.parse::<u64>().ok()?;
            words("b=", value)
        }
        b'c' | b'm' | b't' | b'v' => words(line.get(..2).unwrap_or_default(), value),
        b'o' => match origin(line, |_| true) {
            Cow::Borrowed(line) => words("o=", line.get(2..).unwrap_or_default()),
            owned => owned,
        },
        _ => Cow::Borrowed(line),
    })
}

/// Words with one blank between them.
fn words<'a>(kind: &str, value: &str) -> Cow<'a, str> {
    let words: Vec<&str> = value.split_whitespace().collect();
    Cow::Owned(format!("{kind}{}", words.join(" ")))
}

/// An attribute: its name in lower case, as all that we read have it, and a value without blanks
/// around it.
fn attribute<'a>(value: &str) -> Cow<'a, str> {
    let Some((name, value)) = value.split_once(':') else {
        return Cow::Owned(format!("a={}", value.trim().to_ascii_lowercase()));
    };
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let value = match name.as_str() {
        "setup" | "rtcp-fb" => Cow::Owned(value.to_ascii_lowercase()),
        "group" => match value.split_once(' ') {
            Some((semantics, mids)) => {
                Cow::Owned(format!("{} {mids}", semantics.to_ascii_uppercase()))
            }
            None => Cow::Borrowed(value),
        },
        _ => Cow::Borrowed(value),
    };
    Cow::Owned(format!("a={name}:{value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(grammar: Grammar, body: &str) -> Result<String, String> {
        grammar.read(body.as_bytes()).map(|read| read.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn lenient_reading_respells_what_has_one_meaning() {
        let body = "\u{feff}v=0\no=- -5 99999999999999999999 IN IP4 x\na=MID : 0 \nb=AS:500.5\n\n\
                    a=SendOnly\n m= audio  9 x 0\na=setup: ACTPASS\nb=AS:500\na=group:bundle 0 1\n\0\0";
        let expected = "v=0\r\no=- 0 0 IN IP4 x\r\ns=-\r\nt=0 0\r\na=mid:0\r\na=sendonly\r\n\
                        m=audio 9 x 0\r\na=setup:actpass\r\nb=AS:500\r\na=group:BUNDLE 0 1\r\n";
        assert_eq!(read(Grammar::Lenient, body).unwrap(), expected);
        // A second reading changes nothing.
        assert_eq!(read(Grammar::Lenient, expected).unwrap(), expected);
    }

    #[test]
    fn missing_lines_are_put_where_they_belong() {
        for (body, expected) in [
            ("v=0\nm=x", "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=x\r\n"),
            ("v=0\no=x\nc=x\na=x", "v=0\r\no=x\r\ns=-\r\nc=x\r\nt=0 0\r\na=x\r\n"),
            ("v=0\ns= \nt=1 2\nr=x", "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=\r\nt=1 2\r\nr=x\r\n"),
            ("a=x", "a=x\r\n"),
        ] {
            assert_eq!(read(Grammar::Lenient, body).unwrap(), expected, "{body:?}");
        }
    }

    #[test]
    fn strict_reading_changes_numbers_past_64_bits_only() {
        let body = "v=0\r\no=- 1234567890123456789012 1 IN IP4 x\r\ns=-\r\na=mid: 0\r\n";
        let expected = body.replace("1234567890123456789012", "0");
        assert_eq!(read(Grammar::Strict, body).unwrap(), expected);
        assert!(read(Grammar::Strict, "\u{feff}v=0\n").unwrap_err().contains("line 1"));
        assert!(read(Grammar::Strict, "v=0\n\0").unwrap_err().contains("line 2"));
    }

    #[test]
    fn a_fault_is_reported_at_its_line_of_the_body() {
        let text = read(Grammar::Lenient, "v=0\n\n\na=x\nhello\n").unwrap_err();
        assert!(text.starts_with("line 5: "), "{text}");
        // What the limits count is counted after the names were respelled.
        let many = "a= CANDIDATE :x\n".repeat(scan::CANDIDATES_MAX + 1);
        let text = read(Grammar::Lenient, &many).unwrap_err();
        assert!(text.starts_with("line 129: more than 128 candidates"), "{text}");
    }
}
