//! Reads the SRTP profiles out of a ClientHello.
