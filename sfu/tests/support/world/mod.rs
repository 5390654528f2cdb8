//! A whole server in memory: workers, lobby and rings under one virtual clock, with peers that
//! share no code with it.
//!
//! [`World`] carries datagrams between them over `weir-netsim` links, routes them to workers by a
//! fixed hash of the 4-tuple as `SO_REUSEPORT` does, and plays the control plane. One seed is one
//! run: the same datagrams leave at the same times ([`World::egress_hash`]; real DTLS excepted).
//! Every viewer stands behind a [`guard`] that looks at each packet that leaves the server. Used by
//! `tests/sim` and by the `datagram` fuzz target.
#![allow(dead_code, reason = "each user of the model needs a part of it")]

pub(crate) mod control;
pub(crate) mod described;
pub(crate) mod dtls;
pub(crate) mod guard;
pub(crate) mod link;
pub(crate) mod media;
pub(crate) mod path;
pub(crate) mod publisher;
mod server;
pub(crate) mod spec;
pub(crate) mod viewer;
pub(crate) mod wire;

#[allow(unused_imports, reason = "each user of the model needs a part of it")]
pub(crate) use server::{ClientId, World, WorldConfig};
