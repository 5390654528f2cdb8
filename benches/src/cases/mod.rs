//! Costs of single steps. Each file lists its cases; a bench runs them with criterion, the report
//! with fewer samples.

pub mod allocations;
pub mod fanout;
pub mod ingest;
pub mod rewrite;
pub mod ring;
pub mod router_snapshot;
pub mod srtp;
