//! Reads that bring cold state into the CPU caches before it is needed.
//!
//! The states of a thousand viewers do not fit the near caches. A `warm` method reads one value of
//! each cache line that the next packet needs, and a worker calls it for many sessions in a row, so
//! that memory serves many of those reads at once. It must not wait for a value that it has read.

/// Reads each value, for its cache line only.
///
/// One by one: a tuple would be put together on the stack and read back in other widths. That read
/// waits until the cold value is there, and all later reads wait behind it.
macro_rules! warm {
    ($($value:expr),+ $(,)?) => {
        $(std::hint::black_box($value);)+
    };
}

pub(crate) use warm;
