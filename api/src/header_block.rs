//! Header block of an HTTP/2 request that has begun and not ended: the HTTP library decodes it as it comes and
//! tells nobody until it is whole.
//!
//! Follows the lengths of frames alone. Any fault of the bytes is found by the library, which ends the connection.
//! Called by `socket.rs` with what was read; `activity.rs` gives an open block its time and its memory.

/// First bytes of an HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Where in its frames a connection is.
#[derive(Debug)]
pub struct HeaderBlocks {
    at: At,
    open: bool,
}

#[derive(Debug, Clone, Copy)]
enum At {
    /// So many bytes of the preface have come.
    Preface(usize),
    /// So many bytes of a frame's head have come.
    Head([u8; HEAD], usize),
    /// So many bytes of a frame are missing; at its end a header block ends, or not.
    Payload { missing: usize, ends: bool },
    /// It is not HTTP/2.
    Other,
}

impl Default for HeaderBlocks {
    fn default() -> Self {
        Self { at: At::Preface(0), open: false }
    }
}

impl HeaderBlocks {
    /// Takes what was read. Whether a header block is open at the end of it.
    pub fn read(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Other => return false,
                At::Preface(seen) => {
                    let rest = PREFACE.get(*seen..).unwrap_or_default();
                    let length = rest.len().min(bytes.len());
                    if rest.get(..length) != bytes.get(..length) {
                        self.at = At::Other;
                        return false;
                    }
                    *seen += length;
                    bytes = bytes.get(length..).unwrap_or_default();
                    if *seen == PREFACE.len() {
                        self.at = At::Head([0; HEAD], 0);
                    }
                }
                At::Head(head, seen) => {
                    let length = (HEAD - *seen).min(bytes.len());
                    let (now, later) = bytes.split_at(length);
                    if let Some(place) = head.get_mut(*seen..*seen + length) {
                        place.copy_from_slice(now);
                    }
                    *seen += length;
                    bytes = later;
                    if *seen == HEAD {
                        let [a, b, c, kind, flags, ..] = *head;
                        let missing = u32::from_be_bytes([0, a, b, c]) as usize;
                        let is_block = matches!(kind, HEADERS | CONTINUATION);
                        self.open |= is_block;
                        self.at =
                            At::Payload { missing, ends: is_block && flags & END_HEADERS != 0 };
                        self.end_of_frame();
                    }
                }
                At::Payload { missing, .. } => {
                    let length = (*missing).min(bytes.len());
                    *missing -= length;
                    bytes = bytes.get(length..).unwrap_or_default();
                    self.end_of_frame();
                }
            }
        }
        self.open
    }

    fn end_of_frame(&mut self) {
        if let At::Payload { missing: 0, ends } = self.at {
            self.open &= !ends;
            self.at = At::Head([0; HEAD], 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        // The payload looks like a head.
        frame.extend((0..length).map(|n| if n % 9 == 3 { HEADERS } else { 0 }));
        frame
    }

    #[test]
    fn a_block_is_open_from_its_first_head_to_the_end_of_its_last_frame() {
        let mut bytes = PREFACE.to_vec();
        let mut wanted = vec![false; bytes.len()];
        let mut add = |frame: Vec<u8>, ends: bool, open_before: bool, is_block: bool| {
            for at in 1..=frame.len() {
                let open = open_before || is_block && at >= HEAD;
                wanted.push(open && !(ends && at == frame.len()));
            }
            bytes.extend(frame);
        };
        add(frame(4, 0, 12), false, false, false);
        add(frame(HEADERS, END_HEADERS, 30), true, false, true);
        add(frame(0, 1, 40), false, false, false);
        add(frame(HEADERS, 1, 20), false, false, true);
        add(frame(CONTINUATION, 0, 0), false, true, true);
        add(frame(CONTINUATION, END_HEADERS, 5), true, true, true);
        // A flag of another frame's kind.
        add(frame(6, END_HEADERS, 8), false, false, false);
        for part in [1, 2, 7, 9, 64, bytes.len()] {
            let mut blocks = HeaderBlocks::default();
            for (n, piece) in bytes.chunks(part).enumerate() {
                let end = n * part + piece.len();
                assert_eq!(blocks.read(piece), wanted[end - 1], "{end} in parts of {part}");
            }
        }
    }

    #[test]
    fn http_1_has_none() {
        let mut blocks = HeaderBlocks::default();
        assert!(!blocks.read(b"PRI"));
        assert!(!blocks.read(b"NT / HTTP/1.1\r\n\x00\x00\x01\x01\x00\x00\x00\x00\x01x"));
        assert!(!blocks.read(&frame(HEADERS, 0, 3)));
    }
}
