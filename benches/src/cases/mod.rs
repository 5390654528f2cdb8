//! What single steps cost. Each file lists its cases; a bench runs them with criterion, the report with
//! fewer samples.

pub mod ingest;
pub mod ring;
pub mod router_snapshot;
