//! A client of HTTP/2 that sends the frames it is told to, right or wrong (RFC 9113, RFC 7541).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn is(&self, kind: u8, stream: u32) -> bool {
        (self.kind, self.stream) == (kind, stream)
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Header block of a request to localhost.
pub(crate) fn head(method: &str, path: &str) -> Vec<u8> {
    let method = match method {
        "GET" => 0x82,
        _ => 0x83,
    };
    let mut block = vec![method, 0x86, 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x09localhost");
    block.extend_from_slice(b"\x0f\x10\x0fapplication/sdp");
    block
}

pub(crate) struct Http2 {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http2 {
    pub(crate) async fn connect(addr: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &settings)).await.unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes; false when the connection is closed or the server does not read for two seconds.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(Duration::from_secs(2), self.stream.write_all(bytes)).await;
        sent.is_ok_and(|sent| sent.is_ok())
    }

    pub(crate) async fn get(&mut self, stream: u32, path: &str) -> bool {
        let get = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path));
        self.send(&get).await
    }

    /// The next frame; none when the connection is closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let wait = Duration::from_secs(20);
        tokio::time::timeout(wait, self.read()).await.expect("a frame, or the end")
    }

    /// Answers pings and settings until such a frame comes; none when the connection is closed first.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let next = self.next().await?;
            if wanted(&next) {
                return Some(next);
            }
            if matches!(next.kind, PING | SETTINGS) && next.flags & ACK == 0 {
                let payload = if next.kind == PING { &next.payload[..] } else { &[] };
                self.send(&frame(next.kind, ACK, 0, payload)).await;
            }
        }
    }

    /// Whether the response of a stream comes to its end.
    pub(crate) async fn is_answered(&mut self, stream: u32) -> bool {
        let ends = |frame: &Frame| {
            matches!(frame.kind, DATA | HEADERS)
                && frame.stream == stream
                && frame.flags & END_STREAM != 0
        };
        self.until(ends).await.is_some()
    }

    async fn read(&mut self) -> Option<Frame> {
        while self.buffer.len() < 9 || self.buffer.len() < 9 + self.length() {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
        let rest = self.buffer.split_off(9 + self.length());
        let whole = std::mem::replace(&mut self.buffer, rest);
        let stream = u32::from_be_bytes(whole[5..9].try_into().unwrap()) & 0x7fff_ffff;
        Some(Frame { kind: whole[3], flags: whole[4], stream, payload: whole[9..].to_vec() })
    }

    fn length(&self) -> usize {
        u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize
    }
}
