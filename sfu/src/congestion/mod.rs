//! Room: congestion.
