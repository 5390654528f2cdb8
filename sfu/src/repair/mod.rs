//! Room: repair.
