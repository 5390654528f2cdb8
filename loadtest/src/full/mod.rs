//! Full clients: a `webrtc` PeerConnection for each publisher and viewer. Its ICE, DTLS, SRTP, NACK
//! and congestion feedback are an independent implementation.
//!
//! A packet costs tens of microseconds, and a session several tasks: use it for a few sessions.
//! Frames, checks and report are those of the light client. Called by `run`. Next: `publisher`,
//! `viewer`, `connection`.

mod codecs;
mod connection;
mod keyframe_requests;
mod publisher;
mod viewer;

pub(crate) use publisher::publish;
pub(crate) use viewer::watch;
