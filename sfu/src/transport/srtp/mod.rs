//! SRTP and SRTCP (RFC 3711, RFC 7714): profiles, keys, and the two directions.
//!
//! Owns the packet cryptography of one session. Never parses RTP beyond what it is told (header
//! length, SSRC, sequence number) and never negotiates: `dtls/rtc.rs` exports the keys. Called by
//! `transport/peer` for each packet in and out.
//! Next: `receiver.rs` (roll-over, replay, open), `sender.rs` (seal), `gcm.rs` and `cm.rs`
//! (the two ciphers), `kdf.rs` (session keys), `replay.rs` (the window).

mod cipher;
mod cm;
mod gcm;
mod kdf;
mod keys;
mod packet;
mod profile;
mod receiver;
mod replay;
mod sender;

pub use self::keys::{MasterKey, SrtpKeys};
pub(crate) use self::packet::Tail;
pub use self::profile::SrtpProfile;
pub use self::receiver::{MAX_SSRCS, Opened, SrtpReceiver};
pub use self::replay::REPLAY_WINDOW;
pub use self::sender::SrtpSender;
