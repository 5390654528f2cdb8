//! Room: worker.
