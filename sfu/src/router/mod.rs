//! Room: router.
