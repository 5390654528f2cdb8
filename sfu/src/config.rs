//! Configuration of the media plane as plain data: defaults, limits, validation.
